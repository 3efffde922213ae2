"""A selection's folder as one of the rankings that ``compare`` holds side by side."""

from collections.abc import Iterator

import numpy as np

from nait_fast.errors import BadInput, Mismatch
from nait_fast.evaluation.contenders import Contender
from nait_fast.index.reader import Index
from nait_fast.methods.signature import LENGTHS
from nait_fast.notices import warn
from nait_fast.ranking.columns import ScoreTable, Spill
from nait_fast.ranking.select import score_order
from nait_fast.ranking.selection_files import SCORES
from nait_fast.ranking.taking_turns import places_of
from nait_fast.reporting.score_summary import ScoreBatch, ScoreFile
from nait_fast.reporting.selection_folder import SelectionFolder


def selection_contender(chosen: SelectionFolder, index: Index, rows: ScoreTable) -> Contender:
    """A selection among the ``rows`` of ``index``, which may be another one of the same pool than its own. Its order is
    that of its ranks, whatever constraints took of it. Raises NaitError."""
    path, where = chosen.folder, f"--selection {chosen.folder}"
    pools = [[one["sha256"] for one in datasets] for datasets in (chosen.manifest["datasets"], index.datasets)]
    if pools[0] != pools[1]:
        raise Mismatch(f"is a selection from another pool than that of index {index.name}", where=where)
    if chosen.manifest["scores"] == "none":
        what = "does not tell which rows of the pool it holds, as it was written with --scores none"
        raise BadInput(what, where=where, remedy="select or rank again without")
    whole, size = chosen.manifest["scores"] == "all", chosen.manifest["rows_selected"]
    file = ScoreFile(chosen.file(SCORES), chosen.targets, chosen.rows if whole else size, chosen.more_columns)
    selected, ranks = list[np.ndarray](), list[np.ndarray]()
    scores = rows.scratch(np.float64) if whole else None

    def batches() -> Iterator[ScoreBatch]:
        for batch in file.batches():
            selected.append(batch.row[batch.selected])
            ranks.append(batch.rank[batch.selected])
            yield batch

    if scores is not None:
        if missing := _write_ranks(batches(), rows, scores, chosen.rows):
            warn(f"{path}: {missing:,} rows of index {index.name} were not scored there: they come last in its order")
    else:
        for _ in batches():
            pass
    numbers = np.concatenate(selected)[np.argsort(np.concatenate(ranks), kind="stable")]
    places = places_of(rows.row, numbers)
    if gone := int((places < 0).sum()):
        warn(f"{path}: {gone:,} of its {len(places):,} rows are not in index {index.name}: they are left out")
        places = places[places >= 0]
    if not len(places):
        raise Mismatch(f"none of its rows is in index {index.name}", where=where)
    known = [s.tensors[LENGTHS] for s in chosen.signatures if LENGTHS in s.tensors]
    complete = len(known) == len(chosen.targets)
    how = list(dict.fromkeys(chosen.methods))
    if len(chosen.targets) > 1 and chosen.rule != "roundrobin":
        how.append(str(chosen.config.get("combine")))
    how += ["length matched"] * chosen.matched + chosen.passed
    return Contender(
        label=f"{chosen.folder.resolve().name}: {', '.join(chosen.targets)} ({', '.join(how)})",
        targets=tuple(chosen.targets),
        rule=chosen.rule,
        places=places,
        order=None if scores is None else score_order(scores, len(places)),
        scores=scores,
        lengths=np.concatenate(known) if known and complete else None,
        details={"selection": str(path), "signatures": chosen.manifest["signatures"]},
    )


def _write_ranks(batches: Iterator[ScoreBatch], rows: ScoreTable, scores: Spill, last: int) -> int:
    """Minus the rank of each of ``rows`` into ``scores``; of rows that ``batches`` do not hold, below ``last``, the
    greatest of them. Returns how many these are."""
    numbers, ranks, missing = np.empty(0, np.int64), np.empty(0, np.int64), 0
    for start, block in rows.row.blocks():
        while not len(numbers) or numbers[-1] < block[-1]:
            if (batch := next(batches, None)) is None:
                break
            numbers, ranks = np.concatenate([numbers, batch.row]), np.concatenate([ranks, batch.rank])
        found = np.isin(block, numbers, assume_unique=True)
        at = np.searchsorted(numbers, block[found])
        out = np.full(len(block), -1.0 - last)
        out[found] = -ranks[at]
        scores.write(start, out)
        missing += len(block) - int(found.sum())
        behind = int(np.searchsorted(numbers, block[-1], side="right"))
        numbers, ranks = numbers[behind:], ranks[behind:]
    for _ in batches:
        pass
    return missing
