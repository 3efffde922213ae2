"""What an older nait_fast wrote: read with a warning, never added to; merged, it becomes format 3."""

import json
from pathlib import Path

import numpy as np
import pytest

import nait_fast
from nait_fast.errors import NaitError
from nait_fast.index.merge import check_joinable
from nait_fast.index.reader import Index
from nait_fast.methods.signature import load_signature
from nait_fast.notices import NaitWarning, recorded
from nait_fast.storage.files import pack_tensors, read_json, read_tensors, sha256, write_json
from nait_fast.storage.names import CODEBOOK, MANIFEST, RUN
from nait_fast.verbs.inspection import verify
from tests.conftest import make_rows, write_jsonl
from tests.index.made import seal

OPTIONS = {"calibration_size": 12, "batch_tokens": 500, "shard_rows": 12}


def age(path: Path, kind: str) -> bytes:
    """Write a file of tensors as it was in format 2; returns it."""
    tensors, meta = read_tensors(path, kind)
    data = pack_tensors({name: np.array(array) for name, array in tensors.items()}, meta, sealed=False)
    path.write_bytes(data)
    return data


def age_index(index: Path) -> None:
    told = read_json(index / MANIFEST)
    for shard in told["shards"]:
        data = age(index / shard["file"], "shard")
        shard |= {"bytes": len(data), "sha256": sha256(data)}
        del shard["xxh3"]
    told |= {"format_version": 2, "codebook": sha256(age(index / CODEBOOK, "codebook"))[:16]}
    told["calibration"] = sha256(age(index / "calibration.safetensors", "calibration"))
    run = {k: v for k, v in read_json(index / RUN).items() if k not in ("checksum", "format_version")}
    run["files"] = {name: sha256((index / name).read_bytes()) for name in run["files"]}
    write_json(index / RUN, run)
    seal(index / MANIFEST, told)


@pytest.fixture(scope="module")
def made(tmp_path_factory, tiny_model: str) -> Path:
    """``pool0.jsonl``, ``pool1.jsonl``; indexes ``new``, ``old`` and ``old1`` of them, and ``of-new``, ``of-old``."""
    folder = tmp_path_factory.mktemp("two")
    pools = [write_jsonl(folder / f"pool{k}.jsonl", make_rows(30, seed=k)) for k in range(2)]
    target = write_jsonl(folder / "sums.jsonl", [r for r in make_rows(24, seed=1) if r["source"] == "sums"])
    common = {"model": tiny_model, **OPTIONS}
    for name in ("new", "old"):
        nait_fast.build_index(dataset=str(pools[0]), output=str(folder / name), **common)
    age_index(folder / "old")
    common.pop("calibration_size")
    with pytest.warns(NaitWarning, match="a codebook of an older nait_fast, without checksums"):
        nait_fast.build_index(
            dataset=str(pools[1]), output=str(folder / "old1"), codebook=str(folder / "old"), **common
        )
    for name in ("new", "old"):
        nait_fast.build_signature(
            model=tiny_model, target=[str(target)], codebook=str(folder / name), output=str(folder / f"of-{name}")
        )
    return folder


def test_read_with_one_warning(made: Path, tmp_path: Path) -> None:
    scores = {}
    for name in ("new", "old"):
        with recorded() as told:
            nait_fast.rank(
                index=str(made / name),
                signature=[str(made / f"of-{name}" / "sums.safetensors")],
                output=str(tmp_path / name),
                fraction=0.2,
            )
        scores[name] = (tmp_path / name / "selected.jsonl").read_bytes()
        assert [t for t in told if "checksums" in t] == [
            f"{made / name}: an index of format 2, whose shards have no checksums: changed bytes in them go unseen "
            "until nait-fast verify; index the pool again, or merge it into a new one"
        ] * (name == "old")
    assert scores["new"] == scores["old"]
    with pytest.warns(NaitWarning, match="format 2"):
        assert verify(str(made / "old"))["ok"]
    told = json.loads((tmp_path / "old" / "manifest.json").read_text())
    assert any("format 2" in text for text in told["warnings"])


@pytest.mark.parametrize("flag", ["append", "repair"])
def test_never_added_to(made: Path, tiny_model: str, flag: str) -> None:
    pool = made / ("pool1.jsonl" if flag == "append" else "pool0.jsonl")
    with pytest.raises(NaitError, match=f"--{flag}: .*begun by an older nait_fast, whose shards have no checksums"):
        nait_fast.build_index(model=tiny_model, dataset=str(pool), output=str(made / "old"), **{flag: True}, **OPTIONS)


def test_not_gone_on_with(made: Path, tiny_model: str, tmp_path: Path) -> None:
    index = tmp_path / "index"
    index.mkdir()
    (index / RUN).write_bytes((made / "old" / RUN).read_bytes())
    with pytest.raises(NaitError, match="begun by an older nait_fast"):
        nait_fast.build_index(model=tiny_model, dataset=str(made / "pool0.jsonl"), output=str(index), **OPTIONS)


def test_merged_it_is_of_format_3(made: Path, tmp_path: Path) -> None:
    with pytest.warns(NaitWarning, match="format 2"):
        nait_fast.merge(index=[str(made / "old"), str(made / "old1")], output=str(tmp_path / "all"))
    index = Index(tmp_path / "all")
    assert index.version == 3 and index.rows == 60 and index.verify() == []
    assert all(entry.checksum for entry in index.entries)


def test_an_index_of_the_identity_of_old_is_not_joined_with_a_new_one(made: Path) -> None:
    new, old = Index(made / "new"), Index(made / "new")
    old.manifest.update(model="a" * 16, template="b" * 16)
    for both in ([new, old], [old, new]):
        with pytest.raises(NaitError, match=r"was made before all weights.*cannot be joined with"):
            check_joinable(both)


def test_signatures(made: Path, tmp_path: Path) -> None:
    path = tmp_path / "sums.safetensors"
    path.write_bytes((made / "of-new" / "sums.safetensors").read_bytes())
    new = load_signature(path)
    data = age(path, "signature")
    with pytest.warns(NaitWarning, match="without checksums: changed bytes in it go unseen; make it anew"):
        old = load_signature(path)
    assert old.hash == sha256(data)[:16] != new.hash and old.to_bytes() == data
    assert old.meta == new.meta and all((old.tensors[k] == new.tensors[k]).all() for k in new.tensors)
