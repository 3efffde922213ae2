"""Plans: every unit can be read alone, in any order, and tells when its rows have changed."""

import json
import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from nait_fast.data.parts import as_line
from nait_fast.data.plan import Plan, lines_of, load_plan, make_plan, stamps_of
from nait_fast.data.pool import Pool
from nait_fast.errors import NaitError
from tests.data import pools
from tests.data.pools import MAKERS, ROWS, dump, write, write_parquet


def read(pool: Pool, order: list[int]) -> dict[int, bytes]:
    reader = pool.reader()
    return {row: as_line(r.payload) for n in order for row, r in reader.unit(pool.plan().units[n])}


@pytest.mark.parametrize("unit_rows", [1, 2, 3, 5, 100])
@pytest.mark.parametrize(("make", "kind"), MAKERS, ids=lambda value: getattr(value, "__name__", None))
def test_units_of_every_container(tmp_path: Path, make: Callable[[Path], Path], kind: str, unit_rows: int) -> None:
    pool = Pool(make(tmp_path), unit_rows=unit_rows)
    plan = pool.plan()
    assert (plan.kind, plan.rows, len(plan.units)) == (kind, 5, -(-5 // unit_rows))
    assert [unit.row for unit in plan.units] == list(range(0, 5, unit_rows))
    assert sum(unit.rows for unit in plan.units) == 5
    numbers = list(range(len(plan.units)))
    expected = dict(enumerate(dump(ROWS)))
    for order in (numbers, numbers[::-1], numbers[::2], random.Random(0).sample(numbers, len(numbers))):
        wanted = {row: expected[row] for n in order for row in range(n * unit_rows, min(5, (n + 1) * unit_rows))}
        assert read(pool, order) == wanted
    rows = [0, 3, 4]
    assert [(row, as_line(r.payload)) for row, r in lines_of(pool.reader(), rows)] == [(r, expected[r]) for r in rows]


def test_a_reader_goes_on_after_a_unit_was_left_in_the_middle(tmp_path: Path) -> None:
    for make, _ in MAKERS:
        (folder := tmp_path / make.__name__).mkdir()
        pool = Pool(make(folder), unit_rows=3)
        reader, (first, second) = pool.reader(), pool.plan().units
        assert next(reader.unit(first))[0] == 0
        assert [row for row, _ in reader.unit(second)] == [3, 4]
        assert [row for row, _ in reader.unit(first)] == [0, 1, 2]


def test_rows_of_many_lengths_and_blank_lines(tmp_path: Path) -> None:
    generator = random.Random(1)
    lines = [json.dumps({"text": "é" * generator.randint(1, 400), "n": i}).encode() for i in range(500)]
    path = tmp_path / "pool.jsonl"
    path.write_bytes(
        b"\xef\xbb\xbf" + b"".join(line + generator.choice([b"\n", b"\r\n", b"\n\n \t\n"]) for line in lines)
    )
    pool = Pool(path, unit_rows=37)
    assert read(pool, random.Random(2).sample(range(14), 14)) == dict(enumerate(lines))
    numbers = [r.line for _, r in pool.reader().unit(pool.plan().units[5])]
    raw = path.read_bytes().split(b"\n")
    assert [raw[n - 1].removesuffix(b"\r") for n in numbers] == lines[185:222]


def test_parquet_row_groups(tmp_path: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    table = pa.Table.from_pylist([{"text": f"row {i}"} for i in range(100)])
    parquet.write_table(table, tmp_path / "pool.parquet", row_group_size=7)
    pool = Pool(tmp_path / "pool.parquet", unit_rows=9)
    expected = {i: json.dumps({"text": f"row {i}"}).encode() for i in range(100)}
    assert read(pool, random.Random(0).sample(range(12), 12)) == expected


def test_saved_and_loaded(tmp_path: Path) -> None:
    for make, _ in MAKERS:
        (folder := tmp_path / make.__name__).mkdir()
        pool = Pool(make(folder), unit_rows=2)
        plan = pool.plan()
        plan.save(folder / "plan.json")
        assert load_plan(folder / "plan.json") == plan
        assert plan.stamps == stamps_of(pool.source)
    with pytest.raises(NaitError, match="no such file"):
        load_plan(tmp_path / "plan.json")


def test_a_unit_whose_rows_have_changed(tmp_path: Path) -> None:
    lines = dump(ROWS)
    pool = Pool(write(tmp_path / "pool.jsonl", lines), unit_rows=2)
    units = pool.plan().units
    same_length = lines[3].replace(b"Say", b"Cry")
    for changed in ([*lines[:3], same_length, lines[4]], lines[:3], [*lines[:2], b"{}", *lines[2:]]):
        write(tmp_path / "pool.jsonl", changed)
        with pytest.raises(NaitError, match="changed since"):
            list(pool.reader().unit(units[1]))
    write(tmp_path / "pool.jsonl", [*lines[:3], same_length, lines[4]])
    assert len(list(pool.reader().unit(units[0]))) == 2  # its own rows are the same
    (tmp_path / "pool.jsonl").unlink()
    with pytest.raises(NaitError, match="cannot be read"):
        list(pool.reader().unit(units[0]))


@pytest.mark.parametrize("make", [pools.make_json, pools.make_parquet, pools.make_parquet_folder])
def test_a_changed_table(tmp_path: Path, make: Callable[[Path], Path]) -> None:
    source = make(tmp_path)
    pool = Pool(source, unit_rows=2)
    units = pool.plan().units
    file = source if source.is_file() else source / "a.parquet"
    if file.suffix == ".parquet":
        write_parquet(file, ROWS[1:])
    else:
        file.write_text(json.dumps(ROWS[1:]))
    with pytest.raises(NaitError, match="changed since"):
        list(pool.reader().unit(units[0]))


def test_sha256_of_a_folder_is_that_of_its_listing(tmp_path: Path) -> None:
    import hashlib

    folder = pools.make_jsonl_folder(tmp_path)
    plan: Plan = make_plan(Pool(folder).source, 4)
    listing = "".join(
        f"{name}\t{hashlib.sha256((folder / name).read_bytes()).hexdigest()}\n" for name in ("1.jsonl", "2.jsonl.gz")
    )
    assert plan.sha256 == hashlib.sha256(listing.encode()).hexdigest()


@pytest.mark.parametrize("how", ["swapped", "overwritten"])
def test_other_tables_of_equal_size_and_time(tmp_path: Path, how: str) -> None:
    for name, word in (("a", "A"), ("b", "B")):
        write_parquet(tmp_path / f"{name}.parquet", [{"text": f"{word} {i}"} for i in range(5)])
        os.utime(tmp_path / f"{name}.parquet", (10**9, 10**9))
    a, b = tmp_path / "a.parquet", tmp_path / "b.parquet"
    assert a.stat().st_size == b.stat().st_size
    pool = Pool(tmp_path, unit_rows=3)
    units = pool.plan().units
    if how == "swapped":
        a.rename(tmp_path / "c")
        b.rename(a)
        (tmp_path / "c").rename(b)
    else:
        a.write_bytes(b.read_bytes())
        os.utime(a, (10**9, 10**9))
    with pytest.raises(NaitError, match="changed since"):
        list(pool.reader().unit(units[0]))
