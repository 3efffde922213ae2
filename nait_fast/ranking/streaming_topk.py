"""Streaming top-k: ties go to the lower row, whatever the order in which blocks arrive."""

import numpy as np

from nait_fast.errors import BadInput


def check_k(k: int) -> None:
    """Raises NaitError for a number of rows that no search can give."""
    if k < 1:
        raise BadInput(f"k must be at least 1, not {k}", where="search")


def order(rows: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Indices into both, by descending score, equal scores by ascending row."""
    return np.lexsort((rows, -scores))


class TopK:
    """Keeps the ``k`` best of all pushed (row, score) pairs in O(k) memory, and the ``lowest`` score of all."""

    def __init__(self, k: int):
        self.k, self.lowest = k, np.inf
        self._rows = np.zeros(0, dtype=np.int64)
        self._scores = np.zeros(0)

    def push(self, rows: np.ndarray, scores: np.ndarray) -> None:
        """``rows`` int64 [n], ``scores`` float64 [n]."""
        self.lowest = min(self.lowest, scores.min(initial=np.inf))
        if len(self._scores) == self.k and self.k:
            hopeful = scores >= self._scores[-1]
            rows, scores = rows[hopeful], scores[hopeful]
        rows, scores = np.concatenate([self._rows, rows]), np.concatenate([self._scores, scores])
        best = order(rows, scores)[: self.k]
        self._rows, self._scores = rows[best], scores[best]

    def result(self) -> tuple[np.ndarray, np.ndarray]:
        """(rows, scores), best first."""
        return self._rows, self._scores
