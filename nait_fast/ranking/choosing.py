"""From an index and signatures to the chosen rows: scores by a rule, quality, a budget, constraints."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nait_fast.config import BudgetOptions, ConstraintOptions
from nait_fast.index.pool_rows import PoolRows
from nait_fast.index.reader import Index
from nait_fast.index.skipped import check_kept
from nait_fast.methods import method_of
from nait_fast.methods.signature import LENGTHS, Signature
from nait_fast.notices import hushed
from nait_fast.ranking.columns import ScoreTable
from nait_fast.ranking.mixing import with_quality
from nait_fast.ranking.quality import check_quality, described, quality_of, read_quality
from nait_fast.ranking.requirements import check_asked, check_mixing
from nait_fast.ranking.sanity import check_spread, rows_of_targets
from nait_fast.ranking.scan import Scan, scan
from nait_fast.ranking.select import Selection, check_constrained, select
from nait_fast.ranking.taking_turns import round_robin_of, select_in_turns
from nait_fast.rules.constraints import constraints_of, wanted_of
from nait_fast.rules.constraints.base import Constraint, ScoredRows


class Laps:
    """Seconds of each stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, stage: str) -> None:
        """The time since the lap before was ``stage``'s."""
        now = time.perf_counter()
        self.seconds[stage], self._last = round(now - self._last, 4), now


@dataclass(frozen=True)
class ScoredSelection:
    """A ``selection`` of the rows of an ``index`` and what it is by: ``table`` of all scores under ``scoring``, the
    signatures as they score (against rows of a target's lengths, where ``matched``), by ``rule``.

    ``quality`` float64 [n]: what was mixed in, ``mixed``: what is to be said of that; ``in_targets``: as of
    ``rows_of_targets``.
    """

    index: Index
    scoring: Sequence[Signature]
    rule: str
    matched: bool
    table: ScoreTable
    selection: Selection
    constrained: bool
    quality: np.ndarray | None
    mixed: dict[str, Any]
    in_targets: dict[str, int | None]


def check_constraints(options: BudgetOptions, constraining: ConstraintOptions, targets: int) -> None:
    """Raises NaitError where constraints cannot be read, or do not go with how ``targets`` targets are combined."""
    wanted = wanted_of(constraining)
    if wanted:
        check_constrained(options, targets)
    for constraint in wanted:
        constraint.check(constraining)
    check_quality(constraining)
    check_mixing(constraining, options, options.rule)


@contextmanager
def scored_selection(
    index: Index,
    signatures: Sequence[Signature],
    options: BudgetOptions,
    constraining: ConstraintOptions,
    *,
    seed: int,
    folder: Path,
    pool: Callable[[], PoolRows],
    device: str,
    targets: Sequence[str] = (),
    more: Sequence[Constraint] = (),
    clock: Laps | None = None,
    scanning: Scan = scan,
) -> Iterator[ScoredSelection]:
    """Score every row and choose. ``folder``: where scores lie meanwhile; ``pool``: asked for where a constraint, or
    quality, reads it; ``targets``: files of the targets' samples, where they are at hand; ``more``: constraints that no
    option asks for, behind those of ``constraining``; ``scanning``: who reads the index. Raises NaitError."""
    clock, rule, scored = clock or Laps(), check_asked(signatures, options, constraining), list(signatures)
    matched = constraining.length == "matched"
    if matched:
        scored = [method_of(signature.method).matched(signature, index) for signature in signatures]
    turns = round_robin_of(index, scored, options, device, scanning) if rule == "roundrobin" else None
    blocks = scanning(index, scored, device, rule, turns)
    clock.lap("prepare")
    with ScoreTable(folder, sum(entry.rows for entry in index.entries), [s.name for s in signatures]) as table:
        for block in blocks:
            table.add(block)
            if turns is not None:
                turns.add(block.seen)
        check_spread(index, signatures, table.low, table.high)
        with hushed() if constraining.decontaminate else nullcontext():  # then what it leaves is to be warned of
            in_targets = rows_of_targets(index, signatures)
        clock.lap("scan")
        lengths = [s.tensors[LENGTHS] for s in signatures if LENGTHS in s.tensors]
        of_targets = np.concatenate(lengths) if lengths and len(lengths) == len(signatures) else None
        rows = ScoredRows(index, pool, table.rows, table.row.take, table.n_tokens.take, targets, of_targets)
        constraints = [*constraints_of(constraining, rows), *more]
        quality, ordered, mixed = None, table, dict[str, Any]()
        if constraining.quality is not None:
            quality = quality_of(constraining, rows)
            good = -quality if read_quality(constraining.quality).ascending else quality
            ordered = with_quality(table, good, constraining.quality_weight, constraining.quality_scale)
            mixed = {"quality": described(constraining, quality)}
            clock.lap("quality")
        if turns is None:
            selection = select(ordered, options, seed, constraints)
        else:
            selection = select_in_turns(table, turns, options, constraints)
        if constraining.decontaminate:
            rows_of_targets(index, signatures, selection.places)
        check_kept(index, selection.rows)
        clock.lap("select")
        yield ScoredSelection(
            index, scored, rule, matched, table, selection, bool(constraints), quality, mixed, in_targets
        )
