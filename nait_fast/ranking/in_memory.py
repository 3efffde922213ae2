"""A ranking whose parts are objects, index, signatures, foreign scores and constraints, and whose result is one."""

import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from nait_fast.config import RankOptions
from nait_fast.env import check_variables
from nait_fast.errors import BadInput
from nait_fast.index.pool_rows import PoolRows, open_rows
from nait_fast.index.reader import Index
from nait_fast.methods.foreign import foreign_of
from nait_fast.methods.signature import Signature, check_names, load_signatures
from nait_fast.ranking.choosing import check_constraints, scored_selection
from nait_fast.ranking.scan import check_device
from nait_fast.ranking.select import check_budget, check_constrained
from nait_fast.ranking.sources import check_index
from nait_fast.rules.constraints.base import Constraint

CALLER = "selection_of"
OF_FILES = ("signature", "foreign_scores", "output", "overwrite", "export", "scores")
ELSEWHERE = (*OF_FILES, "push_to_hub", "public", "engine", "address", "workers")  # options that have no place here


@dataclass(frozen=True)
class DroppedRows:
    """Rows that lost their places to ``constraint``: ``rows`` int64 [m], their numbers in the pool, and why:
    ``details``, [m] each by name."""

    constraint: str
    rows: np.ndarray
    details: Mapping[str, np.ndarray]


@dataclass(frozen=True)
class RowSelection:
    """Chosen rows, best first: ``rows`` int64 [k], their numbers in the pool; ``n_tokens`` int32 [k]; ``scores``
    float64 [k, C] under each of ``targets``; ``quality`` float64 [k]: what else they were ordered by, if anything.

    ``rule``: the one they were scored by; ``dropped``: the rows that rank above the last of these and lost their
    places; ``about``: what constraints and quality say of themselves, as ``manifest.json`` of a selection has it.
    """

    rows: np.ndarray
    n_tokens: np.ndarray
    scores: np.ndarray
    targets: tuple[str, ...]
    rule: str
    quality: np.ndarray | None
    dropped: tuple[DroppedRows, ...]
    about: Mapping[str, Any]

    def __len__(self) -> int:
        return len(self.rows)


def selection_of(
    index: Index | str | os.PathLike[str],
    signatures: Signature | str | os.PathLike[str] | Sequence[Signature | str | os.PathLike[str]],
    foreign: Mapping[str, np.ndarray],
    constraints: Sequence[Constraint],
    options: Mapping[str, Any],
) -> RowSelection:
    """As ``api.selection_of``."""
    known = {field.name for field in fields(RankOptions)} - {"index", *ELSEWHERE}
    if name := next((name for name in options if name not in known), None):
        raise BadInput(f"unknown option '{name}'", where=CALLER, remedy=f"known are {', '.join(sorted(known))}")
    several = [signatures] if isinstance(signatures, (Signature, str, os.PathLike)) else list(signatures)
    constraints = [constraints] if isinstance(constraints, Constraint) else list(constraints)
    named = {"index": "memory", "output": "memory", "signature": ["memory"] * (len(several) + len(foreign))}
    checked = RankOptions.from_mapping({**options, **named, "export": []}, CALLER)
    check_variables()
    check_budget(checked)
    check_constraints(checked, checked, len(several) + len(foreign))
    index = index if isinstance(index, Index) else Index(index)
    check_budget(checked, index.rows)
    asked = load_signatures(several)
    asked += [foreign_of(name, scores, index, f"{CALLER}: foreign") for name, scores in foreign.items()]
    if not asked:
        raise BadInput("no signatures given", where=CALLER)
    check_names(asked, CALLER)
    check_index(index, asked)
    check_device(checked.device, index, asked, f"{CALLER}: device", checked.rule)
    if constraints:
        check_constrained(checked, len(asked))

    @cache
    def pool() -> PoolRows:
        return open_rows(index, checked.dataset)

    folder = Path(tempfile.gettempdir())
    with scored_selection(
        index,
        asked,
        checked,
        checked,
        seed=checked.seed,
        folder=folder,
        pool=pool,
        device=checked.device,
        more=constraints,
    ) as made:
        chosen, table = made.selection, made.table
        places = chosen.places[chosen.order]
        dropped = [DroppedRows(one.constraint, table.row.take(one.places), one.details) for one in chosen.dropped]
        return RowSelection(
            rows=chosen.rows[chosen.order],
            n_tokens=table.n_tokens.take(places),
            scores=table.take_scores(places),
            targets=tuple(table.names),
            rule=made.rule,
            quality=None if made.quality is None else made.quality[places],
            dropped=tuple(dropped),
            about={"constraints": list(chosen.described), **made.mixed},
        )
