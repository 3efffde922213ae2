"""The rows that several capabilities select together, and those that only one selects, with examples."""

import math
from typing import Any

import numpy as np

from nait_fast.errors import BadInput
from nait_fast.evaluation.comparison import alone
from nait_fast.evaluation.labels import families_of
from nait_fast.evaluation.rankings import Rankings
from nait_fast.ranking.spearman import centred_ranks
from nait_fast.ranking.streaming_topk import order

EXAMPLES = 5


def core_places(chosen: np.ndarray, at_least: int) -> np.ndarray:
    """Places int64, ascending, of the rows that ``at_least`` of the selections ``chosen`` bool [C, n] hold."""
    return np.flatnonzero(chosen.sum(axis=0) >= at_least)


def unique_places(chosen: np.ndarray, which: int) -> np.ndarray:
    """Places int64, ascending, of the rows that only selection ``which`` of ``chosen`` bool [C, n] holds."""
    return alone([np.flatnonzero(selection) for selection in chosen], which)


def core_by_chance(rows: int, selected: int, selections: int, at_least: int) -> float:
    """How many of ``rows`` a core would hold if the selections were independent: n · P(binomial ≥ ``at_least``)."""
    share = selected / rows
    ways = ((math.comb(selections, j), j) for j in range(at_least, selections + 1))
    return rows * sum(number * share**j * (1 - share) ** (selections - j) for number, j in ways)


def check_core(rankings: Rankings, at_least: int | None) -> None:
    """Raises NaitError where no method has as many signatures as a row of the core must be selected by."""
    most = max(len(columns) for columns in families_of(rankings.ranked).values())
    if at_least is not None and at_least > most:
        raise BadInput(
            f"there are at most {most} signatures of one kind to select by", where=f"--core-targets {at_least}"
        )


def sections(
    rankings: Rankings, chosen: np.ndarray, at_least: int | None
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """(the core of each method that has several signatures, the largest family first; label -> its unique rows).

    ``chosen`` bool [C, n]: what each scored signature selects; ``at_least``: selections that hold a row of the core, by
    default all. To be called while the columns are scores. An example is its ``place``, of the unique rows with
    the ``score``.
    """
    scores, names = rankings.scores.columns, rankings.names
    cores: list[dict[str, Any]] = []
    uniques: dict[str, Any] = {}
    for kind, columns in sorted(families_of(rankings.ranked).items(), key=lambda family: -len(family[1])):
        selections, labels = chosen[columns], [names[c] for c in columns]
        needed = at_least or len(columns)
        if len(columns) < max(2, needed):
            why = f"{len(columns)} of its signatures, {max(2, needed)} are needed"
            rankings.miss(f"core and unique rows of {', '.join(kind)}", why)
            continue
        places = core_places(selections, needed)
        together = np.zeros(selections.shape[1])
        for column in columns:
            together += centred_ranks(scores[column])
        cores.append(
            {
                "method": kind[0],
                "reading": kind[1],
                "kind": ", ".join(kind),
                "signatures": labels,
                "at_least": needed,
                "count": len(places),
                "by_chance": core_by_chance(selections.shape[1], int(selections[0].sum()), len(columns), needed),
                "examples": [{"place": place} for place in _first(places, together)],
            }
        )
        for number, (label, column) in enumerate(zip(labels, columns, strict=True)):
            places = unique_places(selections, number)
            best = _first(places, scores[column])
            examples = [{"place": place, "score": float(scores[column][place])} for place in best]
            uniques[label] = {"count": len(places), "examples": examples}
    return cores, uniques


def _first(places: np.ndarray, scores: np.ndarray) -> list[int]:
    """The best of ``places`` by ``scores`` [n]."""
    return places[order(places, scores[places])[:EXAMPLES]].tolist()
