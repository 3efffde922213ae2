"""RMSNorm and rotary embeddings of a model in one kernel each, where that is proved to be the same.

transformers composes both of tensor operations that each read and write all tokens: at a LLaMA-2-7B's shape they take
more than a fifth of an index pass on an H100. Both ops give the very bits of these operations, and that is proved on
random numbers, norm by norm and attention class by class; what differs (interleaved rotary pairs, a norm of another
form, another torch's order of additions) stays as it is. Only ``forward`` of the given model's modules is replaced, and
put back after the block.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import FunctionType, MethodType
from typing import Any

import torch
from torch import nn

from nait_fast import kernels
from nait_fast.kernels.common.dispatch import pick
from nait_fast.kernels.norm import reference as norm_reference

ROTARY = "apply_rotary_pos_emb"  # transformers' name of it, in every modelling file that has one
HALF = (torch.bfloat16, torch.float16)
FEWEST_ROWS = 16  # with fewer, torch adds in another order
Forward = Callable[..., Any]


def fused_forwards(body: nn.Module) -> dict[nn.Module, Forward]:
    """Modules of ``body`` and the forwards that may stand in for theirs: none unless it runs on Triton in 16 bits."""
    weight = next(body.parameters())
    if weight.dtype not in HALF or pick(weight.device.type, ("triton", "reference")) != "triton":
        return {}
    rotary: dict[tuple[type, Any], Forward | None] = {}
    forwards: dict[nn.Module, Forward] = {}
    with torch.inference_mode():
        for module in body.modules():
            kind: Any = type(module)
            if "forward" in module.__dict__:  # accelerate's hooks
                continue
            if kind.__name__.endswith("RMSNorm"):
                if same := _proved(_norm_form, module, weight):
                    forwards[module] = _norm(module, *same)
            elif ROTARY in getattr(getattr(kind.forward, "__code__", None), "co_names", ()):
                key = kind, getattr(module, "head_dim", None)
                if key not in rotary:
                    rotary[key] = _proved(_with_rotary, module, weight)
                if forward := rotary[key]:
                    forwards[module] = MethodType(forward, module)
    return forwards


def _proved(proof: Callable[..., Any], *arguments: Any) -> Any:
    """What ``proof`` finds; None where it fails, for what a module of that name may do is anybody's guess."""
    try:
        return proof(*arguments)
    except Exception:  # whatever it is, the module keeps its own forward
        return None


@contextmanager
def replaced(forwards: Mapping[nn.Module, Forward]) -> Iterator[None]:
    """Inside the block each module has the forward given for it, but where somebody has hung in another since."""
    mine = {module: forward for module, forward in forwards.items() if "forward" not in module.__dict__}
    try:
        for module, forward in mine.items():
            module.__dict__["forward"] = forward
        yield
    finally:
        for module, forward in mine.items():
            if module.__dict__.get("forward") is forward:
                del module.__dict__["forward"]


def _eps(module: Any) -> float | None:
    return next((getattr(module, name) for name in ("variance_epsilon", "eps") if hasattr(module, name)), None)


def _norm_form(module: Any, like: torch.Tensor) -> tuple[str, bool] | None:
    """The op's form and order of additions that give the module's own bits; None: none does.

    The form shows in 16 bits. The order shows in fp32 alone: a sum's last bit seldom changes a number of 16.
    """
    width, eps = module.weight.numel(), _eps(module)
    if module.weight.ndim != 1 or module.weight.dtype != like.dtype or eps is None:
        return None
    generator = torch.Generator().manual_seed(0)
    x, weight = (
        (3 * torch.randn(shape, generator=generator)).to(like.device) for shape in ((4 * FEWEST_ROWS, width), (width,))
    )

    def plain(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:  # another weight: the module's may be all ones
        return torch.func.functional_call(module, {"weight": weight}, (x,))

    half = x.to(like.dtype), weight.to(like.dtype)
    for form in norm_reference.FORMS:
        if torch.equal(plain(*half), norm_reference.rms_norm(*half, eps, form)):
            orders = (True, False)
            return next(
                (
                    (form, halves)
                    for halves in orders
                    if _same(plain(x, weight), kernels.rms_norm(x, weight, eps, form, halves))
                    and _same(plain(*half), kernels.rms_norm(*half, eps, form, halves))
                ),
                None,
            )
    return None


def _same(expected: torch.Tensor, got: torch.Tensor) -> bool:
    if expected.device.type == "cpu":  # the interpreter, for tests: a CPU's torch has an order of its own
        return bool((expected.float() - got.float()).norm() <= 1e-3 * expected.float().norm())
    return torch.equal(expected, got)


def _norm(module: Any, form: str, halves: bool) -> Forward:
    eps, plain = _eps(module), module.forward

    def fused(*arguments: Any, **named: Any) -> Any:
        x = arguments[0] if len(arguments) == 1 and not named else None
        if x is None or x.dtype != module.weight.dtype or x.numel() < FEWEST_ROWS * x.shape[-1]:
            return plain(*arguments, **named)
        return kernels.rms_norm(x, module.weight, eps, form, halves)

    return fused


def _with_rotary(module: Any, like: torch.Tensor) -> Forward | None:
    """The module's forward with the op in place of its rotary embedding, None where they are not bit-equal."""
    forward = type(module).forward
    rotary = forward.__globals__.get(ROTARY)
    width = getattr(module, "head_dim", None)
    if rotary is None or not isinstance(width, int) or width % 2:
        return None
    generator = torch.Generator().manual_seed(0)
    query, key, cos, sin = (
        torch.randn(shape, generator=generator).to(like.device, like.dtype)
        for shape in ((1, 3, 7, width), (1, 2, 7, width), (1, 7, width), (1, 7, width))
    )
    got = (kernels.apply_rotary(x, cos, sin) for x in (query, key))
    if not all(torch.equal(a, b) for a, b in zip(got, rotary(query, key, cos, sin), strict=True)):
        return None

    def fused(q: torch.Tensor, k: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, *others: Any, **named: Any):
        # A rotary width below the head's, angles in fp32 (OLMo) or another layout are for the model's own function.
        plain = not others and not named and q.ndim == 4 and cos.shape == (q.shape[0], *q.shape[2:])
        if not plain or not q.dtype == k.dtype == cos.dtype == sin.dtype:
            return rotary(q, k, cos, sin, *others, **named)
        return kernels.apply_rotary(q, cos, sin), kernels.apply_rotary(k, cos, sin)

    out = FunctionType(
        forward.__code__,
        {**forward.__globals__, ROTARY: fused},
        forward.__name__,
        forward.__defaults__,
        forward.__closure__,
    )
    out.__kwdefaults__ = forward.__kwdefaults__
    return out
