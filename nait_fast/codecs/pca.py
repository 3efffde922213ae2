"""Principal components of few rows of many numbers."""

import numpy as np


def principal(centred: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
    """(λ float64 [k], vectors float64 [n, k]) of ``centred`` float64 [n, J]: ``(centred.T @ vectors).T`` are unit
    components, the ``most`` strongest that there are, descending; λ / n is a component's variance.

    Through the n × n Gram matrix: J × J would be far larger.
    """
    eigenvalues, vectors = np.linalg.eigh(centred @ centred.T)
    keep = np.flatnonzero(eigenvalues > eigenvalues[-1] * 1e-10)[::-1][: min(most, len(centred) - 1, centred.shape[1])]
    return eigenvalues[keep], vectors[:, keep] / np.sqrt(eigenvalues[keep])
