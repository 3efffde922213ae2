"""Method crds (CRDS-W, arXiv 2602.13773): as rds, in the whitened principal components of the pool's e."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from nait_fast.codecs.codebook import Codebook
from nait_fast.errors import BadInput
from nait_fast.index.format import rds_vectors
from nait_fast.index.reader import Index
from nait_fast.methods.rds import Rds, columns_of
from nait_fast.methods.signature import SAMPLES, Signature
from nait_fast.methods.similarity import Cosines, Similarities
from nait_fast.methods.whitening import whitening_of
from nait_fast.options import Settings, option
from nait_fast.storage import values

if TYPE_CHECKING:
    import torch

    from nait_fast.extract.sinks import Encode


@dataclass(frozen=True, kw_only=True)
class CrdsSettings(Settings):
    dims: int = option(512, "whitened principal components of the pool", minimum=2, maximum=16384)


class Crds(Rds):
    name = "crds"
    about = "the same in the whitened principal components of the pool (CRDS-W)"
    settings = CrdsSettings

    def fit(
        self, name: str, material: np.ndarray, meta: Mapping[str, Any], codebook: Codebook | None, settings: Any
    ) -> Signature:
        return super().fit(name, material, {**meta, "dims": settings.dims}, codebook, settings)

    def settings_of(self, signature: Signature) -> CrdsSettings:
        return CrdsSettings(dims=signature.meta["dims"])

    def check_meta(self, meta: Mapping[str, Any]) -> None:
        super().check_meta(meta)
        values.count(meta["dims"], "dims", 2)

    def similarities(self, index: Index, signature: Signature, device: str, code_bytes: int) -> Similarities:
        """Cosines of whitened e."""
        fitted = whitening_of(index, signature.meta["dims"])
        samples, columns = signature.tensors[SAMPLES], columns_of(index)
        return Cosines(samples, columns, rds_vectors, device, fitted)

    def products(self, signature: Signature) -> int:
        queries, width = signature.tensors[SAMPLES].shape
        return (queries + width) * signature.meta["dims"]

    def whitening(self, index: Index, signature: Signature) -> dict[str, Any]:
        return whitening_of(index, signature.meta["dims"]).described(index)

    def sink(self, signature: Signature, n: int, device: torch.device | None) -> Encode:
        raise BadInput(
            f"signature '{signature.name}' (crds) is scored by the principal components of a pool",
            remedy="index the pool and rank it, or use method rds",
        )


METHOD = Crds()
