"""Finds what is read of a transformers decoder: the MLPs and experts of its layers."""

from typing import Any

from torch import nn

from nait_fast.errors import BadInput
from nait_fast.models.experts import RouterSpec, experts_of, is_experts
from nait_fast.models.families import ACTIVATION_NAMES, FAMILIES, Family
from nait_fast.models.spec import MlpSpec, Spec, parse_layers, text_config, text_decoder


def match_family(module: nn.Module) -> Family | None:
    """The row of the table that ``module`` fits, or None."""
    for family in FAMILIES:
        parts = [family.up, family.down, family.act, *family.tail] + ([family.gate] if family.gate else [])
        if all(hasattr(module, part) for part in parts) and not is_experts(module):
            return family
    return None


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


def find_specs(model: Any, layers: str = "all", experts: str = "neurons") -> list[Spec]:
    """What is read of ``layers`` of ``model``'s text decoder: of each its MLP, its experts, or both (a shared expert).

    In layer order. ``experts``: what is read of experts, 'neurons' or the 'router', which then is all that is read.
    Raises NaitError for what is of no known kind.
    """
    decoder, found = text_decoder(model), decoder_layers(model)
    specs = [spec for i in parse_layers(layers, len(found)) for spec in _of_layer(decoder, i, found[i], experts)]
    if experts == "router":
        specs = [spec for spec in specs if isinstance(spec, RouterSpec)]
        if not specs:
            where = "all layers" if layers == "all" else f"layers {layers}"
            raise BadInput(
                f"no experts in {where} of {type(decoder).__name__}", where="--experts router", remedy="leave it out"
            )
    return specs


def _of_layer(decoder: Any, number: int, layer: nn.Module, read: str) -> list[Spec]:
    where = f"model {type(decoder).__name__}"
    modules = [module for module in layer.modules() if module is not layer]
    experts = [module for module in modules if is_experts(module)]
    inside = {id(part) for module in experts for part in module.modules()}
    dense = [(m, family) for m in modules if id(m) not in inside and (family := match_family(m)) is not None]
    block = next((m for m in modules if hasattr(m, "experts")), None)
    if block is not None and not experts:
        raise BadInput(
            f"layer {number} is a mixture of experts of its own kind ({type(block).__name__}); it is not supported",
            where=where,
            remedy="choose a dense model, or one whose experts run as most of transformers' do",
            join=": ",
        )
    if len(experts) > 1 or len(dense) > 1 or not (experts or dense):
        raise BadInput(f"layer {number} has {len(dense)} MLPs of a known family, expected one", where=where)
    shared = [name for name, m in layer.named_modules() if "shared" in name.rpartition(".")[2] and list(m.children())]
    if experts and shared and not dense:
        raise BadInput(
            f"layer {number} has shared experts of no known family ({shared[0]}: "
            f"{type(layer.get_submodule(shared[0])).__name__}); it is not supported",
            where=where,
        )
    specs: list[Spec] = [MlpSpec(number, m, family, _activation(decoder, m, family)) for m, family in dense]
    return specs + [experts_of(number, module, read) for module in experts]
