"""Where a budget ends in an order of rows, without sorting them: radix selection, 16 bits of the key a pass."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

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
    found: list[Items] = []
    for keys, places, weight in items():
        rows = where.rows(keys, places)
        found.append((keys[rows], places[rows], weight[rows]))
    keys, places, weight = (np.concatenate(column) for column in zip(*found, strict=True))
    order = np.lexsort((places, keys))
    at = order[np.searchsorted(np.cumsum(weight[order], dtype=np.int64), budget, side="right")]
    return Cut(int(keys[at]), int(places[at]), int(weight[at]))
