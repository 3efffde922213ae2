"""Nait scores out of rotated codes: the estimate that needs no model."""

from collections.abc import Mapping

import numpy as np

from nait_fast.codecs.base import Estimator, Rows
from nait_fast.codecs.codebook import Codebook
from nait_fast.codecs.rotated.best_direction import rotated, weighed
from nait_fast.codecs.rotated.rotation import QUERY_BITS, Rotation, padded_layout
from nait_fast.kernels import ScaledScan

STEP = 0.3352  # of 2**QUERY_BITS even steps, in σ: the least error for normal numbers (Max 1960, table II)
EDGE = 2 ** (QUERY_BITS - 1)
ROUNDINGS = 24  # tries


class RotatedScan(Estimator):
    """Estimates Σ_l A_l · v_l for each v of ``directions`` fp32 [C, N] from the codes that ``codebook`` describes.

    With o the outliers' int8 numbers, z_l = R_l (A_l − μ_l) and u_l = R_l v_l, both without the outliers, and u_l in
    steps of Δ_l, whole numbers q_l = Σ_p w_p · plane_p:

        ŝ = Σ_l f_l Δ_l (2 Σ_p w_p · popcount(b_l & plane_p) − Σ_j q_lj) + o · v + μ · v,

    f_l = ‖z_l‖² / ‖z_l‖₁ (RaBitQ, arXiv 2405.12497, equation 12). The mean over rotations is the exact score, but for
    what int8 and the steps round off. ``rows``, blocks of codes and columns of the pool that is ranked: with them v is
    replaced by what estimates the score with the least error over such rows (``best_direction``; μ · v stays), which is
    no longer unbiased for a single row. ``device``: where the codes are scanned.
    """

    def __init__(
        self, codebook: Codebook, directions: np.ndarray, device: str = "cpu", code_bytes: int = 0, rows: Rows = ()
    ):
        rotation, n = codebook.part, len(directions)
        assert isinstance(rotation, Rotation)
        self._centre = directions.astype(np.float64) @ codebook.threshold.astype(np.float64)
        self.directions, shift = weighed(directions, codebook, rows)
        self._centre += shift
        bitwise = self.directions.copy()
        bitwise[:, rotation.outliers] = 0
        layout, leading = padded_layout(codebook.layout.widths), rotation.leading.astype(np.float32)
        levels = np.empty((n, layout.n_neurons), dtype=np.int64)
        steps = np.empty((n, len(layout.widths)))
        for ordinal in range(len(layout.widths)):
            padded, neurons = layout.neurons(ordinal), codebook.layout.neurons(ordinal)
            u, basis = (rotated(x[:, neurons], rotation, padded) for x in (bitwise, leading))
            for c in range(n):
                levels[c, padded], steps[c, ordinal] = in_steps(u[c], basis)
        factors = steps * rotation.factor_scale  # [C, L]
        ordinals = range(len(layout.widths))
        sums = np.add.reduceat(levels, [layout.neurons(ordinal).start for ordinal in ordinals], axis=1)
        self._bases = -(factors * sums).T
        planes = [layout.pack((levels >> p & 1).astype(bool)) for p in range(QUERY_BITS)]
        worth = [2.0**p for p in range(QUERY_BITS - 1)] + [-float(EDGE)]
        weights = np.concatenate([2 * w * factors for w in worth])
        ends = np.array([0] + [layout.bytes(ordinal).stop for ordinal in ordinals])
        owners = np.tile(np.arange(n), QUERY_BITS)
        self.scan = ScaledScan(np.concatenate(planes), weights, owners, n, ends, device, code_bytes)
        self._outliers = (self.directions[:, rotation.outliers].astype(np.float64) * rotation.outlier_scale).T

    def compile(self) -> bool:
        if pays := not self.scan.on_device and self.scan.compiles(0):
            self.scan(np.zeros((1, self.scan.planes.shape[1]), np.uint8), np.zeros((1, len(self._bases)), np.float16))
        return pays

    def __call__(self, codes: np.ndarray, columns: Mapping[str, np.ndarray]) -> np.ndarray:
        factors = columns["factors"]
        scores = self.scan(codes, factors) + factors.astype(np.float64) @ self._bases + self._centre
        if "outliers" in columns:
            scores += columns["outliers"].astype(np.float64) @ self._outliers
        return scores


def in_steps(u: np.ndarray, basis: np.ndarray) -> tuple[np.ndarray, float]:
    """(levels int64 [J'] of ``u`` float64 [J'] in even steps, the step).

    What rounding adds hurts along ``basis`` float64 [k, J'], orthonormal components in which the pool spreads most. So
    ``u`` is shifted along them by what was lost there, and rounded again; the try that loses least there is kept.
    """
    step = STEP * float(np.sqrt(np.square(u).mean()))
    levels, least, shift = np.zeros(u.shape), np.inf, np.zeros(len(basis))
    if step == 0:
        return levels.astype(np.int64), 1.0
    x = u / step
    for _ in range(ROUNDINGS):
        tried = np.clip(np.rint(x + shift @ basis), -EDGE, EDGE - 1)
        lost = basis @ (x - tried)
        size = float(np.square(lost).sum())
        if size < least:
            levels, least = tried, size
        shift += lost / 2
    return levels.astype(np.int64), step
