"""A damaged index is reported: by opening it or by verify, in one line, and never by another kind of error."""

import random
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

import nait_fast
from nait_fast.errors import NaitError
from nait_fast.index.reader import Index
from nait_fast.storage.files import checksum_of, pack_tensors, read_json, read_tensors, sha256, write_json, write_sealed
from nait_fast.verbs.inspection import inspect, verify
from tests.conftest import make_rows, write_jsonl
from tests.index.bits import manifest


@pytest.fixture(scope="module")
def whole(tmp_path_factory, tiny_model: str) -> Path:
    """A selection with an index of three shards and some skipped rows."""
    folder = tmp_path_factory.mktemp("whole")
    rows = make_rows(40)
    for row in (3, 20, 21):
        rows[row]["output"] = ""
    pool = write_jsonl(folder / "pool.jsonl", rows)
    target = write_jsonl(folder / "sums.jsonl", make_rows(10, seed=1))
    common = {"model": tiny_model, "calibration_size": 20}
    nait_fast.build_index(
        dataset=pool, output=folder / "index", shard_rows=15, skip_bad_rows=True, batch_tokens=500, **common
    )
    nait_fast.select(dataset=pool, target=[f"{target}"], output=folder / "out", skip_bad_rows=True, **common)
    return folder


@pytest.fixture
def index(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole / "index", tmp_path / "index"))


@pytest.fixture
def selection(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole / "out", tmp_path / "out"))


def problem(folder: Path) -> str:
    """What verify says of a damaged folder."""
    with pytest.raises(NaitError) as error:
        verify(str(folder))
    message = str(error.value)
    assert "\n" not in message and str(folder) in message
    return message


def test_what_is_no_folder_of_ours(whole: Path, tmp_path: Path) -> None:
    signature = whole / "out" / "signatures" / "sums.safetensors"
    for path, words in (
        (signature, "is a file: name the folder of an index or a selection"),
        (tmp_path / "absent", "no such folder"),
        (tmp_path, r"no manifest\.json: neither an index nor a selection, or one that is not finished"),
    ):
        with pytest.raises(NaitError, match=words):
            verify(str(path))


def test_whole_ones_pass(whole: Path, tmp_path: Path) -> None:
    told = verify(str(whole / "index"))
    assert told.pop("text") == f"{whole / 'index'}: every byte is as it was written (3 files, 37 rows of an index)"
    assert told == {"path": str(whole / "index"), "ok": True, "files": 3, "rows": 37}
    told = verify(str(whole / "out"))
    chosen = len((whole / "out" / "selected.jsonl").read_bytes().splitlines())
    assert told["ok"] and (told["rows"], told["rows_selected"]) == (37, chosen)
    signature = whole / "out" / "signatures" / "sums.safetensors"
    nait_fast.rank(index=whole / "out" / "index", signature=[signature], output=tmp_path, fraction=0.5, export=[])
    told = verify(str(tmp_path))  # no index there: none of its rows were checked
    assert {**told, "text": ""} == {"path": str(tmp_path), "ok": True, "files": 2, "rows_selected": 18, "text": ""}
    told = inspect(str(whole / "index"))
    assert (told["rows"], told["shards"], told["layers"], told["neurons"]) == (37, 3, 3, 216)
    assert inspect(str(whole / "out"))["targets"] == ["sums"]
    assert inspect(str(whole / "out" / "signatures" / "sums.safetensors"))["method"] == "contrast"
    assert inspect(str(whole / "pool.jsonl"))["usable"] == 37


def damage(data: bytes, generator: random.Random) -> tuple[str, bytes]:
    """One of many ways in which a file may end up other than it was written."""
    kind = generator.choice(["bit", "byte", "cut", "append", "zeros", "swap", "empty", "drop", "repeat", "header"])
    place, length = generator.randrange(len(data)), generator.randrange(1, 60)
    piece = data[place : place + length]
    changed = {
        "bit": data[:place] + bytes([data[place] ^ 1 << generator.randrange(8)]) + data[place + 1 :],
        "byte": data[:place] + bytes([generator.randrange(256)]) + data[place + 1 :],
        "cut": data[:place],
        "append": data + generator.randbytes(length),
        "zeros": data[:place] + bytes(len(piece)) + data[place + len(piece) :],
        "swap": data[:place] + piece[::-1] + data[place + len(piece) :],
        "empty": b"",
        "drop": data[:place] + data[place + length :],
        "repeat": data[:place] + piece + data[place:],
        "header": generator.randbytes(8) + data[8:],
    }[kind]
    return kind, changed


@pytest.mark.parametrize("place", ["index", "out"])
def test_random_damage_is_always_found(whole: Path, tmp_path: Path, place: str) -> None:
    folder = Path(shutil.copytree(whole / place, tmp_path / place))
    checked = ("manifest.json", "skipped.jsonl", "selected.jsonl", "scores.parquet", "dataset_info.json")
    files = sorted(p for p in folder.rglob("*") if p.suffix == ".safetensors" or p.name in checked)
    assert len(files) == (7 if place == "index" else 10)
    generator, seen = random.Random(place), Counter[str]()
    for i in range(400):
        file = files[i % len(files)]
        data = file.read_bytes()
        kind, changed = damage(data, generator)
        if changed == data:
            continue
        file.write_bytes(changed)
        problem(folder)
        seen[kind] += 1
        if place == "index":  # nor does opening and reading it raise anything else
            try:
                opened = Index(folder)
                assert sum(len(shard.codes) for shard in opened.shards()) == 37
                assert opened.codebook.meta
            except NaitError:
                pass
        file.write_bytes(data)
    assert sum(seen.values()) > 300 and len(seen) == 10
    assert verify(str(folder))["ok"]


def test_missing_files(index: Path, selection: Path) -> None:
    for folder in (index, selection):
        for file in sorted(p for p in folder.rglob("*") if p.is_file()):
            if file.name.startswith(".nait-fast") or file.name in (
                ".lock",
                "run.json",
                "log.json",
                "config.yaml",
                "events.jsonl",
                "plan-00.json",
            ):
                continue
            file.rename(file.with_suffix(".gone"))
            assert file.name in problem(folder) or "manifest.json" in problem(folder)
            file.with_suffix(".gone").rename(file)
    shutil.rmtree(selection / "index")
    assert "no such index folder" in problem(selection)
    with pytest.raises(NaitError, match="no such folder"):
        verify(str(index / "absent"))
    with pytest.raises(NaitError, match="neither an index nor a selection"):
        verify(str(index.parent))


def test_what_the_messages_say(index: Path) -> None:
    shard = index / "shard-00001.safetensors"
    data = shard.read_bytes()
    shard.write_bytes(data[:-1])
    assert f"{shard}: {len(data) - 1} bytes, expected {len(data)}: truncated or damaged" in problem(index)
    shard.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    assert f"{shard}: its bytes have changed (SHA-256 differs)" in problem(index)
    (index / "skipped.jsonl").unlink()
    assert problem(index).endswith("(and 1 more problems)")


def rewrite(index: Path, number: int, **tensors: np.ndarray) -> None:
    """Change tensors of a shard and seal everything anew: only the content is wrong."""
    path = index / f"shard-{number:05d}.safetensors"
    old, meta = read_tensors(path, "shard")
    path.write_bytes(pack_tensors({**{k: np.array(v) for k, v in old.items()}, **tensors}, meta))
    told = manifest(index)
    data = path.read_bytes()
    told["shards"][number] |= {"bytes": len(data), "sha256": sha256(data), "xxh3": checksum_of(data)}
    seal(index, told)


def seal(index: Path, told: dict) -> None:
    write_sealed(index / "manifest.json", {key: value for key, value in told.items() if key != "checksum"})


def rows_of(index: Path, number: int) -> np.ndarray:
    return list(np.array(shard.row) for shard in Index(index).shards())[number]


def test_rows_that_are_there_twice(index: Path) -> None:
    for number, change in (
        (1, lambda row: np.concatenate([row[:4], row[3:-1]])),  # twice in a shard
        (1, lambda row: np.concatenate([rows_of(index, 0)[-1:], row[1:]])),  # and in two
        (0, lambda row: row[::-1].copy()),
        (2, lambda row: row + 1),  # the last one is beyond the pool
        (0, lambda row: row - 1),
    ):
        row = rows_of(index, number)
        rewrite(index, number, row=change(row))
        assert f"shard-{number:05d}.safetensors: row" in problem(index)
        rewrite(index, number, row=row)
    assert verify(str(index))["ok"]


def test_wrong_shapes(index: Path) -> None:
    codes, row, n_tokens = np.zeros((14, 48), np.uint8), rows_of(index, 0), np.ones(14, np.int32)
    for wrong in (
        {"codes": codes[:, :32]},
        {"codes": codes[:-1]},
        {"codes": codes.astype(np.int32)},
        {"row": row.astype(np.int32)},
        {"n_tokens": n_tokens[:, None]},
    ):
        rewrite(index, 0, **wrong)
        assert "is missing or has another shape" in problem(index)
        with pytest.raises(NaitError, match="another shape"):
            list(Index(index).shards())
        rewrite(index, 0, codes=codes, row=row, n_tokens=n_tokens)


def test_what_no_writer_writes(index: Path) -> None:
    """Under right checksums."""
    shard = next(iter(Index(index).shards()))
    codes, n_tokens = np.array(shard.codes), np.array(shard.n_tokens)
    for bit in (72, 95, 72 + 96, 3 * 96, 383):  # behind a layer's neurons, and behind the last layer's words
        wrong = codes.copy()
        wrong[3, bit // 8] |= 1 << bit % 8
        rewrite(index, 0, codes=wrong)
        assert "bits of codes beyond their layer's neurons are set" in problem(index)
    rewrite(index, 0, codes=codes)
    for number in (0, -1, 513):
        wrong = n_tokens.copy()
        wrong[-1] = number
        rewrite(index, 0, n_tokens=wrong)
        assert "impossible lengths" in problem(index)
    rewrite(index, 0, n_tokens=n_tokens + np.eye(1, len(n_tokens), dtype=np.int32)[0])
    assert "tokens, the shards hold" in problem(index)


def test_plans_are_aids(index: Path) -> None:
    plan = index / "plan-00.json"
    data, told = plan.read_bytes(), read_json(plan)
    other = {**{key: value for key, value in told.items() if key != "checksum"}, "sha256": "0" * 64}
    for change in (data[:-3], data.replace(b"jsonl", b"jsonx"), other):
        if isinstance(change, bytes):
            plan.write_bytes(change)
        else:
            write_sealed(plan, change)
        message = problem(index)
        assert message.startswith(f"{plan}: ") and message.endswith("delete it, it only spares reading the pool")
    plan.unlink()
    assert verify(str(index))["ok"]


WRONG = [
    {"kind": "nait_fast something"},
    {"format_version": 1},
    {"format_version": 4},
    {"format_version": 3.0},
    {"format_version": None},
    {"codec": "rotated3"},
    {"row_bytes": 47},
    *({"widths": value} for value in (None, [], [72], [-1, 1], "72", {}, [1e999], [72, 72, 7200])),
    *({"shards": value} for value in (None, {}, [1], [{}], [{"file": "x", "rows": "y", "bytes": 1, "sha256": ""}])),
    *({key: ...} for key in ("kind", "format_version", "widths", "codec", "row_bytes", "shards", "rows")),
    {"rows": "many"},
    {"rows": 36},
    *({"datasets": value} for value in (None, [], {}, [1], [{}], [{"rows": 40}])),
    {"pool_rows": 41},
    {"shard 1": {"first_row": 14}},
    {"shard 1": {"pool_rows": 16}},
    {"shard 1": {"rows": 16}},
    {"shard 2": {"pool_rows": 11}},
    {"skipped": {"rows": 2, "reasons": {}}},
    {"codebook": "0" * 16},
]


@pytest.mark.parametrize("change", WRONG, ids=str)
def test_manifests_of_another_make(index: Path, change: dict) -> None:
    told = manifest(index)
    for key, value in change.items():
        if key == "pool_rows":
            told["datasets"][0]["rows"] = value
        elif key.startswith("shard "):
            told["shards"][int(key[-1])] |= value
        elif value is ...:
            del told[key]
        elif isinstance(value, dict) and isinstance(told.get(key), dict):
            told[key] |= value
        else:
            told[key] = value
    seal(index, told)
    problem(index)


def test_shard_names_are_plain(index: Path) -> None:
    told = manifest(index)
    for name in ("../index/shard-00000.safetensors", "/etc/passwd", "a/b", "shard-00001.safetensors", "a\0b", "", None):
        told["shards"][0]["file"] = name
        seal(index, told)
        message = problem(index)
        assert "manifest.json: not a valid manifest (shard 0 is called" in message and "not shard-00000" in message


def test_json_that_is_no_manifest(index: Path) -> None:
    path = index / "manifest.json"
    for content in (
        b"",
        b"[]",
        b"null",
        b"{",
        b"\xff",
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"kind": 1e999}',
        b"9" * 5000,
    ):
        path.write_bytes(content)
        problem(index)
        with pytest.raises(NaitError):
            Index(index)
    write_json(path, {"kind": "nait_fast index", "format_version": 3})
    assert "checksum" in problem(index)
    write_sealed(path, {"kind": "nait_fast index", "format_version": 1})
    assert "format version 1, this nait_fast reads 2 and 3; index the pool again" in problem(index)


def test_a_selection_with_a_foreign_signature(selection: Path, whole: Path, tiny_model: str) -> None:
    target = write_jsonl(selection.parent / "sums.jsonl", make_rows(8, seed=9))
    nait_fast.build_signature(
        model=tiny_model,
        target=[str(target)],
        codebook=selection / "index",
        output=selection / "signatures",
        overwrite=True,
    )
    assert "sums.safetensors: its bytes have changed" in problem(selection)
