"""Constraint coverage: rows that fire what the rows before them did not, mixed with their relevance.

    gain(i) = (1 − W) · relevance(i) + W · Σ_j w_j [φ(c_j + b_ij) − φ(c_j)] / U

One counter c_j a neuron: how many of the chosen rows have its bit; φ concave, so that the first rows with it count
most. relevance: a score, its least 0 and its greatest 1 among the candidates; U: the greatest such sum of a candidate
at the start. Each pick is the candidate of the greatest gain, the best-ranked of equals.

Lazy: a gain only falls (the sum is submodular, relevance does not change), so that one computed earlier is a bound, and
only candidates whose bound is above the best gain are computed anew (Minoux 1978). w_j [φ(c + 1) − φ(c)] are whole
numbers of 2^-30 of the greatest weight: their sums are exact in any order, and the picks those of plain greedy.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from nait_fast.codecs import codec_of
from nait_fast.codecs.layout import CodeLayout
from nait_fast.errors import BadInput
from nait_fast.kernels.common.dispatch import forced, pick
from nait_fast.kernels.common.numba_cpu import load_numba, make_word, one_at_a_time
from nait_fast.rules.constraints.base import Constraint, ScoredRows, Walk
from nait_fast.rules.constraints.code_rows import CodeRows

if TYPE_CHECKING:
    from nait_fast.config import ConstraintOptions

CANDIDATES, FEWEST = 4, 1000  # what is picked from: so many times the budget, and at least so many rows
SCALE = 1 << 30
BATCH, MOST = 16, 4096  # candidates that are computed at a time, at first and at most
PARALLEL_WORDS = 1 << 17  # of codes, about a millisecond's work: below, threads would wait for one another longer
SMALL_BITS = 1 << 32  # bits of codes times picks: below, NumPy is done before Numba has compiled

Concave = Literal["sqrt", "log1p"]


@dataclass(frozen=True)
class Coverage:
    """What was picked, in turn: ``rows`` int64 [k]; the ``gains`` float64 [k] they were picked for; the ``curve``
    float64 [k]: Σ_j w_j φ(c_j) / U after each. ``unit``: U in bits of weight 1, which other rows' curves take to be
    compared; ``computed``: gains that were computed."""

    rows: np.ndarray
    gains: np.ndarray
    curve: np.ndarray
    unit: float
    computed: int


def check_share(share: float) -> None:
    """Raises NaitError for a share out of range."""
    if not 0 <= share <= 1:
        raise BadInput("is a share, from 0 (relevance alone) to 1 (coverage alone)", where=f"--coverage {share}")


def steps_of(concave: str, number: int) -> np.ndarray:
    """φ(c + 1) − φ(c) float64 [number], of c = 0, 1, …, in a form that falls also where the two are all but equal; of
    φ(c) = √c, or of log2(1 + c): either is 0 at 0 and 1 at 1."""
    c = np.arange(number, dtype=np.float64)
    if concave == "sqrt":
        return 1 / (np.sqrt(c + 1) + np.sqrt(c))
    if concave == "log1p":
        return np.log1p(1 / (c + 1)) / np.log(2)
    raise ValueError(f"concave: {concave!r}, choose sqrt or log1p")


def bit_weights(layout: CodeLayout, weights: np.ndarray | None) -> np.ndarray:
    """Weights float64 [8 · row_bytes] of a code's bits, the greatest 1, 0 of what is padding; of ``weights`` [N], all
    alike where None. Raises ValueError unless they are finite and not negative."""
    values = np.ones(layout.n_neurons) if weights is None else np.asarray(weights, dtype=np.float64)
    if values.shape != (layout.n_neurons,) or not np.isfinite(values).all() or (values < 0).any():
        raise ValueError(f"weights must be {layout.n_neurons} numbers, none of them negative")
    out = np.zeros(8 * layout.row_bytes)
    for ordinal, width in enumerate(layout.widths):
        start = 8 * layout.bytes(ordinal).start
        out[start : start + width] = values[layout.neurons(ordinal)]
    return out / max(out.max(), np.finfo(np.float64).tiny)


def coverage(
    codes: np.ndarray | Sequence[np.ndarray],
    candidates: np.ndarray,
    relevance: np.ndarray,
    budget: int,
    share: float,
    layout: CodeLayout,
    weights: np.ndarray | None = None,
    concave: Concave = "sqrt",
) -> Coverage:
    """At most ``budget`` of the ``candidates`` int64 [n], rows of ``codes`` best first, picked greedily.

    ``codes``: uint8 [n_k, W] that follow one another, in memory or mapped; ``relevance`` float [n], the candidates'
    scores; ``share``: W, from 0 (relevance alone) to 1; ``layout``: where the neurons' bits lie; ``weights`` [N]: of
    neurons, none negative. Memory: some 50 bytes a candidate, beside what is mapped. Raises NaitError for a share out
    of range and ValueError for arrays that do not fit.
    """
    check_share(share)
    rows, candidates = CodeRows(codes), np.asarray(candidates, dtype=np.int64)
    if rows.width != layout.row_bytes:
        raise ValueError(f"codes of {rows.width} bytes, the layout has {layout.row_bytes}")
    if len(candidates) and not (candidates.min() >= 0 and candidates.max() < len(rows)):
        raise ValueError(f"candidates must be of rows 0 to {len(rows) - 1}")
    scores = np.asarray(relevance, dtype=np.float64)
    if scores.shape != candidates.shape or not np.isfinite(scores).all():
        raise ValueError(f"relevance must be {len(candidates)} finite numbers")
    budget = min(budget, len(candidates))
    if budget < 1:
        return Coverage(candidates[:0], scores[:0], scores[:0], 0.0, 0)
    spread = scores.max() - scores.min()
    scaled = (scores - scores.min()) / spread if spread else np.zeros_like(scores)
    of_bits, steps = bit_weights(layout, weights), steps_of(concave, budget + 1) * SCALE
    small = 8 * rows.width * len(candidates) * budget < SMALL_BITS and not forced()
    plain = small or pick("cpu", ("cpu", "reference")) == "reference"
    greedy = plain_greedy if plain else _lazy_greedy
    picked, sums, unit, computed = greedy(rows, candidates, (1 - share) * scaled, budget, share, of_bits, steps)
    gains = (1 - share) * scaled[picked] + share * (sums / unit)
    return Coverage(candidates[picked], gains, np.cumsum(sums) / unit, unit / SCALE, computed)


def coverage_curve(
    codes: np.ndarray | Sequence[np.ndarray],
    rows: np.ndarray,
    layout: CodeLayout,
    unit: float,
    weights: np.ndarray | None = None,
    concave: Concave = "sqrt",
) -> np.ndarray:
    """Σ_j w_j φ(c_j) / U float64 [k] after each of ``rows`` int64 [k], however they were picked; U: a ``Coverage``'s
    ``unit``."""
    source, of_bits, steps = CodeRows(codes), bit_weights(layout, weights), steps_of(concave, len(rows)) * SCALE
    counts, sums = np.zeros(len(of_bits), dtype=np.int64), np.zeros(len(rows), dtype=np.int64)
    for place, row in enumerate(np.asarray(rows, dtype=np.int64)):
        bits = np.flatnonzero(np.unpackbits(source.take(np.array([row]))[0], bitorder="little"))
        sums[place] = np.rint(of_bits[bits] * steps[counts[bits]]).astype(np.int64).sum()
        counts[bits] += 1
    return np.cumsum(sums) / (unit * SCALE)


Picks = tuple[np.ndarray, np.ndarray, float, int]


def plain_greedy(
    rows: CodeRows,
    candidates: np.ndarray,
    relevance: np.ndarray,
    budget: int,
    share: float,
    weights: np.ndarray,
    steps: np.ndarray,
) -> Picks:
    """The definition: all gains for every pick. ``relevance``: its part of the gain; ``weights`` and ``steps`` as
    ``bit_weights`` and ``steps_of`` have them, the latter in units of 1 / SCALE.

    Returns (places among the candidates int64 [k], their sums over bits int64 [k], the greatest at the start or 1,
    gains that were computed)."""
    bits = np.unpackbits(rows.take(candidates), axis=1, bitorder="little").astype(np.int64)
    counts, free = np.zeros(len(weights), dtype=np.int64), np.ones(len(candidates), dtype=np.bool_)
    picked, out, unit = np.empty(budget, dtype=np.int64), np.empty(budget, dtype=np.int64), 0.0
    for number in range(budget):
        sums = bits @ np.rint(weights * steps[counts]).astype(np.int64)
        unit = unit or float(max(1, sums.max()))
        gains = np.where(free, relevance + share * (sums / unit), -np.inf)
        best = int(np.argmax(gains))  # the first of equals
        picked[number], out[number], free[best] = best, sums[best], False
        counts += bits[best]
    return picked, out, unit, budget * len(candidates)


def _lazy_greedy(
    rows: CodeRows,
    candidates: np.ndarray,
    relevance: np.ndarray,
    budget: int,
    share: float,
    weights: np.ndarray,
    steps: np.ndarray,
) -> Picks:
    """As ``plain_greedy``."""
    address, words = rows.addresses(candidates), rows.width // 8
    picked, out = np.empty(budget, dtype=np.int64), np.empty(budget, dtype=np.int64)
    with one_at_a_time():
        unit, computed = _compiled()(address, words, relevance, share, weights, steps, picked, out)
    return picked, out, unit, computed


@cache
def _compiled() -> Any:
    numba, word = load_numba(), make_word()

    @numba.njit(nogil=True)
    def chosen(address, words, step):
        """Sum of ``step`` int32 over the bits of a row."""
        total = np.int64(0)
        for w in range(words):
            bits = word(address, w)
            for k in range(64):
                total += np.int64(step[64 * w + k]) * np.int64((bits >> np.uint64(k)) & np.uint64(1))
        return total

    @numba.njit(nogil=True)
    def before(bound, a, b):
        return bound[a] > bound[b] or (bound[a] == bound[b] and a < b)

    @numba.njit(nogil=True)
    def push(heap, size, bound, item):
        at = size
        while at and before(bound, item, heap[(at - 1) // 2]):
            heap[at] = heap[(at - 1) // 2]
            at = (at - 1) // 2
        heap[at] = item

    @numba.njit(nogil=True)
    def pop(heap, size, bound):
        """The first of ``size``; one less are left."""
        first, item, at = heap[0], heap[size - 1], 0
        while 2 * at + 1 < size - 1:
            child = 2 * at + 1
            if child + 1 < size - 1 and before(bound, heap[child + 1], heap[child]):
                child += 1
            if not before(bound, heap[child], item):
                break
            heap[at] = heap[child]
            at = child
        heap[at] = item
        return first

    @numba.njit(parallel=True, nogil=True)
    def many_sums(address, words, step, items, sums):
        for i in numba.prange(len(items)):
            sums[items[i]] = chosen(address[items[i]], words, step)

    @numba.njit(nogil=True)
    def all_sums(address, words, step, items, sums):
        if len(items) * words >= PARALLEL_WORDS:
            many_sums(address, words, step, items, sums)
            return
        for i in items:
            sums[i] = chosen(address[i], words, step)

    @numba.njit(nogil=True)
    def lazy(address, words, relevance, share, weights, steps, picked, out):
        n, size = len(address), 0
        counts, step = np.zeros(len(weights), np.int64), np.empty(len(weights), np.int32)
        for j in range(len(weights)):
            step[j] = np.int32(np.rint(weights[j] * steps[0]))
        sums, bound = np.empty(n, np.int64), np.empty(n, np.float64)
        all_sums(address, words, step, np.arange(n), sums)
        unit, computed = np.float64(max(1, sums.max())), n
        heap, items, fresh = np.empty(n, np.int64), np.empty(MOST, np.int64), np.zeros(n, np.int64)
        for i in range(n):
            bound[i] = relevance[i] + share * (sums[i] / unit)
            push(heap, size, bound, i)
            size += 1
        for number in range(len(picked)):
            batch = BATCH
            while fresh[heap[0]] != number:
                taken = 0
                while taken < batch and size and fresh[heap[0]] != number:
                    items[taken] = pop(heap, size, bound)
                    size -= 1
                    taken += 1
                all_sums(address, words, step, items[:taken], sums)
                computed += taken
                for i in items[:taken]:
                    bound[i] = relevance[i] + share * (sums[i] / unit)
                    fresh[i] = number
                    push(heap, size, bound, i)
                    size += 1
                batch = min(2 * batch, MOST)
            best = pop(heap, size, bound)
            size -= 1
            picked[number], out[number] = best, sums[best]
            for w in range(words):
                bits = word(address[best], w)
                for k in range(64):
                    if (bits >> np.uint64(k)) & np.uint64(1):
                        j = 64 * w + k
                        counts[j] += 1
                        step[j] = np.int32(np.rint(weights[j] * steps[counts[j]]))
        return unit, computed

    return lazy


class CoveragePicks(Constraint):
    """As ``coverage``, of the rows that are offered: ``codes``, ``share`` and ``layout`` as there, rows by place.

    Picked are the best rows of four budgets, and at least a thousand; they leave in the order of their picks, rows
    behind them as they rank. Relevance is what rows are ordered by, where that is one score, else minus the rank.
    """

    name = "coverage"
    reorders = True

    def __init__(self, codes: np.ndarray | Sequence[np.ndarray], share: float, layout: CodeLayout):
        check_share(share)
        self._codes, self._share, self._layout = codes, share, layout

    @classmethod
    def wanted(cls, options: "ConstraintOptions") -> bool:
        if options.coverage is None:
            return False
        check_share(options.coverage)
        return True

    @classmethod
    def of(cls, options: "ConstraintOptions", rows: ScoredRows) -> "CoveragePicks":
        assert options.coverage is not None
        if codec_of(rows.index.manifest["codec"]).estimates:
            raise BadInput(
                f"codec {rows.index.manifest['codec']} keeps no bits of neurons, which coverage counts",
                where=rows.index.folder,
                remedy="index with codec neuron or nag",
            )
        return cls([shard.codes for shard in rows.index.shards()], options.coverage, rows.index.code_layout)

    def leave(self, offered: Iterator[np.ndarray], walk: Walk) -> Iterator[np.ndarray]:
        candidates, behind = _candidates(offered, walk)
        walk.note(self.name, candidates=len(candidates))
        # Of those that are picked in the end, whoever takes them next says so, or they are selected.
        walk.drop(self.name, candidates)
        relevance, given = walk.score(candidates), 0
        number = np.searchsorted(np.cumsum(walk.weights(candidates)), walk.budget.size) + 1
        while given < len(candidates):
            # As many again whenever more are asked for: the picks before them are the same.
            number = min(len(candidates), 2 * int(number) if given else int(number))
            picked = coverage(self._codes, candidates, relevance, number, self._share, self._layout)
            yield picked.rows[given:]
            given = number
        yield behind
        yield from offered

    def described(self, counts: Mapping[str, int], selected: np.ndarray, walk: Walk) -> list[dict[str, Any]]:
        """As of ``Constraint``."""
        (line,) = super().described(counts, selected, walk)
        return [{**line, "share": self._share, **walk.notes.get(self.name, {})}]


def _candidates(offered: Iterator[np.ndarray], walk: Walk) -> tuple[np.ndarray, np.ndarray]:
    """(the first rows that are offered, those offered with them): places int64."""
    parts, used, rows, wanted = [np.empty(0, dtype=np.int64)], 0, 0, CANDIDATES * walk.budget.size
    while used < wanted or rows < FEWEST:
        if (places := next(offered, None)) is None:
            break
        ends = used + np.cumsum(walk.weights(places))
        number = max(int(np.searchsorted(ends, wanted, side="left")) + 1, FEWEST - rows)
        if number < len(places):
            return np.concatenate([*parts, places[:number]]), places[number:]
        parts.append(places)
        used, rows = int(ends[-1]) if len(ends) else used, rows + len(places)
    return np.concatenate(parts), np.empty(0, dtype=np.int64)


CONSTRAINT = CoveragePicks
