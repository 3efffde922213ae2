"""How well a ranking finds the rows of a kind: the measures of information retrieval, over a label of the pool."""

from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from nait_fast.errors import BadInput
from nait_fast.evaluation.comparison import best
from nait_fast.evaluation.rankings import Rankings
from nait_fast.notices import warn
from nait_fast.ranking.spearman import centred_ranks

DEPTHS = (10, 100, 1000)  # the k of precision at k


def precision_at(scores: np.ndarray, relevant: np.ndarray, k: int) -> float:
    """Share of ``relevant`` bool [n] among the ``k`` best of ``scores`` float64 [n], ties to the earlier row."""
    return float(relevant[best(scores, k)].mean())


def r_precision(scores: np.ndarray, relevant: np.ndarray) -> float:
    """Precision at R, the number of relevant rows (Manning et al., Introduction to Information Retrieval, 8.4)."""
    return precision_at(scores, relevant, int(relevant.sum()))


def auc(scores: np.ndarray, relevant: np.ndarray) -> float:
    """Area under the ROC curve: the probability that a relevant row scores above one that is not, a tie counting half.

    By ranks, as Mann and Whitney's U: (mean rank of the R relevant rows − (R + 1) / 2) / (n − R). NaN where all rows or
    none are relevant.
    """
    n, r = len(scores), int(relevant.sum())
    if not 0 < r < n:
        return float("nan")
    mean = centred_ranks(scores)[relevant].mean() + (n + 1) / 2
    return float((mean - (r + 1) / 2) / (n - r))


def retrieval(
    scores: np.ndarray, relevant: np.ndarray, first: Callable[[int], np.ndarray] | None = None
) -> dict[str, Any]:
    """All measures of one ranking; ``chance``: what a random one has of them (AUC: 0.5). At least one row is relevant.

    ``p_at`` leaves out depths that the rows do not reach. ``first``: bool [n], which rows are the first k, where that
    is another order than that of the scores; the AUC is of the scores in any case.
    """
    n, r = len(scores), int(relevant.sum())
    first = first or partial(best, scores)
    return {
        "relevant": r,
        "rows": n,
        "r_precision": float(relevant[first(r)].mean()),
        "p_at": {str(k): float(relevant[first(k)].mean()) for k in DEPTHS if k <= n},
        "auc": auc(scores, relevant),
        "chance": float(relevant.mean()),
    }


def read_relevant(texts: Sequence[str], names: Collection[str], label: str | None) -> dict[str, set[str]]:
    """Name of a signature -> values of the ``label`` that it shall find, of --relevant. Raises BadInput."""
    if texts and label is None:
        raise BadInput("needs --label COLUMN, the key that holds these values", where="--relevant")
    wanted: dict[str, set[str]] = defaultdict(set)
    for text in texts:
        name, given, value = text.partition("=")
        if not given or name not in names:
            raise BadInput(
                f"write NAME=VALUE, the name of a signature ({', '.join(sorted(names))})", where=f"--relevant {text}"
            )
        wanted[name].add(value)
    return dict(wanted)


def nothing_relevant(name: str, wanted: Collection[str], values: Collection[str]) -> str:
    """Why the retrieval of ``name`` is not measured, as no row has one of the labels ``wanted``, but others."""
    some_values = ", ".join(sorted(values)[:8]) + (", …" if len(values) > 8 else "")
    return (
        f"no row of the index has the label {' or '.join(map(repr, wanted))}; name one that there is "
        f"({some_values}): --relevant {name}=VALUE"
    )


def relevant_rows(
    rankings: Rankings,
    number: int,
    labels: tuple[np.ndarray, Mapping[str, int]],
    relevant: Mapping[str, Collection[str]],
) -> tuple[list[str], np.ndarray]:
    """(values of the label that signature ``number`` shall find, bool [n]: the rows that have one), the rest as of
    ``section``."""
    name, (numbers, values) = rankings.signatures[number].name, labels
    wanted = sorted(relevant.get(name, {name}))
    return wanted, np.isin(numbers, [values[value] for value in wanted if value in values])


def section(
    rankings: Rankings, numbers: np.ndarray, values: Mapping[str, int], relevant: Mapping[str, Collection[str]]
) -> list[dict[str, Any]]:
    """Of each signature: how well it finds the rows whose label is one of the values that ``relevant`` has of its name.

    ``numbers`` int32 [n], ``values``: the rows' labels, as of ``label_values``; names that ``relevant`` lacks stand for
    themselves.
    """
    out = []
    for number, label in enumerate(rankings.labels):
        name, scored = rankings.signatures[number].name, rankings.scores_of(number)
        if scored is None:
            continue  # listed by the rankings
        places, column = scored
        wanted, every = relevant_rows(rankings, number, (numbers, values), relevant)
        of_label = every[places]
        if not of_label.any():
            why = nothing_relevant(name, wanted, values)
            rankings.miss(f"retrieval of {label}", why)
            warn(f"retrieval of {label} is not measured: {why}")
            continue
        first = partial(rankings.first, number) if number in rankings.scored else None
        out.append({"signature": label, **retrieval(column, of_label, first), "label": wanted})
        if of_label.all():
            rankings.miss(f"AUC of {label}", "all rows are relevant")
    if deeper := [str(k) for k in DEPTHS if k > len(numbers)]:
        rankings.miss(f"precision at {', '.join(deeper)}", f"the index has {len(numbers)} rows")
    return out
