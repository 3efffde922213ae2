"""The codebook: per-neuron thresholds and the pool's own statistics, taken from a calibration sample of the pool."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nait_fast.errors import NaitError
from nait_fast.index.files import pack_tensors, read_tensors, sha256, write_atomic
from nait_fast.index.format import CODEBOOK, CodeLayout


@dataclass(frozen=True)
class Codebook:
    """All arrays fp32 [N], N = neurons of all captured layers, layer after layer.

    ``threshold`` τ: mean of ``reading`` over the calibration sample (absent for codec nag); ``scale`` σ: its standard
    deviation; ``frequency``: share of the sample whose bit is set (p_pool); ``drift_mean``: mean drift of the sample
    (for nait's ``sign=contrast``). ``meta``: codec, reading, first_token, top_k, model fingerprint, layers, widths,
    template hash, samples.
    """

    frequency: np.ndarray
    meta: dict[str, Any]
    threshold: np.ndarray | None = None
    scale: np.ndarray | None = None
    drift_mean: np.ndarray | None = None

    @property
    def layout(self) -> CodeLayout:
        return CodeLayout.of(self.meta["widths"])

    def to_bytes(self) -> bytes:
        names = ("frequency", "threshold", "scale", "drift_mean")
        arrays = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        return pack_tensors(arrays, {"kind": "codebook", **self.meta})

    @property
    def hash(self) -> str:
        """First 16 hex digits of the SHA-256 of the file."""
        return sha256(self.to_bytes())[:16]

    def save(self, folder: Path) -> None:
        write_atomic(folder / CODEBOOK, self.to_bytes())


_META = ("codec", "reading", "first_token", "model", "template", "layers", "samples")


def load_codebook(path: str | os.PathLike[str]) -> Codebook:
    """Read a codebook file, or that of an index folder. Raises NaitError."""
    file = Path(path) / CODEBOOK if Path(path).is_dir() else Path(path)
    tensors, meta = read_tensors(file, "codebook")
    meta = {k: v for k, v in meta.items() if k != "kind"}
    try:
        n = CodeLayout.of(meta["widths"]).n_neurons
        if any(array.dtype != np.float32 or array.shape != (n,) for array in tensors.values()):
            raise ValueError("arrays do not fit the layers")
        missing = [key for key in _META if key not in meta]
        if missing:
            raise ValueError(f"'{missing[0]}' is missing")
        return Codebook(meta=meta, **{name: np.array(array) for name, array in tensors.items()})
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise NaitError(f"{file}: not a valid codebook ({error})") from None
