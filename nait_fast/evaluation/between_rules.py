"""How far the rules agree: which rows come first where a target is asked as a whole, and by each of its samples."""

from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import Any

import numpy as np

from nait_fast.config import RULES
from nait_fast.evaluation.comparison import best, overlaps
from nait_fast.evaluation.rankings import IndexScores, Rankings, score
from nait_fast.evaluation.retrieval import relevant_rows
from nait_fast.methods import method_of
from nait_fast.methods.signature import LENGTHS

First = Callable[[int], np.ndarray]  # bool [n]: the first k rows


def section(
    rankings: Rankings,
    labels: tuple[np.ndarray, Mapping[str, int]] | None,
    relevant: Mapping[str, Collection[str]],
    selected: int,
) -> list[dict[str, Any]]:
    """Of each scored signature that keeps its target's samples: the ``overlap`` of the first k rows by every two rules,
    and the mean ``tokens`` of these rows, by rule. k: as many as are relevant, where ``labels`` tell (as of
    ``retrieval.section``, with ``relevant``) and some are, with the ``r_precision`` by each rule; else ``selected``.

    One scan more for each rule that the signature was not ranked by, but that max and roundrobin share one.
    """
    out = []
    for number in rankings.scored:
        signature, label = rankings.signatures[number], rankings.labels[number]
        if not signature.samples or set(method_of(signature.method).rules) != set(RULES):
            continue
        if why := method_of(signature.method).refit_missing(signature, rankings.codebook):
            rankings.miss(f"agreement of rules of {label}", why)
            continue
        of_label = None if labels is None else relevant_rows(rankings, number, labels, relevant)[1]
        if of_label is not None and not of_label.any():
            of_label = None  # told by the retrieval
        k = selected if of_label is None else int(of_label.sum())
        chosen = np.stack([first(k) for first in _by_rule(rankings, number, k)])
        n_tokens, lengths = rankings.scores.n_tokens, signature.tensors[LENGTHS]
        out.append(
            {
                "signature": label,
                "rows": k,
                "relevant": of_label is not None,
                "rules": list(RULES),
                "overlap": overlaps(chosen).tolist(),
                "tokens": [float(n_tokens[rows].mean()) for rows in chosen],
                "target_tokens": float(lengths.mean()),
                "r_precision": None if of_label is None else [float(of_label[rows].mean()) for rows in chosen],
            }
        )
    return out


def _by_rule(rankings: Rankings, number: int, k: int) -> list[First]:
    """For each of ``RULES``, what gives the first rows by signature ``number``."""
    known = rankings.scores, rankings.scored.index(number)

    def by(rule: str) -> tuple[IndexScores, int]:
        if rankings.rules[number] == rule:
            return known
        return score(rankings.index, [rankings.signatures[number]], rankings.device, [rule], k), 0

    (whole, a), (turns, b) = by("centroid"), by("roundrobin")
    made: dict[str, First] = {
        "centroid": partial(whole.first, a),
        "roundrobin": partial(turns.first, b),
        "max": partial(best, turns.columns[b]),  # by roundrobin, scores are the greatest similarities, too
    }
    return [made[rule] for rule in RULES]
