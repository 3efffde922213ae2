"""A few bytes a row that tell most pairs of codes apart without reading the codes.

For any signs s_j in {-1, 1}, |Σ_j s_j a_j − Σ_j s_j b_j| is at most the Hamming distance of the codes a and b (each bit
in which they differ moves the sum by 1). So rows whose signed sums lie far apart are far apart, whatever the signs. The
signs of the principal components of the codes spread the sums most: 16 of them tell as much as 64 distances to chosen
rows. A sum is kept as one byte of ``step`` bits each, which a processor compares 32 or 64 at a time.
"""

from typing import NamedTuple

import numpy as np

from nait_fast.kernels import PopcountScan
from nait_fast.rules.constraints.code_rows import CHUNK_BYTES

SIGNS = 16  # signed sums a row; more of them tell hardly more
SAMPLE = 1024  # rows that the components are of
LEAF = 64  # rows that are compared with another leaf's at a time
SPLIT_SAMPLE = 2048  # rows that tell by which sum a branch is halved


def principal_signs(codes: np.ndarray, number: int) -> np.ndarray:
    """Bit planes uint8 [number, W], a bit set where a principal component of ``codes`` uint8 [n, W] is positive."""
    n, width = codes.shape
    gram = np.zeros((n, n), dtype=np.float32)
    step = max(8, CHUNK_BYTES // (4 * n) // 8 * 8) // 8  # bytes of codes whose bits are numbers at a time
    for start in range(0, width, step):
        bits = _centred_bits(codes[:, start : start + step])
        gram += bits @ bits.T
    components = np.linalg.eigh(gram)[1][:, ::-1][:, :number].T.astype(np.float32)
    planes = np.zeros((number, width), dtype=np.uint8)
    for start in range(0, width, step):
        signs = components @ _centred_bits(codes[:, start : start + step]) > 0
        planes[: len(signs), start : start + step] = np.packbits(signs, axis=1, bitorder="little")
    return planes


def _centred_bits(codes: np.ndarray) -> np.ndarray:
    bits = np.unpackbits(codes, axis=1, bitorder="little").astype(np.float32)
    return bits - bits.mean(axis=0)


class SignedSums:
    """Σ_j s_j b_j for every sign vector, in steps: ``step`` int64 [P] bits each, so that they fit a byte."""

    def __init__(self, codes: np.ndarray):
        """``codes`` uint8 [n, W]: a sample."""
        planes = principal_signs(codes, SIGNS)
        ones = np.full((1, codes.shape[1]), 0xFF, dtype=np.uint8)
        masks = np.concatenate([planes, np.repeat(ones, SIGNS, axis=0)])
        weights = np.concatenate([np.full(SIGNS, 2), np.full(SIGNS, -1)])  # 2 popcount(b & s) − popcount(b)
        self._scan = PopcountScan(masks, weights, np.tile(np.arange(SIGNS), 2), SIGNS)
        sums = self._scan(codes)
        low, high = sums.min(axis=0), sums.max(axis=0)
        self.step = np.maximum(1, -(-(high - low + 1) // 256))
        self._low = (low + high) // 2 - 128 * self.step

    def __call__(self, codes: np.ndarray) -> np.ndarray:
        """uint8 [n, P]. Two rows that differ in d bits differ in at most ceil(d / step) here."""
        return np.clip((self._scan(codes) - self._low) // self.step, 0, 255).astype(np.uint8)


class Leaves(NamedTuple):
    """Rows in leaves of ``LEAF``, those of alike sums together: halved again and again by the sum that varies most.

    ``rank`` int32 [L · LEAF]: which row lies at a place, -1 at the last places, which are empty; ``sums`` uint8
    [L, P, LEAF]; ``low`` and ``high`` uint8 [L, P]: their range in each leaf.
    """

    rank: np.ndarray
    sums: np.ndarray
    low: np.ndarray
    high: np.ndarray


def leaves_of(sums: np.ndarray, step: np.ndarray) -> Leaves:
    """``sums`` uint8 [n, P] in leaves; ``step`` int64 [P]: what a unit of each stands for."""
    n = len(sums)
    order = np.arange(n, dtype=np.int32)
    branches = [(0, n)]
    while branches:
        start, stop = branches.pop()
        if stop - start <= LEAF:
            continue
        rows = order[start:stop]
        some = sums[rows[:: -(-len(rows) // SPLIT_SAMPLE)]]
        widest = int(np.argmax(some.std(axis=0) * step))
        half = (len(rows) // LEAF + 1) // 2 * LEAF  # all leaves but the last are full
        half = half if half < len(rows) else half - LEAF
        order[start:stop] = rows[np.argpartition(sums[rows, widest], half)]
        branches += [(start, start + half), (start + half, stop)]
    rank = np.full(-(-n // LEAF) * LEAF, -1, dtype=np.int32)
    rank[:n] = order
    places = np.where(rank < 0, rank[0] if n else 0, rank).reshape(-1, LEAF)
    grouped = np.ascontiguousarray(sums[places].transpose(0, 2, 1))
    return Leaves(rank, grouped, grouped.min(axis=2), grouped.max(axis=2))
