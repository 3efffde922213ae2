"""Codec rotated: the signs of a randomly rotated reading, which know nothing of the pool and estimate nait scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from nait_fast.codecs.base import Codec, Coder, Columns, Estimator, Rows
from nait_fast.codecs.layout import CodeLayout
from nait_fast.codecs.rotated.rotation import NAMES, QUERY_BITS, Rotation, columns_of, padded_layout, rotation_of
from nait_fast.errors import BadInput
from nait_fast.options import Settings, option
from nait_fast.storage import values as checks

if TYPE_CHECKING:
    import torch

    from nait_fast.codecs.codebook import Codebook
    from nait_fast.config import IndexOptions

OUTLIERS = 128  # unless others are asked for: 128 bytes a sample (docs/methods.md)


@dataclass(frozen=True, kw_only=True)
class RotatedSettings(Settings):
    outliers: int | None = option(
        None, f"neurons kept as int8 numbers: the worst ones for bits; default {OUTLIERS}, or the codebook's", minimum=0
    )


class RotatedCodec(Codec):
    name = "rotated"
    about = "signs of a random rotation, which estimate nait scores without the model"
    entries = ("outliers",)
    settings = RotatedSettings
    tensors = NAMES
    estimates = True
    planes = QUERY_BITS

    def described(
        self, settings: Any, options: IndexOptions, layout: CodeLayout, codebook: Codebook | None
    ) -> dict[str, Any]:
        """How many neurons are kept as numbers: the codebook's, as asked, or the default."""
        asked, where = settings.outliers, f"--codec rotated:outliers={settings.outliers}"
        if codebook is not None and isinstance(codebook.part, Rotation):
            number = len(codebook.part.outliers)
            if asked not in (None, number):
                raise BadInput(f"that codebook has {number}", where=where, remedy="leave it out")
            return {"outliers": number}
        if asked is not None and asked > layout.n_neurons:
            raise BadInput(f"the chosen layers have only {layout.n_neurons} neurons", where=where)
        return {"outliers": min(OUTLIERS, layout.n_neurons) if asked is None else asked}

    def check_entries(self, manifest: Mapping[str, Any], layout: CodeLayout) -> None:
        checks.at_most(manifest["outliers"], "outliers", layout.n_neurons)

    def code_layout(self, widths: Sequence[int]) -> CodeLayout:
        return padded_layout(widths)

    def columns(self, manifest: Mapping[str, Any]) -> Columns:
        return columns_of(len(manifest["widths"]), manifest["outliers"])

    def fit(
        self, values: np.ndarray, centre: np.ndarray, layout: CodeLayout, entries: Mapping[str, Any], seed: int
    ) -> Rotation:
        from nait_fast.codecs.rotated.coder import make_rotation

        return make_rotation(values, centre, layout, entries["outliers"], seed)

    def part_of(self, tensors: Mapping[str, np.ndarray], layout: CodeLayout) -> Rotation:
        return rotation_of(tensors, layout)

    def coder(
        self, layout: CodeLayout, codebook: Codebook | None, entries: Mapping[str, Any], device: torch.device | None
    ) -> Coder:
        from nait_fast.codecs.rotated.coder import RotatedCoder

        assert codebook is not None
        return RotatedCoder(codebook, device)

    def estimator(
        self, codebook: Codebook, directions: np.ndarray, device: str = "cpu", code_bytes: int = 0, rows: Rows = ()
    ) -> Estimator:
        from nait_fast.codecs.rotated.estimate import RotatedScan

        return RotatedScan(codebook, directions, device, code_bytes, rows)


CODEC = RotatedCodec()
