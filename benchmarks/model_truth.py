"""What a model's neurons are, by plain forward hooks: the side of ``benchmarks.models`` that asks nothing of nait_fast.

MLPs and experts are found by the names that transformers gives them. Of an MLP the input of its down projection is
taken as it is; a mixture's neurons are computed here, expert by expert, from what goes into the experts: in fp64 where
the weights are fp32 or fp64, else in their own precision.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.overrides import TorchFunctionMode

READINGS = ("mean", "drift")
LAYER = re.compile(r"(?:^|\.)(?:layers|h|blocks|block|layer|decoder_layers)\.(\d+)\.(.+)$")
NOT_TEXT = re.compile(
    r"vision|visual|audio|image|patcher|encoder\.|qformer|resampler|vq|tower|talker|speech|conformer|mtp|local_"
)
DOWN = re.compile(
    r"(^|\.)(down_proj|dense_4h_to_h|fc2|fc_out|c_proj|w2|wo|Wo|output_linear|out_lin|w_out|linear_fc2|lin2|dense)$"
)
NO_MLP = re.compile(
    r"(^|\.)gate\.|router|attn|attention|mamba|norm\.|lightning|conv|altup|laurel|per_layer|(?<!shared_)expert"
)

Values = list[list[np.ndarray]]  # sample -> place -> fp64 [J]


class NotOneRowAToken(RuntimeError):
    """An MLP does not see each token once a forward: one activation a token is not what it has."""


@dataclass(frozen=True)
class Place:
    """Where neurons of a layer are: a down projection ('dense'), 'experts', or a 'block' like Llama 4's."""

    layer: int
    kind: str
    module: Any

    def activations(self, arguments: Sequence[Any]) -> np.ndarray:
        """The neurons of each token, fp64 [T, J], out of the arguments of a call of the module."""
        if self.kind == "experts":
            return experts_by_hand(self.module, *(argument.detach() for argument in arguments[:3]))
        x = arguments[0].detach().reshape(-1, arguments[0].shape[-1])
        return block_by_hand(self.module, x) if self.kind == "block" else x.double().numpy()


def places_of(model: Any) -> dict[str, Place]:
    """Module's name -> place, of every MLP and all experts in the layers of a text decoder."""
    found = {}
    for name, module in model.named_modules():
        match = LAYER.search(name)
        if not match or NOT_TEXT.search(name[: match.start()] + "."):
            continue
        layer, inside = int(match[1]), match[2]
        if hasattr(module, "_apply_gate") and hasattr(module, "is_transposed"):
            found[name] = Place(layer, "experts", module)
        elif type(module).__name__ == "Llama4TextMoe":
            found[name] = Place(layer, "block", module)
        elif DOWN.search(inside) and not NO_MLP.search(inside) and "Norm" not in type(module).__name__:
            weight = getattr(module, "weight", None)
            if getattr(weight, "ndim", 0) == 2:
                found[name] = Place(layer, "dense", module)
    return found


def experts_by_hand(module: Any, x: torch.Tensor, index: torch.Tensor, weights: torch.Tensor) -> np.ndarray:
    """Each expert's neurons times the router's weight, fp64 [T, E · J].

    ``x``: [T, H]; ``index``, ``weights``: [T, k], which experts a token is sent to.
    """
    gated = module.has_gate
    up = (module.gate_up_proj if gated else module.up_proj).detach()
    half = up.dtype in (torch.bfloat16, torch.float16)
    x, up = (x, up) if half else (x.double(), up.double())
    bias = (
        (module.gate_up_proj_bias if gated else module.up_proj_bias).detach().to(up.dtype) if module.has_bias else None
    )
    out = []
    for expert in range(len(up)):
        h = x @ (up[expert] if module.is_transposed else up[expert].T)
        h = h if bias is None else h + bias[expert]
        activation = (module._apply_gate(h) if gated else module.act_fn(h)).double()
        weight = (weights.double() * (index == expert)).sum(dim=-1, keepdim=True)
        out.append(torch.where(weight != 0, weight * activation, torch.zeros_like(activation)))
    return torch.cat(out, dim=1).numpy()


def block_by_hand(block: Any, x: torch.Tensor) -> np.ndarray:
    """The neurons of Llama 4's experts, whose inputs the router scales, fp64 [T, E · J], of ``x`` [T, H]."""
    scores, _ = block.router(x)
    up = block.experts.gate_up_proj.detach().double()
    out = []
    for expert in range(len(up)):
        gate, value = ((x * scores[:, expert : expert + 1]).double() @ up[expert]).chunk(2, dim=-1)
        out.append(value * block.experts.act_fn(gate))
    return torch.cat(out, dim=1).numpy()


class Fp32IsFp64(TorchFunctionMode):
    """Inside the block, fp64 where code asks for fp32: norms, softmax and linear attention of transformers do, whatever
    the weights are."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        func = torch.Tensor.double if func is torch.Tensor.float else func
        args = [torch.float64 if a is torch.float32 else a for a in args]
        return func(*args, **{k: torch.float64 if a is torch.float32 else a for k, a in (kwargs or {}).items()})


@contextmanager
def _hooked(places: dict[str, Place], tell: Callable[[str, Sequence[Any]], None]) -> Iterator[None]:
    """``tell(name, arguments)`` before each call of a place's module."""

    def hook(name: str) -> Callable[..., None]:
        return lambda module, args, kwargs: tell(name, (*args, *kwargs.values()))

    handles = [place.module.register_forward_pre_hook(hook(name), with_kwargs=True) for name, place in places.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def running_on_text(model: Any, places: dict[str, Place]) -> set[str]:
    """Which of ``places`` run at all where there is only text."""
    ran: set[str] = set()
    with _hooked(places, lambda name, arguments: ran.add(name)):
        model(input_ids=torch.arange(5, 10)[None], use_cache=False)
    return ran


@torch.no_grad()
def truth(model: Any, places: dict[str, Place], samples: list[np.ndarray]) -> dict[str, Values]:
    """Reading -> sample -> place, in the order of ``places``, by a forward of each sample alone.

    Raises NotOneRowAToken.
    """
    activations: dict[str, list[np.ndarray]] = {}

    def keep(name: str, arguments: Sequence[Any]) -> None:
        activations.setdefault(name, []).append(places[name].activations(arguments))

    out: dict[str, Values] = {reading: [] for reading in READINGS}
    with _hooked(places, keep):
        for ids in samples:
            activations.clear()
            model(input_ids=torch.from_numpy(ids).long()[None], use_cache=False)
            for name in places:
                calls = activations.get(name, [])
                if [len(call) for call in calls] != [len(ids)]:
                    rows = sum(map(len, calls))
                    raise NotOneRowAToken(f"{name} runs {len(calls)} times over {rows} rows for {len(ids)} tokens")
            each = [activations[name][0] for name in places]
            # A sample's first token is left out of its mean, unless it is all there is.
            out["mean"].append([(a[1:] if len(a) > 1 else a).mean(axis=0) for a in each])
            out["drift"].append([a[-1] - a[0] for a in each])
    return out


def worst(got: Values, expected: Values) -> float:
    """Largest relative error of a sample's place, by norms; infinite for what is not finite, missing or not zero."""
    errors = [0.0]
    for mine, theirs in zip(got, expected, strict=True):
        if [a.shape for a in mine] != [b.shape for b in theirs]:
            return float("inf")
        for a, b in zip(mine, theirs, strict=True):
            difference, norm = float(np.linalg.norm(a - b)), float(np.linalg.norm(b))
            if not np.isfinite(difference):
                return float("inf")
            errors.append(difference / norm if norm else (0.0 if difference == 0 else float("inf")))
    return max(errors)


def in_order_of(places: dict[str, Place], expected: Values, got: Values, layers: Sequence[int]) -> Values | None:
    """``got``, whose columns are of ``layers``, in the order of ``places``; None where a column fits none.

    Those of one layer are told apart by size, then by likeness.
    """
    free, column_of = list(enumerate(places.values())), {}
    for column, layer in enumerate(layers):
        fitting = [
            (i, place) for i, place in free if place.layer == layer and got[-1][column].shape == expected[-1][i].shape
        ]
        if not fitting:
            return None
        best = min(fitting, key=lambda pair: float(np.linalg.norm(got[-1][column] - expected[-1][pair[0]])))
        free.remove(best)
        column_of[best[0]] = column
    return [[row[column_of[i]] if i in column_of else np.zeros(0) for i in range(len(places))] for row in got]
