"""Proves that what is read of a layer is what it computes: a look-alike must be refused, not misread."""

import threading
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from nait_fast.errors import BadInput, first_line
from nait_fast.kernels.capture import reference
from nait_fast.kernels.capture.types import Segments
from nait_fast.models.experts import ExpertsSpec, RouterSpec, plain_forward
from nait_fast.models.spec import MlpSpec, Op, Spec, input_width

TOKENS = 8  # of the random input of experts


def probe(specs: Sequence[Spec], dtype: torch.dtype = torch.float32) -> None:
    """Check on random input of ``dtype`` that every MLP in ``specs`` computes what its family's row says, bit for bit,
    and that experts give what their class's own loop gives.

    Each one, not one of a kind: layers of a class may differ by a number in their configuration. An MLP runs once, and
    what goes in and out of its parts is compared, so that weights are read once only. Raises NaitError naming the
    module.
    """
    for spec in specs:
        try:
            fits = _PROOFS[type(spec)](spec, dtype)
        except Exception as error:  # somebody else's code
            raise BadInput(
                f"{type(spec.module).__name__} fails ({first_line(error)})", where=f"layer {spec.layer}"
            ) from None
        if not fits:
            raise BadInput(
                f"{type(spec.module).__name__} looks like {spec.looks_like} but computes something else; it is not "
                "supported",
                where=f"layer {spec.layer}",
            )


def activation_dtype(model: Any) -> torch.dtype:
    """The dtype of hidden states: that of the embeddings, for a quantised layer's own weights are bytes."""
    try:
        return model.get_input_embeddings().weight.dtype
    except (AttributeError, NotImplementedError):  # somebody's own class
        return next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)


def _computes_its_family(spec: MlpSpec, dtype: torch.dtype) -> bool:
    family = spec.family
    seen: dict[str, list[tuple[torch.Tensor, torch.Tensor]]] = {}
    mine = threading.get_ident()

    def keep(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple, output: torch.Tensor) -> None:
            if threading.get_ident() == mine:  # another thread may be running the model
                seen.setdefault(name, []).append((args[0], output))

        return hook

    names = (family.up, family.down, *([family.gate] if family.gate else []))
    handles = [spec.part(name).register_forward_hook(keep(name)) for name in names]
    device = next((p.device for p in spec.module.parameters()), torch.device("cpu"))
    width = input_width(spec.part(family.up))
    x = torch.randn(1, 3, width, generator=torch.Generator().manual_seed(0)).to(device, dtype)
    try:
        with torch.no_grad():
            expected = spec.module(x)
    finally:
        for handle in handles:
            handle.remove()
    if any(len(seen.get(name, ())) != 1 for name in names):
        return False
    into, up = seen[family.up][0]
    gate = None
    if family.kind == "fused":
        gate, up = up.chunk(2, dim=-1)
    elif family.gate:
        other, gate = seen[family.gate][0]
        if not _same(other, x):
            return False
    activation, out = seen[family.down][0]
    segments = Segments(torch.tensor([0]), torch.tensor([3]), torch.tensor([False]))
    with torch.no_grad():
        hidden, _ = reference.mlp_capture(gate, up, spec.act, segments, frozenset())
        for name in family.tail:
            out = spec.part(name)(out)
    return _same(into, x) and _same(hidden, activation) and _same(out, expected)


def _same(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Bit for bit; NaN of damaged or overflowing weights is the same NaN, and refused for what it is elsewhere."""
    return torch.equal(a, b) or (a.shape == b.shape and torch.equal(a.nan_to_num(), b.nan_to_num()))


def _computes_as_experts(spec: ExpertsSpec, dtype: torch.dtype) -> bool:
    """Within rounding: the class's loop adds in another order."""
    generator, k = torch.Generator().manual_seed(0), min(2, spec.n_experts)
    device = spec.module.down_proj.device
    x = torch.randn(TOKENS, spec.hidden_width, generator=generator).to(device, dtype)
    index = torch.stack([torch.randperm(spec.n_experts, generator=generator)[:k] for _ in range(TOKENS)]).to(device)
    weights = (torch.rand(TOKENS, k, generator=generator) + 0.1).to(device, dtype)
    segments = Segments(torch.tensor([0]), torch.tensor([TOKENS]), torch.tensor([False]))

    def read(x: torch.Tensor, op: Op) -> torch.Tensor:
        return op(segments, frozenset(), None)[0]

    with torch.no_grad():
        expected = plain_forward(spec.module)(x, index, weights)
        got = spec.forward(read, x, index, weights)
    error = (got.double() - expected.double()).norm() / expected.double().norm()
    return got.shape == expected.shape and not error > (1e-4 if dtype == torch.float32 else 5e-2)


_PROOFS: dict[type[Spec], Callable[[Any, torch.dtype], bool]] = {
    MlpSpec: _computes_its_family,
    ExpertsSpec: _computes_as_experts,
    RouterSpec: lambda spec, dtype: True,  # nothing is taken apart
}
