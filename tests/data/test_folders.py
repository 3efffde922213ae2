"""Folders as pools: which files are read, which are named, and how to choose between splits."""

import gzip
import json
import warnings
from pathlib import Path

import pytest

from nait_fast.data.pool import Pool
from nait_fast.notices import NaitWarning
from tests.data.pools import ROWS, dump, refusal, write, write_parquet

README = """---
configs:
- config_name: default
  data_files:
  - split: train
    path: data/train-*
  - split: test
    path: data/test-*
---
# A data set
"""


def read(source: object) -> tuple[list[str], list[str]]:
    """(ids of the rows that are read, what is said meanwhile)."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        samples = list(Pool(source).samples())
    assert all(issubclass(item.category, NaitWarning) for item in caught)
    return [sample.id or "" for sample in samples], [str(item.message) for item in caught]


def snapshot(folder: Path) -> Path:
    """As the Hub's cache lays a data set out: links to files named by their digests."""
    (folder / "blobs").mkdir(parents=True)
    place = folder / "snapshots" / "0123abcd"
    (place / "data").mkdir(parents=True)
    (place / "README.md").write_text(README)
    for split, rows in (("train", ROWS[:3]), ("test", ROWS[3:])):
        blob = write_parquet(folder / "blobs" / split, rows)
        (place / "data" / f"{split}-00000-of-00001.parquet").symlink_to(blob)
    return place


def test_a_snapshot_of_several_splits(tmp_path: Path) -> None:
    place = snapshot(tmp_path / "hub")
    for folder in (place, place / "data"):
        assert refusal(folder) == (
            f"{folder}: holds files of several splits or folders (train, test); name what to read: {folder}:train, or "
            f"{folder}:train+test"
        )
        assert read(f"{folder}:train") == (["r0", "r1", "r2"], [])
        assert read(f"{folder}:test") == (["r3", "r4"], [])
        assert sorted(read(f"{folder}:test+train")[0]) == ["r0", "r1", "r2", "r3", "r4"]
        assert "has no split dev; name one of test, train" in refusal(f"{folder}:dev")
        assert Pool(f"{folder}:test").scan().path == f"{folder}:test"


def test_the_readme_says_what_a_split_is(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", dump(ROWS[:2]))
    write(tmp_path / "b.jsonl", dump(ROWS[2:]))
    assert read(tmp_path)[1] == []
    one = (
        "configs:\n- config_name: x\n  data_files:\n  - {split: train, path: [a.jsonl]}\n  - {split: held, path: b.*}\n"
    )
    (tmp_path / "README.md").write_text(f"---\n{one}---\n")
    assert "(train, held)" in refusal(tmp_path)
    assert read(f"{tmp_path}:held")[0] == ["r2", "r3", "r4"]
    (tmp_path / "README.md").write_text("---\nconfigs:\n- {config_name: x, data_files: a.jsonl}\n---\n")
    ids, said = read(tmp_path)
    assert len(ids) == 5 and said == [
        f"{tmp_path}: b.jsonl is read, too, though README.md gives it no split; {tmp_path}:train leaves it out"
    ]
    assert read(f"{tmp_path}:train") == (["r0", "r1"], [])
    (tmp_path / "README.md").write_text("---\n" + one.replace("a.jsonl", "'**/a.*'") + "---\n")
    assert read(f"{tmp_path}:train") == (["r0", "r1"], [])
    two = "configs:\n- {config_name: x, data_files: a.jsonl}\n- {config_name: y, data_files: b.jsonl}\n"
    (tmp_path / "README.md").write_text(f"---\n{two}---\n")
    assert "(x/train, y/train)" in refusal(tmp_path)
    assert read(f"{tmp_path}:y/train")[0] == ["r2", "r3", "r4"]
    for odd in (
        "---\nconfigs: [" + "[" * 5000,
        "---\nconfigs: 3\n---\n",
        "---\nconfigs: [{data_files: [{path: 3}]}]\n---\n",
    ):
        (tmp_path / "README.md").write_text(odd)
        ids, told = read(tmp_path)
        unreadable = "README.md: its front matter cannot be read ("
        assert len(ids) == 5 and [unreadable in text for text in told] == [True] * ("[[[" in odd)


@pytest.mark.parametrize(
    "names",
    [
        ("train.jsonl", "test.jsonl"),
        ("pool_train_1.jsonl", "pool-validation.jsonl"),
        ("x-train.jsonl", "eval-00001.jsonl"),
        ("train_sft-00000-of-00001.jsonl", "train_gen-00000-of-00001.jsonl"),
        ("train/a.jsonl", "test/a.jsonl"),
        ("main/train.jsonl", "socratic/train.jsonl"),
    ],
)
def test_names_of_several_splits(tmp_path: Path, names: tuple[str, str]) -> None:
    for name, rows in zip(names, (ROWS[:2], ROWS[2:]), strict=True):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write(tmp_path / name, dump(rows))
    assert "several splits" in refusal(tmp_path)


@pytest.mark.parametrize(
    "names",
    [
        ("train-0.jsonl", "train-1.jsonl"),
        ("a.jsonl", "b.jsonl"),
        ("code-00000-of-00002.jsonl", "math-00000-of-00002.jsonl"),
        ("training.jsonl", "more.jsonl"),
        ("sub/a.jsonl", "sub/b.jsonl"),
        ("contest.jsonl", "retrain.jsonl"),
    ],
)
def test_names_of_one_pool(tmp_path: Path, names: tuple[str, str]) -> None:
    for name, rows in zip(names, (ROWS[:2], ROWS[2:]), strict=True):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write(tmp_path / name, dump(rows))
    ids, said = read(tmp_path)
    assert sorted(ids) == ["r0", "r1", "r2", "r3", "r4"] and said == []


def test_one_file_of_a_test_split_among_others_is_said(tmp_path: Path) -> None:
    write(tmp_path / "pool.jsonl", dump(ROWS[:2]))
    write(tmp_path / "test.jsonl", dump(ROWS[2:]))
    ids, said = read(tmp_path)
    assert len(ids) == 5 and len(said) == 1 and "test.jsonl is read, too, though named as split test" in said[0]
    assert read(f"{tmp_path}:test") == (["r2", "r3", "r4"], [])
    assert "its files name none; leave out :train" in refusal(f"{snapshotless(tmp_path / 'plain')}:train")


def snapshotless(folder: Path) -> Path:
    folder.mkdir()
    write(folder / "pool.jsonl", dump(ROWS))
    return folder


def test_json_files_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "1.json").write_text(json.dumps(ROWS[:1]))
    (tmp_path / "2.json.gz").write_bytes(gzip.compress(json.dumps({"data": ROWS[1:2]}, indent=1).encode()))
    write(tmp_path / "3.json", dump(ROWS[2:3]))
    write(tmp_path / "4.jsonl", dump(ROWS[3:]))
    assert read(tmp_path) == (["r0", "r1", "r2", "r3", "r4"], [])
    pool = Pool(tmp_path, unit_rows=2)
    assert pool.scan().kind == "json" and pool.lines(range(5)) == dump(ROWS)
    with open(tmp_path / "4.jsonl", "ab") as file:
        file.write(b"\n")
    reader = pool.reader()
    with pytest.raises(Exception, match="changed since it was first read"):
        list(reader.rows())


def test_a_llama_factory_folder(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps(ROWS[:2]))
    write(tmp_path / "b.jsonl", dump(ROWS[2:]))
    (tmp_path / "dataset_info.json").write_text('{"a": {"file_name": "a.json"}}')
    assert read(tmp_path) == (["r0", "r1", "r2", "r3", "r4"], [])
    (tmp_path / "dataset_info.json").write_text('{"a": {"file_name": "a.json"}, "b": {"file_name": "b.jsonl"}}')
    ids, said = read(tmp_path)
    assert len(ids) == 5 and len(said) == 1 and "dataset_info.json describes a, b: all files are read" in said[0]


def test_what_is_passed_over_is_named(tmp_path: Path) -> None:
    write(tmp_path / "pool.jsonl", dump(ROWS))
    for name in ("README.md", "LICENSE", ".gitattributes", "card.png", "_SUCCESS", "load.py"):
        (tmp_path / name).write_text("x")
    assert read(tmp_path)[1] == []
    (tmp_path / "more.csv").write_text("a,b")
    (tmp_path / "rest.jsonl.xz").write_text("x")
    (tmp_path / "stats.json").write_text('{"rows": 3}')
    (tmp_path / "old").mkdir()
    write(tmp_path / "old" / "2023.jsonl", dump(ROWS))
    over, below = sorted(read(tmp_path)[1], key=lambda said: "below" in said)
    assert "more.csv, rest.jsonl.xz, stats.json are passed over" in over
    assert "old/2023.jsonl in folders below is not read" in below


def test_folders_without_rows_say_what_they_hold(tmp_path: Path) -> None:
    (tmp_path / "more.xls").write_text("a,b")
    (tmp_path / "settings.json").write_text('{\n"a": 1}')
    assert "of rows (but more.xls, settings.json)" in refusal(tmp_path)


def test_tables_of_text_are_read_where_nothing_else_is(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "about.csv").write_text("id,text\nr7,a\n")
    (tmp_path / "data" / "more.tsv").write_text("id\ttext\nr8\tb\n")
    (tmp_path / "settings.json").write_text('{\n"a": 1}')
    ids, said = read(tmp_path)
    assert ids == ["r7"] and len(said) == 2
    assert "settings.json is passed over: no rows that are read" in said[0]
    assert "data/more.tsv in folders below is not read" in said[1]
    write_parquet(tmp_path / "data" / "part.parquet", ROWS)
    ids, said = read(tmp_path)
    assert ids == ["r0", "r1", "r2", "r3", "r4"] and len(said) == 1 and "data/more.tsv is passed over" in said[0]
    for split in ("train", "test"):
        (tmp_path / f"{split}.csv").write_text(f"id,text\n{split},a\n")
    (tmp_path / "data" / "part.parquet").unlink()
    assert read(f"{tmp_path}:test")[0] == ["test"]


def test_results_are_no_pool(tmp_path: Path) -> None:
    write(tmp_path / "selected.jsonl", dump(ROWS))
    write(tmp_path / "messages.jsonl", dump(ROWS))
    (tmp_path / "manifest.json").write_text('{"kind": "nait_fast selection"}')
    assert "is a nait_fast selection, no pool; give its selected.jsonl" in refusal(tmp_path)
