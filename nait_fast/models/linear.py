"""Two forms of fp32 matrix products on x86: torch's own ``linear`` goes to MKL, which is half as fast as oneDNN on some
processors and faster on others (``models/product_trial.py`` times them).

oneDNN adds up all input features in one chain, MKL in blocks; blocks keep the rounding error flat in the width (see
``blocked_linear``). It also keeps some 0.5 MB for each shape it has ever seen, so it sees few: rows come in pieces of
``SIZES``. Only ``nn.Linear.forward`` of the given model is replaced, and put back after the block.
"""

import platform
from bisect import bisect_left
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

VARIABLE = "NAIT_FAST_LINEAR"
TORCH, BLOCKED = FORMS = ("torch", "blocked")
BLOCK = 192  # input features summed in one chain: MKL's block for fp32 here
# Rows of a product: few enough for oneDNN's memory, and of a large batch at most one in twenty is filled up.
SIZES = (*range(8, 64, 8), *range(64, 256, 16), *range(256, 1024, 32), *range(1024, 2049, 64))


def usable(model: nn.Module) -> bool:
    """oneDNN linear exists here and the model is fp32 on an x86 CPU."""
    weight = next(model.parameters())
    return (
        weight.device.type == "cpu"
        and weight.dtype == torch.float32
        and platform.machine() in ("x86_64", "AMD64")
        and torch.backends.mkldnn.is_available()
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    )


def blocked_linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """x [..., K] · weight [N, K]ᵀ + bias [N], fp32, summed over blocks of ``BLOCK`` input features.

    Error against fp64 over K = 576 / 1,536: 2.5e-7 / 2.5e-7, MKL's own; oneDNN in one chain 3.9e-7 / 5.2e-7. The pieces
    must be contiguous (strided ones take a path many times slower); copying them anew costs 2% at 2,048 tokens and
    leaves no second copy of the weights behind.
    """
    rows = x.reshape(-1, x.shape[-1])
    sums: list[torch.Tensor] = []
    for features, block in zip(rows.split(BLOCK, dim=1), weight.split(BLOCK, dim=1), strict=True):
        block = block.contiguous()
        parts = [_product(_filled_up(piece), block) for piece in features.split(SIZES[-1])]
        sums = [a.add_(b) for a, b in zip(sums, parts, strict=True)] if sums else parts
    out = (sums[0] if len(sums) == 1 else torch.cat(sums))[: len(rows)]  # only the last one was filled up
    if bias is not None:
        out.add_(bias)
    return out.view(*x.shape[:-1], len(weight))


def _product(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return torch.ops.mkldnn._linear_pointwise(x, weight, None, "none", [], "")


def _filled_up(piece: torch.Tensor) -> torch.Tensor:
    """``piece`` [n, K], then zero rows up to the next of ``SIZES``: a row's product depends on no other row."""
    size = SIZES[bisect_left(SIZES, len(piece))]
    if size == len(piece):
        return piece.contiguous()
    filled = piece.new_empty(size, piece.shape[1])
    filled[: len(piece)] = piece
    filled[len(piece) :] = 0
    return filled


def plain_linears(model: nn.Module) -> list[nn.Linear]:
    """The layers of ``model`` whose products may be made in another form."""
    # A module with a forward of its own (accelerate's hooks) keeps it.
    # A weight of another class (a quantiser's) is for the module itself, too.
    return [
        m
        for m in model.modules()
        if type(m) is nn.Linear and "forward" not in m.__dict__ and type(m.weight) is nn.Parameter
    ]


@contextmanager
def products_as(form: str, model: nn.Module) -> Iterator[None]:
    """Inside the block every plain fp32 ``nn.Linear`` of ``model`` multiplies in ``form`` of ``FORMS``, where that is
    ``usable`` (inference only)."""

    def bind(module: nn.Linear):
        weight, bias = module.weight.detach(), None if module.bias is None else module.bias.detach()
        return lambda x: blocked_linear(x, weight, bias)

    blocked = form == BLOCKED and usable(model)
    modules = [m for m in plain_linears(model) if m.weight.dtype == torch.float32] if blocked else []
    try:
        for module in modules:
            module.__dict__["forward"] = bind(module)
        yield
    finally:
        for module in modules:
            module.__dict__.pop("forward", None)
