"""Reference of the popcount scan: NumPy, chunked, exact integers.

score[i, c] = Σ_{q: owner[q] = c} weight[q] · popcount(codes[i] & planes[q])
"""

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
    codes: np.ndarray, planes: np.ndarray, weights: np.ndarray, scales: np.ndarray, layer_bytes: int
) -> np.ndarray:
    """Scores float64 [n] = Σ_l scales[i, l] · Σ_q weights[q, l] · popcount(codes[i, l] & planes[q, l]).

    ``codes`` uint8 [n, W], ``planes`` uint8 [Q, W], of which the first L · ``layer_bytes`` count; ``weights`` float
    [Q, L], ``scales`` float [n, L].
    """
    n, n_layers = scales.shape
    used = n_layers * layer_bytes
    layers = codes[:, :used].reshape(n, n_layers, layer_bytes)
    out = np.zeros(n)
    for plane, weight in zip(planes, weights.astype(np.float64), strict=True):
        counts = np.bitwise_count(layers & plane[:used].reshape(n_layers, layer_bytes)).sum(axis=2, dtype=np.int64)
        out += (scales * weight * counts).sum(axis=1)
    return out
