"""Products with frozen weights, forward and back to the input only, and the loss of an LM head in pieces.

Training an adapter needs no gradient of a frozen weight. On an x86 CPU both products go to oneDNN with weights laid out
for it once (torch's own go to MKL, which is half as fast on AMD), in fp32 or with operands rounded to bf16.
"""

from typing import Any

import torch
from torch import nn

from nait_fast.models.linear import usable

HEAD_ROWS, GPU_HEAD_ROWS = 128, 1024  # positions whose logits are alive at once
PRODUCTS = ("torch", "onednn", "onednn-bf16")


class Frozen:
    """``W`` [N, K] as a pair of products: ``times(x)`` = x Wᵀ and ``back(g)`` = g W, without autograd.

    ``kind``: one of ``PRODUCTS``; ``onednn-bf16`` rounds operands and results to bf16 and sums in fp32 (``exact``: not
    in ``times``).
    """

    def __init__(self, weight: torch.Tensor, kind: str, exact: bool = False):
        self.weight = weight.detach()
        half = kind == "onednn-bf16"
        self.dtypes = [
            torch.bfloat16 if half and not exact else torch.float32,
            torch.bfloat16 if half else torch.float32,
        ]
        self.packed: list[torch.Tensor] | None = None
        if kind != "torch":
            pair = zip((self.weight, self.weight.t()), self.dtypes, strict=True)
            self.packed = [torch.ops.mkldnn._reorder_linear_weight(w.to(dtype).contiguous()) for w, dtype in pair]

    def _product(self, x: torch.Tensor, which: int) -> torch.Tensor:
        if self.packed is None:
            return x @ (self.weight.t() if which == 0 else self.weight)
        flat = x.reshape(-1, x.shape[-1]).to(self.dtypes[which]).contiguous()
        out = torch.ops.mkldnn._linear_pointwise(flat, self.packed[which], None, "none", [], "")
        return out.to(x.dtype).reshape(*x.shape[:-1], -1)

    def times(self, x: torch.Tensor) -> torch.Tensor:
        return self._product(x, 0)

    def back(self, g: torch.Tensor) -> torch.Tensor:
        return self._product(g, 1)


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, frozen: Frozen) -> torch.Tensor:
        ctx.frozen = frozen
        return frozen.times(x)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        return ctx.frozen.back(gradients[0]), None


def product_kind(model: nn.Module, wanted: str) -> str:
    """``auto``: oneDNN where it is usable, in bf16 where the processor multiplies bf16; else torch."""
    if wanted != "auto":
        return wanted
    if not usable(model):
        return "torch"
    return "onednn-bf16" if torch.cpu.get_capabilities().get("avx512_bf16") else "onednn"


def freeze_linears(model: nn.Module, kind: str) -> None:
    """Every plain ``nn.Linear`` of ``model`` multiplies as ``kind`` from now on; its weight gets no gradient."""
    for module in model.modules():
        if type(module) is nn.Linear:
            module.requires_grad_(False)
            if kind != "torch":
                module.__dict__["forward"] = _bind(module, Frozen(module.weight, kind))


def _bind(module: nn.Linear, frozen: Frozen) -> Any:
    bias = None if module.bias is None else module.bias.detach()

    def forward(x: torch.Tensor) -> torch.Tensor:
        y = _Linear.apply(x, frozen)
        return y if bias is None else y + bias

    return forward


class _HeadLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor, head: Frozen, targets: torch.Tensor) -> torch.Tensor:
        nll, gradients = [], []
        rows = HEAD_ROWS if hidden.device.type == "cpu" else GPU_HEAD_ROWS
        for h, t in zip(hidden.split(rows), targets.split(rows), strict=True):
            logits = head.times(h).float()
            chosen = logits.gather(1, t[:, None])
            highest = logits.amax(dim=1, keepdim=True)
            p = logits.sub_(highest).exp_()  # in place: the logits of a large vocabulary are what takes the memory
            total = p.sum(dim=1, keepdim=True)
            nll.append((highest + total.log() - chosen)[:, 0])
            if ctx.needs_input_grad[0]:
                p /= total
                p.scatter_add_(1, t[:, None], torch.full_like(chosen, -1.0))
                gradients.append(head.back(p.to(h.dtype)))
        ctx.gradient = torch.cat(gradients) if gradients else None
        return torch.cat(nll)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        return ctx.gradient * gradients[0][:, None].to(ctx.gradient.dtype), None, None


def head_nll(hidden: torch.Tensor, head: Frozen, targets: torch.Tensor) -> torch.Tensor:
    """-log p(targets) fp32 [R] of ``hidden`` [R, H] under logits = hidden · headᵀ; ``targets`` int64 [R].

    The gradient goes to ``hidden`` alone; logits exist for ``HEAD_ROWS`` (``GPU_HEAD_ROWS``) positions at a time.
    """
    return _HeadLoss.apply(hidden, head, targets)
