"""Scores with another number mixed in: what rows are then ordered by."""

from collections.abc import Callable

import numpy as np

from nait_fast.ranking.columns import ScoreTable
from nait_fast.ranking.spearman import centred_ranks


def _minmax(values: np.ndarray) -> np.ndarray:
    return (values - values.min()) / (values.max() - values.min())


def _z(values: np.ndarray) -> np.ndarray:
    return (values - values.mean()) / values.std()


def _rank(values: np.ndarray) -> np.ndarray:
    return centred_ranks(values) / (len(values) - 1) + 0.5


# minmax: least 0, greatest 1; z: less the mean, over the population's deviation; rank: worst 0, best 1, ties at their
# mean rank
SCALES: dict[str, Callable[[np.ndarray], np.ndarray]] = {"minmax": _minmax, "z": _z, "rank": _rank}


def scaled(values: np.ndarray, scale: str) -> np.ndarray:
    """``values`` float64 [n], finite, by one of ``SCALES``; where all are alike, 0."""
    if not len(values) or values.min() == values.max():
        return np.zeros(len(values))
    _, exponent = np.frexp(abs(values).max())  # none of the scales sees it: so no difference or square overflows
    return SCALES[scale](np.ldexp(values, -int(exponent)))


def mixed(relevance: np.ndarray, quality: np.ndarray, weight: float, scale: str) -> np.ndarray:
    """(1 − W) · relevance + W · quality, float64 [n], both scaled alike."""
    return (1 - weight) * scaled(relevance, scale) + weight * scaled(quality, scale)


def with_quality(table: ScoreTable, quality: np.ndarray, weight: float, scale: str) -> ScoreTable:
    """``table`` with ``quality`` float64 [n] mixed into each target's scores; it shares the rest, and is closed with
    it. In memory is a column at a time."""

    def change(scores: np.ndarray) -> np.ndarray:
        return mixed(scores, quality, weight, scale)

    return table.rescored(change)
