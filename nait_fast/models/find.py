"""Finds what is read of a transformers decoder: the MLPs and experts of its layers."""

from typing import Any

from torch import nn

from nait_fast.errors import BadInput
from nait_fast.models.experts import RoutedSpec, experts_of, is_experts, is_scaled_experts
from nait_fast.models.families import ACTIVATION_NAMES, FAMILIES, Family
from nait_fast.models.leading import LeadingLayers, layers_in_all
from nait_fast.models.mixers import matrices, only_mixes
from nait_fast.models.spec import FormulaSpec, Layers, MlpSpec, OwnSpec, Spec, parse_layers, text_config, text_decoder
from nait_fast.notices import warn


def match_family(module: nn.Module) -> Family | None:
    """The row of the table that ``module`` fits, or None."""
    if is_experts(module):
        return None
    return next((family for family in FAMILIES if family.fits(module)), None)


def _layers_own(layer: nn.Module) -> Family | None:
    """The row whose parts are ``layer``'s own, beside its attention; None for what is an MLP and no layer."""
    family = match_family(layer)
    others = family and [name for name, part in layer.named_children() if name not in family.linears and matrices(part)]
    return family if others else None


def _spec(model: Any, number: int, module: nn.Module, family: Family) -> MlpSpec:
    if family.own:
        return OwnSpec(number, module, family)
    return FormulaSpec(number, module, family, _activation(model, module, family))


def _activation(model: Any, module: nn.Module, family: Family) -> Any:
    if family.act is None:
        return family.function
    config = text_config(model)
    for key in ("hidden_act", "hidden_activation", "activation_function", "mlp_hidden_act"):
        name = ACTIVATION_NAMES.get(getattr(config, key, None) or "")
        if name:
            return name
    return getattr(module, family.act)


def decoder_layers(model: Any) -> nn.ModuleList:
    """The decoder's list of layers: as many as its configuration counts, or the first of these, with MLPs in them.
    Raises NaitError.

    Not the longest list there is: a vision tower may be deeper than the text decoder beside it.
    """
    decoder = text_decoder(model)
    every = [m for m in decoder.modules() if isinstance(m, nn.ModuleList) and len(m)]
    if (leading := next((m for m in every if isinstance(m, LeadingLayers)), None)) is not None:
        return leading  # it was found when it had all of its layers
    lists = [
        m
        for m in every
        if any(match_family(c) or hasattr(c, "experts") for layer in m for c in layer.modules() if c is not layer)
        or any(_layers_own(layer) for layer in m)
    ]
    if not lists and any(all(only_mixes(layer) for layer in m) for m in every):
        raise BadInput(
            "its layers have no MLP (attention or a state space alone), so there are no neurons to read",
            where=f"model {type(model).__name__}",
        )
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


def find_specs(model: Any, layers: Layers = "all", experts: str = "neurons") -> list[Spec]:
    """What is read of ``layers`` of ``model``'s text decoder: of each its MLP, its experts, or both (a shared expert).

    In layer order. ``experts``: what is read of experts, 'neurons' or the 'router', which then is all that is read.
    Layers that have neither, attention or a state space alone, are left out and said. Raises NaitError for what is of
    no known kind.
    """
    decoder, found = text_decoder(model), decoder_layers(model)
    chosen = parse_layers(layers, layers_in_all(found))
    # Of a quantised MLP the matrices need not show. A chosen layer that is not loaded has been found to have none.
    without = [
        i
        for i in chosen
        if i >= len(found) or (only_mixes(found[i]) and not any(map(match_family, found[i].modules())))
    ]
    where, idle = f"model {type(decoder).__name__}", ", ".join(map(str, without))
    specs = [spec for i in chosen if i not in without for spec in _of_layer(decoder, i, found[i], experts)]
    if not specs:
        raise BadInput(
            f"none of the chosen layers ({idle}) has an MLP", where=where, remedy="choose others with --layers"
        )
    if experts == "router":
        specs = [spec for spec in specs if isinstance(spec, RoutedSpec)]
        if not specs:
            where = "all layers" if layers == "all" else f"layers {', '.join(map(str, chosen))}"
            raise BadInput(
                f"no experts in {where} of {type(decoder).__name__}", where="--experts router", remedy="leave it out"
            )
    elif without:
        warn(f"{where}: layers {idle} have no MLP (attention or a state space alone); they are left out")
    return specs


def _of_layer(decoder: Any, number: int, layer: nn.Module, read: str) -> list[Spec]:
    where = f"model {type(decoder).__name__}"
    modules = [module for module in layer.modules() if module is not layer]
    experts: list[Spec] = [
        experts_of(number, module, read) for module in modules if is_experts(module) or is_scaled_experts(module)
    ]
    # What lies in experts is theirs, and a norm's own MLP (AX-K2) scales a hidden state.
    inside = {
        id(part)
        for module in modules
        if is_experts(module) or type(module).__name__.endswith("Norm")
        for part in module.modules()
    }
    dense = [(m, family) for m in modules if id(m) not in inside and (family := match_family(m)) is not None]
    block = next((m for m in modules if hasattr(m, "experts")), None)
    if block is not None and not experts:
        raise BadInput(
            f"layer {number} is a mixture of experts of its own kind ({type(block).__name__}); it is not supported",
            where=where,
            remedy="choose a dense model, or one whose experts run as most of transformers' do",
            join=": ",
        )
    if any(family.causal for _, family in dense) and not any(getattr(m, "is_causal", False) for m in modules):
        raise BadInput(
            f"layer {number} is an encoder's, whose tokens see later ones; nait_fast reads decoders", where=where
        )
    if not (experts or dense) and (family := _layers_own(layer)):
        return [OwnSpec(number, layer, family)]
    if not (experts or dense):
        raise BadInput(
            f"layer {number} has no MLP of a known family, and is no attention or state space alone; it is not "
            "supported",
            where=where,
        )
    if len(experts) > 1 or len(dense) > 1:
        count = f"{len(dense)} MLPs of a known family and {len(experts)} modules of experts"
        raise BadInput(f"layer {number} has {count}; more than one of a kind is not supported", where=where)
    shared = [
        (name, m)
        for name, m in layer.named_modules()
        if "shared" in name.rpartition(".")[2] and not isinstance(m, nn.Linear) and matrices(m)
    ]
    if experts and shared and not dense:
        name, module = shared[0]
        raise BadInput(
            f"layer {number} has shared experts of no known family ({name}: {type(module).__name__}); it is not "
            "supported",
            where=where,
        )
    return [*(_spec(decoder, number, m, family) for m, family in dense), *experts]
