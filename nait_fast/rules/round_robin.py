"""Rule roundrobin: a target's samples take turns, each taking its best row that none has taken yet.

Exact, as if S [queries, rows] were there and each of its lines sorted (equal ones by ascending row). Memory: every
sample keeps the best ``depth`` rows of a pass over the pool, no more than ``MOST`` in all; where one has used up its
list, another pass gives all of them the best of the rows that are not taken, a longer list each time. So it grows with
the rows that are taken, never with those that there are.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle, pairwise

import numpy as np

LEAST = 64  # rows that a sample keeps
MOST = 1 << 22  # rows that all of them keep: 100 MB
SPARE = 8  # rows kept for each that a sample takes if all take as many: samples of one target like the same rows


@dataclass(frozen=True)
class Sifted:
    """What may be among the best of some samples: ``sample`` int32 [k], ``row`` int64 [k], ``score`` float64 [k]."""

    sample: np.ndarray
    row: np.ndarray
    score: np.ndarray


# What ``sift`` of the order gives of all rows, block by block in their order.
Pass = Callable[["RoundRobin"], Iterator[Sifted]]


class BestRows:
    """The best ``depth`` rows of each of ``samples`` samples, of all that are added, block by block in the order of the
    rows; equal ones by ascending row. ``bound`` float64 [samples]: what scores no more is not among a sample's best."""

    def __init__(self, samples: int, depth: int):
        self.depth, self.bound = depth, np.full(samples, -np.inf)
        self._waiting: list[Sifted] = []
        self._number = 0

    def sift(self, row: np.ndarray, scores: np.ndarray) -> Sifted:
        """What of a block is worth adding: ``row`` int64 [n] ascending, ``scores`` float64 [n, samples]. Several
        threads may ask at once."""
        place, sample = np.nonzero(scores > self.bound)
        return Sifted(sample.astype(np.int32), row[place], scores[place, sample])

    def add(self, sifted: Sifted) -> None:
        self._waiting.append(sifted)
        self._number += len(sifted.row)
        if self._number > 2 * max(LEAST * 1024, self.depth * len(self.bound)):
            self._settle()

    def _settle(self) -> tuple[Sifted, np.ndarray]:
        """(what is kept, sample after sample, of each in the order of the rows; where each begins [samples + 1])."""
        columns = ("sample", "row", "score")
        sample, row, score = (np.concatenate([getattr(one, name) for one in self._waiting]) for name in columns)
        narrow = sample.astype(np.uint16) if len(self.bound) < 1 << 16 else sample  # NumPy sorts those by radix
        order = np.argsort(narrow, kind="stable")
        begins = np.searchsorted(sample[order], np.arange(len(self.bound) + 1))
        row, score, stays, bounds = row[order], score[order], np.ones(len(order), dtype=bool), self.bound.copy()
        for number, (start, stop) in enumerate(pairwise(begins.tolist())):
            if (over := stop - start - self.depth) >= 0:
                own = score[start:stop]
                bound = np.partition(own, over)[over]
                stays[start:stop] = own > bound
                equal = start + np.flatnonzero(own == bound)
                stays[equal[: self.depth - int(stays[start:stop].sum())]] = True
                bounds[number] = bound
        self.bound, kept = bounds, Sifted(sample[order][stays], row[stays], score[stays])
        self._waiting, self._number = [kept], len(kept.row)
        return kept, np.searchsorted(kept.sample, np.arange(len(self.bound) + 1))

    def kept(self) -> Sifted:
        """All that may still be among the best: sample after sample, of each in the order of the rows."""
        if not self._waiting:
            return Sifted(np.zeros(0, np.int32), np.zeros(0, np.int64), np.zeros(0))
        return self._settle()[0]

    def lists(self) -> list[np.ndarray]:
        """Of each sample: rows int64, best first."""
        if not self._waiting:
            return [np.zeros(0, dtype=np.int64)] * len(self.bound)
        kept, begins = self._settle()
        parts = (slice(start, stop) for start, stop in pairwise(begins))
        return [kept.row[part][np.argsort(-kept.score[part], kind="stable")] for part in parts]


class RoundRobin:
    """The order of rows in which the samples of some targets take them: turns between the targets, and of each target
    between its samples.

    ``samples``: how many each target has; ``rows``: how many there are to take; ``wanted``: how many shall be taken,
    as far as is known; ``again``: another pass over all rows. The first pass is the caller's: ``add`` what ``sift``
    gives of each block, in order.
    """

    def __init__(self, samples: Sequence[int], rows: int, wanted: int, again: Pass):
        self.samples, self._rows, self._again = tuple(samples), rows, again
        number = sum(samples)
        self._most = max(LEAST, MOST // number)
        self._depth = min(max(LEAST, SPARE * -(-wanted // number)), self._most)
        self._best = BestRows(number, self._depth)
        self._taken = np.zeros(0, dtype=np.int64)  # before the pass that the lists are of, ascending

    def sift(self, row: np.ndarray, scores: np.ndarray) -> Sifted:
        """What of a block is worth adding: ``row`` int64 [n] ascending, ``scores`` float64 [n, samples of all targets].
        Several threads may ask at once."""
        return self._best.sift(*_free(self._taken, row, scores))

    def apart(self, first: int, stop: int) -> "RoundRobinApart":
        """What sifts the rows from ``first`` to ``stop`` elsewhere; ``add`` here what it has ``kept``, in the order of
        the rows."""
        taken = self._taken[slice(*np.searchsorted(self._taken, (first, stop)))]
        return RoundRobinApart(taken, self._best.depth, self._best.bound)

    def add(self, sifted: Sifted) -> None:
        self._best.add(sifted)

    def chunks(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """(rows int64 [k], the sample that takes each, int32 [k], counted over all targets), until all are taken."""
        starts = np.cumsum([0, *self.samples])[:-1].tolist()
        targets = cycle([cycle(range(a, a + n)) for a, n in zip(starts, self.samples, strict=True)])
        sample = next(next(targets))
        number = 0
        while number < self._rows:
            lists = [rows.tolist() for rows in self._best.lists()]
            ends, heads = [len(one) for one in lists], [0] * len(lists)
            taken: set[int] = set()
            rows: list[int] = []
            takers: list[int] = []
            while True:
                mine, head, end = lists[sample], heads[sample], ends[sample]
                while head < end and mine[head] in taken:
                    head += 1
                if head == end:
                    break
                heads[sample] = head + 1
                taken.add(mine[head])
                rows.append(mine[head])
                takers.append(sample)
                sample = next(next(targets))
            assert any(ends), "a pass over the pool has not given all of its rows"
            number += len(rows)
            yield np.array(rows, dtype=np.int64), np.array(takers, dtype=np.int32)
            if number < self._rows:
                self._look_again(np.array(rows, dtype=np.int64))

    def _look_again(self, taken: np.ndarray) -> None:
        self._taken = np.union1d(self._taken, taken)
        self._depth = min(2 * self._depth, self._most)
        self._best = BestRows(sum(self.samples), self._depth)
        for sifted in self._again(self):
            self._best.add(sifted)


class RoundRobinApart:
    """A ``RoundRobin`` of some consecutive rows alone. ``taken`` int64, ascending: rows of these that are; ``bound``
    float64 [samples]: of the rows before them."""

    def __init__(self, taken: np.ndarray, depth: int, bound: np.ndarray):
        self._taken, self._best = taken, BestRows(len(bound), depth)
        self._best.bound = bound

    def sift(self, row: np.ndarray, scores: np.ndarray) -> Sifted:
        """As of ``RoundRobin``."""
        return self._best.sift(*_free(self._taken, row, scores))

    def add(self, sifted: Sifted) -> None:
        self._best.add(sifted)

    def kept(self) -> Sifted:
        """As of ``BestRows``."""
        return self._best.kept()


def _free(taken: np.ndarray, row: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Those of a block's rows, int64 [n] ascending, and their scores [n, samples], that are not ``taken``."""
    if len(taken) and len(row):
        inside = taken[slice(*np.searchsorted(taken, (row[0], row[-1] + 1)))]
        if len(inside):
            free = np.isin(row, inside, assume_unique=True, invert=True)
            row, scores = row[free], scores[free]
    return row, scores


def round_robin(scores: np.ndarray, samples: Sequence[int], limit: int) -> tuple[np.ndarray, np.ndarray]:
    """``RoundRobin`` of ``scores`` float [queries, n] in memory, at most ``limit`` rows of it: (rows int64 [k], the
    sample that takes each int32 [k]). Raises ValueError where ``samples`` are not as many as the scores have lines."""
    if sum(samples) != len(scores) or not len(samples) or min(samples) < 1:
        raise ValueError(f"{len(scores)} lines of scores, {sum(samples)} samples")
    table, rows = np.asarray(scores, dtype=np.float64).T, np.arange(scores.shape[1])
    order = RoundRobin(samples, len(rows), limit, lambda order: iter([order.sift(rows, table)]))
    order.add(order.sift(rows, table))
    taken, takers = [np.zeros(0, np.int64)], [np.zeros(0, np.int32)]
    for some, by in order.chunks():
        taken.append(some)
        takers.append(by)
        if sum(map(len, taken)) >= limit:
            break
    return np.concatenate(taken)[:limit], np.concatenate(takers)[:limit]
