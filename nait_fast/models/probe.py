"""Proves that what is read of a layer is what it computes: a look-alike must be refused, not misread."""

import inspect
import threading
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from nait_fast.errors import BadInput, first_line
from nait_fast.kernels.capture import reference
from nait_fast.kernels.capture.types import Segments
from nait_fast.models.experts import ExpertsSpec, RouterSpec, ScaledExpertsSpec, ScaledRouterSpec, plain_forward
from nait_fast.models.spec import DownUnpaired, FormulaSpec, MlpSpec, Op, OwnSpec, Spec

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


class _Kept:
    """(input, output) of each call of an MLP's projections inside the block, by the calling thread."""

    def __init__(self, spec: MlpSpec):
        self.spec = spec
        self._calls: dict[str, list[tuple[torch.Tensor, torch.Tensor]]] = {}

    def __enter__(self) -> "_Kept":
        mine = threading.get_ident()

        def hook_of(name: str) -> Callable[..., None]:
            def hook(module: nn.Module, args: tuple, output: torch.Tensor) -> None:
                if threading.get_ident() == mine:  # another thread may be running the model
                    self._calls.setdefault(name, []).append((args[0], output))

            return hook

        names = self.spec.family.linears
        self._handles = [self.spec.part(name).register_forward_hook(hook_of(name)) for name in names]
        return self

    def __exit__(self, *error: object) -> None:
        for handle in self._handles:
            handle.remove()

    @property
    def once(self) -> bool:
        """Whether each projection has run once."""
        return all(len(self._calls.get(name, ())) == 1 for name in self.spec.family.linears)

    def __getitem__(self, name: str) -> tuple[torch.Tensor, torch.Tensor]:
        return self._calls[name][0]


def _random(spec: MlpSpec, dtype: torch.dtype, n: int = 1) -> list[torch.Tensor]:
    """``n`` hidden states [1, 3, H]."""
    device = next((p.device for p in spec.module.parameters()), torch.device("cpu"))
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(1, 3, spec.hidden_width, generator=generator).to(device, dtype) for _ in range(n)]


def _computes_its_family(spec: FormulaSpec, dtype: torch.dtype) -> bool:
    family = spec.family
    (x,) = _random(spec, dtype)
    with torch.no_grad(), _Kept(spec) as kept:
        expected = spec.module(x)
    if not kept.once:
        return False
    into, up = kept[family.up]
    gate = None
    if family.kind == "fused":
        gate, up = up.chunk(2, dim=-1)
    elif family.gate:
        other, gate = kept[family.gate]
        if not _same(other, x):
            return False
    activation, out = kept[family.down]
    segments = Segments(torch.tensor([0]), torch.tensor([3]), torch.tensor([False]))
    with torch.no_grad():
        hidden, _ = reference.mlp_capture(gate, up, spec.act, segments, frozenset())
        for name in family.tail:
            out = spec.part(name)(out)
    return _same(into, x) and _same(hidden, activation) and _same(out, expected)


def _is_read_on_its_way(spec: OwnSpec, dtype: torch.dtype) -> bool:
    """Whether the forward with its activations read is the module's own, and they are what goes into ``down``, a row of
    neurons for each token."""
    parameters = list(inspect.signature(type(spec.module).forward).parameters.values())[1:]
    needed = [p for p in parameters if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD]
    inputs = _random(spec, dtype, len(needed))  # hidden states, and a residual where one is added
    segments = Segments(torch.tensor([0]), torch.tensor([3]), torch.tensor([False]))
    seen: list[torch.Tensor] = []

    def read(x: torch.Tensor, op: Op) -> torch.Tensor:
        seen.append(op(segments, frozenset(), None)[0])
        return seen[-1]

    with torch.no_grad():
        expected = spec.module(*inputs)
        try:
            with _Kept(spec) as kept:
                got = spec.forward(read, *inputs)
        except DownUnpaired:
            return False
    if not kept.once or len(seen) != 1 or type(got) is not type(expected):
        return False
    activation, _ = kept[spec.family.down]
    in_rows = activation.numel() == 3 * spec.n_neurons and kept[spec.family.up][0].numel() == inputs[0].numel()
    pairs = zip(got, expected, strict=True) if isinstance(got, tuple) else [(got, expected)]
    return in_rows and _same(seen[0], activation) and all(_same(a, b) for a, b in pairs if a is not None)


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


def _computes_as_scaled_experts(spec: ScaledExpertsSpec, dtype: torch.dtype) -> bool:
    """Within rounding of what the routed experts add."""
    module = spec.module
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(TOKENS, spec.hidden_width, generator=generator).to(module.experts.down_proj.device, dtype)
    segments = Segments(torch.tensor([0]), torch.tensor([TOKENS]), torch.tensor([False]))

    def read(x: torch.Tensor, op: Op) -> torch.Tensor:
        return op(segments, frozenset(), None)[0]

    with torch.no_grad():
        expected, logits = module(x)
        got, same_logits = spec.forward(read, x)
        routed = expected.double() - module.shared_expert(x).double()
    error = (got.double() - expected.double()).norm() / routed.norm()
    close = not error > (1e-4 if dtype == torch.float32 else 5e-2)
    return got.shape == expected.shape and _same(logits, same_logits) and close


_PROOFS: dict[type[Spec], Callable[[Any, torch.dtype], bool]] = {
    FormulaSpec: _computes_its_family,
    OwnSpec: _is_read_on_its_way,
    ExpertsSpec: _computes_as_experts,
    ScaledExpertsSpec: _computes_as_scaled_experts,
    RouterSpec: lambda spec, dtype: True,  # nothing is taken apart
    ScaledRouterSpec: lambda spec, dtype: True,
}
