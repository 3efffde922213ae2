"""Results behind URLs are read as those in folders are, shards only where they are read."""

import json
import shutil
from pathlib import Path

import fsspec
import numpy as np
import pytest

import nait_fast
from nait_fast import env
from nait_fast.errors import NaitError
from nait_fast.index.reader import Index
from nait_fast.methods.signature import load_signatures
from nait_fast.outputs.fetched import holds_results, local_copy
from nait_fast.remote.copies import named, shards_folder
from nait_fast.reporting.selection_folder import open_selection
from tests.commands import Ran, run
from tests.remote.made import Made, files_in


@pytest.fixture
def there(made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The folder of ``made`` in a store."""
    monkeypatch.setenv(env.CACHE, str(tmp_path / "cache"))
    copy(made.folder, f"/{tmp_path.name}")
    return f"memory://{tmp_path.name}"


def copy(folder: Path, key: str) -> None:
    memory = fsspec.filesystem("memory")
    for name, data in files_in(folder).items():
        memory.pipe_file(f"{key}/{name}", data)


def fetched_shards() -> set[str]:
    return {path.name for path in shards_folder().glob("*/*.safetensors")}


def rank(capsys, place: object, output: Path, *more: str) -> Ran:
    inputs = ("--index", f"{place}/index", "--signature", f"{place}/signatures/sums.safetensors")
    return run(capsys, "rank", *inputs, "--top-k", "7", "--output", output, "--quiet", *more)


def test_rank_reads_an_index_and_signatures_elsewhere(capsys, made: Made, there: str, tmp_path: Path) -> None:
    assert rank(capsys, made.folder, tmp_path / "a").status == 0
    ran = rank(capsys, there, tmp_path / "b")
    assert ran.status == 0, ran.err
    for name in ("selected.jsonl", "scores.parquet", "dataset_info.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    config = json.loads((tmp_path / "b/manifest.json").read_bytes())["config"]
    assert config["index"] == f"{there}/index"
    assert fetched_shards() == {f"shard-0000{n}.safetensors" for n in range(6)}
    # A folder of signatures, a codebook, verify and inspect.
    assert [signature.name for signature in load_signatures([f"{there}/signatures"])] == ["sums"]
    verified = run(capsys, "verify", f"{there}/index")
    assert verified.status == 0 and verified.out.startswith(f"{there}/index: every byte is as it was written")
    for name in ("index", "signatures/sums.safetensors", "pool.jsonl"):
        mine, theirs = (run(capsys, "inspect", f"{place}/{name}") for place in (made.folder, there))
        assert mine.status == theirs.status == 0
        assert mine.out.split() == theirs.out.replace(there, str(made.folder)).split()
    made_again = nait_fast.build_signature(
        model=made.model,
        target=f"{there}/sums.jsonl",
        codebook=f"{there}/index",
        output=tmp_path / "s",
        batch_tokens=400,
        max_length=64,
    )
    assert (
        Path(made_again["signatures"][0]["file"]).read_bytes()
        == (made.folder / "signatures/sums.safetensors").read_bytes()
    )


def test_verify_reads_what_lies_there_now(capsys, there: str, tmp_path: Path) -> None:
    """Not the copies that were fetched before; and its messages name no copy."""
    assert run(capsys, "verify", f"{there}/index").status == 0 and len(fetched_shards()) == 6
    memory = fsspec.filesystem("memory")
    name = f"/{tmp_path.name}/index/shard-00002.safetensors"
    good = memory.cat_file(name)
    memory.pipe_file(name, good[:-1] + bytes([good[-1] ^ 1]))
    error = run(capsys, "verify", f"{there}/index").error
    assert error.startswith(f"{there}/index/shard-00002.safetensors: is not the shard that the manifest tells of")
    memory.rm_file(name)
    assert f"{there}/index/shard-00002.safetensors: cannot be read" in run(capsys, "verify", f"{there}/index").error
    error = run(capsys, "report", f"{there}/index", "--output", tmp_path / "r.html").error
    assert error.startswith(f"{there}/index: is no finished selection") or f"{there}/index" in error
    assert "cache" not in error


def test_messages_name_the_url(capsys, made: Made, there: str, tmp_path: Path) -> None:
    assert run(capsys, *made.index("more.jsonl", tmp_path / "other")).status == 0
    copy(tmp_path / "other", f"/{tmp_path.name}/other")
    inputs = ("--index", f"{there}/other", "--signature", f"{there}/signatures")
    error = run(capsys, "rank", *inputs, "--top-k", "5", "--output", tmp_path / "c").error
    assert f"than index {there}/other (" in error and "cache" not in error


def test_only_shards_that_are_read_are_fetched(there: str, made: Made) -> None:
    index, here = Index(f"{there}/index"), Index(made.folder / "index")
    assert index.codebook.hash == here.codebook.hash and fetched_shards() == set()
    shard = index.open(index.entries[3])
    assert np.array_equal(shard.codes, here.open(here.entries[3]).codes)
    assert fetched_shards() == {"shard-00003.safetensors"}
    assert named(index.folder) == f"{there}/index"


def test_a_selection_elsewhere_is_reported(capsys, made: Made, there: str, tmp_path: Path) -> None:
    assert rank(capsys, there, tmp_path / "a").status == 0
    copy(tmp_path / "a", f"/{tmp_path.name}/chosen")
    assert "7 of 60 rows" in run(capsys, "inspect", f"{there}/chosen").out
    error = run(capsys, "report", f"{there}/chosen").error
    assert error == f"{there}/chosen: lies elsewhere; name the page with --output"
    chosen = open_selection(f"{there}/chosen")  # which a report and a comparison are made of
    assert chosen.index is not None and named(chosen.index.folder) == f"{there}/index" and chosen.notes == []
    assert [signature.name for signature in chosen.signatures] == ["sums"]


def test_an_index_that_changes_meanwhile(capsys, made: Made, there: str, tmp_path: Path) -> None:
    index = Index(f"{there}/index")
    memory = fsspec.filesystem("memory")
    name = f"/{tmp_path.name}/index/shard-00002.safetensors"
    good = memory.cat_file(name)
    for bad in (good[:-1], good[:-1] + bytes([good[-1] ^ 1])):
        memory.pipe_file(name, bad)
        with pytest.raises(NaitError, match=r"shard-00002.safetensors: is not the shard that the manifest tells of"):
            index.open(index.entries[2])
        assert fetched_shards() == set()
    memory.pipe_file(name, good)
    assert index.open(index.entries[2]).codes.shape[0] == 10
    # Another state of the folder is another copy; shards that are the same are not fetched again.
    shutil.copytree(made.folder / "index", tmp_path / "more")
    assert run(capsys, *made.index("more.jsonl", tmp_path / "more", "--append")).status == 0
    copy(tmp_path / "more", f"/{tmp_path.name}/index")
    again = Index(f"{there}/index")
    assert (index.rows, again.rows, len(again.entries)) == (60, 80, 8) and again.folder != index.folder
    assert again.entries[2].path == index.entries[2].path


def test_shards_that_were_not_read_for_longest_give_way(there: str, monkeypatch: pytest.MonkeyPatch) -> None:
    index = Index(f"{there}/index")
    room = 3 * index.entries[0].bytes + 100

    def usage(path: Path) -> tuple[int, int, int]:
        used = sum(file.stat().st_size for file in path.glob("*/*.safetensors"))
        return 0, used, room - used

    monkeypatch.setattr(shutil, "disk_usage", usage)
    for number in range(5):
        index.open(index.entries[number])
        assert f"shard-0000{number}.safetensors" in fetched_shards() and len(fetched_shards()) <= 3
    assert "shard-00000.safetensors" not in fetched_shards()


def test_what_is_no_result(there: str, tmp_path: Path) -> None:
    assert not holds_results(there) and not holds_results(f"{there}/pool.jsonl")
    assert holds_results(f"{there}/index") and holds_results(f"{there}/signatures/sums.safetensors")
    with pytest.raises(NaitError, match=f"^{there}: holds no results of nait_fast, or none that are finished$"):
        Index(there)
    with pytest.raises(NaitError, match=f"^{there}/no: no such file or folder; check the URL, and whose credentials"):
        Index(f"{there}/no")
    assert local_copy("a/b") == Path("a/b")


def test_without_a_folder_for_copies(there: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(env.CACHE, "off")
    with pytest.raises(NaitError, match=r"^NAIT_FAST_CACHE: results behind a URL are read from copies on this machine"):
        Index(f"{there}/index")
