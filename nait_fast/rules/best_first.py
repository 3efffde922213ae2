"""An order of rows, given as far as anybody looks, and how much of it is selected."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np

# Values [n] of the rows at places int64 [n] of a table, in any order.
Column = Callable[[np.ndarray], np.ndarray]


class Order(Protocol):
    """A total order of the rows of a table, named by their places in it. Whoever reads it stops where the budget is
    full: what comes later need never be worked out."""

    def chunks(self) -> Iterator[np.ndarray]:
        """Places int64 [n], n of any size, best first: chunk after chunk all rows, each once. A second call begins
        anew."""
        ...


@dataclass(frozen=True)
class ArrayOrder:
    """An order that lies in memory: ``places`` int64 [n], best first."""

    places: np.ndarray

    def chunks(self) -> Iterator[np.ndarray]:
        """As ``Order`` has it: all at once."""
        yield self.places


@dataclass(frozen=True)
class Budget:
    """How much is selected: so many ``rows``, or else rows of so many ``tokens`` in all, up to the first that would
    exceed them. Raises ValueError unless it is one of the two."""

    rows: int | None = None
    tokens: int | None = None

    def __post_init__(self) -> None:
        if (self.rows is None) == (self.tokens is None):
            raise ValueError("a budget is of rows or of tokens")

    @property
    def size(self) -> int:
        """Rows or tokens."""
        return self.rows if self.rows is not None else self.tokens or 0

    def weights(self, places: np.ndarray, n_tokens: Column) -> np.ndarray:
        """What each row takes of it, int64 [n]."""
        return np.ones(len(places), np.int64) if self.tokens is None else n_tokens(places).astype(np.int64)


def pieces(order: Order, budget: Budget, n_tokens: Column, spare: float) -> Iterator[np.ndarray]:
    """The rows of ``order`` as they are looked at: at first ``spare`` times as many as fill the budget, then, as long
    as somebody asks, as many again as there were."""
    rest, waiting, looked, used = order.chunks(), np.empty(0, np.int64), 0, 0
    wanted = int(budget.size * spare) + 1
    while True:
        while not len(waiting):
            chunk = next(rest, None)
            if chunk is None:
                return
            waiting = np.asarray(chunk, dtype=np.int64)
        if used < wanted:
            ends = np.cumsum(budget.weights(waiting, n_tokens))
            number = min(len(waiting), 1 + int(np.searchsorted(ends, wanted - used, side="left")))
            used += int(ends[number - 1])
        else:
            number = min(len(waiting), looked)
        looked += number
        yield waiting[:number]
        waiting = waiting[number:]
