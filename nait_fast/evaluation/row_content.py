"""What the pool says of its rows: their text."""

import json
from typing import Any

import numpy as np

from nait_fast.data.formats import RowError, parse
from nait_fast.data.row_conventions import conventions_of
from nait_fast.index.pool_rows import PoolRows, datasets_of
from nait_fast.index.reader import Index

TEXT_CHARACTERS = 300


def text_of(line: bytes, dataset: dict[str, Any]) -> str:
    """The first characters of the text of a row of ``dataset``: its turns one after another, or its tokens' numbers."""
    try:
        sample = parse(json.loads(line), dataset["format"], 0, conventions_of(dataset))
    except RowError:  # a pool of rows that were left out, too
        return line.decode(errors="replace")[:TEXT_CHARACTERS]
    return "\n".join(text for _, text in sample.turns)[:TEXT_CHARACTERS]


def texts_of(index: Index, pool: PoolRows, rows: np.ndarray) -> dict[int, str]:
    """``text_of`` each of ``rows`` int64 [m], numbers in the pool."""
    ascending = np.unique(rows)
    lines = zip(pool.lines(ascending), datasets_of(index, ascending), strict=True)
    return dict(zip(ascending.tolist(), (text_of(line, dataset) for line, dataset in lines), strict=True))
