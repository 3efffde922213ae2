"""Calibration: thresholds and bit frequencies from a sample of the pool (DESIGN: τ = the mean over 512 samples)."""

from typing import Any

import numpy as np

from nait_fast.errors import NaitError
from nait_fast.extract.sinks import Collect
from nait_fast.index.codebook import Codebook


def sample_rows(good_rows: int, size: int, seed: int) -> np.ndarray:
    """Positions (among the good rows, sorted) of the calibration sample."""
    return np.sort(np.random.default_rng(seed).permutation(good_rows)[:size])


def make_codebook(collected: Collect, reading: str, meta: dict[str, Any]) -> Codebook:
    """Codebook of the finite samples in ``collected`` (needs ``reading``; drift_mean where drift was collected)."""
    finite = np.flatnonzero(collected.finite)
    if len(finite) < 2:
        raise NaitError(
            f"calibration: only {len(finite)} of {len(collected.finite)} samples have finite activations; "
            "try --dtype float32 or another model"
        )
    values = collected.readings[reading].numpy()[finite]
    threshold = values.mean(axis=0, dtype=np.float64).astype(np.float32)
    drift = collected.readings.get("drift")
    return Codebook(
        frequency=(values > threshold).mean(axis=0).astype(np.float32),
        meta={"codec": "neuron", "reading": reading, "samples": len(finite), **meta},
        threshold=threshold,
        scale=values.std(axis=0, dtype=np.float64).astype(np.float32),
        drift_mean=None if drift is None else drift.numpy()[finite].mean(axis=0, dtype=np.float64).astype(np.float32),
    )
