"""Random input of the popcount scan."""

import numpy as np


def problem(n, width, n_planes, seed=0, n_scores=3, largest=1000):
    rng = np.random.default_rng(seed)
    return (
        rng.integers(0, 256, (n, width), dtype=np.uint8),
        rng.integers(0, 256, (n_planes, width), dtype=np.uint8),
        rng.integers(-largest, largest + 1, n_planes),
        rng.integers(0, n_scores, n_planes),
        n_scores,
    )
