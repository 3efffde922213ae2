"""Method contrast: how much oftener a neuron fires on the target than on the pool."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from nait_fast import compatibility
from nait_fast.codecs.codebook import Codebook
from nait_fast.codecs.layout import CodeLayout
from nait_fast.codecs.neuron import CODEC, NeuronCoder
from nait_fast.config import RULES
from nait_fast.errors import BadInput
from nait_fast.index.reader import Index
from nait_fast.methods.base import BitMethod
from nait_fast.methods.length_matching import frequencies_at, groups_of
from nait_fast.methods.planes import PLANES, signed_planes, top_m_planes
from nait_fast.methods.signature import LENGTHS, SAMPLES, Signature
from nait_fast.methods.similarity import BitCosines, Similarities
from nait_fast.options import Settings, option
from nait_fast.storage import values

if TYPE_CHECKING:
    import torch

    from nait_fast.extract.sinks import Encode

# One scale for all layers: 4 round the weak ones away (top 10% of SmolLM2's drift: 0.33 instead of 0.72).
PROXY_PLANES = 12
BACKGROUND, GROUP = "background", "group"  # of a signature in memory, matched to an index: [G, N], int [S]


def contrast_signature(
    name: str,
    bits: np.ndarray,
    codebook: Codebook,
    *,
    weights: str = "difference",
    planes: int = 4,
    top_m: int | None = None,
    target: dict[str, Any] | None = None,
) -> Signature:
    """w = p_target − p_pool (or the difference of log-odds), quantised.

    ``bits`` bool [n, N]: the target samples' codes under ``codebook``.
    """
    layout, n = codebook.layout, len(bits)
    frequency = bits.mean(axis=0)
    if weights == "logodds":
        m = codebook.meta["samples"]  # add-half smoothing: no infinite weight from a small sample

        def logit(p: np.ndarray, count: int) -> np.ndarray:
            return np.log((p * count + 0.5) / ((1 - p) * count + 0.5))

        w = logit(frequency, n) - logit(codebook.frequency.astype(np.float64), m)
    else:
        w = frequency - codebook.frequency
    w = w.astype(np.float32)
    packed, plane_weights, scale = top_m_planes(w, top_m, layout) if top_m else signed_planes(w, planes, layout)
    identity = compatibility.shared_entries(codebook.meta, ("reading",))
    meta = {
        "method": "contrast",
        **identity,
        "codebook": codebook.hash,
        "samples": n,
        "scale": scale,
        "weights": weights,
        "target": target or {},
        "quantisation": f"top_m={top_m}" if top_m else f"planes={planes}",
    }
    tensors = {"weights": w, "threshold": codebook.threshold, "planes": packed, "plane_weights": plane_weights}
    return Signature(name, meta, tensors)


def neuron_proxy(signature: Signature, codebook: Codebook) -> Signature:
    """A nait signature as weights of neuron bits of its reading: v · σ in ``PROXY_PLANES`` planes.

    The best guess at A_l · v_l that a bit [A > τ] allows, up to a constant: a neuron above its mean lies about σ above
    it.
    """
    assert codebook.scale is not None
    weights = (signature.tensors["direction"] * codebook.scale).astype(np.float32)
    planes, plane_weights, scale = signed_planes(weights, PROXY_PLANES, codebook.layout)
    identity = compatibility.shared_entries(codebook.meta, ("reading",))
    meta = {
        "method": "contrast",
        **identity,
        "codebook": codebook.hash,
        "samples": signature.meta["samples"],
        "scale": scale,
    }
    tensors = {"weights": weights, "threshold": codebook.threshold, "planes": planes, "plane_weights": plane_weights}
    return Signature(signature.name, meta, tensors)


@dataclass(frozen=True, kw_only=True)
class ContrastSettings(Settings):
    weights: str = option(
        "difference", "weight of a neuron from its bit frequencies", choices=("difference", "logodds")
    )
    planes: int = option(4, "signed bit planes of a weight", minimum=2, maximum=12)
    top_m: int | None = option(None, "instead of planes, weight ±1 on the m strongest neurons a layer", minimum=1)

    def idle(self) -> dict[str, str]:
        return {} if self.top_m is None else {"planes": "top_m takes the place of bit planes"}


class Contrast(BitMethod):
    name = "contrast"
    about = "how much more often a neuron fires for the target than for the pool"
    settings = ContrastSettings
    tensors = MappingProxyType({"weights": ("f4", "N"), "threshold": ("f4", "N"), **PLANES})
    codec = CODEC.name
    of_codebook, codebook_keys, rounds = True, ("reading",), True
    has_background, rules = True, RULES
    sample = ("u1", "SW")
    unit = "sum of weights"

    def reading(self, asked: str | None) -> str:
        return asked or "mean"

    def index_options(self, reading: str, settings: Any) -> dict[str, Any]:
        return {**super().index_options(reading, settings), "reading": reading}

    def codebook_missing(self, codebook: Codebook | None, path: str | None, settings: Any) -> str | None:
        if codebook is None:
            return "--codebook is missing: method contrast needs the index (or codebook) that it will rank"
        if (codec := codebook.meta["codec"]) != self.codec:
            return f"--codebook {path}: is of codec {codec}; method contrast ranks neuron bits"
        return None

    def material(
        self, values: np.ndarray, layout: CodeLayout, threshold: np.ndarray | None, settings: Any
    ) -> np.ndarray:
        """Bits bool [n, N]."""
        assert threshold is not None
        return values > threshold

    def fit(
        self, name: str, material: np.ndarray, meta: Mapping[str, Any], codebook: Codebook | None, settings: Any
    ) -> Signature:
        assert codebook is not None
        return contrast_signature(
            name,
            material,
            codebook,
            weights=settings.weights,
            planes=settings.planes,
            top_m=settings.top_m,
            target=meta["target"],
        )

    def refit(self, signature: Signature, material: np.ndarray, codebook: Codebook | None, name: str) -> Signature:
        assert codebook is not None
        kind, _, number = str(signature.meta.get("quantisation")).partition("=")
        weights = signature.meta.get("weights")
        if kind not in ("planes", "top_m") or not number.isdecimal() or weights not in ("difference", "logodds"):
            raise BadInput(f"signature '{signature.name}' does not say how its weights were made", remedy="rebuild it")
        how: dict[str, Any] = {kind: int(number)}
        return contrast_signature(name, material, codebook, weights=weights, **how)

    def samples_of(self, material: np.ndarray, layout: CodeLayout, codebook: Codebook | None) -> np.ndarray:
        """Codes uint8 [n, W]."""
        return layout.pack(material)

    def similarities(self, index: Index, signature: Signature, device: str, code_bytes: int) -> Similarities:
        """Cosines of bits less the pool's frequencies."""
        samples, frequency = signature.tensors[SAMPLES], index.codebook.frequency
        centres = None
        if BACKGROUND in signature.tensors:
            centres = signature.tensors[BACKGROUND], signature.tensors[GROUP]
        return BitCosines(samples, frequency, signature.layout, device, code_bytes, centres)

    def matched(self, signature: Signature, index: Index) -> Signature:
        """w = p_target − p_pool(ℓ), the pool's frequencies at the lengths of the target's samples, averaged over these;
        single samples are compared less the frequencies at their own lengths, in groups."""
        lengths, bits = signature.tensors[LENGTHS], signature.layout.unpack(signature.tensors[SAMPLES])
        groups = groups_of(lengths)
        centres, codebook = frequencies_at(index, lengths, groups), index.codebook
        at_target = (np.bincount(groups) / len(groups)) @ centres
        there = replace(codebook, frequency=at_target.astype(np.float32))
        made = self.refit(signature, bits, there, signature.name)
        tensors = {**signature.tensors, **made.tensors, BACKGROUND: centres, GROUP: groups}
        return replace(signature, meta={**signature.meta, "scale": made.meta["scale"]}, tensors=tensors)

    def check_meta(self, meta: Mapping[str, Any]) -> None:
        super().check_meta(meta)
        values.digest(meta["codebook"], "codebook", 16)

    def sink(self, signature: Signature, n: int, device: torch.device | None) -> Encode:
        import torch

        from nait_fast.extract.sinks import Encode

        layout, threshold = signature.layout, torch.from_numpy(signature.tensors["threshold"])
        return Encode(n, layout, NeuronCoder(layout, signature.meta["reading"], threshold, device), device=device)


METHOD = Contrast()
