"""Whatever happens to a file that the manifest vouches for is found, by opening or by verify, in one line."""

import json
import random
import re
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

import nait_fast
from nait_fast.errors import NaitError
from nait_fast.index.reader import Index
from nait_fast.outputs.recognise import CLAIM
from nait_fast.storage.lock import FOLDER_LOCK
from nait_fast.verbs.inspection import verify
from tests.conftest import make_rows, write_jsonl

seen: Counter[str] = Counter()  # cases by kind
MODEL_OPTIONS = {"calibration_size": 12, "batch_tokens": 500, "skip_bad_rows": True, "max_length": 40}
ROUNDS = {"bit": 6, "byte": 6}  # for every file; of other kinds of damage 2


def pool_of(path: Path, n: int, seed: int) -> Path:
    """Rows of all kinds: good, bad, too long, with the id of another one, without an id."""
    rows = make_rows(n, seed)
    for row in range(3, n, 7):
        rows[row]["output"] = ""
    for row in range(4, n, 9):
        rows[row]["id"] = rows[row - 3]["id"]
    for row in range(5, n, 11):
        rows[row]["output"] = " ".join(["the cat has ten apples"] * 9)
    for row in range(6, n, 13):
        del rows[row]["id"]
    return write_jsonl(path, rows)


def build(folder: Path, model: str, seed: int, calibrate: int = 0) -> Path:
    """Two datasets, five shards, exact scores; the pools of all seeds are of the same shape."""
    index, common = folder / "index", {"model": model, **MODEL_OPTIONS, "seed": calibrate}
    target = write_jsonl(folder / "sums.jsonl", make_rows(8, seed=1))
    nait_fast.build_signature(model=model, target=[str(target)], method="nait", max_length=40, output=folder)
    common |= {"shard_rows": 12, "score": [folder / "sums.safetensors"], "output": index}
    nait_fast.build_index(dataset=pool_of(folder / "a.jsonl", 34, seed), **common)
    nait_fast.build_index(dataset=pool_of(folder / "b.jsonl", 20, seed + 100), append=True, **common)
    return index


@pytest.fixture(scope="module")
def other(tmp_path_factory, tiny_model: str) -> Path:
    """Of the same shape, of other data."""
    return build(tmp_path_factory.mktemp("other"), tiny_model, 5)


@pytest.fixture(scope="module")
def recalibrated(tmp_path_factory, tiny_model: str) -> Path:
    """Of the same data, under thresholds of another sample."""
    return build(tmp_path_factory.mktemp("recalibrated"), tiny_model, 4, calibrate=1)


@pytest.fixture(scope="module")
def index(tmp_path_factory, tiny_model: str) -> Path:
    index = build(tmp_path_factory.mktemp("whole"), tiny_model, 4)
    assert verify(str(index))["files"] == 5
    told = Index(index).manifest
    assert told["duplicate_ids"] > 2 and told["truncated"] > 2 and told["skipped"]["rows"] > 4 and told["exact"]
    return index


@pytest.fixture(scope="module")
def selection(tmp_path_factory, tiny_model: str) -> Path:
    folder = tmp_path_factory.mktemp("selection")
    pool = pool_of(folder / "pool.jsonl", 30, 7)
    target = write_jsonl(folder / "sums.jsonl", make_rows(8, seed=1))
    nait_fast.select(model=tiny_model, dataset=pool, target=[str(target)], output=folder / "out", **MODEL_OPTIONS)
    return folder / "out"


def vouched(folder: Path) -> list[Path]:
    """Files that the manifest, or a manifest in it, tells of; the manifests; the plans, which vouch for themselves."""
    aside = (".lock", FOLDER_LOCK, CLAIM, "run.json", "log.json", "events.jsonl", "config.yaml")
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.name not in aside)


def expect_found(folder: Path, names: list[str], kind: str) -> None:
    """Verify refuses the folder, naming one of ``names``; reading it raises nothing but NaitError either."""
    with pytest.raises(NaitError) as error:
        verify(str(folder))
    message = str(error.value)
    assert "\n" not in message and any(name in message for name in names), (kind, names, message)
    seen[kind] += 1
    try:
        opened = Index(folder)
        for shard in opened.shards():
            assert len(shard.ids()) == len(shard.codes)
        assert opened.codebook.meta
    except NaitError as refused:
        assert "\n" not in str(refused)


def damaged(data: bytes, kind: str, generator: random.Random) -> bytes:
    place, length = generator.randrange(len(data)), generator.randrange(1, 200)
    end = min(len(data), place + length)
    lines = data.split(b"\n")
    line = generator.randrange(len(lines))
    return {
        "bit": lambda: data[:place] + bytes([data[place] ^ 1 << generator.randrange(8)]) + data[place + 1 :],
        "byte": lambda: data[:place] + bytes([generator.randrange(256)]) + data[place + 1 :],
        "truncated": lambda: data[:place],
        "last byte gone": lambda: data[:-1],
        "extended": lambda: data + generator.choice([b"\0", b"\n", b" ", generator.randbytes(length), data]),
        "zeroed": lambda: data[:place] + bytes(end - place) + data[end:],
        "zeroed to the end": lambda: data[:place] + bytes(len(data) - place),
        "piece gone": lambda: data[:place] + data[end:],
        "piece twice": lambda: data[:end] + data[place:],
        "line gone": lambda: b"\n".join(lines[:line] + lines[line + 1 :]),
        "line twice": lambda: b"\n".join(lines[: line + 1] + lines[line:]),
        "noise": lambda: generator.randbytes(len(data)),
        "number": lambda: re.sub(rb"[0-9]", lambda m: b"%d" % ((int(m[0]) + 1) % 10), data, count=1),
        "header length": lambda: generator.randbytes(generator.choice([1, 2, 8])) + data[8:],
    }[kind]()


KINDS = (
    "bit",
    "byte",
    "truncated",
    "last byte gone",
    "extended",
    "zeroed",
    "zeroed to the end",
    "piece gone",
    "piece twice",
    "line gone",
    "line twice",
    "noise",
    "number",
    "header length",
)


def cases(files: list[Path], generator: random.Random) -> Iterator[tuple[Path, str, bytes, bytes]]:
    for file in files:
        data = file.read_bytes()
        for kind in KINDS:
            for _ in range(ROUNDS.get(kind, 2)):
                changed = damaged(data, kind, generator)
                if changed != data:
                    yield file, kind, data, changed


@pytest.mark.parametrize("place", ["index", "selection"])
def test_random_damage(request: pytest.FixtureRequest, place: str) -> None:
    folder = request.getfixturevalue(place)
    for file, kind, data, changed in cases(vouched(folder), random.Random(place)):
        file.write_bytes(changed)
        try:
            expect_found(folder, [file.name], kind)
        finally:
            file.write_bytes(data)
    assert verify(str(folder))["ok"]


def test_every_byte_of_the_manifest(index: Path) -> None:
    file = index / "manifest.json"
    data = file.read_bytes()
    for place in range(0, len(data), 11):
        file.write_bytes(data[:place] + bytes([data[place] ^ 0x10]) + data[place + 1 :])
        expect_found(index, ["manifest.json"], "bit of the manifest")
    file.write_bytes(data)


def test_files_exchanged(index: Path) -> None:
    shards = sorted(index.glob("shard-*"))
    for i, one in enumerate(shards):
        for two in shards[i + 1 :]:
            first, second = one.read_bytes(), two.read_bytes()
            one.write_bytes(second)
            two.write_bytes(first)
            expect_found(index, [one.name], "two shards exchanged")
            with pytest.raises(NaitError):  # opening alone tells: each says which it is
                list(Index(index).shards())
            two.write_bytes(second)
            expect_found(index, [one.name], "a shard twice")
            one.write_bytes(first)
    tensors = [*shards, index / "codebook.safetensors", index / "calibration.safetensors"]
    for one in tensors:
        data = one.read_bytes()
        for two in tensors:
            if one != two:
                one.write_bytes(two.read_bytes())
                expect_found(index, [one.name], "another file of the index")
        one.write_bytes(data)
    assert verify(str(index))["ok"]


@pytest.mark.parametrize("source", ["other", "recalibrated"])
def test_files_of_another_index(request: pytest.FixtureRequest, index: Path, source: str) -> None:
    foreign = request.getfixturevalue(source)
    for theirs in vouched(foreign):
        mine = index / theirs.name
        data, changed = mine.read_bytes(), theirs.read_bytes()
        same = data == changed
        # The data's own lists are the same under other thresholds; the plans name another path.
        assert not same or (source == "recalibrated" and theirs.name == "skipped.jsonl")
        if same or (source == "recalibrated" and theirs.name.startswith("plan")):
            continue
        mine.write_bytes(changed)
        # The manifest of another index makes every other file the foreign one.
        names = [path.name for path in vouched(index)] if theirs.name == "manifest.json" else [theirs.name]
        expect_found(index, names, f"{theirs.name} of another index")
        mine.write_bytes(data)
    manifest, codebook = (index / name for name in ("manifest.json", "codebook.safetensors"))
    kept = {path: path.read_bytes() for path in (manifest, codebook)}
    for path in kept:  # both at once: what is left is of another pool, or under other thresholds
        path.write_bytes((foreign / path.name).read_bytes())
    expect_found(index, ["calibration.safetensors", "shard-00000.safetensors"], "manifest and codebook of another")
    for path, data in kept.items():
        path.write_bytes(data)
    assert verify(str(index))["ok"]


@pytest.mark.parametrize("place", ["index", "selection"])
def test_files_gone_emptied_or_of_another_kind(request: pytest.FixtureRequest, place: str) -> None:
    folder = request.getfixturevalue(place)
    for file in vouched(folder):
        data = file.read_bytes()
        if not file.name.startswith("plan"):  # an aid: it may be deleted
            file.unlink()
            expect_found(folder, [file.name], "gone")
            file.symlink_to("absent")
            expect_found(folder, [file.name], "a link to nowhere")
        file.unlink()
        file.mkdir()
        expect_found(folder, [file.name], "a folder")
        file.rmdir()
        file.write_bytes(b"")
        expect_found(folder, [file.name], "empty")
        file.write_bytes(data)
    assert verify(str(folder))["ok"]


def test_lines_of_the_list(index: Path) -> None:
    file = index / "skipped.jsonl"
    data = file.read_bytes()
    lines = data.splitlines(keepends=True)
    for i, line in enumerate(lines):
        entry = json.loads(line)
        for kind, changed in (
            ("line gone", lines[:i] + lines[i + 1 :]),
            ("line twice", lines[: i + 1] + lines[i:]),
            ("line moved", [line, *lines[:i], *lines[i + 1 :]] if i else [*lines[1:], line]),
            (
                "another row",
                [*lines[:i], json.dumps({**entry, "row": entry["row"] + 1}).encode() + b"\n", *lines[i + 1 :]],
            ),
            ("kept or not", [*lines[:i], line.replace(b', "kept": true', b""), *lines[i + 1 :]]),
        ):
            if b"".join(changed) != data:
                file.write_bytes(b"".join(changed))
                expect_found(index, ["skipped.jsonl"], kind)
    file.write_bytes(data)


def test_a_list_or_calibration_that_no_manifest_names(tmp_path: Path, tiny_model: str, index: Path) -> None:
    whole = tmp_path / "whole"
    options = {**MODEL_OPTIONS, "codebook": index, "model": tiny_model, "output": whole}
    del options["calibration_size"]
    short = [{"text": row["output"]} for row in make_rows(8, seed=2)]  # none is cut, so that nothing is listed
    nait_fast.build_index(dataset=write_jsonl(tmp_path / "pool.jsonl", short), **options)
    told = Index(whole).manifest
    assert told["calibration"] is None and told["skipped"] == {"rows": 0, "reasons": {}}
    for name in ("skipped.jsonl", "calibration.safetensors"):
        shutil.copy(index / name, whole / name)
        expect_found(whole, [name], "a file too many")
        (whole / name).unlink()
    assert verify(str(whole))["ok"]


def test_enough_cases() -> None:
    assert sum(seen.values()) >= 1000 and min(seen[kind] for kind in KINDS) >= 20, seen
    assert len(seen) >= 25
