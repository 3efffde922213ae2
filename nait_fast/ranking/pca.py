"""NAIT's direction of a capability: the first principal component of its samples' drifts, layer by layer."""

from typing import Any

import numpy as np

from nait_fast.index.format import CodeLayout
from nait_fast.principal import principal
from nait_fast.ranking.signature import Signature


def principal_direction(drifts: np.ndarray) -> tuple[np.ndarray, float]:
    """(unit first principal component [J], share of the variance it explains) of ``drifts`` [n, J].

    In fp64; its sign is arbitrary.
    """
    centred = drifts.astype(np.float64)
    centred -= centred.mean(axis=0)
    found, vectors = principal(centred, 1)
    if not len(found):  # all samples alike in this layer: no direction, no contribution to the score
        return np.zeros(centred.shape[1]), 0.0
    return centred.T @ vectors[:, 0], float(found[0] / np.square(centred).sum())


def nait_signature(
    name: str,
    drifts: np.ndarray,
    meta: dict[str, Any],
    *,
    reading: str = "drift",
    sign: str = "mean",
    pool_drift: np.ndarray | None = None,
) -> Signature:
    """The directions v_l of NAIT (arXiv 2603.13201): score = Σ_l A_l · v_l with A the ``reading`` of a sample.

    ``drifts`` fp64 [n, N]: drifts of the target's samples, n ≥ 2. ``sign="mean"``: mean(drift) · v_l ≥ 0, the paper's
    rule; ``"contrast"``: (mean(drift) − ``pool_drift``) · v_l ≥ 0. ``meta`` gets ``explained`` and ``sign_margin`` per
    layer: the |t| statistic of the projection whose sign decides; below 2 the sign may be chance.
    """
    layout = CodeLayout.of(meta["widths"])
    direction = np.zeros(layout.n_neurons, dtype=np.float32)
    explained, margin = [], []
    for position in range(len(layout.widths)):
        neurons = layout.neurons(position)
        layer = drifts[:, neurons].astype(np.float64)
        v, share = principal_direction(layer)
        projection = layer @ v
        if sign == "contrast":
            assert pool_drift is not None
            projection = projection - pool_drift[neurons].astype(np.float64) @ v
        if projection.mean() < 0:
            v = -v
        direction[neurons] = v
        error = projection.std(ddof=1) / np.sqrt(len(layer))
        explained.append(round(share, 6))
        margin.append(round(float(abs(projection.mean()) / error), 4) if error > 0 else 0.0)
    info = {"method": "nait", **meta, "reading": reading, "sign": sign, "samples": len(drifts), "codebook": None,
            "explained": explained, "sign_margin": margin}  # fmt: skip
    return Signature(name, info, {"direction": direction})
