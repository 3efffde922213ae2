"""Pools in every container: what is read, and what is refused."""

import gzip
import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from nait_fast.data import json_rows, streams
from nait_fast.data.pool import Pool, PoolInfo
from nait_fast.index.pool_rows import rows_of
from tests.data.pools import (
    MAKERS,
    ROWS,
    dump,
    make_disk,
    make_gz,
    make_jsonl,
    make_parquet,
    make_zst,
    refusal,
    write,
    write_parquet,
)


@pytest.mark.parametrize(("make", "kind"), MAKERS, ids=lambda value: getattr(value, "__name__", None))
def test_every_container(tmp_path: Path, make: Callable[[Path], Path], kind: str) -> None:
    source = make(tmp_path)
    pool = Pool(source)
    info = pool.scan()
    assert (info.kind, info.format, info.rows, info.good, info.skipped) == (kind, "alpaca", 5, 5, ())
    assert info.path == str(source) and len(info.sha256) == 64
    assert pool.scan() is info
    samples = list(pool.samples())
    assert [sample.row for sample in samples] == list(range(5))
    assert [sample.id for sample in samples] == [row["id"] for row in ROWS]
    assert samples[4].alpaca == (ROWS[4]["instruction"], "", ROWS[4]["output"])
    assert pool.lines([4, 0, 4]) == [dump(ROWS)[i] for i in (4, 0, 4)]
    assert pool.lines(np.array([2, 1])) == [dump(ROWS)[i] for i in (2, 1)]
    assert pool.lines([]) == []
    assert Pool(str(source)).scan() == info


def test_rows_longer_than_a_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (streams, json_rows):
        monkeypatch.setattr(module, "BLOCK", 7)
    rows = [{"text": "x" * length, "deep": [{"n": 12345678, "s": '"]}\\'}]} for length in (1, 50, 3, 200)]
    for text in (json.dumps(rows), json.dumps(rows, indent=3), " \n " * 9 + json.dumps(rows) + "\n" * 9):
        (tmp_path / "pool.json").write_text(text)
        assert Pool(tmp_path / "pool.json").lines(range(4)) == dump(rows)
    for path in (write(tmp_path / "pool.jsonl", dump(rows)), tmp_path / "pool.jsonl.gz"):
        if path.suffix == ".gz":
            path.write_bytes(gzip.compress(b"\n".join(dump(rows))))
        assert Pool(path).lines(range(4)) == dump(rows)


def test_other_parquet_types_become_json(tmp_path: Path) -> None:
    import datetime

    row = {"text": "a", "when": datetime.date(2024, 1, 2), "raw": b"\x00\xff", "none": None}
    (line,) = Pool(write_parquet(tmp_path / "pool.parquet", [row])).lines([0])
    assert json.loads(line) == {"text": "a", "when": "2024-01-02", "raw": "AP8=", "none": None}


def test_numbers_that_json_does_not_know_become_null(tmp_path: Path) -> None:
    rows = [{"text": "a", "score": value, "deep": [{"n": value}]} for value in (float("nan"), float("-inf"), 1.5)]
    wanted = [
        b'{"text": "a", "score": %b, "deep": [{"n": %b}]}' % (value, value) for value in (b"null", b"null", b"1.5")
    ]
    assert Pool(write_parquet(tmp_path / "pool.parquet", rows)).lines(range(3)) == wanted
    (tmp_path / "pool.json").write_text(json.dumps(rows))
    assert Pool(tmp_path / "pool.json").lines(range(3)) == wanted
    stored = Pool(write(tmp_path / "pool.jsonl", dump(rows)))  # lines are what is stored; what is selected is JSON
    assert stored.lines(range(3)) == dump(rows)
    assert list(rows_of(stored).lines(np.arange(3))) == wanted


@pytest.mark.parametrize("content", [b"", b"\n \t\r\n\n", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("name", ["pool.jsonl", "pool.json", "pool.jsonl.gz", "pool.json.gz"])
def test_empty_files(tmp_path: Path, name: str, content: bytes) -> None:
    path = tmp_path / name
    path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    assert refusal(path) == f"{path}: holds no rows; give a pool with at least one"


def test_empty_lists_and_tables(tmp_path: Path) -> None:
    (tmp_path / "pool.json").write_text(" [ ] ")
    assert "holds no rows" in refusal(tmp_path / "pool.json")
    assert "holds no rows" in refusal(write_parquet(tmp_path / "pool.parquet", []))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('[{"text": "a"}, {"text": "b"', "row 1: not JSON"),
        ('[{"text": "a"} {"text": "b"}]', "row 1: not JSON (Expecting ',' or ']')"),
        ('[{"text": "a"}', "row 1: not JSON"),
        ('[{"text": "a"},]', "row 1: not JSON"),
        ("[", "row 0: not JSON"),
        ('[{"text": "a"}] x', "row 1: not JSON (Extra data"),
        ('[{"text": "a"}, 3]', "row 1: a row must be a JSON object, not int"),
        ('{\n"rows": []\n}', 'without a list under "data"'),
        ('{"data": []\n, "data": [{"text": "a"}]}', 'a second list under "data"'),
        ('{"data": [{"text": "a"}],\n}', ":1: not JSON"),
        ('{"data": [{"text": "a"}]\n} x', ":1: not JSON"),
        ('{"text": "a"', ":1: not JSON"),
        ('{"text": "a"}\n{"text": ', ":2: not JSON"),
        ("3", ":1: a row must be a JSON object"),
    ],
)
def test_broken_json_files(tmp_path: Path, text: str, reason: str) -> None:
    (tmp_path / "pool.json").write_text(text)
    assert reason in refusal(tmp_path / "pool.json")


def test_json_that_is_not_utf8(tmp_path: Path) -> None:
    (tmp_path / "pool.json").write_bytes(b'[{"text": "\xff"}]')
    assert "not UTF-8" in refusal(tmp_path / "pool.json")


def test_one_json_object_on_a_line_is_a_row(tmp_path: Path) -> None:
    info = Pool(write(tmp_path / "pool.json", [b'{"text": "a"}'])).scan()
    assert (info.kind, info.rows) == ("jsonl", 1)


def test_damaged_archives(tmp_path: Path) -> None:
    for path in (make_gz(tmp_path), make_zst(tmp_path)):
        whole = path.read_bytes()
        for cut in (4, len(whole) // 3, len(whole) - 3):
            path.write_bytes(whole[:cut])
            assert "cut short" in refusal(path)
        path.write_bytes(b"nonsense" + whole)
        assert "damaged" in refusal(path)
        path.write_bytes(whole + b"nonsense")
        assert "damaged" in refusal(path)
    (tmp_path / "pool.parquet").write_bytes(b"PAR1 nonsense")
    assert "Parquet" in refusal(tmp_path / "pool.parquet")


def test_folders_that_are_no_pool(tmp_path: Path) -> None:
    assert "holds no .jsonl and no .parquet" in refusal(tmp_path)
    make_parquet(tmp_path)
    # Training tools keep a dataset_info.json of their own beside the data.
    (tmp_path / "dataset_info.json").write_text("{}")
    assert Pool(tmp_path).scan().rows == 5
    make_jsonl(tmp_path)
    assert "one kind" in refusal(tmp_path)


def test_missing_paths_and_unknown_kinds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    for name in ("pool.jsonl", "owner/pool.jsonl", "data/pool", "/no/such/path", "./owner/name", "a/b/c"):
        assert "no such file or folder" in refusal(name)
    (tmp_path / "pool.xls").write_text("a,b")
    assert "not a kind of file that is read; give .jsonl, .json, .csv, .tsv (each also" in refusal("pool.xls")
    make_jsonl(tmp_path)
    assert "no such file or folder" in refusal("pool.jsonl:train")


def test_splits_of_a_saved_folder(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    one, two = datasets.Dataset.from_list(ROWS[:2]), datasets.Dataset.from_list(ROWS[2:])
    saved = str(tmp_path / "saved")
    datasets.DatasetDict(train=one, test=two).save_to_disk(saved)

    def found(info: PoolInfo) -> tuple[str, int]:
        return info.path, info.rows

    assert found(Pool(saved).scan()) == (f"{saved}:train", 2)
    assert found(Pool(f"{saved}:test").scan()) == (f"{saved}:test", 3)
    assert "has no split dev; name one of train, test" in refusal(f"{saved}:dev")
    datasets.DatasetDict(a=one, b=two).save_to_disk(str(tmp_path / "untrained"))
    assert "name one of a, b" in refusal(tmp_path / "untrained")
    datasets.DatasetDict(only=one).save_to_disk(str(tmp_path / "single"))
    assert Pool(tmp_path / "single").scan().path.endswith(":only")
    one.save_to_disk(str(tmp_path / "plain"))
    assert "has no splits" in refusal(f"{tmp_path / 'plain'}:train")


def test_pictures_of_a_saved_folder_stay_what_is_stored(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    rows = [{**row, "image": {"bytes": b"\x89PNG", "path": None}} for row in ROWS[:3]]
    made = datasets.Dataset.from_list(rows).cast_column("image", datasets.Image())
    made.save_to_disk(str(tmp_path / "saved"))
    pools = [Pool(tmp_path / "saved") for _ in range(2)]
    assert len({pool.scan().sha256 for pool in pools}) == 1
    assert [json.loads(line)["image"]["bytes"] for line in pools[0].lines([0, 2])] == ["iVBORw=="] * 2
    assert all("image" in sample.unread for sample in pools[0].samples())


def test_missing_packages_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [make_zst(tmp_path), make_disk(tmp_path), "owner/name"]
    remedies = ["pip install zstandard", *['pip install "nait-fast[datasets]"'] * 2]
    monkeypatch.setitem(sys.modules, "zstandard", None)
    monkeypatch.setitem(sys.modules, "datasets", None)
    for path, remedy in zip(paths, remedies, strict=True):
        assert remedy in refusal(path)
