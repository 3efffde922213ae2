"""How capabilities and methods relate: their signatures, their scores and what they select."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from nait_fast.evaluation.comparison import best, correlations, count_of, overlaps
from nait_fast.evaluation.rankings import Rankings
from nait_fast.methods.signature import Signature
from nait_fast.ranking.spearman import centred_ranks


def direction_of(signature: Signature) -> np.ndarray | None:
    """The numbers, fp32 [N] or [H], that a signature says what it looks for with; None where it has no such vector."""
    return next(
        (signature.tensors[key] for key in ("direction", "weights", "centroid") if key in signature.tensors), None
    )


def cosine(a: Signature, b: Signature) -> float | None:
    """Cosine of two signatures' vectors. None where their methods or readings differ, or one vector is 0.

    For nait, whose directions are of unit length in every layer, it is the mean over the layers of their cosines.
    """
    x, y = direction_of(a), direction_of(b)
    if a.method != b.method or a.meta["reading"] != b.meta["reading"] or x is None or y is None or x.shape != y.shape:
        return None
    x, y = x.astype(np.float64), y.astype(np.float64)
    norm = np.linalg.norm(x) * np.linalg.norm(y)
    return float(x @ y / norm) if norm else None


def transfer(rankings: Rankings, chosen: np.ndarray) -> dict[str, Any]:
    """Capability × capability: cosine of the signatures, overlap of what they select, Spearman of their scores.

    ``chosen`` bool [C, n]: what each scored signature selects. To be called once the columns are ranks.
    """
    return {
        "names": rankings.names,
        "cosine": [[cosine(a, b) for b in rankings.ranked] for a in rankings.ranked],
        "overlap": overlaps(chosen).tolist(),
        "spearman": correlations(rankings.scores.columns).tolist(),
    }


def agreement(rankings: Rankings, chosen: np.ndarray, fraction: float) -> dict[str, Any]:
    """How far methods agree, of the capabilities that several have a signature of; ``chosen`` as of ``transfer``.

    ``sampled``: the same over the sample with exact scores, where nait signatures that the index cannot score have
    their place, too.
    """
    measures = _of_methods(rankings.ranked, rankings.names, rankings.scores.columns, chosen)
    only = [number for number in rankings.exact if number in rankings.refused]
    if only:
        places = rankings.exact[only[0]].places
        numbers = sorted([*rankings.scored, *only])
        columns = [rankings.at(number, places) for number in numbers]
        selected = np.stack([best(column, count_of(len(places), fraction)) for column in columns])
        ranks = np.stack([centred_ranks(column) for column in columns])
        signatures, labels = [rankings.signatures[i] for i in numbers], [rankings.labels[i] for i in numbers]
        measures["sampled"] = {"rows": len(places), **_of_methods(signatures, labels, ranks, selected)}
    return measures


def _of_methods(
    signatures: Sequence[Signature], labels: Sequence[str], ranks: np.ndarray, chosen: np.ndarray
) -> dict[str, Any]:
    names = [signature.name for signature in signatures]
    several = [i for i, name in enumerate(names) if names.count(name) > 1]
    if not several:
        return {"names": [], "spearman": [], "top": []}
    return {
        "names": [labels[i] for i in several],
        "spearman": correlations(ranks[several]).tolist(),
        "top": overlaps(chosen[several]).tolist(),
    }
