"""Adding data to an index, and making a damaged shard again."""

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nait_fast import merge
from nait_fast.config import IndexOptions
from nait_fast.errors import NaitError
from nait_fast.index.reader import Index
from nait_fast.index.writer import IndexWriter
from nait_fast.storage.files import read_head
from nait_fast.storage.lock import Lock
from nait_fast.verbs.index import run
from tests.conftest import make_rows, write_jsonl
from tests.index.bits import arrays, digest
from tests.index.stopping import Stopped, stopping_at
from tests.workers import runs


def build(folder: Path, **options: Any) -> dict[str, Any]:
    given = {"shard_rows": 8, "batch_tokens": 200, **options, "output": str(folder)}
    if given.pop("calibrates", "codebook" not in given):
        given = {"calibration_size": 20, **given}
    return run(IndexOptions.from_mapping(given, "index"), quiet=True)


def add_join_and_repair(
    folder: Path, rows: list[dict], model: str, option: str, values: tuple[str, str], told: str
) -> None:
    """An index whose ``option`` has the first of ``values``: rows added to it, two of them joined and a damaged shard
    made anew are the same bytes; one of the second value is neither added nor joined, as ``told``."""
    pools = [str(write_jsonl(folder / f"{i}.jsonl", part)) for i, part in enumerate((rows[:20], rows[20:]))]
    options, others = ({"model": model, option: value} for value in values)
    build(folder / "added", dataset=pools[0], **options)
    with pytest.raises(NaitError, match=told.split()[0]):
        build(folder / "added", dataset=pools[1], append=True, **others)
    build(folder / "added", dataset=pools[1], append=True, **options)
    build(folder / "a", dataset=pools[0], **options)
    build(folder / "b", dataset=pools[1], codebook=str(folder / "a"), **options)
    merge(index=[str(folder / "a"), str(folder / "b")], output=str(folder / "merged"))
    whole = digest(folder / "added")
    assert digest(folder / "merged") == whole and Index(folder / "merged").verify() == []
    shard = folder / "added" / "shard-00001.safetensors"
    shard.write_bytes(shard.read_bytes()[:-1] + b"x")
    assert len(Index(folder / "added").verify()) == 1
    build(folder / "added", dataset=pools[0], repair=True, **options)
    assert digest(folder / "added") == whole
    build(folder / "c", dataset=pools[1], codebook=str(folder / "a"), **others)
    name, _, differ = told.partition(" ")
    with pytest.raises(NaitError, match=rf"another {name} than .*a \({differ}\)"):
        merge(index=[str(folder / "a"), str(folder / "c")], output=str(folder / "no"))


@pytest.fixture
def pools(tmp_path: Path) -> list[str]:
    rows = make_rows(60)
    rows[25]["output"] = rows[44]["output"] = ""
    rows[50]["id"] = "r3"
    parts = (rows[:20], rows[20:41], rows[41:])
    return [str(write_jsonl(tmp_path / f"{i}.jsonl", part)) for i, part in enumerate(parts)]


@pytest.fixture
def options(tiny_model: str) -> dict[str, Any]:
    return {"model": tiny_model, "skip_bad_rows": True}


def test_rows_added_are_as_if_indexed_under_the_same_codebook(tmp_path: Path, options, pools) -> None:
    folder = tmp_path / "index"
    build(folder, dataset=pools[0], **options)
    first = digest(folder)
    for pool in pools[1:]:
        summary = build(folder, dataset=pool, append=True, **options)
    assert (summary["datasets"], summary["rows_read"], summary["rows_indexed"]) == (3, 60, 58)
    index = Index(folder)
    assert index.verify() == []
    assert [d["rows"] for d in index.datasets] == [20, 21, 19] and index.pool_rows == 60
    assert [entry.first_row for entry in index.entries] == [0, 8, 16, 20, 28, 36, 41, 49, 57]
    held = arrays(index)
    assert held["row"].tolist() == [row for row in range(60) if row not in (25, 44)]
    for number, (pool, start) in enumerate(zip(pools, (0, 20, 41), strict=True)):
        alone = tmp_path / f"alone{number}"
        build(alone, dataset=pool, codebook=str(folder), **options)
        own = arrays(Index(alone))
        places = np.searchsorted(held["row"], own["row"] + start)
        assert (held["codes"][places] == own["codes"]).all() and (held["n_tokens"][places] == own["n_tokens"]).all()
    now = digest(folder)
    assert {name: now[name] for name in first if name.startswith(("shard", "code", "calib"))} == {
        name: value for name, value in first.items() if name.startswith(("shard", "code", "calib"))
    }
    listed = [json.loads(line) for line in (folder / "skipped.jsonl").read_text().splitlines()]
    assert [(entry["row"], entry.get("kept", False)) for entry in listed] == [(25, False), (44, False), (50, True)]
    assert listed[2]["reason"] == "its id is that of row 3" and index.manifest["duplicate_ids"] == 1


def test_adding_again_changes_nothing(tmp_path: Path, options, pools) -> None:
    folder = tmp_path / "index"
    build(folder, dataset=pools[0], **options)
    build(folder, dataset=pools[1], append=True, **options)
    before = digest(folder)
    for pool, append in ((pools[1], True), (pools[1], False), (pools[0], False)):
        assert build(folder, dataset=pool, append=append, **options)["tokens_run"] == 0
        assert digest(folder) == before


def test_stopped_while_adding(tmp_path: Path, options, pools) -> None:
    whole = tmp_path / "whole"
    build(whole, dataset=pools[0], **options)
    build(whole, dataset=pools[1], append=True, **options)
    folder = tmp_path / "index"
    build(folder, dataset=pools[0], **options)
    before = digest(folder)
    with stopping_at(4), pytest.raises(Stopped):
        build(folder, dataset=pools[1], append=True, **options)
    index = Index(folder)  # what was there is there
    assert index.rows == 20 and index.verify() == []
    assert (folder / "manifest.json").read_bytes() and digest_of(folder, before) == before
    with pytest.raises(NaitError, match=r"holds an index made otherwise: dataset \(path"):
        build(folder, dataset=pools[2], **options)
    assert build(folder, dataset=pools[0], **options)["tokens_run"] == 0
    assert build(folder, dataset=pools[0], repair=True, **options)["tokens_run"] == 0
    build(folder, dataset=pools[1], append=True, **options)
    assert digest(folder) == digest(whole)


def test_an_addition_that_failed_gives_way(tmp_path: Path, options, pools) -> None:
    """Its rows are mended, which makes it another dataset; or another one is added; or nothing."""
    bad, strict = Path(pools[1]), {**options, "skip_bad_rows": False}
    folder = tmp_path / "index"
    build(folder, dataset=pools[0], **strict)
    with pytest.raises(NaitError, match="empty response"):
        build(folder, dataset=str(bad), append=True, **strict)
    (folder / "shard-00003.safetensors").write_bytes(b"left by it")
    rows = [json.loads(line) for line in bad.read_text().splitlines()]
    rows[5]["output"] = "mended"
    write_jsonl(bad, rows)
    assert build(folder, dataset=str(bad), append=True, **strict)["rows_indexed"] == 41
    assert Index(folder).verify() == [] and len(list(folder.glob("plan-*.json"))) == 2

    late = make_rows(400, seed=3)
    late[390]["output"] = ""
    begun = str(write_jsonl(tmp_path / "late.jsonl", late))
    with pytest.raises(NaitError, match=":391: empty response"):
        build(folder, dataset=begun, append=True, **strict)
    assert len(list(folder.glob("shard-*.safetensors"))) > 10 and len(list(folder.glob("plan-*.json"))) == 3
    other = str(write_jsonl(tmp_path / "other.jsonl", make_rows(9, seed=7)))
    lock = Lock(folder / "work" / "unit-00006.lock")
    assert lock.acquire()
    for given in ({"dataset": other, "append": True}, {"dataset": pools[0], "repair": True}):
        with pytest.raises(NaitError, match=f"{begun} is being added to .*; wait for that"):
            build(folder, **given, **strict)
    lock.release()
    assert build(folder, dataset=other, append=True, **strict)["rows_indexed"] == 50
    assert Index(folder).verify() == [] and not (folder / "work").exists()
    assert len(list(folder.glob("shard-*.safetensors"))) == len(Index(folder).entries)


def test_an_old_shard_is_damaged_while_adding(tmp_path: Path, options, pools) -> None:
    folder = tmp_path / "index"
    build(folder, dataset=pools[0], **options)
    path = folder / "shard-00001.safetensors"
    whole = path.read_bytes()
    at = read_head(path, "shard").layout["id_ends"].offset + 8
    path.write_bytes(whole[:at] + b"\xff" * 8 + whole[at + 8 :])
    with pytest.raises(NaitError, match="--repair"):
        build(folder, dataset=pools[1], append=True, **options)
    build(folder, dataset=pools[0], repair=True, **options)
    assert path.read_bytes() == whole
    build(folder, dataset=pools[1], append=True, **options)
    assert Index(folder).verify() == []


def test_flags_that_do_not_go_together(tmp_path: Path, options, pools) -> None:
    folder = tmp_path / "index"
    with pytest.raises(NaitError, match=r"--repair: .* holds no index"):
        build(folder, dataset=pools[0], repair=True, **options)
    build(folder, dataset=pools[0], **options)
    for given, words in (
        ({"append": True, "repair": True}, "--append and --repair: one at a time"),
        ({"append": True, "codebook": str(folder)}, "--append: the index has its codebook already"),
        ({"repair": True}, "--repair: .* is no dataset of a complete index"),
    ):
        with pytest.raises(NaitError, match=words):
            build(folder, dataset=pools[1], **given, **options)
    made = tmp_path / "made"  # under a given codebook: what is added has it, too
    build(made, dataset=pools[1], codebook=str(folder), **options)
    build(made, dataset=pools[2], append=True, calibrates=False, **options)
    assert Index(made).verify() == [] and Index(made).codebook_hash == Index(folder).codebook_hash
    # Its own pool once more, without the codebook that an append refuses: nothing to do, and nothing to repair.
    for given in ({"append": True}, {"repair": True}):
        assert build(made, dataset=pools[1], calibrates=False, **given, **options)["tokens_run"] == 0
        with pytest.raises(NaitError, match=r"--calibration-size 9: --(append adds|repair works) under the codebook"):
            build(made, dataset=pools[1], calibration_size=9, calibrates=False, **given, **options)
    other = tmp_path / "other"
    build(other, dataset=pools[2], **options)
    for given in ({"dataset": pools[2]}, {"dataset": pools[1], "repair": True}):
        with pytest.raises(NaitError, match=r"--codebook .*other: not the one that the index .*made was made with"):
            build(made, codebook=str(other), **given, **options)
    with pytest.raises(NaitError, match=r"made otherwise: --dtype \(float32 -> bfloat16\)"):
        build(folder, dataset=pools[0], dtype="bfloat16", **options)
    assert Index(made).verify() == Index(folder).verify() == []


def test_two_at_once(tmp_path: Path, options, pools) -> None:
    """The first goes on and ends well; the second is told who it is, and ends well once the first is done."""
    folder = tmp_path / "index"
    build(folder, dataset=pools[0], **options)
    given = {"shard_rows": 8, "calibration_size": 20, "batch_tokens": 200, **options, "append": True}
    first = runs.start(runs.server(), runs.index, {**given, "dataset": pools[1], "output": str(folder)})
    while first.is_alive() and not (folder / "work").exists():
        time.sleep(0.001)
    assert first.pid is not None
    os.kill(first.pid, signal.SIGSTOP)
    try:
        with pytest.raises(NaitError, match=f"in use by pid {first.pid} on .* since .*; wait until it has ended"):
            build(folder, dataset=pools[2], append=True, **options)
    finally:
        os.kill(first.pid, signal.SIGCONT)
    first.join(60)
    assert first.exitcode == 0 and [d["path"] for d in Index(folder).datasets] == pools[:2]
    build(folder, dataset=pools[2], append=True, **options)
    assert Index(folder).verify() == [] and Index(folder).pool_rows == 60


def test_several_workers_repair(tmp_path: Path, options, pools) -> None:
    folder = tmp_path / "index"
    build(folder, dataset=pools[0], **{**options, "shard_rows": 2})
    before = digest(folder)
    context = runs.server()
    given = {
        "shard_rows": 2,
        "calibration_size": 20,
        "batch_tokens": 200,
        **options,
        "output": str(folder),
        "dataset": pools[0],
        "repair": True,
    }
    for _ in range(3):
        for number in (1, 2, 5, 8):
            (folder / f"shard-{number:05d}.safetensors").unlink()
        workers = [runs.start(context, runs.index, given, rank, 3) for rank in range(3)]
        for worker in workers:
            worker.join(60)
        assert [worker.exitcode for worker in workers] == [0, 0, 0]
        assert digest(folder) == before


def test_a_late_worker_finds_the_notes_gone(tmp_path: Path, options, pools, monkeypatch) -> None:
    """One that locks its next unit while the notes are being removed must not keep their folder alive."""
    folder = tmp_path / "index"
    build(folder, dataset=pools[0], **options)
    (folder / "shard-00001.safetensors").unlink()
    real, late = IndexWriter._remove_work, []

    def remove(self: IndexWriter, path: Path) -> None:
        late.append(Lock(folder / "work" / "unit-00000.lock").acquire())
        real(self, path)

    monkeypatch.setattr(IndexWriter, "_remove_work", remove)
    build(folder, dataset=pools[0], repair=True, **options)
    assert late == [False] and not (folder / "work").exists() and not list(folder.glob("*.tmp"))


def test_killed_between_the_list_and_the_manifest(tmp_path: Path, options, pools, monkeypatch) -> None:
    from nait_fast.index import writer

    whole, folder = tmp_path / "whole", tmp_path / "index"
    for place in (whole, folder):
        build(place, dataset=pools[0], max_length=30, **options)
    build(whole, dataset=pools[1], append=True, max_length=30, **options)

    def failing(path: Path, value: Any) -> Any:
        if path.name == "manifest.json":
            raise Stopped
        return sealed(path, value)

    sealed = writer.write_sealed
    with monkeypatch.context() as patch:
        patch.setattr(writer, "write_sealed", failing)
        with pytest.raises(Stopped):
            build(folder, dataset=pools[1], append=True, max_length=30, **options)
    build(folder, dataset=pools[1], append=True, max_length=30, **options)
    assert digest(folder) == digest(whole) and Index(folder).verify() == []


@pytest.mark.parametrize("name", ["codebook.safetensors", "calibration.safetensors"])
@pytest.mark.parametrize("finished", [True, False])
def test_a_changed_calibration_is_not_built_upon(
    tmp_path: Path, options, pools, monkeypatch, name: str, finished: bool
) -> None:
    folder = tmp_path / "index"
    with monkeypatch.context() as patch:
        if not finished:
            patch.setattr(IndexWriter, "finish", lambda *_: (_ for _ in ()).throw(Stopped))
        try:
            build(folder, dataset=pools[0], **options)
        except Stopped:
            assert not finished
    data = bytearray((folder / name).read_bytes())
    data[-9] ^= 1
    (folder / name).write_bytes(data)
    (folder / "shard-00001.safetensors").unlink()
    with pytest.raises(NaitError, match=f"{name} has changed since the index was"):
        build(folder, dataset=pools[0], repair=finished, **options)


def digest_of(folder: Path, names: dict[str, str]) -> dict[str, str]:
    import hashlib

    return {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names}


def test_what_cannot_be_added(tmp_path: Path, options, pools, tiny_model: str) -> None:
    with pytest.raises(NaitError, match=r"--append: .* holds no index"):
        build(tmp_path / "none", dataset=pools[0], append=True, **options)
    folder = tmp_path / "index"
    build(folder, dataset=pools[0], **options)
    before = digest(folder)
    for changed, words in (({"max_length": 30}, r"max_length \(512 -> 30\)"), ({"template": "alpaca"}, "template")):
        with pytest.raises(NaitError, match=words):
            build(folder, dataset=pools[1], append=True, **{**options, **changed})
    assert digest(folder) == before
    whole = (folder / "codebook.safetensors").read_bytes()
    (folder / "codebook.safetensors").write_bytes(whole[:-1] + b"\x01")
    with pytest.raises(NaitError, match=r"codebook\.safetensors has changed"):
        build(folder, dataset=pools[1], append=True, **options)
    (folder / "codebook.safetensors").write_bytes(whole)
    (folder / "calibration.safetensors").unlink()
    with pytest.raises(NaitError, match=r"calibration\.safetensors has changed"):
        build(folder, dataset=pools[1], append=True, **options)


@pytest.mark.parametrize("damage", ["flip", "cut", "gone"])
def test_a_damaged_shard_is_made_again_alone(tmp_path: Path, options, pools, damage: str, monkeypatch) -> None:
    folder = tmp_path / "index"
    build(folder, dataset=pools[0], **options)
    build(folder, dataset=pools[1], append=True, **options)
    before = digest(folder)
    for number, pool in ((1, pools[0]), (4, pools[1])):
        path = folder / f"shard-{number:05d}.safetensors"
        data = bytearray(path.read_bytes())
        data[-5] ^= 4
        if damage == "gone":
            path.unlink()
        else:
            path.write_bytes(data if damage == "flip" else data[:-7])
        (problem, *_) = Index(folder).verify()
        assert path.name in problem
        wrong = pools[1] if pool == pools[0] else pools[0]
        with pytest.raises(NaitError, match=f"{path.name} is damaged, but comes from another dataset"):
            build(folder, dataset=wrong, repair=True, **options)
        written = []
        write = IndexWriter.write_shard

        def noting(self, number, *arguments, write=write, written=written):
            written.append(number)
            write(self, number, *arguments)

        with monkeypatch.context() as patch:
            patch.setattr(IndexWriter, "write_shard", noting)
            build(folder, dataset=pool, repair=True, **options)
        assert written == [number]
        assert digest(folder) == before and Index(folder).verify() == []
    assert build(folder, dataset=pools[0], repair=True, **options)["tokens_run"] == 0
    assert digest(folder) == before


def test_rows_that_are_too_long(tmp_path: Path, options, pools) -> None:
    cut = tmp_path / "cut"
    build(cut, dataset=pools[0], max_length=30, **options)
    rows = [json.loads(line) for line in (cut / "skipped.jsonl").read_text().splitlines()]
    assert rows and all(entry["kept"] and entry["reason"].endswith(" tokens, cut to 30") for entry in rows)
    index = Index(cut)
    assert index.manifest["truncated"] == len(rows) and index.manifest["skipped"]["rows"] == 0
    left = tmp_path / "left"
    build(left, dataset=pools[0], max_length=30, too_long="skip", **options)
    again = [json.loads(line) for line in (left / "skipped.jsonl").read_text().splitlines()]
    assert [entry["row"] for entry in again] == [entry["row"] for entry in rows]
    assert {entry["reason"] for entry in again} == {"longer than 30 tokens"} and not any("kept" in e for e in again)
    index = Index(left)
    assert index.verify() == [] and index.rows == 20 - len(rows) and index.manifest["truncated"] == 0
