"""Repeated ids: exactly those that a dictionary finds, in any number of passes, whatever the hashes do."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nait_fast.errors import NaitError
from nait_fast.index import duplicates
from nait_fast.index.duplicates import duplicate_ids
from nait_fast.storage.files import pack_tensors
from nait_fast.storage.names import shard_name
from tests.index.hostile import quick
from tests.ranking.indexes import id_tensors

Ids = list[str | None]
NAMES = st.none() | st.sampled_from(["", "a", "b", "é", "日本", "a\0", "a b"]) | st.text(max_size=3)
NAMES = NAMES.filter(lambda name: name is None or name.isprintable() or "\0" in name)


def write(folder: Path, shards: list[Ids]) -> list[Path]:
    """Shards of these ids; every third row of the pool is left out."""
    paths, row = [], 0
    for number, names in enumerate(shards):
        rows = [row + i + i // 2 for i in range(len(names))]
        row += 2 * len(names)
        tensors = {"row": np.array(rows, dtype=np.int64)}
        if any(name is not None for name in names):  # else the writer leaves them out
            tensors |= id_tensors(names)
        path = folder / shard_name(number)
        path.write_bytes(pack_tensors(tensors, {"kind": "shard", "number": number}))
        paths.append(path)
    return paths


def expected(shards: list[Ids]) -> list[tuple[int, int]]:
    first: dict[str, int] = {}
    found, row = [], 0
    for names in shards:
        for i, name in enumerate(names):
            own = row + i + i // 2
            if name is not None and first.setdefault(name, own) != own:
                found.append((own, first[name]))
        row += 2 * len(names)
    return found


@given(shards=st.lists(st.lists(NAMES, max_size=8), max_size=5), at_once=st.integers(1, 9), hashes=st.integers(1, 64))
@settings(quick, max_examples=200)
def test_as_a_dictionary_finds_them(tmp_path: Path, shards: list[Ids], at_once: int, hashes: int) -> None:
    paths = write(tmp_path, shards)
    assert duplicate_ids(paths) == expected(shards)
    whole = duplicates._hashes
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(duplicates, "HASHES_AT_ONCE", at_once)  # several passes
        assert duplicate_ids(paths) == expected(shards)
        # Hashes that say little: the ids themselves decide.
        patch.setattr(duplicates, "_hashes", lambda ids: whole(ids) % np.uint64(hashes))
        assert duplicate_ids(paths) == expected(shards)


def test_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(0)
    shards: list[Ids] = [[f"row-{i}" for i in generator.integers(0, 20_000, size=4000)] for _ in range(5)]
    paths = write(tmp_path, shards)
    found = expected(shards)
    assert len(found) > 5000
    for at_once in (duplicates.HASHES_AT_ONCE, 7000, 1 << 14):
        monkeypatch.setattr(duplicates, "HASHES_AT_ONCE", at_once)
        assert duplicate_ids(paths) == found


def test_no_ids(tmp_path: Path) -> None:
    assert duplicate_ids([]) == []
    assert duplicate_ids(write(tmp_path, [[], [None, None], []])) == []


@pytest.mark.parametrize(
    "change",
    [
        {"id_ends": np.array([1, 0, 2])},
        {"id_ends": np.array([1, 2, 9])},
        {"id_ends": np.array([-1, 1, 2])},
        {"id_ends": np.array([1, 2])},
        {"id_ends": np.array([1.0, 2.0, 2.0])},
        {"id_absent": np.array([True, False, True])},
        {"id_absent": np.array([0, 0, 1], np.uint8)},
        {"ids": np.array([97, 98], np.int32)},
        {"row": np.array([0, 1, 2], np.int32)},
        {"row": np.array([0, 1])},
        {"row": np.array(0)},
        {"row": None},
        {"ids": None},
        {"id_ends": None},
    ],
    ids=str,
)
def test_damaged_ids_are_refused(tmp_path: Path, change: dict) -> None:
    tensors = {"row": np.arange(3), **id_tensors(["a", "b", None])}
    held = {name: array for name, array in {**tensors, **change}.items() if array is not None}
    path = tmp_path / shard_name(0)
    path.write_bytes(pack_tensors(held, {"kind": "shard", "number": 0}))
    with pytest.raises(NaitError) as error:
        duplicate_ids([path])
    assert str(error.value).startswith(f"{path}: ") and "rebuild it with index --repair" in str(error.value)
