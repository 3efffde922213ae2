"""Checks and backend choice of the popcount scan."""

from typing import Any

import numpy as np

from nait_fast.kernels.common.dispatch import forced, pick
from nait_fast.kernels.popcount import cpu, reference

# Below this many code bytes x planes NumPy is done before Numba has compiled (about 1.5 s).
SMALL_SCAN_BYTES = 1 << 31


def numba_pays(code_bytes: int, n_planes: int) -> bool:
    """Whether Numba scans so many bytes of codes, which lie on the host, rather than NumPy."""
    small = code_bytes * max(1, n_planes) < SMALL_SCAN_BYTES
    return pick("cpu", ("cpu", "reference")) == "cpu" and not (small and not forced())


def check(planes: np.ndarray, weights: np.ndarray, owners: np.ndarray, n_scores: int) -> None:
    if any(len(x) and np.asarray(x).dtype.kind not in "iu" for x in (weights, owners)):
        raise ValueError("weights and owners must be integers")
    if planes.dtype != np.uint8 or planes.ndim != 2 or planes.shape[1] % 8:
        raise ValueError("planes must be a uint8 matrix with rows of a multiple of 8 bytes")
    if not len(weights) == len(owners) == len(planes):
        raise ValueError("planes, weights and owners differ in length")
    if len(owners) and not (np.min(owners) >= 0 and np.max(owners) < n_scores):
        raise ValueError(f"owners must lie in [0, {n_scores})")


class PopcountScan:
    """Weighted bit planes, prepared once to score any number of code matrices.

    ``planes`` uint8 [Q, W] (W a multiple of 8), ``weights`` int [Q], ``owners`` int [Q] in [0, n_scores):
    score[i, c] = Σ_{q: owner[q] = c} weight[q] · popcount(codes[i] & planes[q]), exact and the same on every backend.
    ``device``: where codes, which lie on the host, are scanned: 'cpu', or a GPU through two pinned buffers.
    ``code_bytes``: bytes of codes in all, where each call brings a part: they decide whether compiling pays.
    ``NAIT_FAST_BACKEND`` forces a backend. Raises ValueError on shapes or dtypes that do not fit.
    """

    def __init__(
        self,
        planes: np.ndarray,
        weights: np.ndarray,
        owners: np.ndarray,
        n_scores: int,
        device: str = "cpu",
        code_bytes: int = 0,
    ):
        check(planes, weights, owners, n_scores)
        self.planes = np.ascontiguousarray(planes)
        self.weights, self.owners = np.asarray(weights, dtype=np.int64), np.asarray(owners, dtype=np.int64)
        self.n_scores, self.device, self.code_bytes = n_scores, device, code_bytes
        self._device_scan: Any = None

    @property
    def on_device(self) -> bool:
        """Whether Triton scans, on ``device``."""
        return pick(self.device.partition(":")[0], ("triton", "cpu", "reference")) == "triton"

    def compiles(self, code_bytes: int) -> bool:
        """Whether Numba scans so many bytes of codes, where Triton does not."""
        # A GPU without Triton scans on the CPU: the codes are on the host anyway.
        return numba_pays(max(code_bytes, self.code_bytes), len(self.planes))

    def device_scan(self) -> Any:
        """The ``device.DeviceScan`` behind this, prepared at the first call."""
        import torch

        from nait_fast.kernels.popcount.device import DeviceScan

        if self._device_scan is None:
            place = torch.device(self.device)
            self._device_scan = DeviceScan(self.planes, self.weights, self.owners, self.n_scores, place)
        return self._device_scan

    def __call__(self, codes: np.ndarray) -> np.ndarray:
        """Scores int64 [n, n_scores] of ``codes`` uint8 [n, W]."""
        if codes.dtype != np.uint8 or codes.ndim != 2:
            raise ValueError("codes must be a uint8 matrix")
        if codes.shape[1] != self.planes.shape[1]:
            raise ValueError(f"row bytes differ: codes have {codes.shape[1]}, planes {self.planes.shape[1]}")
        codes = np.ascontiguousarray(codes)
        if self.on_device:
            from nait_fast.kernels.popcount.device import stream

            return stream(codes, self.device_scan())
        chosen = cpu if self.compiles(codes.size) else reference
        return chosen.popcount_scan(codes, self.planes, self.weights, self.owners, self.n_scores)


def popcount_scan(
    codes: np.ndarray, planes: np.ndarray, weights: np.ndarray, owners: np.ndarray, n_scores: int, device: str = "cpu"
) -> np.ndarray:
    """Scores int64 [n, n_scores] of ``codes``, in one call; see ``PopcountScan``."""
    return PopcountScan(planes, weights, owners, n_scores, device)(codes)
