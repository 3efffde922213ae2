"""How far the rules agree: which rows come first where a target is asked as a whole, and by each of its samples."""

from collections.abc import Callable, Collection, Mapping, Sequence
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

    The index is scanned once more for the signatures not ranked as a whole, and once for those not ranked in turns,
    with scores by each sample: what max needs, too.
    """
    out, kept = [], list[tuple[int, np.ndarray | None, int]]()
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
        kept.append((number, of_label, selected if of_label is None else int(of_label.sum())))
    by_rule = _by_rule(rankings, [number for number, _, _ in kept], max((k for _, _, k in kept), default=1))
    for number, of_label, k in kept:
        signature, label = rankings.signatures[number], rankings.labels[number]
        chosen = np.stack([first(k) for first in by_rule[number]])
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


def _by_rule(rankings: Rankings, numbers: Sequence[int], most: int) -> dict[int, list[First]]:
    """For each of the signatures ``numbers``, by each of ``RULES``, what gives up to ``most`` first rows."""
    scored: dict[str, dict[int, tuple[IndexScores, int]]] = {}
    for rule in ("centroid", "roundrobin"):
        known = [number for number in numbers if rankings.rules[number] == rule]
        scored[rule] = {number: (rankings.scores, rankings.scored.index(number)) for number in known}
        if others := [number for number in numbers if number not in known]:
            some = [rankings.signatures[number] for number in others]
            anew = score(rankings.index, some, rankings.device, [rule] * len(some), most)
            scored[rule] |= {number: (anew, column) for column, number in enumerate(others)}
    out = {}
    for number in numbers:
        (whole, a), (turns, b) = scored["centroid"][number], scored["roundrobin"][number]
        made: dict[str, First] = {
            "centroid": partial(whole.first, a),
            "roundrobin": partial(turns.first, b),
            "max": partial(best, turns.columns[b]),  # by roundrobin, scores are the greatest similarities, too
        }
        out[number] = [made[rule] for rule in RULES]
    return out
