"""Codec neuron: one bit a neuron."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from nait_fast import kernels
from nait_fast.codecs.base import Codec, Coder, LayerParts
from nait_fast.codecs.layout import CodeLayout

if TYPE_CHECKING:
    import torch

    from nait_fast.codecs.codebook import Codebook


class NeuronCoder(Coder):
    """One bit a neuron: whether the reading lies above ``threshold`` fp32 [N]."""

    def __init__(self, layout: CodeLayout, reading: str, threshold: torch.Tensor, device: torch.device | None = None):
        self.layout, self.reading, self._threshold = layout, reading, threshold.to(device)

    def threshold_of(self, ordinal: int) -> torch.Tensor | None:
        return self._threshold[self.layout.neurons(ordinal)] if self.reading == "mean" else None

    def encode(self, ordinal: int, values: torch.Tensor) -> tuple[torch.Tensor, LayerParts]:
        return kernels.pack_bits(values.float(), self._threshold[self.layout.neurons(ordinal)]), {}


class NeuronCodec(Codec):
    name = "neuron"
    about = "one bit a neuron"
    default_reading = "mean"
    # A bit knows no scale: those that vary most lie in few experts, and rank less as all do (docs/methods.md).
    keeps_varied = False
    ranked_by = "contrast"

    def coder(
        self, layout: CodeLayout, codebook: Codebook | None, entries: Mapping[str, Any], device: torch.device | None
    ) -> Coder:
        import torch

        assert codebook is not None
        return NeuronCoder(layout, codebook.meta["reading"], torch.from_numpy(codebook.threshold), device)


CODEC = NeuronCodec()
