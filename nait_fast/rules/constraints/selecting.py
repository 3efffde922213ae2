"""From an order to a selection: rows go, best first, through one constraint after another until the budget is full."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from nait_fast.rules.best_first import Budget, Column, Order, pieces
from nait_fast.rules.constraints.base import Constraint, Dropped, Walk

SPARE = 1.1  # of the budget: what is looked at first


@dataclass(frozen=True)
class Chosen:
    """``places`` int64 [k] of the selected rows, best first, ``tokens`` of all of them; ``full``: whether they fill the
    budget; ``stopped``: the row that would have exceeded it, if one ended the selection.

    ``looked``: how many rows of the order, from the best on, are selected or ``dropped``: every row that ranks above
    the last of them is the one or the other, and those below only where the order ended before the budget.
    ``counts``: how many rows each constraint took, by name; ``described``: what the constraints say of themselves.
    """

    places: np.ndarray
    tokens: int
    full: bool
    stopped: int | None
    looked: int
    dropped: list[Dropped]
    counts: dict[str, int]
    described: list[dict[str, Any]]


def select_rows(
    order: Order,
    budget: Budget,
    constraints: Sequence[Constraint] = (),
    *,
    n_tokens: Column | None = None,
    row: Column | None = None,
    score: Column | None = None,
) -> Chosen:
    """Select from ``order`` within ``budget`` what ``constraints``, asked in turn, leave of it.

    ``n_tokens``: needed for a budget of tokens; ``row``: numbers by which drops name other rows, by default their
    places; ``score``: by default, minus the rank. Memory grows with the rows that are looked at.
    """
    offered: list[np.ndarray] = []

    @lru_cache(maxsize=1)
    def by_place(chunks: int) -> tuple[np.ndarray, np.ndarray]:
        """(places of the first ``chunks`` that were offered, ascending; their ranks)."""
        seen = np.concatenate([*offered[:chunks], np.empty(0, np.int64)])
        order = np.argsort(seen)
        return seen[order], order

    def ranks(places: np.ndarray) -> np.ndarray:
        """int64 [n], from 0, of rows that were offered."""
        seen, rank = by_place(len(offered))
        return rank[np.searchsorted(seen, places)]

    def kept(order: Order) -> Iterator[np.ndarray]:
        for places in pieces(order, budget, walk.n_tokens, SPARE):
            offered.append(places)
            yield places

    if n_tokens is None and budget.tokens is not None:
        raise ValueError("a budget of tokens needs the rows' tokens")
    walk = Walk(budget, n_tokens or np.zeros_like, row or (lambda places: places), score or (lambda p: -ranks(p)))
    left = kept(order)
    for constraint in constraints:
        left = constraint.leave(left, walk)
    chosen, used, full, stopped = [np.empty(0, np.int64)], 0, False, None
    for places in left:
        ends = used + np.cumsum(walk.weights(places))
        number = int(np.searchsorted(ends, budget.size, side="right"))
        chosen.append(places[:number])
        used = int(ends[number - 1]) if number else used
        if number < len(places):
            stopped = int(places[number])
        if stopped is not None or used == budget.size:
            full = True
            break
    full = full or walk.full
    selected = np.concatenate(chosen)
    looked = int(ranks(selected).max()) + 1 if len(selected) else 0
    if not full:
        looked = sum(map(len, offered))
    dropped, settled = list[Dropped](), selected
    for some in reversed(walk.dropped):  # the last that took a row
        lost = some.only((ranks(some.places) < looked) & ~np.isin(some.places, settled))
        settled = np.concatenate([settled, lost.places])
        if len(lost.places):
            dropped.insert(0, lost)
    counts: dict[str, int] = {}
    for some in dropped:
        counts[some.constraint] = counts.get(some.constraint, 0) + len(some.places)
    described = [line for constraint in constraints for line in constraint.described(counts, selected, walk)]
    tokens = int(walk.n_tokens(selected).sum(dtype=np.int64))
    return Chosen(selected, tokens, full, stopped, looked, dropped, counts, described)
