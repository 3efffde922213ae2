"""What is known of a model before its weights are read, and after: what is read of it, and how it is called."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeGuard

import torch
from torch import nn
from typing_extensions import Self

from nait_fast.codecs.chosen import CHOSEN
from nait_fast.kernels import layer_bytes
from nait_fast.models.experts import RoutedSpec
from nait_fast.models.float8 import NAME as FLOAT8
from nait_fast.models.probe import activation_dtype
from nait_fast.models.spec import Spec


@dataclass
class KnownModel:
    """``body``: the text decoder, which may be on the meta device, with the dtype that it will have; ``specs``: what is
    read of the chosen layers, as far as its configuration tells; ``lacking_weights``: how many weights behind these the
    checkpoint lacks, once it has been read; ``float8``: whether its layers' products are in FP8."""

    name: str
    body: nn.Module
    tokenizer: Any
    specs: list[Spec]
    lacking_weights: int = field(default=0, kw_only=True)
    float8: bool = field(default=False, kw_only=True)

    @property
    def device(self) -> torch.device:
        return next(self.body.parameters()).device

    @property
    def precision(self) -> str:
        """The type of the weights, by the token embeddings' (others may be quantised); float8 where --dtype is that."""
        return FLOAT8 if self.float8 else str(activation_dtype(self.body)).removeprefix("torch.")

    @property
    def dtype_class(self) -> str:
        """The type of the weights as far as numbers of one must not meet those of another: both halves are ``half``."""
        return "half" if self.precision in ("bfloat16", "float16") else self.precision

    @property
    def vocabulary(self) -> int:
        """Tokens that the model embeds (its tokenizer may have more)."""
        body: Any = self.body  # transformers' own method: nn.Module has none
        return int(body.get_input_embeddings().weight.shape[0])

    @property
    def layers(self) -> list[int]:
        """The layer of each of ``specs``."""
        return [spec.layer for spec in self.specs]

    @property
    def experts(self) -> str:
        """What is read of experts: their neurons, or the router."""
        return self.specs[0].reads if isinstance(self.specs[0], RoutedSpec) else "neurons"

    @property
    def has_experts(self) -> bool:
        """Whether neurons of experts are read."""
        return any(has_neurons(spec) for spec in self.specs)

    @property
    def end_width(self) -> int:
        """Numbers in the body's last hidden state."""
        return self.specs[0].hidden_width

    @property
    def whole_fingerprint(self) -> str | None:
        """As the fingerprint, of all layers whichever are chosen; None before the weights are read."""
        return None

    @property
    def head_fingerprint(self) -> str | None:
        """As ``whole_fingerprint``, with the language-model head."""
        return None

    @property
    def router_bytes(self) -> int:
        """Bytes of a sample's code that the router of the same layers would take, one bit an expert."""
        return sum(layer_bytes(spec.n_experts) for spec in self.specs if isinstance(spec, RoutedSpec))

    @property
    def widths(self) -> list[int]:
        """Neurons of each chosen layer."""
        return [spec.n_neurons for spec in self.specs]

    @property
    def must_choose(self) -> bool:
        """Whether which neurons of experts are kept is still to be decided."""
        return any(has_neurons(spec) and spec.kept is not None and spec.chosen is None for spec in self.specs)

    def keeping(self, kept: int | None) -> Self:
        """The same model, of whose experts so many neurons a layer are read (of fewer, and None: all)."""
        specs = [
            spec.keeping(kept if kept is not None and kept < every_neuron(spec) else None)
            if has_neurons(spec)
            else spec
            for spec in self.specs
        ]
        return replace(self, specs=specs)

    def identity(self, like: Mapping[str, Any]) -> dict[str, Any]:
        """Entries of an identity that are the model's. What only its weights tell is taken to be as ``like`` says:
        their hash, which of the layers run on text, and which of a layer's experts and its shared one runs first, by
        which chosen neurons are counted."""
        chosen = {CHOSEN: like[CHOSEN]} if CHOSEN in like and self.has_experts else {}
        mine, theirs = (
            Counter(zip(layers, [0] * len(layers) if chosen else widths, strict=False))
            for layers, widths in ((self.layers, self.widths), (like.get("layers", ()), like.get("widths", ())))
        )
        source: Any = like if theirs and theirs <= mine else {"layers": self.layers, "widths": self.widths}
        return {"model": like.get("model"), **chosen, "layers": source["layers"], "widths": source["widths"]}


def has_neurons(spec: Spec) -> TypeGuard[RoutedSpec]:
    """Whether neurons of experts are read."""
    return isinstance(spec, RoutedSpec) and spec.reads == "neurons"


def every_neuron(spec: Spec) -> int:
    """Neurons of which ``spec`` reads some or all."""
    return spec.n_experts * spec.width if has_neurons(spec) else spec.n_neurons
