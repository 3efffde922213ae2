"""Reversible capture: replaces the forward of the chosen MLPs by one that also yields statistics."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch

from nait_fast.errors import NaitError
from nait_fast.kernels import mlp_capture
from nait_fast.kernels.capture import reference
from nait_fast.kernels.capture.reference import BitSpec, Segments, Stats
from nait_fast.models.spec import MlpSpec, input_width


class StopForward(Exception):
    """Raised by the last captured MLP: nothing after its activation is needed."""


class Capture:
    """What a patched MLP needs in a forward: set ``segments`` before each one.

    ``on_layer(position, stats)`` is called as each captured layer is done (``position`` counts the captured layers);
    ``bits(position)`` tells the bits that the op shall pack in the same pass, if any.
    """

    def __init__(
        self, specs: Sequence[MlpSpec], statistics: frozenset[str], on_layer: Callable[[int, Stats], None], stop: bool
    ):
        self.specs, self.statistics, self.on_layer, self.stop = specs, statistics, on_layer, stop
        self.segments: Segments | None = None
        self.bits: Callable[[int], BitSpec | None] = lambda position: None

    def forward(self, position: int, x: torch.Tensor) -> torch.Tensor:
        spec = self.specs[position]
        gate, up = project_up(spec, x)
        assert self.segments is not None
        hidden, stats = mlp_capture(gate, up, spec.act, self.segments, self.statistics, self.bits(position))
        self.on_layer(position, stats)
        if self.stop and position == len(self.specs) - 1:
            raise StopForward
        return project_down(spec, hidden)


def project_up(spec: MlpSpec, x: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor]:
    """(gate or None, up) of one MLP, each [..., J]."""
    family = spec.family
    up = spec.part(family.up)(x)
    if family.kind == "fused":
        gate, up = up.chunk(2, dim=-1)
        return gate, up
    return (spec.part(family.gate)(x) if family.gate else None), up


def project_down(spec: MlpSpec, hidden: torch.Tensor) -> torch.Tensor:
    out = spec.part(spec.family.down)(hidden)
    for name in spec.family.tail:
        out = spec.part(name)(out)
    return out


@contextmanager
def patched(capture: Capture) -> Iterator[None]:
    """Capture is on inside the block; the modules are untouched after it, whatever happens."""

    def bind(position: int):
        return lambda x: capture.forward(position, x)

    # A module may carry a forward of its own already (an outer capture, accelerate's hooks): that one comes back.
    before = [spec.module.__dict__.get("forward") for spec in capture.specs]
    try:
        for position, spec in enumerate(capture.specs):
            spec.module.forward = bind(position)  # type: ignore[method-assign]
        yield
    finally:
        for spec, forward in zip(capture.specs, before, strict=True):
            spec.module.__dict__.pop("forward", None)
            if forward is not None:
                spec.module.forward = forward  # type: ignore[method-assign]


def probe(specs: Sequence[MlpSpec]) -> None:
    """Check on random input that each kind of MLP in ``specs`` computes what its family's row says, bit for bit.

    Raises NaitError naming the module: a look-alike must be refused, not misread.
    """
    seen = set()
    for spec in specs:
        if type(spec.module) in seen:
            continue
        seen.add(type(spec.module))
        up_projection = spec.part(spec.family.up)
        weight, width = up_projection.weight, input_width(up_projection)
        x = torch.randn(1, 3, width, generator=torch.Generator().manual_seed(0)).to(weight.device, weight.dtype)
        with torch.no_grad():
            expected = spec.module(x)
            try:
                gate, up = project_up(spec, x)
                segments = Segments(torch.tensor([0]), torch.tensor([3]), torch.tensor([False]))
                hidden, _ = reference.mlp_capture(gate, up, spec.act, segments, frozenset())
                got = project_down(spec, hidden)
            except RuntimeError:  # shapes that do not fit
                got = None
        if got is None or not torch.equal(got, expected):
            raise NaitError(
                f"layer {spec.layer}: {type(spec.module).__name__} looks like the family of {spec.family.examples} "
                "but computes something else; it is not supported"
            )
