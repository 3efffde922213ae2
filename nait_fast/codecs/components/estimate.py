"""Nait scores out of principal components: the estimate that takes the fewest bytes."""

from collections.abc import Mapping

import numpy as np

from nait_fast.codecs.base import Estimator
from nait_fast.codecs.codebook import Codebook
from nait_fast.codecs.components.basis import Components

CHUNK_NUMBERS = 1 << 20  # of levels turned into float64 at once


def levels_of(columns: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """The whole numbers int8 [n, K8], [n, K4] behind ``components`` int8 [n, K8] and ``nibbles`` uint8 [n, K4 / 2]."""
    nibbles = columns["nibbles"]
    pairs = np.stack([nibbles & 15, nibbles >> 4], axis=2).reshape(len(nibbles), -1)
    return columns["components"], (pairs ^ 8).astype(np.int8) - np.int8(8)


class ComponentScan(Estimator):
    """Estimates Σ_l A_l · v_l for each v of ``directions`` fp32 [C, N]: ŝ = Σ_k c_k · (p_k · v) + μ · v, p_k the
    components of ``codebook`` and c_k a sample's numbers for them; what lies beside all p_k is lost."""

    def __init__(self, codebook: Codebook, directions: np.ndarray):
        components, layout = codebook.part, codebook.layout
        assert isinstance(components, Components)
        self.directions, directions = directions, directions.astype(np.float64)
        wide, narrow = [], []
        for group, (neurons, basis) in enumerate(components.directions(layout)):
            steps = components.component_scale[components.of(group), None].astype(np.float64)
            worth = basis.astype(np.float64) @ directions[:, neurons].T * steps
            split = int(components.component_counts[group, 0])
            wide.append(worth[:split])
            narrow.append(worth[split:])
        self._wide, self._narrow = np.concatenate(wide), np.concatenate(narrow)
        self._centre = directions @ codebook.threshold.astype(np.float64)

    def __call__(self, codes: np.ndarray, columns: Mapping[str, np.ndarray]) -> np.ndarray:
        """Scores float64 [n, C] of rows with these ``columns``; there are no bits in their ``codes``."""
        n = len(columns["nibbles"])
        out = np.empty((n, len(self._centre)))
        step = max(1, CHUNK_NUMBERS // max(1, len(self._wide) + len(self._narrow)))
        for start in range(0, n, step):
            wide, narrow = levels_of({name: column[start : start + step] for name, column in columns.items()})
            out[start : start + step] = wide.astype(np.float64) @ self._wide + narrow.astype(np.float64) @ self._narrow
        return out + self._centre
