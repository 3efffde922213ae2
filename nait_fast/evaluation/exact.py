"""Exact NAIT scores of some rows."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Exact:
    """``parts`` float64 [m, L]: A_l · v_l of the rows at ``places`` int64 [m], ascending, of the L layers."""

    places: np.ndarray
    parts: np.ndarray

    @property
    def scores(self) -> np.ndarray:
        """Their sums, float64 [m]."""
        return self.parts.sum(axis=1)
