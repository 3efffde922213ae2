"""Constraint near-duplicates: of rows whose codes hardly differ, only the best-ranked one stays.

Exact: as if every row, best first, were compared with all rows that stay so far, and dropped where one of them differs
from it in less than a share D of the bits. How (``sketches``, ``hamming_join``):

1. each row's best-ranked neighbour among those ranked better, by a join of all rows with all. Who has none stays, and
   whoever's is one that stays is dropped for it;
2. the others, whose neighbours are dropped themselves perhaps: few, in turn.
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import numpy as np

from nait_fast.codecs import codec_of
from nait_fast.errors import BadInput
from nait_fast.index.reader import Index
from nait_fast.kernels.common.dispatch import forced, pick
from nait_fast.notices import warn
from nait_fast.rules.constraints.base import Constraint, ScoredRows, Walk
from nait_fast.rules.constraints.code_rows import CodeRows
from nait_fast.rules.constraints.hamming_join import HammingJoin
from nait_fast.rules.constraints.sketches import SAMPLE, SignedSums

if TYPE_CHECKING:
    from nait_fast.config import ConstraintOptions

SMALL_PAIR_BYTES = 1 << 33  # below, NumPy has compared all pairs before Numba has compiled
SLOW_SECONDS = 600.0  # a search that takes longer says so
IN_TURN = 4096  # rows that are compared one after the other
SPARE = 1.1  # rows that are looked at for each that is wanted, at first

Progress = Callable[[float], None]


@dataclass(frozen=True)
class NearDuplicates:
    """Which rows of an order stay. ``kept`` int64 [k]; ``dropped`` int64 [m], for each of them ``taken_by`` int64 [m],
    the best-ranked row that stays and is near, and the ``distance`` int64 [m] between the two in bits. Both best first.
    ``seen``: how many rows of the order, from the best on, are in the one or the other."""

    kept: np.ndarray
    dropped: np.ndarray
    taken_by: np.ndarray
    distance: np.ndarray
    seen: int


def most_bits(share: float, n_bits: int, flag: str = "--near-duplicates") -> int:
    """The most bits that are less than ``share`` of ``n_bits``, the share taken as it is written: .05 of 200 are 10.
    Raises NaitError, naming ``flag``, for a share that is not above 0 and at most 1."""
    if not 0 < share <= 1:
        raise BadInput("is a share of a code's bits, above 0 and at most 1", where=f"{flag} {share}")
    return math.ceil(Decimal(str(share)) * n_bits) - 1


def near_duplicates(
    codes: np.ndarray | Sequence[np.ndarray],
    order: np.ndarray,
    share: float,
    n_bits: int,
    limit: int | None = None,
    progress: Progress | None = None,
) -> NearDuplicates:
    """Which rows stay, where no two that do may differ in less than ``share`` of ``n_bits``.

    ``codes``: uint8 (or wider) [n_k, W] that follow one another, in memory or mapped, whose padding bits are zero;
    ``order`` int64 [n]: rows of them, each once, best first. ``n_bits``: what is all of a code's bits. ``limit``: stop
    at so many rows that stay. ``progress`` is called with the share that is done.
    Memory: some 80 bytes a row of the order, beside what is mapped. Raises NaitError for a share out of range.
    """
    rows, bits = CodeRows(codes), most_bits(share, n_bits)
    order = np.asarray(order, dtype=np.int64)
    if len(order) and not (order.min() >= 0 and order.max() < len(rows)):
        raise ValueError(f"order must be of rows 0 to {len(rows) - 1}")
    wanted = len(order) if limit is None else limit
    seen = min(len(order), math.ceil(wanted * SPARE))
    while True:
        best, distance = _best(rows, order[:seen], bits, share, progress)
        stays = np.flatnonzero(best == seen)
        if seen == len(order) or len(stays) >= wanted:
            break
        seen = min(len(order), 2 * seen)
    if len(stays) > wanted:  # all before the last that is wanted
        seen = int(stays[wanted]) if wanted else 0
    gone = np.flatnonzero(best[:seen] < len(best))
    return NearDuplicates(order[stays[:wanted]], order[gone], order[best[gone]], distance[gone], seen)


def near_another(codes: np.ndarray | Sequence[np.ndarray], rows: np.ndarray, share: float, n_bits: int) -> np.ndarray:
    """Bool [n]: which of ``rows`` int64 [n] have another one among them that differs in less than ``share`` of the
    bits. The rest as of ``near_duplicates``."""
    source, bits, n = CodeRows(codes), most_bits(share, n_bits), len(rows)
    near = np.zeros(n, dtype=np.bool_)
    if _plainly(n, source.width):
        words = source.take(rows).view(np.uint64)
        for i in range(n - 1):
            apart = np.bitwise_count(words[i + 1 :] ^ words[i]).sum(axis=1, dtype=np.int64)
            near[i + 1 :] |= apart <= bits
            near[i] |= bool((apart <= bits).any())
        return near
    sums, every = SignedSums(source.take(rows[:: -(-n // SAMPLE)])), np.ones(n, dtype=np.bool_)
    for step in (1, -1):  # the join looks among those ranked better: once from either end
        join, best = HammingJoin(source, rows[::step], sums, bits), np.full(n, n, dtype=np.int32)
        _run(join.nearest_rank(~near[::step], every, best))
        near |= (best < n)[::step]
    return near


def near_duplicates_of(
    index: Index, order: np.ndarray, share: float, limit: int | None = None, progress: Progress | None = None
) -> NearDuplicates:
    """``near_duplicates`` of an index's samples, numbered from 0 as they follow one another in its shards. The share is
    of the bits in which two of its codes can differ. Raises NaitError where its codec keeps no bits, or shards are
    damaged."""
    return near_duplicates([shard.codes for shard in index.shards()], order, share, bits_of(index), limit, progress)


def bits_of(index: Index) -> int:
    """Bits in which two of the index's codes can differ. Raises NaitError where its codec keeps no bits."""
    if bits := codec_of(index.manifest["codec"]).most_different(index.layout, index.manifest):
        return bits
    raise BadInput(
        f"codec {index.manifest['codec']} keeps no bits, by which near-duplicates are found",
        where=index.name,
        remedy="index with codec neuron, rotated or nag",
    )


class NearDuplicateFilter(Constraint):
    """As ``near_duplicates``, of rows as they are offered: ``codes``, ``share`` and ``n_bits`` as there, rows by place.

    A dropped row's details: ``duplicate_of``, the number of the best-ranked row that was left and is near, and the
    ``bits`` in which the two differ.
    """

    name = "near-duplicates"

    def __init__(self, codes: np.ndarray | Sequence[np.ndarray], share: float, n_bits: int):
        self._most = most_bits(share, n_bits)
        self._codes, self._share, self._bits = codes, share, n_bits

    @classmethod
    def wanted(cls, options: "ConstraintOptions") -> bool:
        if options.near_duplicates is None:
            return False
        most_bits(options.near_duplicates, 1)
        return True

    @classmethod
    def of(cls, options: "ConstraintOptions", rows: ScoredRows) -> "NearDuplicateFilter":
        assert options.near_duplicates is not None
        bits = bits_of(rows.index)
        return cls([shard.codes for shard in rows.index.shards()], options.near_duplicates, bits)

    def leave(self, offered: Iterator[np.ndarray], walk: Walk) -> Iterator[np.ndarray]:
        kept = np.empty(0, dtype=np.int64)
        for places in offered:
            # Those that were left before all stay again, before all others: they are no neighbours of one another.
            order = np.concatenate([kept, places])
            of_all = near_duplicates(self._codes, order, self._share, self._bits)
            fresh, kept = of_all.kept[len(kept) :], of_all.kept
            walk.drop(self.name, of_all.dropped, duplicate_of=walk.row(of_all.taken_by), bits=of_all.distance)
            if len(fresh):
                yield fresh

    def details(self) -> dict[str, Any]:
        return {"share": self._share, "most_bits": self._most}


def _best(
    rows: CodeRows, order: np.ndarray, bits: int, share: float, progress: Progress | None
) -> tuple[np.ndarray, np.ndarray]:
    """int [n] each, by rank: the rank of the row that took this one, n where it stays, and the distance to it."""
    n = len(order)
    if _plainly(n, rows.width):
        return plain_near_duplicates(rows.take(order), bits)
    sums = SignedSums(rows.take(order[:: -(-n // SAMPLE)]))
    join = HammingJoin(rows, order, sums, bits)
    best = np.full(n, n, dtype=np.int32)
    every = np.ones(n, dtype=np.bool_)
    _watched(join.nearest_rank(every, every, best), f"near-duplicates {share} of {n:,} rows", progress)
    kept = best == n
    rest = np.flatnonzero(~kept)
    rest = rest[~kept[best[rest]]]
    best[rest] = n
    if len(rest):
        _settle(join, rest, kept, best)
    gone = np.flatnonzero(~kept)
    distance = np.zeros(n, dtype=np.int64)
    distance[gone] = join.distances(gone, best[gone])
    return best, distance


def _plainly(n: int, width: int) -> bool:
    """Whether NumPy compares all pairs of ``n`` rows of ``width`` bytes."""
    small = n * n // 2 * width < SMALL_PAIR_BYTES and not forced()
    return not n or small or pick("cpu", ("cpu", "reference")) == "reference"


def _settle(join: HammingJoin, rest: np.ndarray, kept: np.ndarray, best: np.ndarray) -> None:
    """Decides the ranks ``rest`` int64 [m], ascending, in ``kept`` bool [n] and ``best`` int32 [n], by those that stay
    already and by one another."""
    _run(join.nearest_rank(_flags(len(best), rest), kept, best))
    for start in range(0, len(rest), IN_TURN):
        some, later = rest[start : start + IN_TURN], rest[start + IN_TURN :]
        stay = some[join.greedy(some, best)]
        kept[stay] = True
        if len(stay) and len(later):
            _run(join.nearest_rank(_flags(len(best), later), _flags(len(best), stay), best))


def _flags(n: int, places: np.ndarray) -> np.ndarray:
    flags = np.zeros(n, dtype=np.bool_)
    flags[places] = True
    return flags


def _run(steps: Iterator[float]) -> None:
    for _ in steps:
        pass


def _watched(steps: Iterator[float], what: str, progress: Progress | None) -> None:
    """Run ``steps``, and say after the first ones what all will take, where that is long."""
    began: tuple[float, float] | None = None
    for done in steps:
        now = time.perf_counter()
        if began is None:  # Numba has compiled
            began = now, done
        elif began[1] >= 0:
            seconds = (now - began[0]) * (1 - done) / (done - began[1])
            if seconds > SLOW_SECONDS:
                warn(f"{what}: about {seconds / 60:.0f} minutes; a smaller share or fewer rows take less")
            began = now, -1.0
        if progress is not None:
            progress(done)


def plain_near_duplicates(codes: np.ndarray, bits: int) -> tuple[np.ndarray, np.ndarray]:
    """The definition: ``codes`` uint8 [n, W] by rank, each compared with all that stay; as ``_best``."""
    n, words = len(codes), codes.view(np.uint64)
    best, distance = np.full(n, n, dtype=np.int32), np.zeros(n, dtype=np.int64)
    kept, ranks, number = np.empty_like(words), np.empty(n, dtype=np.int32), 0
    for i in range(n):
        apart = np.bitwise_count(kept[:number] ^ words[i]).sum(axis=1, dtype=np.int64)
        near = np.flatnonzero(apart <= bits)
        if len(near):
            best[i], distance[i] = ranks[near[0]], apart[near[0]]
        else:
            kept[number], ranks[number] = words[i], i
            number += 1
    return best, distance


CONSTRAINT = NearDuplicateFilter
