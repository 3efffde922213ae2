"""Indexes made apart under one codebook, joined: the bytes of one that the others' pools were added to."""

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from nait_fast import NaitError, merge
from nait_fast.index.reader import Index
from nait_fast.storage import files
from tests.conftest import make_rows, write_jsonl
from tests.index.bits import digest
from tests.index.test_append import build


@pytest.fixture(scope="module")
def made(tmp_path_factory, tiny_model: str) -> tuple[Path, dict[str, Any]]:
    """Folder with 0.jsonl …, the indexes 0, 1, 2 of them and ``added``, to the first of which the others were added."""
    folder = tmp_path_factory.mktemp("merge")
    rows = make_rows(60)
    rows[25]["output"] = rows[44]["output"] = ""
    rows[30]["output"] = " ".join(["the cat has ten apples"] * 40)
    rows[28]["id"] = rows[22]["id"]  # within an index
    rows[50]["id"] = "r3"  # in two
    options = {"model": tiny_model, "skip_bad_rows": True, "max_length": 120}
    for number, part in enumerate((rows[:20], rows[20:41], rows[41:])):
        pool = str(write_jsonl(folder / f"{number}.jsonl", part))
        own = {} if number == 0 else {"codebook": str(folder / "0")}
        build(folder / str(number), dataset=pool, **own, **options)
        build(folder / "added", dataset=pool, append=number > 0, **options)
    return folder, options


def join(folder: Path, output: Path, *names: str) -> dict[str, Any]:
    return merge(index=[str(folder / name) for name in names], output=str(output))


def test_as_if_added_to_the_first(tmp_path: Path, made) -> None:
    folder, options = made
    summary = join(folder, tmp_path / "all", "0", "1", "2")
    assert digest(tmp_path / "all") == digest(folder / "added")
    index = Index(tmp_path / "all")
    assert index.verify() == [] and (summary["rows_indexed"], summary["merged"], summary["truncated"]) == (58, 3, 1)
    assert summary["duplicate_ids"] == 2
    # Again: nothing changes; and what was joined already can be joined.
    join(folder, tmp_path / "all", "0", "1", "2")
    join(folder, tmp_path / "two", "0", "1")
    merge(index=[str(tmp_path / "two"), str(folder / "2")], output=str(tmp_path / "twice"))
    assert digest(tmp_path / "twice") == digest(folder / "added") == digest(tmp_path / "all")
    # It is an index like any other: it can be repaired and added to.
    shard = tmp_path / "all" / "shard-00004.safetensors"
    shard.write_bytes(b"x" + shard.read_bytes()[1:])
    build(tmp_path / "all", dataset=str(folder / "1.jsonl"), repair=True, **options)
    assert digest(tmp_path / "all") == digest(folder / "added")
    more = write_jsonl(tmp_path / "more.jsonl", make_rows(9, seed=5))
    assert build(tmp_path / "all", dataset=str(more), append=True, **options)["rows_indexed"] == 67
    assert Index(tmp_path / "all").verify() == []


def test_stopped_anywhere(tmp_path: Path, made, monkeypatch) -> None:
    """An error at any replacement of a file: the same command goes on to the same bytes."""
    folder, _ = made
    real, count, stop_at = os.replace, 0, 0

    def replace(source: Any, target: Any) -> None:
        nonlocal count
        count += 1
        if count == stop_at:
            raise OSError("no space left")
        real(source, target)

    monkeypatch.setattr(files.os, "replace", replace)
    join(folder, tmp_path / "whole", "0", "1")
    assert count > 15
    expected = digest(tmp_path / "whole")
    for stop_at in range(1, count + 1):
        output, count = tmp_path / f"stopped{stop_at}", 0
        with pytest.raises(NaitError, match="cannot be written"):
            join(folder, output, "0", "1")
        count = -(10**6)
        join(folder, output, "0", "1")
        assert digest(output) == expected


def test_what_does_not_fit(tmp_path: Path, made) -> None:
    folder, options = made
    pool = str(write_jsonl(tmp_path / "own.jsonl", make_rows(30, seed=3)))
    build(tmp_path / "other", dataset=pool, **options)
    copy = shutil.copytree(folder / "0", tmp_path / "copy")
    cases = [
        ([folder / "0", tmp_path / "other"], "made with another codebook than .*/0 .*; index it with --codebook"),
        ([folder / "0", folder / "1", copy], r"copy: holds the dataset .*/0\.jsonl, which .*/0 holds too; leave one"),
        ([folder / "0"], "give at least two"),
        ([folder / "0", tmp_path / "absent"], "no such index folder"),
    ]
    for indexes, words in cases:
        with pytest.raises(NaitError, match=words):
            merge(index=[str(index) for index in indexes], output=str(tmp_path / "out"))
    build(tmp_path / "short", dataset=pool, codebook=str(folder / "0"), **{**options, "shard_rows": 4})
    with pytest.raises(NaitError, match="made with another shard_rows"):
        join(tmp_path, tmp_path / "out", str(folder / "0"), "short")
    with pytest.raises(NaitError, match="is one of the indexes"):
        join(folder, folder / "1", "0", "1")
    with pytest.raises(NaitError, match="holds another index"):
        join(folder, tmp_path / "other", "0", "1")
    shutil.copytree(folder / "1", tmp_path / "strange")
    (tmp_path / "strange" / "run.json").write_text("{}")
    with pytest.raises(NaitError, match=r"run\.json: not what nait_fast writes there"):
        join(folder, tmp_path / "out3", "0", str(tmp_path / "strange"))
    shutil.copytree(folder / "1", tmp_path / "damaged")
    shard = tmp_path / "damaged" / "shard-00001.safetensors"
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(data)
    with pytest.raises(NaitError, match=r"its bytes have changed .*rebuild it with index --repair"):
        join(folder, tmp_path / "out2", "0", str(tmp_path / "damaged"))
