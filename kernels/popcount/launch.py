"""Checks and backend choice of the popcount scan."""

import os

import numpy as np

from nait_fast.kernels.popcount import cpu, reference

# Below this many code bytes x planes NumPy is done before Numba has compiled (about 1.5 s).
SMALL_SCAN_BYTES = 1 << 31


def popcount_scan(
    codes: np.ndarray, planes: np.ndarray, weights: np.ndarray, owners: np.ndarray, n_scores: int
) -> np.ndarray:
    """Integer scores int64 [n, n_scores] of bit codes against weighted bit planes.

    ``codes`` uint8 [n, W], ``planes`` uint8 [Q, W] (W a multiple of 8), ``weights`` int [Q], ``owners`` int [Q] in
    [0, n_scores). The result is exact and the same on every backend. ``NAIT_FAST_BACKEND=reference|cpu`` forces one.
    Raises ValueError on shapes or dtypes that do not fit.
    """
    codes, planes = np.ascontiguousarray(codes), np.ascontiguousarray(planes)
    if any(len(x) and np.asarray(x).dtype.kind not in "iu" for x in (weights, owners)):
        raise ValueError("weights and owners must be integers")
    weights, owners = np.asarray(weights, dtype=np.int64), np.asarray(owners, dtype=np.int64)
    if codes.dtype != np.uint8 or planes.dtype != np.uint8 or codes.ndim != 2 or planes.ndim != 2:
        raise ValueError("codes and planes must be uint8 matrices")
    if codes.shape[1] != planes.shape[1] or codes.shape[1] % 8:
        raise ValueError(f"row bytes differ or are no multiple of 8: {codes.shape[1]} and {planes.shape[1]}")
    if not len(weights) == len(owners) == len(planes):
        raise ValueError("planes, weights and owners differ in length")
    if len(owners) and not (owners.min() >= 0 and owners.max() < n_scores):
        raise ValueError(f"owners must lie in [0, {n_scores})")
    backend = os.environ.get("NAIT_FAST_BACKEND", "")
    small = codes.size * max(1, len(planes)) < SMALL_SCAN_BYTES
    chosen = reference if backend == "reference" or (small and backend != "cpu") else cpu
    return chosen.popcount_scan(codes, planes, weights, owners, n_scores)
