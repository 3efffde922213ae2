"""What the pool says of its rows: a label, and their text."""

import json
from collections.abc import Iterable
from typing import Any

import numpy as np

from nait_fast.data.formats import RowError, parse
from nait_fast.data.row_conventions import conventions_of
from nait_fast.index.reader import Index

TEXT_CHARACTERS = 300


def label_values(lines: Iterable[bytes], column: str) -> tuple[np.ndarray, dict[str, int]]:
    """(number of each row's value, int32 [n], −1 where a row has none; value -> number) of a key of the pool's rows.

    Values that are no text count as their JSON.
    """
    values: dict[str, int] = {}
    numbers = []
    for line in lines:
        value = json.loads(line).get(column)
        if value is None:
            numbers.append(-1)
        else:
            numbers.append(values.setdefault(value if isinstance(value, str) else json.dumps(value), len(values)))
    return np.array(numbers, dtype=np.int32), values


def datasets_of(index: Index, rows: np.ndarray) -> list[dict[str, Any]]:
    """What the index says of the dataset of each of ``rows`` int64 [m], numbers in its pools."""
    ends = np.cumsum([dataset["rows"] for dataset in index.datasets])
    return [index.datasets[number] for number in np.searchsorted(ends, rows, side="right").tolist()]


def text_of(line: bytes, dataset: dict[str, Any]) -> str:
    """The first characters of the text of a row of ``dataset``: its turns one after another, or its tokens' numbers."""
    try:
        sample = parse(json.loads(line), dataset["format"], 0, conventions_of(dataset))
    except RowError:  # a pool of rows that were left out, too
        return line.decode(errors="replace")[:TEXT_CHARACTERS]
    return "\n".join(text for _, text in sample.turns)[:TEXT_CHARACTERS]
