"""From scores to a subset: one order out of several targets, and a budget on it, in passes over blocks of rows.

An order is a key of every row (``order.py``): smaller is better, ties go to the lower row. Memory grows with the rows
that are selected, not with those that there are.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from nait_fast.config import AmountOptions, BudgetOptions
from nait_fast.errors import BadInput
from nait_fast.notices import warn
from nait_fast.options import flag_of
from nait_fast.ranking.columns import ScoreTable, Spill, block_rows
from nait_fast.ranking.external import ranks
from nait_fast.ranking.order import GATHERED, Cut, Items, ZScores, descending, find_cut, shuffled
from nait_fast.rules.best_first import Budget, Column, Order
from nait_fast.rules.constraints.base import Constraint, Dropped
from nait_fast.rules.constraints.selecting import Chosen, select_rows


@dataclass(frozen=True)
class Selection:
    """``places`` int64 [k]: the selected rows' places in the table, ascending; ``rows`` int64 [k]: their numbers.

    ``order`` int64 [k]: indices into these, best first. ``tokens``: of all of them. ``keys``: of all rows' order.
    ``dropped``: what constraints took, ``looked`` and ``described``: as of ``Chosen``. ``takers`` int64 [k]: of an
    order by turns, the number of the target whose turn named each row first; None of others.
    """

    places: np.ndarray
    rows: np.ndarray
    order: np.ndarray
    tokens: int
    keys: Spill
    dropped: Sequence[Dropped] = ()
    looked: int = 0
    described: Sequence[dict[str, Any]] = ()
    takers: np.ndarray | None = None


@dataclass(frozen=True)
class _End:
    """One end of an order: ``keys`` gives those of the rows from a start to a stop; ``bottom``: worst first."""

    keys: Callable[[int, int], np.ndarray]
    rows: int
    bottom: bool = False

    def read(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """(keys uint64 [n], places int64 [n]), both ascending towards the other end."""
        keys = self.keys(start, stop)
        places = np.arange(start, start + len(keys))
        return (~keys, self.rows - 1 - places) if self.bottom else (keys, places)

    def items(self, weights: Spill | None) -> Iterator[Items]:
        for start, stop in blocks(self.rows):
            keys, places = self.read(start, stop)
            yield keys, places, np.ones(len(keys), np.int64) if weights is None else weights.read(start, stop)


@dataclass(frozen=True)
class KeyOrder:
    """The ``Order`` that the keys of an end give. What is looked at is sorted, ``first`` rows to begin with and twice
    as many whenever more are asked for: memory grows with it, and each time costs some passes over the keys."""

    end: _End
    first: int = GATHERED

    def chunks(self) -> Iterator[np.ndarray]:
        """As ``Order`` has it."""
        before: Cut | None = None
        depth = max(self.first, GATHERED)
        while True:
            cut = None if depth >= self.end.rows else find_cut(partial(self.end.items, None), depth)
            found = []
            for keys, places, _ in self.end.items(None):
                rows = np.ones(len(keys), bool) if cut is None else cut.before(keys, places)
                if before is not None:
                    rows &= ~before.before(keys, places)
                found.append((keys[rows], places[rows]))
            keys, places = (np.concatenate(column) for column in zip(*found, strict=True))
            some = places[np.lexsort((places, keys))]
            yield self.end.rows - 1 - some if self.end.bottom else some
            if cut is None:
                return
            before, depth = cut, 2 * depth


def score_order(scores: Spill, first: int = 0) -> KeyOrder:
    """The rows by a column of ``scores``, the highest first; ``first``: as of ``KeyOrder``."""
    return KeyOrder(_End(partial(_score_keys, scores, 0), scores.rows), first)


def random_order(row: Spill, seed: int, first: int = 0) -> KeyOrder:
    """The rows, of these numbers in the pool, in the order that ``seed`` draws."""
    return KeyOrder(_random_end(row, seed), first)


def blocks(rows: int) -> Iterator[tuple[int, int]]:
    """(start, stop) of blocks of a column."""
    step = block_rows(1)
    for start in range(0, rows, step):
        yield start, min(start + step, rows)


def order_keys(table: ScoreTable, combine: str) -> Spill:
    """Keys uint64 of the rows' order.

    ``mean``, ``max``: of the z-scores; ``union``, ``roundrobin``: the targets take turns in the order of the columns,
    each naming its next best row; a row keeps the first turn that names it.
    """
    keys, targets = table.scratch(np.uint64), len(table.names)
    if targets == 1:
        for start, block in table.scores.blocks():
            keys.write(start, descending(block))
        return keys
    z = ZScores.of(table.scores, table.low, table.high)
    if combine in ("mean", "max"):
        for start, block in z.tables():
            keys.write(start, descending(block.sum(axis=0) / targets if combine == "mean" else block.max(axis=0)))
        return keys
    for column in range(targets):
        _take_turns(table, z, column, keys)
    return keys


def turns_taken(table: ScoreTable, selection: Selection) -> dict[str, dict[str, int]]:
    """Target -> ``rows`` and ``tokens`` of the selected rows that it was the first to name; {} where none had turns."""
    if selection.takers is None or len(table.names) < 2:
        return {}
    n_tokens = table.n_tokens.take(selection.places)
    mine = {name: selection.takers == column for column, name in enumerate(table.names)}
    return {name: {"rows": int(own.sum()), "tokens": int(n_tokens[own].sum())} for name, own in mine.items()}


def _by_turns(selection: Selection, options: BudgetOptions, targets: int) -> Selection:
    """``selection`` with its takers, where its order is one by turns."""
    if targets < 2 or options.pick != "top" or options.combine not in ("roundrobin", "union"):
        return selection
    takers = selection.keys.take(selection.places) % np.uint64(targets)  # as _take_turns has made them
    return replace(selection, takers=takers.astype(np.int64))


def _take_turns(table: ScoreTable, z: ZScores, column: int, turns: Spill) -> None:
    """Let target ``column`` name each row in its own order: the earliest turn that names a row is the row's."""
    targets = len(table.names)
    with Spill(table.folder, np.uint64, table.rows) as column_keys:
        for start, stop in blocks(table.rows):
            column_keys.write(start, descending(z.read(start, stop, column)))
        with ranks(column_keys, table.folder) as ranked:
            for start, rank in ranked.blocks():
                turn = ((rank - 1) * targets + column).view(np.uint64)
                turns.write(start, np.minimum(turn, turns.read(start, start + len(turn))) if column else turn)


def count_of(n: int, options: AmountOptions) -> int:
    """The budget of ``options`` in rows, out of ``n``. Raises NaitError for one that does not fit."""
    if options.top_k is not None:
        if options.top_k > n:
            raise BadInput(f"the pool has only {n} usable samples", where=f"--top-k {options.top_k}")
        return options.top_k
    fraction = 0.1 if options.fraction is None else options.fraction
    if not 0 < fraction <= 1:
        percent = f"write {fraction / 100:g} for {fraction:g}%" if 1 < fraction <= 100 else ""
        raise BadInput("must be above 0 and at most 1", where=f"--fraction {fraction}", remedy=percent)
    return max(1, round(fraction * n))


def check_budget(options: AmountOptions, rows: int = 10**18) -> None:
    """At most one budget may be set, and a count may not exceed the ``rows`` to choose from. Raises NaitError."""
    given = [n for n in ("fraction", "top_k", "token_budget") if getattr(options, n) is not None]
    if len(given) > 1:
        raise BadInput("give one budget only", where=" and ".join(map(flag_of, given)))
    count_of(rows, options)


def select(
    table: ScoreTable, options: BudgetOptions, seed: int = 0, constraints: Sequence[Constraint] = ()
) -> Selection:
    """Order the rows and choose within the budget what ``constraints`` leave.

    ``pick``: from the top, the bottom, or at random (seeded); constraints see the rows from that end. ``combine=union``
    with a count or fraction gives every target its own budget and selects all their rows. A token budget takes samples
    in order up to the first that would exceed it. Raises NaitError for budgets that do not fit the rows, and where no
    row is left.
    """
    budget = budget_of(table, options)
    keys = order_keys(table, options.combine)
    bottom = options.pick == "bottom"
    ends = [_End(keys.read, table.rows, bottom)]
    if options.pick == "random":
        ends = [_random_end(table.row, seed)]
    elif options.combine == "union" and options.token_budget is None:
        columns = range(len(table.names))
        ends = [_End(partial(_score_keys, table.scores, column), table.rows, bottom) for column in columns]
    weights = None if options.token_budget is None else table.n_tokens
    if constraints:
        check_constrained(options, len(table.names))
        order = KeyOrder(ends[0], 2 * budget.size if weights is None else 0)
        score = table.scores.take if options.pick == "top" and len(table.names) == 1 else None
        return _by_turns(constrained(table, keys, order, budget, constraints, score), options, len(table.names))
    cuts = [find_cut(partial(end.items, weights), budget.size) for end in ends]
    chosen = _collect(table, keys, list(zip(ends, cuts, strict=True)))
    if not len(chosen.places) and weights is not None and cuts[0] is not None:
        raise BadInput(f"below the first sample's {cuts[0].weight} tokens", where=f"--token-budget {budget.size}")
    return _by_turns(chosen, options, len(table.names))


def budget_of(table: ScoreTable, options: AmountOptions) -> Budget:
    """Of ``options``, for the rows of ``table``. Raises NaitError where there are none, or not so many."""
    if table.rows == 0:
        raise BadInput("the pool has no usable samples to select from")
    if options.token_budget is not None:
        return Budget(tokens=options.token_budget)
    return Budget(rows=count_of(table.rows, options))


def check_constrained(options: BudgetOptions, targets: int) -> None:
    """Raises NaitError where there is no one order of the rows that constraints could see."""
    if options.combine == "union" and targets > 1 and options.token_budget is None and options.pick != "random":
        raise BadInput(
            "chooses for each target by itself, and constraints need one order of all rows",
            where="--combine union",
            remedy="leave --combine out: targets then take turns",
        )


def constrained(
    table: ScoreTable,
    keys: Spill,
    order: Order,
    budget: Budget,
    constraints: Sequence[Constraint],
    score: Column | None = None,
) -> Selection:
    """What ``constraints`` leave of ``order``, within ``budget``; ``keys``: of all rows, by which ``rank`` is told;
    ``score``: what it goes by, if it goes by one.

    Says where that is less than the budget. Raises NaitError where no row is left.
    """
    chosen = chosen_within(table, order, budget, constraints, score)
    if not len(chosen.places):
        raise BadInput(f"no row is left to select: {_taken(chosen)}", remedy="loosen what takes most")
    if not chosen.full and chosen.dropped:
        size = f"({chosen.tokens:,} of {budget.size:,} tokens)" if budget.tokens else f"of {budget.size:,}"
        warn(
            f"{len(chosen.places):,} rows {size} are selected: no more are left of the {table.rows:,}; {_taken(chosen)}"
        )
    ascending = np.argsort(chosen.places)
    places = chosen.places[ascending]
    if any(constraint.reorders for constraint in constraints):
        best_first = np.argsort(ascending)
    else:
        best_first = np.argsort(keys.take(places), kind="stable")
    return Selection(
        places, table.row.take(places), best_first, chosen.tokens, keys, chosen.dropped, chosen.looked, chosen.described
    )


def chosen_within(
    table: ScoreTable, order: Order, budget: Budget, constraints: Sequence[Constraint] = (), score: Column | None = None
) -> Chosen:
    """``select_rows`` of the rows of ``table``. Raises NaitError where a budget of tokens does not cover the first."""
    chosen = select_rows(order, budget, constraints, n_tokens=table.n_tokens.take, row=table.row.take, score=score)
    if chosen.stopped is not None and not len(chosen.places):
        first = int(table.n_tokens.take(np.array([chosen.stopped]))[0])
        raise BadInput(f"below the first sample's {first} tokens", where=f"--token-budget {budget.size}")
    return chosen


def _taken(chosen: Chosen) -> str:
    """How many rows which constraint took."""
    return ", ".join(f"{name} took {number:,}" for name, number in chosen.counts.items())


def _random_end(row: Spill, seed: int) -> _End:
    return _End(lambda start, stop: shuffled(row.read(start, stop), seed), row.rows)


def _score_keys(scores: Spill, column: int, start: int, stop: int) -> np.ndarray:
    return descending(scores.read(start, stop, column))


def _collect(table: ScoreTable, keys: Spill, ends: list[tuple[_End, Cut | None]]) -> Selection:
    """All rows that come before the cut of any end."""
    places, rows, chosen_keys, tokens = [], [], [], 0
    for start, stop in blocks(table.rows):
        chosen = np.zeros(stop - start, dtype=bool)
        for end, cut in ends:
            chosen |= cut is None or cut.before(*end.read(start, stop))
        places.append(start + np.flatnonzero(chosen))
        rows.append(table.row.read(start, stop)[chosen])
        chosen_keys.append(keys.read(start, stop)[chosen])
        tokens += int(table.n_tokens.read(start, stop)[chosen].sum(dtype=np.int64))
    order = np.argsort(np.concatenate(chosen_keys), kind="stable")
    return Selection(np.concatenate(places), np.concatenate(rows), order, tokens, keys)
