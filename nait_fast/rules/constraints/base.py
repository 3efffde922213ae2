"""What a constraint is: it takes rows out of an order, or puts them in another one, and says of each why."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from nait_fast.rules.best_first import Budget, Column

if TYPE_CHECKING:
    from nait_fast.config import ConstraintOptions
    from nait_fast.index.pool_rows import PoolRows
    from nait_fast.index.reader import Index


@dataclass(frozen=True)
class Dropped:
    """Rows that lost their places to ``constraint``: ``places`` int64 [m], and why: ``details``, [m] each by name."""

    constraint: str
    places: np.ndarray
    details: Mapping[str, np.ndarray]

    def only(self, which: np.ndarray) -> Dropped:
        """Those of ``which`` bool [m]."""
        return Dropped(self.constraint, self.places[which], {name: of[which] for name, of in self.details.items()})


@dataclass
class Walk:
    """One way down an order: the ``budget`` that ends it, what is known of rows by their places, and what was
    ``dropped`` on the way. ``row``: the rows' numbers in the pool; ``score``: what they are ordered by, greater is
    better; ``full``: set by a constraint by which the budget has no room left for any row; ``notes``: what constraints
    say of it, by their names."""

    budget: Budget
    n_tokens: Column
    row: Column
    score: Column
    dropped: list[Dropped] = field(default_factory=list)
    full: bool = False
    notes: dict[str, dict[str, Any]] = field(default_factory=dict)

    def weights(self, places: np.ndarray) -> np.ndarray:
        """What each row takes of the budget, int64 [n]."""
        return self.budget.weights(places, self.n_tokens)

    def drop(self, constraint: str, places: np.ndarray, **details: np.ndarray) -> None:
        """Say that the rows at ``places`` int64 [m] lose them to ``constraint``, and why; unless they are selected in
        the end, or another constraint says later that it took them."""
        if len(places):
            self.dropped.append(Dropped(constraint, places, details))

    def note(self, constraint: str, **values: Any) -> None:
        """Keep what ``constraint`` has to say of this walk when it is described."""
        self.notes.setdefault(constraint, {}).update(values)


@dataclass(frozen=True)
class ScoredRows:
    """What constraints of a command may read: an ``index``, its pool (``open_pool``), and ``number`` scored rows: their
    numbers in the pool (``row``, ascending) and tokens by place. ``targets``: files of the targets' samples, where they
    are at hand; ``lengths`` int32 [s]: their tokens, where signatures keep them."""

    index: Index
    open_pool: Callable[[], PoolRows]
    number: int
    row: Column
    n_tokens: Column
    targets: Sequence[str] = ()
    lengths: np.ndarray | None = None

    @property
    def pool(self) -> PoolRows:
        """Raises NaitError where it is not to be had."""
        return self.open_pool()


class Constraint(ABC):
    """``name``: as ``dropped_by`` says it; ``reorders``: rows leave it in another order than they came.

    An instance is made for the rows of one table, of arrays or by ``of``, and keeps nothing of a walk.
    """

    name: ClassVar[str]
    reorders: ClassVar[bool] = False

    @classmethod
    @abstractmethod
    def wanted(cls, options: ConstraintOptions) -> bool:
        """Whether ``options`` ask for it. Raises BadInput where what they say cannot be read."""

    @classmethod  # noqa: B027 - most have nothing to read
    def check(cls, options: ConstraintOptions) -> None:
        """Look, before anything else is done, at the files that ``options`` name. Raises NaitError."""

    @classmethod
    @abstractmethod
    def of(cls, options: ConstraintOptions, rows: ScoredRows) -> Constraint:
        """The one that ``options`` ask for. Raises NaitError where the rows do not have what it needs."""

    @abstractmethod
    def leave(self, offered: Iterator[np.ndarray], walk: Walk) -> Iterator[np.ndarray]:
        """The rows of ``offered`` that stay, places int64 [n] best first as they come; the others are told to
        ``walk.drop``. Asks for no more than it must."""

    def described(self, counts: Mapping[str, int], selected: np.ndarray, walk: Walk) -> list[dict[str, Any]]:
        """What a manifest says of it, plain values: a mapping for each name that rows of its lost their places to.
        ``counts``: of these by name; ``selected`` int64 [k]: places of the rows that were selected in the end."""
        return [{"constraint": self.name, "dropped": counts.get(self.name, 0), **self.details()}]

    def details(self) -> dict[str, Any]:
        """What else it says of itself there."""
        return {}
