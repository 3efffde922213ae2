"""What else decides about a row than its score: constraints on the way from an order to a selection.

A constraint is a module here that ends in ``CONSTRAINT``, its own class of ``Constraint``, and a name in
``CONSTRAINTS``; its options stand in ``config.ConstraintOptions``.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nait_fast.config import ConstraintOptions
    from nait_fast.rules.constraints.base import Constraint, ScoredRows

CONSTRAINTS = (
    "decontaminate",
    "decontaminate_codes",
    "near_duplicates",
    "coverage",
    "quotas",
)  # in the order in which they see the rows


def constraint_of(name: str) -> type[Constraint]:
    """The constraint of a name in ``CONSTRAINTS``, imported when it is asked for."""
    return import_module(f"nait_fast.rules.constraints.{name}").CONSTRAINT


def wanted_of(options: ConstraintOptions) -> list[type[Constraint]]:
    """The constraints that ``options`` ask for, in their order. Raises BadInput where what they say cannot be read."""
    return [kind for kind in map(constraint_of, CONSTRAINTS) if kind.wanted(options)]


def constraints_of(options: ConstraintOptions, rows: ScoredRows) -> list[Constraint]:
    """The same, made for ``rows``. Raises NaitError where these do not have what one needs."""
    return [kind.of(options, rows) for kind in wanted_of(options)]
