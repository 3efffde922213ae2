"""Codec components: a sample's coordinates along a few principal components of adjacent layers, in 8 and 4 bits, which
estimate nait scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from nait_fast.codecs.base import Codec, Coder, Columns, Estimator, Rows
from nait_fast.codecs.components.basis import NAMES, Components, columns_of, components_of
from nait_fast.codecs.layout import CodeLayout
from nait_fast.errors import BadInput
from nait_fast.options import Settings, option
from nait_fast.storage import values as checks

if TYPE_CHECKING:
    import torch

    from nait_fast.codecs.codebook import Codebook
    from nait_fast.config import IndexOptions

BYTES = 1024  # unless others are asked for (docs/methods.md)


@dataclass(frozen=True, kw_only=True)
class ComponentsSettings(Settings):
    bytes: int | None = option(None, f"of a sample's code; default {BYTES}, or the codebook's", minimum=16)


class ComponentsCodec(Codec):
    name = "components"
    about = "principal components, which estimate nait scores without the model"
    entries = ("components",)
    settings = ComponentsSettings
    tensors = NAMES
    estimates = True

    def described(
        self, settings: Any, options: IndexOptions, layout: CodeLayout, codebook: Codebook | None
    ) -> dict[str, Any]:
        """Components in 8 bits and in 4: the codebook's, or by the bytes that are asked."""
        asked = settings.bytes
        if codebook is not None and isinstance(codebook.part, Components):
            wide, narrow = codebook.part.numbers
            if asked not in (None, wide + narrow // 2):
                raise BadInput(
                    f"that codebook has {wide + narrow // 2}",
                    where=f"--codec components:bytes={asked}",
                    remedy="leave it out",
                )
            return {"components": [wide, narrow]}
        wide, narrow = split_bytes(BYTES if asked is None else asked)
        most = sum(min(width, options.calibration_size - 1) for width in layout.widths)
        if wide + narrow > most and asked is not None:
            raise BadInput(
                f"would be {wide + narrow} components, but {most} is all that these layers and --calibration-size give",
                where=f"--codec components:bytes={asked}",
            )
        # Of a byte come 7 / 4 components: a small model's default is all that there is.
        return {"components": [*((wide, narrow) if wide + narrow <= most else split_bytes(max(1, most * 4 // 7)))]}

    def check_entries(self, manifest: Mapping[str, Any], layout: CodeLayout) -> None:
        _, narrow = (checks.at_most(number, "components", layout.n_neurons) for number in manifest["components"])
        if narrow % 2:
            raise ValueError("components: an odd number of 4 bits")

    def code_layout(self, widths: Sequence[int]) -> CodeLayout:
        return CodeLayout(())

    def columns(self, manifest: Mapping[str, Any]) -> Columns:
        return columns_of(*manifest["components"])

    def fit(
        self, values: np.ndarray, centre: np.ndarray, layout: CodeLayout, entries: Mapping[str, Any], seed: int
    ) -> Components:
        from nait_fast.codecs.components.coder import make_components

        return make_components(values, centre, layout, *entries["components"])

    def part_of(self, tensors: Mapping[str, np.ndarray], layout: CodeLayout) -> Components:
        return components_of(tensors, layout)

    def coder(
        self, layout: CodeLayout, codebook: Codebook | None, entries: Mapping[str, Any], device: torch.device | None
    ) -> Coder:
        from nait_fast.codecs.components.coder import ComponentCoder

        assert codebook is not None
        return ComponentCoder(codebook, device)

    def estimator(
        self, codebook: Codebook, directions: np.ndarray, device: str = "cpu", code_bytes: int = 0, rows: Rows = ()
    ) -> Estimator:
        from nait_fast.codecs.components.estimate import ComponentScan

        return ComponentScan(codebook, directions)


def split_bytes(n_bytes: int) -> tuple[int, int]:
    """Components of 8 and of 4 bits in ``n_bytes``: a quarter of the bytes goes to the first (docs/methods.md)."""
    wide = n_bytes // 4
    return wide, 2 * (n_bytes - wide)


CODEC = ComponentsCodec()
