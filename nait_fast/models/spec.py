"""Finds the MLPs of a transformers decoder: one ``MlpSpec`` a layer."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from nait_fast.errors import BadInput
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
    """Input features of a linear layer, whose ``weight`` may be packed bytes or absent where it is quantised."""
    if hasattr(linear, "in_features"):
        return int(linear.in_features)
    # transformers' Conv1D (GPT-2) keeps its weight as [in, out], nn.Linear as [out, in].
    weight = linear.weight
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
        if inner is None or inner is model:  # Mllama's causal LM gives itself
            inner = getattr(model, "model", None) if hasattr(model, "lm_head") else None
        if inner is None:
            return model
        model = inner


def _activation(model: Any, module: nn.Module, family: Family):
    config = text_config(model)
    for key in ("hidden_act", "hidden_activation", "activation_function", "mlp_hidden_act"):
        name = ACTIVATION_NAMES.get(getattr(config, key, None) or "")
        if name:
            return name
    return getattr(module, family.act)


def decoder_layers(model: Any) -> nn.ModuleList:
    """The decoder's list of layers: as many as its configuration counts, with MLPs in them. Raises NaitError.

    Not the longest list there is: a vision tower may be deeper than the text decoder beside it.
    """
    decoder = text_decoder(model)
    lists = [m for m in decoder.modules() if isinstance(m, nn.ModuleList) and len(m)]
    lists = [
        m
        for m in lists
        if any(match_family(c) or hasattr(c, "experts") for layer in m for c in layer.modules() if c is not layer)
    ]
    if not lists:
        raise BadInput(
            "no MLP of a known family in its layers; nait_fast knows "
            + "; ".join(family.examples for family in FAMILIES),
            where=f"model {type(model).__name__}",
        )
    count = getattr(text_config(decoder), "num_hidden_layers", None)
    if count is None:
        return max(lists, key=len)
    candidates = next((m for m in lists if len(m) == count), None)  # modules() yields the outer ones first
    if candidates is None:
        raise BadInput(
            f"its configuration counts {count} layers, but its lists of layers with MLPs hold "
            f"{', '.join(str(len(m)) for m in lists[:4])}; it is not supported",
            where=f"model {type(model).__name__}",
        )
    return candidates


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


def find_mlps(model: Any) -> list[MlpSpec]:
    """The MLPs of ``model``'s text decoder in layer order.

    Raises NaitError for experts (MoE) and unknown families.
    """
    decoder = text_decoder(model)
    specs = []
    for index, layer in enumerate(decoder_layers(model)):
        experts = next((m for m in layer.modules() if hasattr(m, "experts")), None)
        if experts is not None:
            raise BadInput(
                f"layer {index} is a mixture of experts ({type(experts).__name__}); experts are not supported",
                where=f"model {type(model).__name__}",
                remedy="choose a dense model",
                join=": ",
            )
        candidates = [(m, match_family(m)) for m in layer.modules() if m is not layer]
        matches = [(m, f) for m, f in candidates if f is not None]
        if len(matches) != 1:
            raise BadInput(
                f"layer {index} has {len(matches)} MLPs of a known family, expected one",
                where=f"model {type(model).__name__}",
            )
        module, family = matches[0]
        act = _activation(decoder, module, family)
        specs.append(MlpSpec(index, module, family, act, input_width(getattr(module, family.down))))
    return specs


def parse_layers(text: str, n_layers: int) -> list[int]:
    """Layer selection: ``all``, or a comma list of indices and inclusive ranges, negatives from the end.

    ``0-9``, ``-10--1``, ``0,5,-1``. Returns sorted unique indices; NaitError if one is outside the model.
    """
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
