"""The order of rule roundrobin over a table: the rows that target samples take in turns."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from nait_fast.config import AmountOptions, BudgetOptions
from nait_fast.index.reader import Index
from nait_fast.methods.signature import Signature
from nait_fast.ranking.columns import ScoreTable, Spill
from nait_fast.ranking.order import descending
from nait_fast.ranking.scan import Scan, scan
from nait_fast.ranking.select import Selection, blocks, budget_of, constrained, count_of
from nait_fast.rules.constraints.base import Constraint
from nait_fast.rules.round_robin import RoundRobin, Sifted

_LATER = np.uint64(1 << 63)


class Turns:
    """``order``, which must have got its first pass, as an ``Order`` of places in ``table``.

    ``keys``: by them rows that have been given come in their turns, and behind them all others by their greatest
    score.
    """

    def __init__(self, table: ScoreTable, order: RoundRobin):
        self._table, self._rest, self._given = table, order.chunks(), list[np.ndarray]()
        self._takers = list[np.ndarray]()
        self.keys = table.scratch(np.uint64)
        for start, stop in blocks(table.rows):
            self.keys.write(start, self._by_score(start, stop))

    def _by_score(self, start: int, stop: int) -> np.ndarray:
        scores = [self._table.scores.read(start, stop, column) for column in range(len(self._table.names))]
        return descending(np.max(scores, axis=0)) >> np.uint64(1) | _LATER

    def chunks(self) -> Iterator[np.ndarray]:
        """As ``Order`` has it."""
        yield from self._given
        for rows, takers in self._rest:
            self._takers.append(takers)
            places, first = places_of(self._table.row, rows), sum(map(len, self._given))
            self._given.append(places)
            self._note(places, first + np.arange(len(places), dtype=np.uint64))
            yield places

    def takers(self, places: np.ndarray) -> np.ndarray:
        """Which sample, counted over all targets, took each row at ``places`` int64 [k], which have been given."""
        return np.concatenate(self._takers)[self.keys.take(places).astype(np.int64)]

    def forget(self, number: int) -> None:
        """Order rows behind the first ``number`` by their scores, whatever of them has been given."""
        self._note(np.concatenate([*self._given, np.zeros(0, np.int64)])[number:], None)

    def _note(self, places: np.ndarray, keys: np.ndarray | None) -> None:
        """``keys`` uint64 [k] of the rows at ``places`` int64 [k]; None: by their scores."""
        order = np.argsort(places)
        ascending = places[order]
        for start, stop in blocks(self._table.rows):
            here = slice(*np.searchsorted(ascending, (start, stop)))
            if here.start < here.stop:
                some, block = ascending[here] - start, self.keys.read(start, stop)
                block[some] = self._by_score(start, stop)[some] if keys is None else keys[order[here]]
                self.keys.write(start, block)


def round_robin_of(
    index: Index, signatures: Sequence[Signature], options: AmountOptions, device: str = "cpu", scanning: Scan = scan
) -> RoundRobin:
    """The order of rule roundrobin, which awaits its first pass over ``index``."""
    wanted = count_of(max(1, index.rows), options)
    if options.token_budget is not None:
        wanted = min(index.rows, options.token_budget * index.rows // max(1, index.manifest["tokens"]) + 1)

    def again(order: RoundRobin) -> Iterator[Sifted]:
        return (block.seen for block in scanning(index, signatures, device, "roundrobin", order))

    return RoundRobin([s.samples for s in signatures], index.rows, wanted, again)


def places_of(column: Spill, rows: np.ndarray) -> np.ndarray:
    """Where in ``column``, which ascends, each of ``rows`` int64 [k] stands; −1 for those that are not there."""
    order = np.argsort(rows)
    wanted, out = rows[order], np.full(len(rows), -1)
    for start, block in column.blocks():
        some = slice(*np.searchsorted(wanted, (block[0], block[-1] + 1)))
        at = np.searchsorted(block, wanted[some])
        out[order[some]] = np.where(block[at] == wanted[some], start + at, -1)
    return out


def select_in_turns(
    table: ScoreTable, order: RoundRobin, options: BudgetOptions, constraints: Sequence[Constraint] = ()
) -> Selection:
    """As ``select``, by rule roundrobin."""
    budget, turns = budget_of(table, options), Turns(table, order)
    chosen = constrained(table, turns.keys, turns, budget, constraints)
    turns.forget(chosen.looked)
    takers = np.searchsorted(np.cumsum(order.samples), turns.takers(chosen.places), side="right")
    return replace(chosen, takers=takers)
