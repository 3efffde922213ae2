"""Method nait (NAIT, arXiv 2603.13201): a capability's direction is the first principal component of its samples'
drifts, layer by layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from nait_fast.codecs import codec_of
from nait_fast.codecs.codebook import Codebook
from nait_fast.codecs.layout import CodeLayout
from nait_fast.codecs.pca import principal
from nait_fast.errors import Mismatch
from nait_fast.index import token_hashes
from nait_fast.index.reader import Index
from nait_fast.methods.base import Method
from nait_fast.methods.signature import Signature
from nait_fast.options import Settings, flag_of, option
from nait_fast.storage import values

if TYPE_CHECKING:
    import torch

    from nait_fast.extract.sinks import Encode

CERTAIN_MARGIN = 2.0  # |t| below which a direction's sign may be chance


def principal_direction(drifts: np.ndarray) -> tuple[np.ndarray, float]:
    """(unit first principal component [J], share of the variance it explains) of ``drifts`` [n, J].

    In fp64; its sign is arbitrary.
    """
    centred = drifts.astype(np.float64)
    centred -= centred.mean(axis=0)
    variances, vectors = principal(centred, 1)
    if not len(variances):  # all samples alike in this layer: no direction, no contribution to the score
        return np.zeros(centred.shape[1]), 0.0
    return centred.T @ vectors[:, 0], float(variances[0] / np.square(centred).sum())


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
    layer: the |t| statistic of the projection whose sign decides.
    """
    layout = CodeLayout.of(meta["widths"])
    direction = np.zeros(layout.n_neurons, dtype=np.float32)
    explained, margin = [], []
    for ordinal in range(len(layout.widths)):
        neurons = layout.neurons(ordinal)
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
    info = {
        "method": "nait",
        **meta,
        "reading": reading,
        "sign": sign,
        "samples": len(drifts),
        "codebook": None,
        "explained": explained,
        "sign_margin": margin,
    }
    return Signature(name, info, {"direction": direction})


def uncertain_layers(margins: Sequence[float]) -> int:
    """Layers whose direction's sign may be chance, by their ``sign_margin``."""
    return sum(margin < CERTAIN_MARGIN for margin in margins)


@dataclass(frozen=True, kw_only=True)
class NaitSettings(Settings):
    sign: str = option(
        "mean",
        "flip a direction by the mean drift (the paper's) or by contrast with the pool",
        choices=("mean", "contrast"),
    )


class Nait(Method):
    name = "nait"
    about = "projections on the target's first principal components (the paper's)"
    unit = "sum of projections"
    settings = NaitSettings
    tensors = MappingProxyType({"direction": ("f4", "N")})
    layers_untold = (
        "the index holds them as numbers only. It takes an index of codec components or rotated, or the file that "
        "nait-fast evaluate wrote (--evaluation)."
    )

    def reading(self, asked: str | None) -> str:
        return asked or "drift"

    def target_reading(self, reading: str) -> str:
        return "drift"  # whatever the directions are projected on

    def exact_readings(self, reading: str) -> frozenset[str]:
        return frozenset([reading])

    def needs_drift(self, settings: Any) -> bool:
        return settings.sign == "contrast"

    def codebook_missing(self, codebook: Codebook | None, path: str | None, settings: Any) -> str | None:
        if settings.sign == "mean":
            idle = codebook is not None and codebook.chosen is None
            return f"--codebook {path}: method nait:sign=mean needs none; leave it out" if idle else None
        if codebook is not None and codebook.drift_mean is not None:
            return None
        return "--method nait:sign=contrast: needs a --codebook that holds the pool's mean drift; build it with select"

    def fit(
        self, name: str, material: np.ndarray, meta: Mapping[str, Any], codebook: Codebook | None, settings: Any
    ) -> Signature:
        pool_drift = codebook.drift_mean if codebook and settings.sign == "contrast" else None
        return nait_signature(
            name, material, dict(meta), reading=meta["reading"], sign=settings.sign, pool_drift=pool_drift
        )

    def refit(self, signature: Signature, material: np.ndarray, codebook: Codebook | None, name: str) -> Signature:
        meta = signature.meta
        drift = codebook.drift_mean if codebook is not None and meta["sign"] == "contrast" else None
        return nait_signature(name, material, meta, reading=meta["reading"], sign=meta["sign"], pool_drift=drift)

    def refit_missing(self, signature: Signature, codebook: Codebook | None) -> str | None:
        if signature.meta.get("sign") == "contrast" and (codebook is None or codebook.drift_mean is None):
            return "its signs go by the pool's mean drift, which the index's codebook does not hold"
        return None

    def says_nothing(self, signature: Signature) -> str | None:
        # What batches make of equal samples is no direction.
        alike = len(token_hashes.from_text(signature.meta["target"][token_hashes.NAME])) == 1
        return "its samples are all alike" if alike else super().says_nothing(signature)

    def check_meta(self, meta: Mapping[str, Any]) -> None:
        for key in ("explained", "sign_margin"):
            if len([values.number(x, key) for x in values.entries(meta[key], key)]) != len(meta["layers"]):
                raise ValueError(f"{key}: not one for each layer")

    def source(self, index: Index, signature: Signature) -> str:
        return "exact" if index.exact.get(signature.name) == signature.hash else "estimated"

    def check_index(self, index: Index, signature: Signature, where: str) -> None:
        if self.source(index, signature) == "exact":
            return
        if not codec_of(index.manifest["codec"]).estimates:
            raise Mismatch(
                f"{where} holds no exact scores of nait signature '{signature.name}'",
                remedy="index the pool with --exact or with --codec components, or rank with method contrast",
                join=": ",
            )
        for key in ("reading", "first_token"):
            mine, theirs = signature.meta[key], index.manifest[key]
            if mine != theirs:
                raise Mismatch(
                    f"signature '{signature.name}' scores with {key} {mine}, the codes of {where} are of {theirs}",
                    remedy=f"rebuild one of them with {flag_of(key)} {theirs if key == 'reading' else mine}",
                    join=": ",
                )

    def sink(self, signature: Signature, n: int, device: torch.device | None) -> Encode:
        import torch

        from nait_fast.extract.sinks import Encode

        directions = {signature.name: (signature.meta["reading"], torch.from_numpy(signature.tensors["direction"]))}
        return Encode(n, signature.layout, None, directions=directions, device=device)

    def scores(self, signature: Signature, sink: Encode) -> np.ndarray:
        return sink.exact[signature.name]


METHOD = Nait()
