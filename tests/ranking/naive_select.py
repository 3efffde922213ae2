"""The reference of the streaming selection: everything in memory, everything sorted, sums by ``math.fsum``."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nait_fast.config import BudgetOptions
from nait_fast.errors import NaitError
from nait_fast.ranking.streaming_topk import order


@dataclass(frozen=True)
class Selection:
    """``rank`` int64 [n]: 1 is the best; ``selected`` bool [n]."""

    rank: np.ndarray
    selected: np.ndarray

    def positions(self) -> np.ndarray:
        """Positions of the selected rows, best first."""
        chosen = np.flatnonzero(self.selected)
        return chosen[np.argsort(self.rank[chosen])]


def z_scores(scores: np.ndarray) -> np.ndarray:
    """Each column of ``scores`` [n, C] less its mean, over its standard deviation (a constant column gives 0)."""
    return np.column_stack([_z(column) for column in scores.T])


def _z(column: np.ndarray) -> np.ndarray:
    if len(column) == 0 or column.max() == column.min():
        return np.zeros(len(column))
    # Neither the scale of the scores nor a power of two matters: this one keeps the squares in range.
    x = np.ldexp(column, -np.frexp(np.abs(column).max())[1])
    centred = x - math.fsum(x) / len(x)
    return centred / math.sqrt(math.fsum(centred**2) / len(x))


def combined_order(rows: np.ndarray, scores: np.ndarray, combine: str) -> np.ndarray:
    """Positions of the rows, best first, from ``scores`` [n, C].

    ``mean``, ``max``: of the z-scores; ``union``, ``roundrobin``: the targets take turns in the order of the columns,
    each giving its next best row that is not yet there. Ties by ascending row.
    """
    z = z_scores(scores)
    if scores.shape[1] == 1:
        return order(rows, scores[:, 0])
    if combine in ("mean", "max"):
        return order(rows, z.mean(axis=1) if combine == "mean" else z.max(axis=1))
    turn = np.empty(len(rows), dtype=np.int64)  # the earliest turn in which some target names the row
    turn.fill(np.iinfo(np.int64).max)
    n_targets = scores.shape[1]
    for c in range(n_targets):
        turns = np.empty(len(rows), dtype=np.int64)
        turns[order(rows, z[:, c])] = np.arange(len(rows)) * n_targets + c
        np.minimum(turn, turns, out=turn)
    return np.argsort(turn, kind="stable")


def _count(n: int, options: BudgetOptions) -> int:
    if options.top_k is not None:
        return options.top_k
    return max(1, round((0.1 if options.fraction is None else options.fraction) * n))


def select(
    rows: np.ndarray, n_tokens: np.ndarray, scores: np.ndarray, options: BudgetOptions, seed: int = 0
) -> Selection:
    """Order the rows and choose within the budget.

    ``rows`` int64 [n], ``n_tokens`` int [n], ``scores`` float64 [n, C]. ``pick``: from the top, the bottom, or at
    random (seeded). ``combine=union`` with a count or fraction gives every target its own budget and selects all their
    rows. A token budget takes samples in order up to the first that would exceed it.
    """
    if len(rows) == 0:
        raise NaitError("the pool has no usable samples to select from")
    ordered = combined_order(rows, scores, options.combine)
    rank = np.empty(len(rows), dtype=np.int64)
    rank[ordered] = np.arange(1, len(rows) + 1)
    selected = np.zeros(len(rows), dtype=bool)
    if options.pick == "random":
        ordered = np.random.default_rng(seed).permutation(len(rows))
    elif options.pick == "bottom":
        ordered = ordered[::-1]
    if options.token_budget is not None:
        within = np.cumsum(n_tokens[ordered], dtype=np.int64) <= options.token_budget
        if not within[0]:
            raise NaitError(
                f"--token-budget {options.token_budget}: below the first sample's {int(n_tokens[ordered[0]])} tokens"
            )
        selected[ordered[within]] = True
    elif options.combine == "union" and scores.shape[1] > 1 and options.pick != "random":
        for position in _union(rows, scores, _count(len(rows), options), options.pick):
            selected[position] = True
    else:
        selected[ordered[: _count(len(rows), options)]] = True
    return Selection(rank, selected)


def _union(rows: np.ndarray, scores: np.ndarray, k: int, pick: str) -> Sequence[np.ndarray]:
    ordered = [order(rows, scores[:, c]) for c in range(scores.shape[1])]
    return [o[:k] if pick == "top" else o[-k:] for o in ordered]
