"""Nait scores out of rotated codes: the estimate that needs no model."""

from collections.abc import Sequence

import numpy as np
import torch

from nait_fast.index.codebook import Codebook
from nait_fast.index.format import code_layout
from nait_fast.index.rotation import QUERY_BITS, Rotation
from nait_fast.kernels import ScaledScan
from nait_fast.kernels.rotate.reference import rotate
from nait_fast.ranking.signature import Signature

STEP = 0.3352  # of 2**QUERY_BITS even steps, in σ: the least error for normal numbers (Max 1960, table II)
EDGE = 2 ** (QUERY_BITS - 1)


class RotatedScan:
    """Estimates Σ_l A_l · v_l of ``signatures`` (method nait) from the codes that ``codebook`` describes.

    With o the outliers' int8 numbers, z_l = R_l (A_l − μ_l) and u_l = R_l v_l, both without the outliers, and u_l in
    steps of Δ_l, whole numbers q_l = Σ_p w_p · plane_p:

        ŝ = Σ_l f_l Δ_l (2 Σ_p w_p · popcount(b_l & plane_p) − Σ_j q_lj) + o · v + μ · v,

    f_l = ‖z_l‖² / ‖z_l‖₁ (RaBitQ, arXiv 2405.12497, equation 12). The mean over rotations is the exact
    score, but for what int8 and the steps round off.
    ``device``: where the codes are scanned.
    """

    def __init__(self, codebook: Codebook, signatures: Sequence[Signature], device: str = "cpu", code_bytes: int = 0):
        rotation = codebook.rotation
        assert rotation is not None and codebook.threshold is not None
        directions = np.stack([s.tensors["direction"] for s in signatures])
        bitwise = directions.copy()
        bitwise[:, rotation.outliers] = 0
        layout = code_layout("rotated", codebook.layout.widths)
        levels = np.empty((len(signatures), layout.n_neurons), dtype=np.int64)
        steps = np.empty((len(signatures), len(layout.widths)))
        for position in range(len(layout.widths)):
            padded = layout.neurons(position)
            u = _rotated(bitwise[:, codebook.layout.neurons(position)], rotation, padded)
            step = STEP * np.sqrt(np.square(u).mean(axis=1))
            steps[:, position] = np.where(step > 0, step, 1.0)
            levels[:, padded] = np.clip(np.rint(u / steps[:, position, None]), -EDGE, EDGE - 1)
        factors = steps * rotation.factor_scale  # [C, L]
        sums = np.add.reduceat(levels, [layout.neurons(p).start for p in range(len(layout.widths))], axis=1)
        self._bases = -(factors * sums).T
        planes = [layout.pack((levels >> p & 1).astype(bool)) for p in range(QUERY_BITS)]
        worth = [2.0**p for p in range(QUERY_BITS - 1)] + [-float(EDGE)]
        weights = np.concatenate([2 * w * factors for w in worth])
        ends = np.array([0] + [layout.bytes(p).stop for p in range(len(layout.widths))])
        owners = np.tile(np.arange(len(signatures)), QUERY_BITS)
        self.scan = ScaledScan(np.concatenate(planes), weights, owners, len(signatures), ends, device, code_bytes)
        self._outliers = (directions[:, rotation.outliers].astype(np.float64) * rotation.outlier_scale).T
        self._centre = directions.astype(np.float64) @ codebook.threshold.astype(np.float64)

    def compile(self) -> bool:
        """Compile the scan where that pays, before several threads want it; whether it was."""
        if pays := not self.scan.on_device and self.scan.compiles(0):
            self.scan(np.zeros((1, self.scan.planes.shape[1]), np.uint8), np.zeros((1, len(self._bases)), np.float16))
        return pays

    def __call__(self, codes: np.ndarray, columns: dict[str, np.ndarray]) -> np.ndarray:
        """Scores float64 [n, C] of ``codes`` uint8 [n, W] and the ``columns`` that come with them."""
        factors = columns["factors"]
        scores = self.scan(codes, factors) + factors.astype(np.float64) @ self._bases + self._centre
        if "outliers" in columns:
            scores += columns["outliers"].astype(np.float64) @ self._outliers
        return scores


def _rotated(directions: np.ndarray, rotation: Rotation, padded: slice) -> np.ndarray:
    """One layer of ``directions`` [C, J], rotated: float64 [C, J']."""
    order, signs = (torch.from_numpy(x[:, padded]) for x in (rotation.permutations, rotation.signs))
    return rotate(torch.from_numpy(directions).double(), order, signs).numpy()
