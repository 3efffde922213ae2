"""Codec nag: the set of a layer's strongest neurons."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from nait_fast import kernels
from nait_fast.codecs.base import Codec, Coder, LayerParts
from nait_fast.codecs.layout import CodeLayout
from nait_fast.errors import BadInput
from nait_fast.options import Settings, option
from nait_fast.storage import values as checks

if TYPE_CHECKING:
    import torch

    from nait_fast.codecs.codebook import Codebook
    from nait_fast.config import IndexOptions

TOP_K = 20


@dataclass(frozen=True, kw_only=True)
class NagSettings(Settings):
    top_k: int = option(TOP_K, "neurons a layer", minimum=1)


class TopKCoder(Coder):
    """The set of the ``k`` neurons of a layer whose mean |up_proj| is largest (NAG, arXiv 2604.15706)."""

    reading = "up_abs"

    def __init__(self, layout: CodeLayout, k: int):
        self.layout, self._k = layout, k

    def encode(self, ordinal: int, values: torch.Tensor) -> tuple[torch.Tensor, LayerParts]:
        return kernels.topk_bits(values.float(), self._k), {}


def top_sets(values: torch.Tensor, layout: CodeLayout, k: int) -> np.ndarray:
    """Bool [n, N]: which neurons are among the ``k`` largest of their layer in ``values`` [n, N]."""
    import torch

    layers = [values[:, layout.neurons(ordinal)] for ordinal in range(len(layout.widths))]
    return torch.cat([kernels.unpack(kernels.topk_bits(v, k), v.shape[1]) for v in layers], dim=1).numpy()


def refuse_narrow(layout: CodeLayout, k: int, flag: str) -> None:
    """Raise NaitError for sets of more neurons than a layer has. ``flag``: where ``k`` was asked for."""
    if k > (narrowest := min(layout.widths)):
        raise BadInput(f"the model's layers have only {narrowest} neurons", where=f"{flag} nag:top_k={k}")


class NagCodec(Codec):
    name = ranked_by = "nag"
    about = "the set of the strongest neurons a layer"
    default_reading = "up_abs"
    calibrates = False
    entries = ("top_k",)
    settings = NagSettings

    def unused(self, options: IndexOptions) -> dict[str, str]:
        why = "codec nag has a reading, the mean of |up_proj|, and nothing to calibrate"
        unused = dict.fromkeys(("reading", "calibration_size", "seed"), why)
        unused["codebook"] = "codec nag has no codebook"
        if not (options.append or options.repair or options.exact):  # which must agree with what was made before
            unused["first_token"] = "codec nag takes no mean"
        return unused

    def reading(self, asked: str | None) -> str:
        return self.default_reading

    def described(
        self, settings: Any, options: IndexOptions, layout: CodeLayout, codebook: Codebook | None
    ) -> dict[str, Any]:
        refuse_narrow(layout, settings.top_k, "--codec")
        return {"top_k": settings.top_k}

    def check_entries(self, manifest: Mapping[str, Any], layout: CodeLayout) -> None:
        checks.count(manifest["top_k"], "top_k", 1)

    def most_different(self, layout: CodeLayout, manifest: Mapping[str, Any]) -> int:
        """Two sets of k neurons out of J: twice k, or twice the J - k that are in neither."""
        return sum(2 * min(manifest["top_k"], width - manifest["top_k"]) for width in layout.widths)

    def coder(
        self, layout: CodeLayout, codebook: Codebook | None, entries: Mapping[str, Any], device: torch.device | None
    ) -> Coder:
        return TopKCoder(layout, entries["top_k"])


CODEC = NagCodec()
