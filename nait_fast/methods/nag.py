"""Method nag (NAG, arXiv 2604.15706): how much of the target's strongest neurons are among a sample's."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from nait_fast.codecs.codebook import Codebook
from nait_fast.codecs.layout import CodeLayout
from nait_fast.codecs.nag import CODEC, NagSettings, TopKCoder, refuse_narrow, top_sets
from nait_fast.config import RULES
from nait_fast.errors import BadInput, Mismatch
from nait_fast.index.reader import Index
from nait_fast.methods.base import BitMethod
from nait_fast.methods.planes import PLANES, count_planes
from nait_fast.methods.signature import SAMPLES, Signature
from nait_fast.methods.similarity import Overlaps, Similarities
from nait_fast.storage import values

if TYPE_CHECKING:
    import torch

    from nait_fast.config import SelectOptions
    from nait_fast.extract.sinks import Encode


def nag_signature(name: str, bits: np.ndarray, meta: dict[str, Any]) -> Signature:
    """NAG (arXiv 2604.15706): per-layer frequency profile of the target's top-K sets, normalised to 1 a layer.

    Similarity = mean over layers of the profile's mass on the sample's set. The profile is a count over n · K, the
    same n · K in every layer, so integer planes of the counts give the float ranking exactly. ``bits`` bool [n, N].
    """
    layout = CodeLayout.of(meta["widths"])
    counts = bits.sum(axis=0, dtype=np.int64)
    mass = [int(counts[layout.neurons(ordinal)].sum()) for ordinal in range(len(layout.widths))]
    planes, plane_weights = count_planes(counts, layout)
    scale = 1.0 / (mass[0] * len(mass))
    weights = (counts * scale).astype(np.float32)
    info = {"method": "nag", **meta, "samples": len(bits), "scale": scale}
    return Signature(name, info, {"weights": weights, "planes": planes, "plane_weights": plane_weights})


class Nag(BitMethod):
    name = "nag"
    about = "overlap with the target's strongest neurons"
    settings = NagSettings
    tensors = MappingProxyType({"weights": ("f4", "N"), **PLANES})
    codec = CODEC.name
    rules = RULES
    sample = ("u1", "SW")
    unit, likeness = "share of the target's sets", "share in common"

    def unused(self, settings: Any) -> dict[str, str]:
        return {"codebook": "method nag needs none"}

    def unused_in_select(self, options: SelectOptions) -> dict[str, str]:
        unused = {"first_token": "method nag takes no mean", "calibration_size": "method nag calibrates nothing"}
        if options.pick != "random":
            unused["seed"] = "method nag calibrates nothing and --pick is not random: nothing is drawn"
        return unused

    def reading(self, asked: str | None) -> str:
        if asked is not None:
            raise BadInput(
                "method nag has a reading of its own (the mean of |up_proj|)",
                where="--reading",
                remedy="leave the flag out",
            )
        return "up_abs"

    def index_options(self, reading: str, settings: Any) -> dict[str, Any]:
        return {
            **super().index_options(reading, settings),
            "reading": None,
            "codec": f"{self.codec}:top_k={settings.top_k}",
        }

    def check_layout(self, layout: CodeLayout, settings: Any) -> None:
        refuse_narrow(layout, settings.top_k, "--method")

    def material(
        self, values: np.ndarray, layout: CodeLayout, threshold: np.ndarray | None, settings: Any
    ) -> np.ndarray:
        """Sets of the strongest neurons, bool [n, N]."""
        import torch

        return top_sets(torch.from_numpy(values), layout, settings.top_k)

    def fit(
        self, name: str, material: np.ndarray, meta: Mapping[str, Any], codebook: Codebook | None, settings: Any
    ) -> Signature:
        return nag_signature(name, material, {**meta, "top_k": settings.top_k})

    def samples_of(self, material: np.ndarray, layout: CodeLayout, codebook: Codebook | None) -> np.ndarray:
        """Codes uint8 [n, W]."""
        return layout.pack(material)

    def similarities(self, index: Index, signature: Signature, device: str, code_bytes: int) -> Similarities:
        """The mean over layers of the share of its set that a sample has in common with a row."""
        in_a_set = signature.meta["top_k"] * len(signature.layout.widths)
        return Overlaps(signature.tensors[SAMPLES], 1 / in_a_set, signature.layout, device, code_bytes)

    def settings_of(self, signature: Signature) -> NagSettings:
        return NagSettings(top_k=signature.meta["top_k"])

    def refit(self, signature: Signature, material: np.ndarray, codebook: Codebook | None, name: str) -> Signature:
        return nag_signature(name, material, signature.meta)

    def check_meta(self, meta: Mapping[str, Any]) -> None:
        super().check_meta(meta)
        values.count(meta["top_k"], "top_k", 1)

    def check_index(self, index: Index, signature: Signature, where: str) -> None:
        super().check_index(index, signature, where)
        if signature.meta["top_k"] != index.manifest["top_k"]:
            raise Mismatch(
                f"signature '{signature.name}' has top-{signature.meta['top_k']} sets, {where} top-"
                f"{index.manifest['top_k']}",
                remedy="rebuild one of them",
                join=": ",
            )

    def sink(self, signature: Signature, n: int, device: torch.device | None) -> Encode:
        from nait_fast.extract.sinks import Encode

        layout = signature.layout
        return Encode(n, layout, TopKCoder(layout, signature.meta["top_k"]), device=device)


METHOD = Nag()
