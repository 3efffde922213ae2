"""Some rows of an index, by their places in it."""

from collections.abc import Iterator

import numpy as np

from nait_fast.index.format import bytes_per_row
from nait_fast.index.reader import Index

BLOCK_BYTES = 4 << 20  # of codes handed out at once


def drawn_places(rows: int, size: int, seed: int) -> np.ndarray:
    """Places int64, ascending, of a random ``size`` of ``rows`` rows, or of all."""
    if rows <= size:
        return np.arange(rows)
    return np.sort(np.random.default_rng([seed, size]).choice(rows, size, replace=False))


def places_of_rows(index: Index, rows: np.ndarray) -> np.ndarray:
    """Places int64 [n], counted over all shards, of the samples whose numbers in the pool are ``rows`` int64 [n], in
    any order; all must be in the index. Reads only the shards that hold them. Raises NaitError for damaged ones."""
    order, first = np.argsort(rows, kind="stable"), 0
    ascending, places = rows[order], np.empty(len(rows), dtype=np.int64)
    for entry in index.entries:
        some = slice(*np.searchsorted(ascending, (entry.first_row, entry.first_row + entry.pool_rows)))
        if some.start < some.stop:
            places[order[some]] = first + np.searchsorted(index.open(entry).row, ascending[some])
        first += entry.rows
    return places


def codes_at(index: Index, places: np.ndarray) -> Iterator[dict[str, np.ndarray]]:
    """``codes`` uint8 [n, W], and the columns that come with them, of the rows at ascending ``places`` int64 (counted
    over all shards), in blocks, in order. Reads only the blocks that hold them. Raises NaitError for damaged shards."""
    step, first = max(1, BLOCK_BYTES // max(1, bytes_per_row(index.manifest))), 0
    for entry in index.entries:
        inside = places[slice(*np.searchsorted(places, (first, first + entry.rows)))] - first
        first += entry.rows
        if len(inside):
            shard = index.open(entry)
            for start in range(0, len(inside), step):
                yield shard.take(inside[start : start + step])
