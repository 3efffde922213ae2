"""Method embed: the cosine of a sample's mean hidden state with a target's centroid, both less the pool's mean."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from nait_fast import compatibility
from nait_fast.codecs.codebook import Codebook
from nait_fast.codecs.layout import CodeLayout
from nait_fast.config import RULES
from nait_fast.errors import BadInput, Mismatch
from nait_fast.index.reader import Index
from nait_fast.methods.base import Method
from nait_fast.methods.signature import SAMPLES, Signature
from nait_fast.methods.similarity import Cosines, Similarities, cosines
from nait_fast.storage import values

if TYPE_CHECKING:
    import torch

    from nait_fast.extract.sinks import Encode


def embed_signature(
    name: str, hidden: np.ndarray, codebook: Codebook, target: dict[str, Any] | None = None
) -> Signature:
    """The centroid c: mean of the target's h − μ, μ the codebook's ``hidden_mean``; a sample scores cos(h − μ, c).

    ``hidden`` fp32 [n, H]: mean hidden states of the target's samples under the codebook's model.
    """
    assert codebook.hidden_mean is not None
    centroid = (hidden.mean(axis=0, dtype=np.float64) - codebook.hidden_mean).astype(np.float32)
    identity = compatibility.shared_entries(codebook.meta, ("embed_layer",))
    meta = {
        "method": "embed",
        "reading": "hidden",
        **identity,
        "codebook": codebook.hash,
        "samples": len(hidden),
        "target": target or {},
    }
    return Signature(name, meta, {"centroid": centroid, "hidden_mean": codebook.hidden_mean})


class Embed(Method):
    name = "embed"
    about = "cosine with the target's mean hidden state"
    tensors = MappingProxyType({"centroid": ("f4", "H"), "hidden_mean": ("f4", "H")})
    of_codebook = True
    rules = RULES
    sample = ("f4", "SH")
    layers_untold = "they compare embeddings, which are no sum over layers."

    def reading(self, asked: str | None) -> str:
        if asked is not None:
            raise BadInput(
                "method embed has none (it compares hidden states)", where="--reading", remedy="leave the flag out"
            )
        return "hidden"

    def index_options(self, reading: str, settings: Any) -> dict[str, Any]:
        return {**super().index_options(reading, settings), "embed": "last"}

    def codebook_missing(self, codebook: Codebook | None, path: str | None, settings: Any) -> str | None:
        if codebook is None or codebook.hidden_mean is None:
            return "--codebook: method embed needs the index that it will rank, made with --embed"
        return None

    def fit(
        self, name: str, material: np.ndarray, meta: Mapping[str, Any], codebook: Codebook | None, settings: Any
    ) -> Signature:
        assert codebook is not None
        return embed_signature(name, material, codebook, meta["target"])

    def refit(self, signature: Signature, material: np.ndarray, codebook: Codebook | None, name: str) -> Signature:
        assert codebook is not None
        return embed_signature(name, material, codebook)

    def samples_of(self, material: np.ndarray, layout: CodeLayout, codebook: Codebook | None) -> np.ndarray:
        """h − μ fp32 [n, H]."""
        assert codebook is not None and codebook.hidden_mean is not None
        return material - codebook.hidden_mean

    def similarities(self, index: Index, signature: Signature, device: str, code_bytes: int) -> Similarities:
        """Cosines of h − μ."""
        return Cosines(signature.tensors[SAMPLES], ["embedding"], lambda columns: columns["embedding"], device)

    def products(self, signature: Signature) -> int:
        return signature.tensors[SAMPLES].size if signature.samples else 0

    def check_meta(self, meta: Mapping[str, Any]) -> None:
        values.digest(meta["codebook"], "codebook", 16)
        if values.count(meta["embed_layer"], "embed_layer") not in meta["layers"]:
            raise ValueError(f"embed_layer: {values.short(meta['embed_layer'])}")

    def source(self, index: Index, signature: Signature) -> str:
        return "embedding"

    def check_index(self, index: Index, signature: Signature, where: str) -> None:
        layer = index.manifest.get("embed_layer")
        if layer != signature.meta["embed_layer"]:
            kept = "no embeddings" if layer is None else f"embeddings of layer {layer}"
            raise Mismatch(
                f"signature '{signature.name}' compares embeddings of layer {signature.meta['embed_layer']}, {where} "
                f"has {kept}",
                remedy=f"index the pool with --embed {signature.meta['embed_layer']}",
                join=": ",
            )

    def sink(self, signature: Signature, n: int, device: torch.device | None) -> Encode:
        import torch

        from nait_fast.extract.sinks import Encode

        mean = torch.from_numpy(signature.tensors["hidden_mean"])
        return Encode(n, signature.layout, None, hidden_mean=mean, device=device)

    def scores(self, signature: Signature, sink: Encode) -> np.ndarray:
        return cosines(sink.columns["embedding"], signature.tensors["centroid"][None])[:, 0]


METHOD = Embed()
