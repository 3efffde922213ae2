"""An order of rows as keys, and where a budget ends in it.

A key is a row's place in an order as a number, so that a smaller key is a better row (ties by ascending row). The end
of a budget is found without sorting them: radix selection, 16 bits of the key a pass.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from nait_fast.ranking.columns import Spill, block_rows

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


DIGIT_BITS = 16
GATHERED = 1 << 18  # rows sorted in memory once no more are in question
_KEY_DIGITS = 4
_PLACE_BITS = 48  # rows a pool can have

# (keys uint64 [n], places int64 [n], weights int64 [n]): smaller keys come first, equal ones by ascending place.
Items = tuple[np.ndarray, np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Cut:
    """The first row that the budget does not cover, and its weight."""

    key: int
    place: int
    weight: int

    def before(self, keys: np.ndarray, places: np.ndarray) -> np.ndarray:
        """Bool [n]: which rows come before it."""
        key = np.uint64(self.key)
        return (keys < key) | ((keys == key) & (places < self.place))


@dataclass
class _Bin:
    """The rows whose first ``digits`` digits (of the key, then of the place) are those of ``key`` and ``place``."""

    digits: int = 0
    key: int = 0
    place: int = 0

    @property
    def _shift(self) -> int:
        """How far right the next digit lies in its number."""
        if self.digits < _KEY_DIGITS:
            return (_KEY_DIGITS - 1 - self.digits) * DIGIT_BITS
        return _PLACE_BITS - (self.digits - _KEY_DIGITS + 1) * DIGIT_BITS

    def rows(self, keys: np.ndarray, places: np.ndarray) -> np.ndarray | slice:
        """Which of the rows belong to it."""
        if not self.digits:
            return slice(None)
        if self.digits <= _KEY_DIGITS:
            return keys >> np.uint64((_KEY_DIGITS - self.digits) * DIGIT_BITS) == np.uint64(self.key)
        shift = _PLACE_BITS - (self.digits - _KEY_DIGITS) * DIGIT_BITS
        return (keys == np.uint64(self.key)) & (places >> shift == self.place)

    def next_digit(self, keys: np.ndarray, places: np.ndarray) -> np.ndarray:
        """The next digit, int64 [n], of rows that belong to it."""
        number = keys if self.digits < _KEY_DIGITS else places.view(np.uint64)
        digit = number >> np.uint64(self._shift) & np.uint64((1 << DIGIT_BITS) - 1)
        return digit.astype(np.int64)

    def narrowed(self, digit: int) -> "_Bin":
        if self.digits < _KEY_DIGITS:
            return _Bin(self.digits + 1, self.key << DIGIT_BITS | digit, 0)
        return _Bin(self.digits + 1, self.key, self.place << DIGIT_BITS | digit)


def find_cut(items: Callable[[], Iterator[Items]], budget: int) -> Cut | None:
    """The first row, in the order of ``items``, at which the weights so far exceed ``budget``; None if none does.

    ``items``: called once a pass, gives all rows in blocks, in any order; weights are not negative. Memory: a
    histogram and ``GATHERED`` rows.
    """
    where, rest = _Bin(), budget
    while True:
        counts, weights = _histogram(items, where)
        ends = np.cumsum(weights)
        digit = int(np.searchsorted(ends, rest, side="right"))
        if digit == len(ends):
            return None
        rest -= int(ends[digit - 1]) if digit else 0
        where = where.narrowed(digit)
        if counts[digit] <= GATHERED:
            return _cut_within(items, where, rest)


def _histogram(items: Callable[[], Iterator[Items]], where: _Bin) -> tuple[np.ndarray, np.ndarray]:
    """(rows, weight) of each value of the next digit: int64 [65536] each."""
    counts, weights = (np.zeros(1 << DIGIT_BITS, dtype=np.int64) for _ in range(2))
    for keys, places, weight in items():
        rows = where.rows(keys, places)
        digits = where.next_digit(keys[rows], places[rows])
        counts += np.bincount(digits, minlength=len(counts))
        # Through float64, which is exact up to 2**53: a block's tokens are far below.
        weights += np.bincount(digits, weight[rows], minlength=len(counts)).astype(np.int64)
    return counts, weights


def _cut_within(items: Callable[[], Iterator[Items]], where: _Bin, budget: int) -> Cut:
    within: list[Items] = []
    for keys, places, weight in items():
        rows = where.rows(keys, places)
        within.append((keys[rows], places[rows], weight[rows]))
    keys, places, weight = (np.concatenate(column) for column in zip(*within, strict=True))
    order = np.lexsort((places, keys))
    at = order[np.searchsorted(np.cumsum(weight[order], dtype=np.int64), budget, side="right")]
    return Cut(int(keys[at]), int(places[at]), int(weight[at]))
