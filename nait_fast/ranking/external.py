"""Ranks of all rows in memory that does not grow with them: buckets of consecutive keys, each sorted by itself."""

from pathlib import Path

import numpy as np

from nait_fast.ranking.columns import Spill

BUCKET_ROWS = 1 << 20  # sorted in memory at once: about 32 MB
SAMPLES = 1 << 16  # keys that the buckets' bounds are chosen from


class _Buckets:
    """Bounds (key, place) between buckets: a row at or after a bound lies in a later bucket."""

    def __init__(self, keys: Spill, bucket_rows: int):
        n = -(-keys.rows // bucket_rows)
        drawn = np.sort(np.random.default_rng(0).integers(0, keys.rows, SAMPLES if n > 1 else 0))
        pieces = [
            block[drawn[slice(*np.searchsorted(drawn, (start, start + len(block))))] - start]
            for start, block in keys.blocks()
            if n > 1
        ]
        sample = np.concatenate(pieces) if pieces else np.zeros(0, dtype=np.uint64)
        order = np.lexsort((drawn, sample))[np.arange(1, n) * len(drawn) // n]
        self.number = n
        self._keys, self._places = sample[order], drawn[order]

    def of(self, start: int, keys: np.ndarray) -> np.ndarray:
        """The bucket, int64 [n], of each of the rows from ``start`` on."""
        first, last = (np.searchsorted(self._keys, keys, side=side) for side in ("left", "right"))
        for key in np.unique(self._keys[first[first < last]]):  # the key of a bound: the place decides
            tied = np.flatnonzero(keys == key)
            bounds = slice(first[tied[0]], last[tied[0]])
            first[tied] += np.searchsorted(self._places[bounds], start + tied, side="right")
        return first


def ranks(keys: Spill, folder: Path) -> Spill:
    """The rank of every row, int64, 1 for the smallest of ``keys`` uint64; equal keys in the order of the rows."""
    buckets = _Buckets(keys, BUCKET_ROWS)
    sizes = np.zeros(buckets.number, dtype=np.int64)
    for start, block in keys.blocks():
        sizes += np.bincount(buckets.of(start, block), minlength=len(sizes))
    begins = np.cumsum(sizes) - sizes
    with Spill(folder, np.uint64, keys.rows) as parted:
        _part(keys, buckets, begins, parted)
        for begin, size in zip(begins.tolist(), sizes.tolist(), strict=True):
            order = np.argsort(parted.read(begin, begin + size), kind="stable")
            placed = np.empty(size, dtype=np.uint64)
            placed[order] = np.arange(begin + 1, begin + size + 1, dtype=np.uint64)
            parted.write(begin, placed)
        return _joined(keys, buckets, begins, parted, folder)


def _part(keys: Spill, buckets: _Buckets, begins: np.ndarray, out: Spill) -> None:
    """Write the keys bucket by bucket, within a bucket in the order of the rows."""
    at = begins.copy()
    for start, block in keys.blocks():
        of = buckets.of(start, block)
        together = block[np.argsort(of, kind="stable")]
        counts = np.bincount(of, minlength=len(begins))
        ends = np.cumsum(counts)
        for bucket in np.flatnonzero(counts):
            out.write(int(at[bucket]), together[ends[bucket] - counts[bucket] : ends[bucket]])
        at += counts


def _joined(keys: Spill, buckets: _Buckets, begins: np.ndarray, parted: Spill, folder: Path) -> Spill:
    """The reverse of ``_part``: what lies bucket by bucket, in the order of the rows."""
    out, at = Spill(folder, np.int64, keys.rows), begins.copy()
    for start, block in keys.blocks():
        of = buckets.of(start, block)
        counts = np.bincount(of, minlength=len(begins))
        pieces = [parted.read(int(at[b]), int(at[b] + counts[b])) for b in np.flatnonzero(counts)]
        values = np.empty(len(block), dtype=np.int64)
        values[np.argsort(of, kind="stable")] = np.concatenate(pieces)
        out.write(start, values)
        at += counts
    return out
