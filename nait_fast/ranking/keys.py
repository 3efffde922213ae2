"""Sort keys: a row's place in an order as a number, so that a smaller key is a better row (ties by ascending row)."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from nait_fast.ranking.spill import Spill, block_rows

_SIGN = np.uint64(1 << 63)


def descending(scores: np.ndarray) -> np.ndarray:
    """Keys uint64 [n] that ascend where ``scores`` float64 [n] (no NaN) descend; equal for equal scores, ±0 too."""
    bits = (scores + 0.0).view(np.uint64)  # -0.0 + 0.0 is 0.0
    return np.where(bits & _SIGN, bits, ~bits ^ _SIGN)


def shuffled(rows: np.ndarray, seed: int) -> np.ndarray:
    """Keys uint64 [n] in a random order that ``seed`` sets: SplitMix64's output at each of ``rows`` int64 [n].

    SplitMix64 permutes the 64-bit numbers: no two rows share a key, and a row's key depends on no other row.
    """
    first = _mix(np.array([seed % (1 << 64)], dtype=np.uint64))
    return _mix(_mix(rows.astype(np.uint64)) + first)


def _mix(x: np.ndarray) -> np.ndarray:
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


class _Sum:
    """Sums of columns, correctly rounded but for about 1e-32 of the sum of magnitudes, whatever the number of rows.

    Each place of a block keeps its own sum and what rounding took from it (Knuth's two-sum).
    """

    def __init__(self, columns: int, rows: int):
        lanes = min(rows, block_rows(columns))
        self._high, self._low = np.zeros((columns, lanes)), np.zeros((columns, lanes))

    def add(self, values: np.ndarray) -> None:
        """``values`` [columns, n], n at most a block."""
        n = values.shape[1]
        high = self._high[:, :n]
        total = high + values
        grown = total - high
        self._low[:, :n] += (high - (total - grown)) + (values - grown)
        self._high[:, :n] = total

    def result(self) -> np.ndarray:
        pairs = zip(self._high, self._low, strict=True)
        return np.array([math.fsum(np.concatenate([high, low]).tolist()) for high, low in pairs])


@dataclass(frozen=True)
class ZScores:
    """z-scores of ``scores``: each column less its mean, over its population deviation; a constant column gives 0.

    ``exponent`` int [C]: columns are first scaled by a power of two, so that no square overflows or vanishes.
    """

    scores: Spill
    exponent: np.ndarray
    mean: np.ndarray
    deviation: np.ndarray

    @classmethod
    def of(cls, scores: Spill, low: np.ndarray, high: np.ndarray) -> "ZScores":
        """``low``, ``high`` [C]: the columns' extremes. Two passes over the scores."""
        exponent = -np.frexp(np.maximum(abs(low), abs(high)))[1]
        sums, squares = (_Sum(scores.columns, scores.rows) for _ in range(2))
        for _, block in scores.tables():
            sums.add(np.ldexp(block, exponent[:, None]))
        mean = sums.result() / scores.rows
        for _, block in scores.tables():
            squares.add((np.ldexp(block, exponent[:, None]) - mean[:, None]) ** 2)
        # A constant column's computed deviation may be a rounding error above 0: infinity makes its z-scores 0.
        deviation = np.where(low == high, np.inf, np.sqrt(squares.result() / scores.rows))
        return cls(scores, exponent, mean, deviation)

    def tables(self) -> Iterator[tuple[int, np.ndarray]]:
        """(first row, z-scores [C, n]), block by block."""
        for start, block in self.scores.tables():
            yield start, self._of(block, slice(None))

    def read(self, start: int, stop: int, column: int) -> np.ndarray:
        """z-scores [n] of the rows ``start`` to ``stop`` in one column."""
        return self._of(self.scores.read(start, stop, column)[None], slice(column, column + 1))[0]

    def _of(self, block: np.ndarray, columns: slice) -> np.ndarray:
        exponent, mean, deviation = (x[columns, None] for x in (self.exponent, self.mean, self.deviation))
        return (np.ldexp(block, exponent) - mean) / deviation
