"""Reference of the popcount scan: NumPy, chunked, exact integers.

score[i, c] = Σ_{q: owner[q] = c} weight[q] · popcount(codes[i] & planes[q])
"""

from itertools import pairwise

import numpy as np

CHUNK_BYTES = 1 << 22


def popcount_scan(
    codes: np.ndarray, planes: np.ndarray, weights: np.ndarray, owners: np.ndarray, n_scores: int
) -> np.ndarray:
    """Integer scores int64 [n, n_scores].

    ``codes`` uint8 [n, W] and ``planes`` uint8 [Q, W] with W a multiple of 8; ``weights`` int64 [Q] (signed);
    ``owners`` int64 [Q]: the score that plane q adds to.
    """
    out = np.zeros((len(codes), n_scores), dtype=np.int64)
    words, plane_words = codes.view(np.uint64), planes.view(np.uint64)
    step = max(1, CHUNK_BYTES // max(1, codes.shape[1]))
    for start in range(0, len(codes), step):
        block = words[start : start + step]
        for plane, weight, owner in zip(plane_words, weights, owners, strict=True):
            counts = np.bitwise_count(block & plane).sum(axis=1, dtype=np.int64)
            out[start : start + step, owner] += weight * counts
    return out


def scaled_scan(
    codes: np.ndarray,
    planes: np.ndarray,
    weights: np.ndarray,
    owners: np.ndarray,
    n_scores: int,
    scales: np.ndarray,
    ends: np.ndarray,
) -> np.ndarray:
    """Scores float64 [n, n_scores]: Σ_l scales[i, l] · Σ_{q: owner[q] = c} weights[q, l] · popcount(code & plane).

    ``codes`` uint8 [n, W], ``planes`` uint8 [Q, W], layer l being bytes ``ends[l]`` to ``ends[l + 1]`` of a row;
    ``weights`` float [Q, L], ``owners`` int [Q], ``scales`` float [n, L].
    """
    out = np.zeros((len(codes), n_scores))
    for layer, (start, stop) in enumerate(pairwise(ends.tolist())):
        scale, part = scales[:, layer].astype(np.float64), codes[:, start:stop]
        for plane, weight, owner in zip(planes[:, start:stop], weights[:, layer], owners, strict=True):
            counts = np.bitwise_count(part & plane).sum(axis=1, dtype=np.int64)
            out[:, owner] += scale * (float(weight) * counts)
    return out
