"""What the pool says of its rows: their text."""

import json
from typing import Any

import numpy as np

from nait_fast.data.formats import RowError, parse
from nait_fast.data.row_conventions import conventions_of
from nait_fast.index.reader import Index

TEXT_CHARACTERS = 300


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
