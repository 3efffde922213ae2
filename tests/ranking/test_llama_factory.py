"""The entry for LLaMA-Factory names columns and tags as the rows have them; each row is read with all of its text."""

import json
from typing import Any

import pytest

from nait_fast.data.formats import detect, parse
from nait_fast.data.row_conventions import NO_CONVENTIONS, RowConventions, make_conventions
from nait_fast.ranking.llama_factory import DatasetEntry, NotCarried
from tests.ranking.llama_factory import read_row
from tests.ranking.shapes import CARRIED, MAPPED, NOT_CARRIED


def entry_of(rows: list[dict[str, Any]], conventions: RowConventions = NO_CONVENTIONS) -> dict[str, Any]:
    entry = DatasetEntry()
    for row in rows:
        fmt = detect(row, conventions)
        assert fmt is not None
        entry.add(row, fmt, parse(row, fmt, 0, conventions), conventions)
    return entry.as_dict("selected.jsonl")


@pytest.mark.parametrize("name", [*CARRIED, *MAPPED])
def test_every_row_arrives_with_all_of_its_text(name: str) -> None:
    rows, said, told = MAPPED[name] if name in MAPPED else (CARRIED[name][0], {}, CARRIED[name][1])
    entry = entry_of(rows, make_conventions(**said))
    columns = entry["columns"]
    assert columns == told.get("columns", columns) and entry.get("tags", {}).items() >= told.get("tags", {}).items()
    assert all(any(row.get(key) for row in rows) for key in columns.values())  # none that is not there
    for row in rows:
        system, turns, tools = read_row(entry, row)
        words = json.dumps([system, turns, tools], ensure_ascii=False)
        assert turns and turns[-1][0] in ("assistant", "function", "user")
        for word in marked(row):
            assert word in words, (word, words)


def marked(value: Any) -> list[str]:
    """The words of a row that are of its text: those that begin with w."""
    if isinstance(value, str):
        return [word for word in value.replace('"', " ").split() if word.startswith("w")]
    return [word for item in (value.values() if isinstance(value, dict) else value or []) for word in marked(item)]


@pytest.mark.parametrize("name", NOT_CARRIED)
def test_rows_that_it_would_not_read_whole(name: str) -> None:
    rows, reason = NOT_CARRIED[name]
    with pytest.raises(NotCarried, match=reason):
        entry_of(rows)
