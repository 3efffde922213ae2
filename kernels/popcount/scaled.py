"""Popcount scan whose layers each row scales by numbers of its own: the scan of rotated codes."""

from typing import Any

import numpy as np

from nait_fast.kernels.common.dispatch import pick
from nait_fast.kernels.popcount import cpu, reference
from nait_fast.kernels.popcount.launch import check, numba_pays

TILE_BYTES = 64 << 20  # of codes that a device scans at once


class ScaledScan:
    """Bit planes with a weight for each layer, prepared once to score any number of code matrices.

    ``planes`` uint8 [Q, W], ``weights`` float64 [Q, L], ``owners`` int [Q] in [0, n_scores), ``ends`` int64 [L + 1]:
    layer l takes bytes ends[l] to ends[l + 1] of a row, multiples of 8:
    score[i, c] = Σ_l scales[i, l] · Σ_{q: owner[q] = c} weights[q, l] · popcount(codes[i, l] & planes[q, l]).
    In fp64 on a CPU; on a GPU (``device``; layers of one width only, else the CPU scans) in fp32, as good as fp32
    sums are. ``code_bytes``: bytes of codes in all, which decide whether compiling pays. Raises ValueError on what does
    not fit.
    """

    def __init__(
        self,
        planes: np.ndarray,
        weights: np.ndarray,
        owners: np.ndarray,
        n_scores: int,
        ends: np.ndarray,
        device: str = "cpu",
        code_bytes: int = 0,
    ):
        check(planes, owners, owners, n_scores)
        ends = np.asarray(ends, dtype=np.int64)
        if weights.shape != (len(planes), len(ends) - 1):
            raise ValueError(f"weights must be [planes, layers]: {weights.shape} for {len(planes)} x {len(ends) - 1}")
        if (ends % 8).any() or ends[0] or ends[-1] > planes.shape[1] or (np.diff(ends) <= 0).any():
            raise ValueError(f"layers must ascend within a row, in multiples of 8 bytes: {ends.tolist()}")
        self.planes = np.ascontiguousarray(planes)
        self.weights, self.owners = np.asarray(weights, dtype=np.float64), np.asarray(owners, dtype=np.int64)
        self.n_scores, self.ends, self.device, self.code_bytes = n_scores, ends, device, code_bytes
        self._device_planes: list[tuple[Any, Any]] | None = None  # each score's planes and weights on the device

    @property
    def on_device(self) -> bool:
        """Whether Triton scans, on ``device``: its kernel takes layers of one width."""
        even = len(set(np.diff(self.ends).tolist())) == 1
        return even and pick(self.device.partition(":")[0], ("triton", "cpu", "reference")) == "triton"

    def compiles(self, code_bytes: int) -> bool:
        """Whether Numba scans so many bytes of codes, where Triton does not."""
        return numba_pays(max(code_bytes, self.code_bytes), len(self.planes))

    def __call__(self, codes: np.ndarray, scales: np.ndarray) -> np.ndarray:
        """Scores float64 [n, n_scores] of ``codes`` uint8 [n, W] and ``scales`` fp16 or fp32 [n, L]."""
        if codes.dtype != np.uint8 or codes.ndim != 2 or codes.shape[1] != self.planes.shape[1]:
            raise ValueError(f"codes must be uint8 [n, {self.planes.shape[1]}]: {codes.dtype} {codes.shape}")
        if scales.shape != (len(codes), len(self.ends) - 1):
            raise ValueError(f"scales must be {(len(codes), len(self.ends) - 1)}: {scales.shape}")
        codes = np.ascontiguousarray(codes)
        if self.on_device:
            return self._on_device(codes, scales)
        chosen = cpu if self.compiles(codes.size) else reference
        return chosen.scaled_scan(codes, self.planes, self.weights, self.owners, self.n_scores, scales, self.ends)

    def _on_device(self, codes: np.ndarray, scales: np.ndarray) -> np.ndarray:
        import torch

        from nait_fast.kernels.popcount.device import scaled_scores

        place, out = torch.device(self.device), np.zeros((len(codes), self.n_scores))
        if self._device_planes is None:
            planes, weights = torch.from_numpy(self.planes), torch.from_numpy(self.weights).float()
            mine = [np.flatnonzero(self.owners == c) for c in range(self.n_scores)]
            self._device_planes = [(planes[rows].to(place), weights[rows].to(place)) for rows in mine]
        step = max(1, TILE_BYTES // codes.shape[1])
        for start in range(0, len(codes), step):
            tile, scale = (torch.from_numpy(x[start : start + step]).to(place) for x in (codes, scales))
            for c, (planes, weights) in enumerate(self._device_planes):
                scores = scaled_scores(tile, planes, weights, scale, int(self.ends[1]))
                out[start : start + step, c] = scores.cpu().numpy()
        return out
