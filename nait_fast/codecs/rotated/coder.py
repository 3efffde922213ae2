"""Coding a reading as the signs of its random rotation."""

import numpy as np
import torch

from nait_fast.codecs.base import Coder, LayerParts
from nait_fast.codecs.codebook import Codebook
from nait_fast.codecs.layout import CodeLayout
from nait_fast.codecs.pca import principal
from nait_fast.codecs.rotated.rotation import LEADING, Rotation, columns_of, padded_layout
from nait_fast.kernels import rotate_bits
from nait_fast.kernels.rotate import ROUNDS

HEADROOM = 1.5  # int8 reaches so many times as far as an outlier did in the calibration sample


class RotatedCoder(Coder):
    """The signs of the rotated reading, less its centre; its factor; and the outliers as int8.

    The bits stand for the other neurons: to them, the outliers are zero.
    """

    def __init__(self, codebook: Codebook, device: torch.device | None = None):
        assert isinstance(codebook.part, Rotation)
        self.reading, self._rotation, self._neurons = codebook.meta["reading"], codebook.part, codebook.layout
        self.layout = padded_layout(self._neurons.widths)
        self.columns = columns_of(len(self._neurons.widths), len(self._rotation.outliers))
        self._centre = torch.from_numpy(codebook.threshold).to(device)
        tensors = self._rotation.tensors()
        self._permutations, self._signs, self._factor_scale, self._outliers, self._outlier_scale = (
            torch.from_numpy(tensors[name].astype(dtype)).to(device)
            for name, dtype in (
                ("permutations", "i4"),
                ("signs", "f4"),
                ("factor_scale", "f4"),
                ("outliers", "i8"),
                ("outlier_scale", "f4"),
            )
        )

    def encode(self, ordinal: int, values: torch.Tensor) -> tuple[torch.Tensor, LayerParts]:
        codes, factor, levels = self.rotated(ordinal, values)
        factor = (factor / self._factor_scale[ordinal]).clamp(max=torch.finfo(torch.float16).max)
        parts: LayerParts = {"factors": (slice(ordinal, ordinal + 1), factor.half()[:, None])}
        if levels is not None:
            parts["outliers"] = self._rotation.outliers_of(self._neurons.neurons(ordinal)), levels
        return codes, parts

    def rotated(self, ordinal: int, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """(codes, factor fp32 [B], outliers int8 [B, m] or None) of a layer's reading [B, J]."""
        neurons, padded = self._neurons.neurons(ordinal), self.layout.neurons(ordinal)
        x, levels = values.float() - self._centre[neurons], None
        outliers = self._rotation.outliers_of(neurons)
        if outliers.stop > outliers.start:
            place, scale = self._outliers[outliers] - neurons.start, self._outlier_scale[outliers]
            levels = (x[:, place] / scale).round().clamp(-127, 127).to(torch.int8)
            x[:, place] = 0
        return *rotate_bits(x, self._permutations[:, padded], self._signs[:, padded]), levels


def make_rotation(values: np.ndarray, centre: np.ndarray, layout: CodeLayout, outliers: int, seed: int) -> Rotation:
    """A random rotation for codec rotated, and its scales from the calibration sample's reading ``values`` [n, N].

    ``outliers``: how many neurons are kept as int8 numbers, at most all.
    """
    generator = np.random.default_rng(seed)
    padded = padded_layout(layout.widths)
    orders = [np.stack([generator.permutation(w) for _ in range(ROUNDS)]) for w in padded.widths]
    signs = generator.integers(0, 2, (ROUNDS, padded.n_neurons)) * 2 - 1
    spread = values.var(axis=0, dtype=np.float64)
    chosen = choose_outliers(spread, layout, outliers)
    largest = np.abs(values[:, chosen] - centre[chosen]).max(axis=0, initial=0) if outliers else np.zeros(0)
    scale = np.where(largest > 0, HEADROOM * largest / 127, 1).astype(np.float32)
    leading = _leading(values, centre, layout, chosen)

    def rotation(factor_scale: list[float]) -> Rotation:
        return Rotation(
            np.concatenate(orders, axis=1).astype(np.int32),
            signs.astype(np.int8),
            np.array(factor_scale, np.float32),
            chosen.astype(np.int32),
            scale,
            leading,
        )

    # Factors are kept as multiples of their mean in the sample: fp16 then holds what those of any layer may be.
    whole = Codebook(centre, {"reading": "", "widths": list(layout.widths)}, centre, part=rotation([1.0]))
    coder, means = RotatedCoder(whole), []
    for ordinal in range(len(layout.widths)):
        _, factor, _ = coder.rotated(ordinal, torch.from_numpy(values[:, layout.neurons(ordinal)]))
        means.append(float(factor.double().mean()) or 1.0)
    return rotation(means)


def choose_outliers(variances: np.ndarray, layout: CodeLayout, number: int) -> np.ndarray:
    """The neurons int64 [number], ascending, without which the bits lose least; ``variances`` float64 [N].

    What they lose of a direction v_l goes with T_l ‖v_l‖², T_l the sum of the layer's variances, both over the neurons
    that are left. Of a direction like the pool's own samples a neuron holds its share of T_l. So a neuron of variance
    s is worth (T_l² − (T_l − s)²) / (T_l of all neurons), and the one worth most is taken, one after another.
    """
    queues, left, whole = [], [], []
    for ordinal in range(len(layout.widths)):
        neurons = layout.neurons(ordinal)
        queues.append(neurons.start + np.argsort(-variances[neurons], kind="stable"))
        whole.append(float(variances[neurons].sum()))
    left, taken, worth = list(whole), [0] * len(queues), np.empty(len(queues))

    def weigh(ordinal: int) -> None:
        queue, n = queues[ordinal], taken[ordinal]
        s = float(variances[queue[n]]) if n < len(queue) else 0.0
        worth[ordinal] = -1.0 if n == len(queue) else s * (2 * left[ordinal] - s) / (whole[ordinal] or 1.0)

    for ordinal in range(len(queues)):
        weigh(ordinal)
    for _ in range(number):
        best = int(worth.argmax())
        left[best] -= float(variances[queues[best][taken[best]]])
        taken[best] += 1
        weigh(best)
    return np.sort(np.concatenate([queue[:n] for queue, n in zip(queues, taken, strict=True)]))


def _leading(values: np.ndarray, centre: np.ndarray, layout: CodeLayout, outliers: np.ndarray) -> np.ndarray:
    """``Rotation.leading`` fp16 [LEADING, N] of the sample ``values`` [n, N], ``outliers`` int [m] left out."""
    out = np.zeros((LEADING, layout.n_neurons), dtype=np.float16)
    for ordinal in range(len(layout.widths)):
        neurons = layout.neurons(ordinal)
        x = values[:, neurons].astype(np.float64) - centre[neurons]
        x[:, outliers[(outliers >= neurons.start) & (outliers < neurons.stop)] - neurons.start] = 0
        variances, vectors = principal(x, LEADING)
        out[: len(variances), neurons] = (x.T @ vectors).T
    return out
