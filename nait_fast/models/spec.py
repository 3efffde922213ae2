"""Finds the MLPs of a transformers decoder: one ``MlpSpec`` a layer."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from nait_fast.errors import NaitError
from nait_fast.models.families import ACTIVATION_NAMES, FAMILIES, Family


@dataclass(frozen=True)
class MlpSpec:
    """One layer's MLP: ``layer`` is its index in the decoder, ``n_neurons`` the width J of the down projection."""

    layer: int
    module: nn.Module
    family: Family
    act: str | Callable[[torch.Tensor], torch.Tensor]
    n_neurons: int

    def part(self, name: str) -> Any:
        """A submodule of the MLP."""
        return getattr(self.module, name)


def match_family(module: nn.Module) -> Family | None:
    """The row of the table that ``module`` fits, or None."""
    for family in FAMILIES:
        parts = [family.up, family.down, family.act, *family.tail] + ([family.gate] if family.gate else [])
        if all(hasattr(module, part) for part in parts):
            return family
    return None


def input_width(linear: Any) -> int:
    """Input features of a linear layer."""
    # transformers' Conv1D (GPT-2) keeps its weight as [in, out], nn.Linear as [out, in].
    weight = linear.weight
    return int(weight.shape[0] if type(linear).__name__ == "Conv1D" else weight.shape[1])


def _activation(model: Any, module: nn.Module, family: Family):
    config = model.config
    for key in ("hidden_act", "hidden_activation", "activation_function", "mlp_hidden_act"):
        name = ACTIVATION_NAMES.get(getattr(config, key, None) or "")
        if name:
            return name
    return getattr(module, family.act)


def decoder_layers(model: nn.Module) -> nn.ModuleList:
    """The decoder's list of layers: the longest ModuleList whose first item holds an MLP."""
    lists = [m for m in model.modules() if isinstance(m, nn.ModuleList) and len(m)]
    lists = [m for m in lists if any(match_family(c) or hasattr(c, "experts") for c in m[0].modules() if c is not m[0])]
    if not lists:
        raise NaitError(
            f"model {type(model).__name__}: no MLP of a known family in its layers; nait_fast knows "
            + "; ".join(family.examples for family in FAMILIES)
        )
    return max(lists, key=len)


def find_mlps(model: nn.Module) -> list[MlpSpec]:
    """The MLPs of ``model`` in layer order. Raises NaitError for experts (MoE) and unknown families."""
    specs = []
    for index, layer in enumerate(decoder_layers(model)):
        experts = next((m for m in layer.modules() if hasattr(m, "experts")), None)
        if experts is not None:
            raise NaitError(
                f"model {type(model).__name__}: layer {index} is a mixture of experts ({type(experts).__name__}); "
                "experts are not supported: choose a dense model"
            )
        found = [(m, match_family(m)) for m in layer.modules() if m is not layer]
        matches = [(m, f) for m, f in found if f is not None]
        if len(matches) != 1:
            raise NaitError(
                f"model {type(model).__name__}: layer {index} has {len(matches)} MLPs of a known family, expected one"
            )
        module, family = matches[0]
        act = _activation(model, module, family)
        specs.append(MlpSpec(index, module, family, act, input_width(getattr(module, family.down))))
    return specs


def parse_layers(text: str, n_layers: int) -> list[int]:
    """Layer selection: ``all``, or a comma list of indices and inclusive ranges, negatives from the end.

    ``0-9``, ``-10--1``, ``0,5,-1``. Returns sorted unique indices; NaitError if one is outside the model.
    """
    if text == "all":
        return list(range(n_layers))
    import re

    chosen: set[int] = set()
    for part in text.split(","):
        match = re.fullmatch(r"\s*(-?\d+)(?:-(-?\d+))?\s*", part)
        if not match:
            raise NaitError(f"--layers {text}: '{part}' is no layer or range; write for example all, 0-9 or -10--1")
        first = int(match[1])
        last = int(match[2]) if match[2] else first
        ends = [x + n_layers if x < 0 else x for x in (first, last)]
        if not (0 <= ends[0] <= ends[1] < n_layers):
            raise NaitError(f"--layers {text}: '{part}' does not lie in this model's {n_layers} layers")
        chosen.update(range(ends[0], ends[1] + 1))
    return sorted(chosen)
