"""For each row, the best-ranked row within a Hamming distance: exact, Numba, leaf against leaf.

A pair is told apart by its sums (``sketches``) where that can be, else by its codes, up to the word in which the
distance is passed. Which pairs are compared first changes nothing: what is kept of a row's neighbours is the least
rank.
"""

from collections.abc import Iterator
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from nait_fast.kernels.common.numba_cpu import load_numba, make_ctpop, make_word, one_at_a_time
from nait_fast.rules.constraints.code_rows import CodeRows
from nait_fast.rules.constraints.sketches import LEAF, Leaves, SignedSums, leaves_of

GROUPS = 128  # of leaves that follow one another: no two threads work at once at pairs with the same group
ROUNDS_AT_ONCE = 4
STRIDE = 8  # words of codes that are compared before a look whether the distance is passed
EACH = 4  # sums that are compared before a look whether a row is left
SEED = 0  # of the groups' order, which only makes rounds alike


class Neighbours(NamedTuple):
    """By place among the leaves: ``asks`` bool: whose neighbours are wanted; ``answers`` bool: who may be one;
    ``best`` int32: the least rank of a neighbour that ranks better, or the number of rows; and bool for each leaf,
    whether one in it asks, answers."""

    asks: np.ndarray
    answers: np.ndarray
    best: np.ndarray
    leaf_asks: np.ndarray
    leaf_answers: np.ndarray


class _Within(NamedTuple):
    """``address`` uint64 of each place's code of ``words`` words; how far neighbours lie apart at most: ``bits`` of
    their codes, ``reach`` int64 [P] of their sums."""

    address: np.ndarray
    words: int
    bits: int
    reach: np.ndarray


@cache
def _compiled() -> Any:
    numba = load_numba()
    ctpop, word = make_ctpop(), make_word()

    @numba.njit(nogil=True)
    def distance(a, b, words, most):
        count, w = np.int64(0), 0
        while w + STRIDE <= words:
            part = np.uint64(0)
            for k in range(STRIDE):
                part += ctpop(word(a, w + k) ^ word(b, w + k))
            count += np.int64(part)
            if count > most:
                return count
            w += STRIDE
        for k in range(w, words):
            count += np.int64(ctpop(word(a, k) ^ word(b, k)))
        return count

    @numba.njit(nogil=True)
    def apart(low, high, other_low, other_high, reach):
        for k in range(len(reach)):
            if np.int64(low[k]) - np.int64(other_high[k]) > reach[k]:
                return True
            if np.int64(other_low[k]) - np.int64(high[k]) > reach[k]:
                return True
        return False

    @numba.njit(nogil=True)
    def alike(x, i, y, leaves, reach, near):
        """Whether a row of leaf y may be a neighbour of row i of leaf x, and which: ``near`` uint8."""
        for k in range(len(reach)):
            own = np.int64(leaves.sums[x, k, i])
            if own - np.int64(leaves.high[y, k]) > reach[k] or np.int64(leaves.low[y, k]) - own > reach[k]:
                return False
        for j in range(LEAF):
            near[j] = np.uint8(1)
        for first in range(0, len(reach), EACH):
            for k in range(first, min(first + EACH, len(reach))):
                if reach[k] < 128:  # else no two bytes are apart
                    # Modulo 256: whoever is within reach passes; so may one at the other end, whom the codes tell.
                    least, span = np.uint8(np.int64(leaves.sums[x, k, i]) - reach[k]), np.uint8(2 * reach[k])
                    for j in range(LEAF):
                        near[j] &= np.uint8(np.uint8(leaves.sums[y, k, j] - least) <= span)
            some = np.uint8(0)
            for j in range(LEAF):
                some |= near[j]
            if not some:
                return False
        return True

    @numba.njit(nogil=True)
    def compare(x, y, leaves, neighbours, within, near):
        """All pairs of leaves x and y; how many pairs of codes were compared."""
        rank, compared = leaves.rank, 0
        for i in range(LEAF):
            a = x * LEAF + i
            if rank[a] < 0 or not (neighbours.asks[a] or neighbours.answers[a]):
                continue
            if not alike(x, i, y, leaves, within.reach, near):
                continue
            for j in range(i + 1 if x == y else 0, LEAF):
                b = y * LEAF + j
                if not near[j] or rank[b] < 0:
                    continue
                better, worse = (a, b) if rank[a] < rank[b] else (b, a)
                if neighbours.answers[better] and neighbours.asks[worse] and rank[better] < neighbours.best[worse]:
                    compared += 1
                    if distance(within.address[a], within.address[b], within.words, within.bits) <= within.bits:
                        neighbours.best[worse] = rank[better]
        return compared

    @numba.njit(parallel=True, nogil=True)
    def join(rounds, groups, ranges, leaves, neighbours, within):
        compared = np.zeros(rounds.shape[1], np.int64)
        asks, answers = neighbours.leaf_asks, neighbours.leaf_answers
        for turn in range(len(rounds)):
            for pair in numba.prange(rounds.shape[1]):
                g, h = rounds[turn, pair]
                if g < 0 or apart(ranges[0, g], ranges[1, g], ranges[0, h], ranges[1, h], within.reach):
                    continue
                near = np.empty(LEAF, np.uint8)
                for x in range(groups[g], groups[g + 1]):
                    for y in range(x if g == h else groups[h], groups[h + 1]):
                        if not ((asks[x] and answers[y]) or (answers[x] and asks[y])):
                            continue
                        if not apart(leaves.low[x], leaves.high[x], leaves.low[y], leaves.high[y], within.reach):
                            compared[pair] += compare(x, y, leaves, neighbours, within, near)
        return compared.sum()

    @numba.njit(parallel=True, nogil=True)
    def distances(a, b, words, out):
        for i in numba.prange(len(a)):
            out[i] = distance(a[i], b[i], words, words * 64)

    @numba.njit(nogil=True)
    def in_turn(address, rank, best, kept, rows, words, most):
        for i in range(len(rank)):
            for j in range(i):
                if kept[j] and rank[j] < best[i] and distance(address[i], address[j], words, most) <= most:
                    best[i] = rank[j]
                    break
            kept[i] = best[i] == rows

    return join, distances, in_turn


def rounds_of(groups: int) -> np.ndarray:
    """int64 [rounds, pairs, 2]: every pair of ``groups`` groups once, a group with itself too, none twice in a round;
    -1 where a round has a pair less (the circle method of round-robin tournaments)."""
    even = groups + groups % 2
    out = np.full((even, max(1, even // 2), 2), -1, dtype=np.int64)
    names = np.random.default_rng(SEED).permutation(groups)
    names = np.append(names, [-1] * (even - groups))
    for turn in range(even - 1):
        others = np.roll(names[1:], turn)
        circle = np.append(names[:1], others)
        pairs = np.stack([circle[: even // 2], circle[::-1][: even // 2]], axis=1)
        out[turn, :, :] = np.where((pairs < 0).any(axis=1, keepdims=True), -1, pairs)
    alone = np.arange(groups)
    selves = np.stack([alone, alone], axis=1)
    half = len(out[0])
    return np.concatenate([out[: even - 1], *(_filled(selves[k : k + half], half) for k in range(0, groups, half))])


def _filled(pairs: np.ndarray, number: int) -> np.ndarray:
    out = np.full((1, number, 2), -1, dtype=np.int64)
    out[0, : len(pairs)] = pairs
    return out


class HammingJoin:
    """Rows of ``codes``, named by their rank: ``order`` int64 [n] says which row of ``codes`` ranks where. Neighbours
    differ in at most ``bits`` bits.

    Memory: some 40 bytes a row. The codes are read where they lie. Numba compiles once a process.
    """

    def __init__(self, codes: CodeRows, order: np.ndarray, sums: SignedSums, bits: int):
        n = len(order)
        self._rows, self._codes = n, codes  # the addresses hold as long as the codes do
        by_rank = np.empty((n, len(sums.step)), dtype=np.uint8)
        for places, some in codes.chunks(order):
            by_rank[places] = sums(some)
        self._leaves: Leaves = leaves_of(by_rank, sums.step)
        self._rank = self._leaves.rank[:n]
        self._place = np.empty(n, dtype=np.int64)
        self._place[self._rank] = np.arange(n)
        address = np.zeros(len(self._leaves.rank), dtype=np.uint64)
        address[:n] = codes.addresses(order[self._rank])
        self._within = _Within(address, codes.width // 8, bits, -(-bits // sums.step))
        number = max(1, min(GROUPS, len(self._leaves.low) // 4))
        self._groups = np.linspace(0, len(self._leaves.low), number + 1).astype(np.int64)
        low = [self._leaves.low[a:b].min(axis=0) for a, b in self._spans()]
        high = [self._leaves.high[a:b].max(axis=0) for a, b in self._spans()]
        self._ranges = np.array([low, high], dtype=np.uint8)
        self._rounds = rounds_of(number)
        self.compared = 0  # pairs of codes so far

    def _spans(self) -> Iterator[tuple[int, int]]:
        return zip(self._groups[:-1].tolist(), self._groups[1:].tolist(), strict=True)

    def nearest_rank(self, asks: np.ndarray, answers: np.ndarray, best: np.ndarray) -> Iterator[float]:
        """Lowers ``best`` int32 [n] of every row that ``asks`` bool [n] to the least rank of a neighbour that ranks
        better than itself and ``answers`` bool [n]. All by rank. Yields the share that is done, and is done at 1."""
        size, at = len(self._leaves.rank), self._rank

        def by_place(of_rank: np.ndarray, empty: int) -> np.ndarray:
            out = np.full(size, empty, dtype=of_rank.dtype)
            out[: self._rows] = of_rank[at]
            return out

        asking, answering, found = by_place(asks, 0), by_place(answers, 0), by_place(best, 0)
        leaf_asks, leaf_answers = (flags.reshape(-1, LEAF).max(axis=1) for flags in (asking, answering))
        neighbours = Neighbours(asking, answering, found, leaf_asks, leaf_answers)
        join = _compiled()[0]
        for start in range(0, len(self._rounds), ROUNDS_AT_ONCE):
            rounds = self._rounds[start : start + ROUNDS_AT_ONCE]
            with one_at_a_time():
                self.compared += int(join(rounds, self._groups, self._ranges, self._leaves, neighbours, self._within))
            best[at] = found[: self._rows]
            yield (start + len(rounds)) / len(self._rounds)

    def greedy(self, ranks: np.ndarray, best: np.ndarray) -> np.ndarray:
        """Which of ``ranks`` int [m], ascending, stay, bool [m], each compared with those before it that stay; lowers
        their ``best`` int32 [n]. Who has one already does not stay."""
        mine, kept = best[ranks], np.zeros(len(ranks), dtype=np.bool_)
        address = self._within.address[self._place[ranks]]
        _compiled()[2](address, ranks, mine, kept, self._rows, self._within.words, self._within.bits)
        best[ranks] = mine
        return kept

    def distances(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """Bits int64 [m] in which rows ``a`` and ``b``, ranks int [m], differ."""
        address, out = self._within.address, np.empty(len(a), dtype=np.int64)
        if len(a):
            with one_at_a_time():
                _compiled()[1](address[self._place[a]], address[self._place[b]], self._within.words, out)
        return out
