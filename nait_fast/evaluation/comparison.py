"""What two rankings share: their best rows, and the order of all rows."""

from collections.abc import Sequence

import numpy as np

from nait_fast.ranking.spearman import spearman
from nait_fast.ranking.streaming_topk import order


def count_of(rows: int, fraction: float) -> int:
    """How many of ``rows`` a selection of this ``fraction`` holds: at least one, as ``rank`` counts."""
    return max(1, round(fraction * rows))


def best(scores: np.ndarray, k: int) -> np.ndarray:
    """Bool [n]: the ``k`` rows of the highest ``scores`` float64 [n], ties to the earlier row."""
    chosen = np.zeros(len(scores), dtype=bool)
    chosen[order(np.arange(len(scores)), scores)[:k]] = True
    return chosen


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    """Share of a selection bool [n] that another one of the same size holds, too; by chance: the share selected."""
    return float((a & b).sum() / a.sum())


def top_overlap(x: np.ndarray, y: np.ndarray, fraction: float) -> float:
    """``overlap`` of the best ``fraction`` by the scores ``x`` and ``y`` float64 [n]."""
    k = count_of(len(x), fraction)
    return overlap(best(x, k), best(y, k))


def compared(x: np.ndarray, y: np.ndarray) -> dict[str, float]:
    """``spearman`` of two columns of scores float64 [n], and the overlap of their best 10% and 1%."""
    return {"spearman": spearman(x, y), "top10": top_overlap(x, y, 0.1), "top1": top_overlap(x, y, 0.01)}


def correlations(ranks: np.ndarray) -> np.ndarray:
    """Spearman's correlation of every pair of columns, float64 [C, C], from their centred ranks [C, n].

    NaN where a column is constant.
    """
    products = ranks @ ranks.T
    norms = np.sqrt(products.diagonal())
    with np.errstate(invalid="ignore", divide="ignore"):
        return products / np.outer(norms, norms)


def overlaps(chosen: np.ndarray) -> np.ndarray:
    """``overlap`` of every pair of selections of one size, float64 [C, C], from bool [C, n]."""
    return np.array([[overlap(a, b) for b in chosen] for a in chosen])


def shared_places(selections: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """(rows that every two ``selections`` hold both, int64 [C, C]; Jaccard's index, these of all that either holds,
    float64 [C, C]). Each selection: places int64, in any order, none twice; not empty."""
    ascending = [np.sort(places) for places in selections]
    shared = np.array([[len(np.intersect1d(a, b, assume_unique=True)) for b in ascending] for a in ascending])
    sizes = shared.diagonal()
    return shared, shared / (sizes[:, None] + sizes[None, :] - shared)


def alone(selections: Sequence[np.ndarray], which: int) -> np.ndarray:
    """Places int64, in their order, of the rows that only selection ``which`` of ``selections``, places int64 each,
    holds."""
    others = [places for number, places in enumerate(selections) if number != which]
    mine = selections[which]
    return mine[np.isin(mine, np.concatenate(others), invert=True)] if others else mine
