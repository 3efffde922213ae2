"""Products with weights that are never trained: no gradient of the weight, and on an x86 CPU oneDNN's own layout.

Training an adapter needs of a frozen weight only the product forward and the one back to the input. On a CPU both go to
oneDNN with the weight laid out for it once, in fp32 or with operands rounded to bf16 where the processor multiplies it.
"""

from typing import Any

import torch
from torch import nn

from nait_fast.models.head import LMHead
from nait_fast.models.linear import usable

PRODUCTS = ("torch", "onednn", "onednn-bf16")
LOGIT_BYTES, GPU_LOGIT_BYTES = 64 << 20, 1 << 30  # of logits that are alive at once
CACHED = 1 << 18  # numbers of logits in fp32 that are worked on at once: 1 MiB stays in a core's cache


class Frozen:
    """``W`` [N, K] as a pair of products: ``times(x)`` = x Wᵀ and ``back(g)`` = g W, without autograd.

    ``kind``: one of ``PRODUCTS``; ``onednn-bf16`` rounds operands and results to bf16 and sums in fp32.
    """

    def __init__(self, weight: torch.Tensor, kind: str):
        self.weight = weight.detach()
        self.dtype = self.weight.dtype
        self.packed: list[torch.Tensor] | None = None
        if kind != "torch":
            self.dtype = torch.bfloat16 if kind == "onednn-bf16" else torch.float32
            pair = (self.weight, self.weight.t())
            self.packed = [torch.ops.mkldnn._reorder_linear_weight(w.to(self.dtype).contiguous()) for w in pair]

    def times(self, x: torch.Tensor) -> torch.Tensor:
        """[..., K] -> [..., N] in ``x``'s dtype."""
        return self.raw(x, 0).to(x.dtype)

    def back(self, g: torch.Tensor) -> torch.Tensor:
        """[..., N] -> [..., K] in ``g``'s dtype."""
        return self.raw(g, 1).to(g.dtype)

    def raw(self, x: torch.Tensor, which: int) -> torch.Tensor:
        """The product (0 ``times``, 1 ``back``) in the dtype that it is made in."""
        if self.packed is None:
            return x.to(self.dtype) @ (self.weight.t() if which == 0 else self.weight)
        flat = x.reshape(-1, x.shape[-1]).to(self.dtype).contiguous()
        out = torch.ops.mkldnn._linear_pointwise(flat, self.packed[which], None, "none", [], "")
        return out.reshape(*x.shape[:-1], -1)


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, frozen: Frozen) -> torch.Tensor:
        ctx.frozen = frozen
        return frozen.times(x)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        return ctx.frozen.back(gradients[0]), None


def product_kind(model: nn.Module, wanted: str = "auto") -> str:
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


class FrozenHead:
    """A language-model head whose losses have a gradient to the states alone; ``kind`` as of ``Frozen``."""

    def __init__(self, head: LMHead, kind: str):
        self.product = Frozen(head.weight, kind)
        self.bias = None if head.bias is None else head.bias.detach().float()
        self.scale, self.softcap = head.scale, head.softcap

    def losses(self, states: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """-log p of ``labels`` int64 [R] after ``states`` [R, H], fp32 [R]; logits exist for
        as many positions at a time as ``LOGIT_BYTES`` hold."""
        return _Losses.apply(states, self, labels)

    def logits(self, states: torch.Tensor) -> torch.Tensor:
        """fp32 [R, V] of ``states`` [R, H]."""
        return self._formula(self.product.raw(states, 0).float())[0]

    def rows_at_once(self, cuda: bool) -> int:
        """Positions whose logits are alive at once."""
        bytes_a_row = len(self.product.weight) * self.product.dtype.itemsize
        return max(8, (GPU_LOGIT_BYTES if cuda else LOGIT_BYTES) // bytes_a_row)

    def _formula(self, logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | float]:
        """(logits of the product's, in place; what a gradient to them is multiplied by on its way to the product)."""
        if self.bias is not None:
            logits += self.bias
        if self.scale != 1:
            logits *= self.scale
        if self.softcap is None:
            return logits, self.scale
        logits.div_(self.softcap).tanh_()
        slope = (1 - logits.square()) * self.scale
        return logits.mul_(self.softcap), slope

    def of_rows(self, raw: torch.Tensor, labels: torch.Tensor, gradient: bool, losses: torch.Tensor) -> None:
        """From the products ``raw`` [R, V] of some rows: their ``losses`` [R], and the gradient in the place of
        ``raw``."""
        at, labels = len(raw) if raw.is_cuda else max(1, CACHED // raw.shape[1]), labels[:, None]
        work = torch.empty(min(at, len(raw)), raw.shape[1], dtype=torch.float32, device=raw.device)
        for first in range(0, len(raw), at):
            some = slice(first, min(first + at, len(raw)))
            logits, slope = self._formula(work[: some.stop - first].copy_(raw[some]))
            chosen = logits.gather(1, labels[some])
            highest = logits.amax(dim=1, keepdim=True)
            p = logits.sub_(highest).exp_()
            total = p.sum(dim=1, keepdim=True)
            losses[some] = (highest + total.log() - chosen)[:, 0]
            if gradient:
                p /= total
                p.scatter_add_(1, labels[some], torch.full_like(chosen, -1.0))
                if isinstance(slope, torch.Tensor) or slope != 1:
                    p *= slope
                raw[some] = p


class _Losses(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, states: torch.Tensor, head: FrozenHead, labels: torch.Tensor) -> torch.Tensor:
        losses = torch.empty(len(states), dtype=torch.float32, device=states.device)
        ctx.gradient = torch.empty_like(states) if ctx.needs_input_grad[0] else None
        size = head.rows_at_once(states.is_cuda)
        for first in range(0, len(states), size):
            some = slice(first, first + size)
            raw = head.product.raw(states[some], 0)
            head.of_rows(raw, labels[some], ctx.gradient is not None, losses[some])
            if ctx.gradient is not None:
                ctx.gradient[some] = head.product.raw(raw, 1)
        return losses

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        return ctx.gradient * gradients[0][:, None].to(ctx.gradient.dtype), None, None
