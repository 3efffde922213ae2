"""Method rds (RDS+, arXiv 2503.01807): cosines of position-weighted last hidden states, target sample by target sample.

e = Σ_t w_t h_t, h the body's last hidden state (after its final norm), w_t = t / Σ t. S[q, i] = cos(e_q, e_i).
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from nait_fast.codecs.codebook import Codebook
from nait_fast.codecs.layout import CodeLayout
from nait_fast.errors import BadInput, Mismatch
from nait_fast.index.format import rds_vectors
from nait_fast.index.reader import Index
from nait_fast.methods.base import Method
from nait_fast.methods.signature import LENGTHS, SAMPLES, Signature
from nait_fast.methods.similarity import Cosines, Similarities, cosines
from nait_fast.storage import values

if TYPE_CHECKING:
    import torch

    from nait_fast.extract.sinks import Encode

MODEL = "rds_model"  # of an index and a signature: the fingerprint of all layers, whichever are captured


def columns_of(index: Index) -> list[str]:
    """Those that hold e in ``index``."""
    return [name for name in ("rds", "rds_scale") if name in index.columns]


class Rds(Method):
    name = "rds"
    about = "last hidden states weighted by position, target sample by target sample (RDS+)"
    tensors = MappingProxyType({SAMPLES: ("f4", "SH"), LENGTHS: ("i4", "S")})
    rules = ("roundrobin", "max", "centroid")
    sample = ("f4", "SH")
    layers_untold = "they compare last hidden states, which are no sum over layers."

    def unused(self, settings: Any) -> dict[str, str]:
        return {"codebook": f"method {self.name} needs none", "keep_samples": f"method {self.name} always does"}

    def reading(self, asked: str | None) -> str:
        if asked is not None:
            raise BadInput(
                f"method {self.name} has none (it compares hidden states)",
                where="--reading",
                remedy="leave the flag out",
            )
        return "rds"

    def index_options(self, reading: str, settings: Any) -> dict[str, Any]:
        return {**super().index_options(reading, settings), "embed": "rds"}

    def fit(
        self, name: str, material: np.ndarray, meta: Mapping[str, Any], codebook: Codebook | None, settings: Any
    ) -> Signature:
        return Signature(name, {"method": self.name, **meta, "samples": len(material)}, {})

    def samples_of(self, material: np.ndarray, layout: CodeLayout, codebook: Codebook | None) -> np.ndarray:
        """e fp32 [n, H]."""
        return material

    def refit(self, signature: Signature, material: np.ndarray, codebook: Codebook | None, name: str) -> Signature:
        """Without lengths: the material does not tell them."""
        return Signature(name, {**signature.meta, "samples": len(material)}, {SAMPLES: material})

    def check_meta(self, meta: Mapping[str, Any]) -> None:
        values.digest(meta[MODEL], MODEL, 32)

    def source(self, index: Index, signature: Signature) -> str:
        return "samples"

    def check_index(self, index: Index, signature: Signature, where: str) -> None:
        if MODEL not in index.manifest:
            raise Mismatch(
                f"signature '{signature.name}' ({self.name}) compares last hidden states, {where} has none",
                remedy="index the pool with --embed rds",
                join=": ",
            )
        if index.manifest[MODEL] != signature.meta[MODEL]:
            raise Mismatch(f"signature '{signature.name}' was made with another model than {where}")
        if signature.tensors[SAMPLES].shape[1] != index.manifest["rds_width"]:
            raise Mismatch(f"signature '{signature.name}' has states of another width than {where}")

    def similarities(self, index: Index, signature: Signature, device: str, code_bytes: int) -> Similarities:
        """Cosines of e."""
        return Cosines(signature.tensors[SAMPLES], columns_of(index), rds_vectors, device)

    def products(self, signature: Signature) -> int:
        return signature.tensors[SAMPLES].size

    def sink(self, signature: Signature, n: int, device: torch.device | None) -> Encode:
        from nait_fast.extract.sinks import Encode

        width = signature.tensors[SAMPLES].shape[1]
        return Encode(n, signature.layout, None, rds=("float32", width), device=device)

    def scores(self, signature: Signature, sink: Encode) -> np.ndarray:
        """Cosines with the sample that is most like it."""
        return cosines(sink.columns["rds"], signature.tensors[SAMPLES]).max(axis=1)


METHOD = Rds()
