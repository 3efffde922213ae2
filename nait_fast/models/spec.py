"""What is read of a decoder's layer (``Spec``), and the text decoder of a model."""

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, TypeAlias

import torch

from nait_fast.errors import BadInput
from nait_fast.kernels import mlp_capture
from nait_fast.kernels.capture.types import BitSpec, Segments, Stats
from nait_fast.models.families import Family

# What goes into a module and what yields its activations and their statistics -> the activations, once they are read.
Op: TypeAlias = Callable[[Segments, frozenset[str], BitSpec | None], tuple[torch.Tensor, Stats]]
Read: TypeAlias = Callable[[torch.Tensor, Op], torch.Tensor]
Layers: TypeAlias = str | Fraction  # which are chosen: the text of --layers, or the share of them that come first


@dataclass(frozen=True)
class Spec(ABC):
    """Neurons of one layer that are read together: ``layer`` is its index in the decoder; a layer may have several."""

    layer: int
    module: Any  # an nn.Module, whose attributes are its class's

    @property
    @abstractmethod
    def called(self) -> str:
        """What messages call it."""

    @property
    @abstractmethod
    def looks_like(self) -> str:
        """What it has been taken for."""

    @property
    @abstractmethod
    def n_neurons(self) -> int:
        """Numbers that go into the down projection."""

    @property
    @abstractmethod
    def hidden_width(self) -> int:
        """Numbers in the hidden state that goes in."""

    @abstractmethod
    def forward(self, read: Read, *args: Any, **kwargs: Any) -> Any:
        """The module's own forward, of its arguments, with its activations going through ``read``.

        What they were made of, as large as they are or larger, is gone when the down projection runs.
        """


@dataclass(frozen=True)
class MlpSpec(Spec):
    """A layer's dense MLP, or the layer itself where its parts lie in no module of their own (OPT).

    ``n_neurons`` is the width J of its down projection.
    """

    family: Family

    @property
    def called(self) -> str:
        return f"the MLP of layer {self.layer}"

    @property
    def looks_like(self) -> str:
        return f"the family of {self.family.examples}"

    @property
    def n_neurons(self) -> int:
        return input_width(self.part(self.family.down))

    @property
    def hidden_width(self) -> int:
        return input_width(self.part(self.family.up))

    def part(self, name: str) -> Any:
        """A submodule of the MLP."""
        return getattr(self.module, name)


@dataclass(frozen=True)
class FormulaSpec(MlpSpec):
    """An MLP that computes its family's formula with the activation function ``act``."""

    act: str | Callable[[torch.Tensor], torch.Tensor]

    def forward(self, read: Read, x: torch.Tensor) -> torch.Tensor:
        out = self.part(self.family.down)(self._activation(read, x))
        for name in self.family.tail:
            out = self.part(name)(out)
        return out

    def _activation(self, read: Read, x: torch.Tensor) -> torch.Tensor:
        family = self.family
        up = self.part(family.up)(x)
        gate = None
        if family.kind == "fused":
            gate, up = up.chunk(2, dim=-1)
        elif family.gate:
            gate = self.part(family.gate)(x)

        def op(segments: Segments, statistics: frozenset[str], bits: BitSpec | None) -> tuple[torch.Tensor, Stats]:
            return mlp_capture(gate, up, self.act, segments, statistics, bits)

        return read(x, op)


@dataclass(frozen=True)
class OwnSpec(MlpSpec):
    """An MLP of an arithmetic of its own: its class's forward runs, and what goes into ``down`` is read on its way."""

    def forward(self, read: Read, *args: Any, **kwargs: Any) -> Any:
        return type(self.module).forward(_OnItsWay(self, read), *args, **kwargs)


class _StandIn:
    """A module in all but what a call of it does."""

    def __init__(self, module: Any, call: Callable[[torch.Tensor], torch.Tensor]):
        self._module, self._call = module, call

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return self._call(x)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)


class DownUnpaired(RuntimeError):
    """What goes into a down projection is not the one reading of what went through the up projection."""


class _OnItsWay:
    """``self`` of one call of a module's forward: the module, but for its up and down projection.

    It belongs to the call, so that the module, which other threads may be running, stays as it is.
    """

    def __init__(self, spec: OwnSpec, read: Read):
        family = spec.family
        self._module, self._fused, self._read = spec.module, family.kind == "fused", read
        self._run_up, self._run_down = spec.part(family.up), spec.part(family.down)
        self._into: torch.Tensor | None = None
        self._up: torch.Tensor | None = None
        setattr(self, family.up, _StandIn(self._run_up, self._keep))
        setattr(self, family.down, _StandIn(self._run_down, self._pass_on))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)

    def _keep(self, x: torch.Tensor) -> torch.Tensor:
        self._into, self._up = x, self._run_up(x)
        return self._up

    def _pass_on(self, activation: torch.Tensor) -> torch.Tensor:
        return self._run_down(self._taken(activation))

    def _taken(self, activation: torch.Tensor) -> torch.Tensor:
        x, up = self._into, self._up
        self._into = self._up = None
        if x is None or up is None:
            raise DownUnpaired(f"{type(self._module).__name__} runs its down projection again, or before the up one")
        if self._fused:
            up = up.chunk(2, dim=-1)[1]

        def op(segments: Segments, statistics: frozenset[str], bits: BitSpec | None) -> tuple[torch.Tensor, Stats]:
            return mlp_capture(None, up, lambda _: activation, segments, statistics, bits)

        return self._read(x, op)


def dense(specs: Sequence[Spec]) -> list[MlpSpec]:
    """``specs`` of a model without experts. Raises NaitError for others."""
    mlps = [spec for spec in specs if isinstance(spec, MlpSpec)]
    if len(mlps) < len(specs):
        raise BadInput("a mixture of experts", where="model", remedy="choose a dense model", join=": ")
    return mlps


# What linear layers call the number of numbers that go in: torch, and quantisers after AutoGPTQ.
IN_FEATURES = ("in_features", "infeatures")


def input_width(linear: Any) -> int:
    """Input features of a linear layer, whose ``weight`` may be packed bytes or absent where it is quantised.

    Raises BadInput for one that does not tell.
    """
    for name in IN_FEATURES:
        if hasattr(linear, name):
            return int(getattr(linear, name))
    # transformers' Conv1D (GPT-2) keeps its weight as [in, out], nn.Linear as [out, in].
    weight = getattr(linear, "weight", None)
    if not isinstance(weight, torch.Tensor) or weight.dim() != 2:
        raise BadInput(
            f"{type(linear).__name__} does not tell how many numbers go in",
            where="model",
            remedy="load the checkpoint unquantised",
        )
    return int(weight.shape[0] if type(linear).__name__ == "Conv1D" else weight.shape[1])


def text_config(model: Any) -> Any:
    """The configuration of the text decoder of ``model``."""
    return text_part(model.config)


def text_part(config: Any) -> Any:
    """The part of ``config`` that is of text, where it has several."""
    return config.get_text_config(decoder=True) if hasattr(config, "get_text_config") else config


def text_decoder(model: Any) -> Any:
    """The text decoder inside ``model``: of a causal LM its body, of a multimodal model the language model's."""
    while True:
        inner = model.get_decoder() if hasattr(model, "get_decoder") else None
        if inner is not None and not hasattr(inner, "config"):  # what ModernBERT's causal LM calls decoder is its head
            inner = getattr(model, "model", None)
        if inner is None or inner is model:  # Mllama's causal LM gives itself
            inner = getattr(model, "model", None) if hasattr(model, "lm_head") else None
        if inner is None:
            return model
        model = inner


def refuse_encoder(model: Any) -> None:
    """Raise NaitError for an encoder-decoder, whose decoder alone does not see the prompt, and for what is no model."""
    if not hasattr(model, "config"):
        raise BadInput(
            f"{type(model).__name__} is no transformers model (it has no config)",
            remedy="give the model itself, without its wrapper",
        )
    if getattr(model.config, "is_encoder_decoder", False):
        raise BadInput(
            "an encoder-decoder; nait_fast reads decoders, which see prompt and response as one text",
            where=f"model {type(model).__name__}",
        )


def parse_layers(text: Layers, n_layers: int) -> list[int]:
    """Layer selection: ``all``, or a comma list of indices and inclusive ranges, negatives from the end.

    ``0-9``, ``-10--1``, ``0,5,-1``. A share, above 0 and at most 1: so many of the first layers, rounded up. Returns
    sorted unique indices; NaitError if one is outside the model.
    """
    if isinstance(text, Fraction):
        return list(range(math.ceil(text * n_layers)))
    if text == "all":
        return list(range(n_layers))
    chosen: set[int] = set()
    for part in text.split(","):
        match = re.fullmatch(r"\s*(-?\d{1,9})(?:-(-?\d{1,9}))?\s*", part)
        if not match:
            raise BadInput(
                f"'{part[:80]}' is no layer or range",
                where=f"--layers {text[:80]}",
                remedy="write for example all, 0-9 or -10--1",
            )
        first = int(match[1])
        last = int(match[2]) if match[2] else first
        ends = [x + n_layers if x < 0 else x for x in (first, last)]
        if not (0 <= ends[0] <= ends[1] < n_layers):
            raise BadInput(f"'{part}' does not lie in this model's {n_layers} layers", where=f"--layers {text[:80]}")
        chosen.update(range(ends[0], ends[1] + 1))
    return sorted(chosen)
