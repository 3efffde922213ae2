"""Reversible capture: replaces the forward of the chosen MLPs by one that also yields statistics.

Several captures may be on at once, of several threads: a forward belongs to the captures of its own context (thread or
asyncio task), and modules get their forward back when the last capture ends, in whatever order they do.
"""

import copy
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import nn

from nait_fast.errors import BadInput, first_line
from nait_fast.kernels import mlp_capture, segment_sums
from nait_fast.kernels.capture import reference
from nait_fast.kernels.capture.types import BitSpec, Segments, Stats
from nait_fast.models import fork_safety
from nait_fast.models.spec import MlpSpec, input_width


class StopForward(Exception):
    """Raised by the last captured MLP: nothing after its activation is needed."""


class CapturedForward(ABC):
    """What one forward is captured for, and where its statistics go. ``segments``: where its sequences lie.

    ``ordinal`` counts the captured layers.
    """

    def __init__(self, segments: Segments):
        self.segments = segments

    def enter(self, ordinal: int, x: torch.Tensor) -> None:
        """``x`` goes into the MLP of a layer. Raises NaitError for what cannot be read."""
        return

    def bits(self, ordinal: int) -> BitSpec | None:
        """The bits that the op shall pack in the same pass, if any."""
        return None

    @abstractmethod
    def take(self, ordinal: int, stats: Stats) -> None:
        """A layer is done."""


class Capture:
    """Which MLPs are read, and for which ``statistics``; ``stop``: the forward need not go on behind the last of them.

    Set ``forward`` before each forward (each thread has its own), and to None where none is awaited. The statistic
    ``hidden_sum``, of what goes into the MLP, is taken at ``hidden_at`` only.
    """

    def __init__(self, specs: Sequence[MlpSpec], statistics: frozenset[str], stop: bool, hidden_at: int | None = None):
        self.specs, self.stop = specs, stop
        self.statistics = statistics - {"hidden_sum"}
        self.hidden_at = hidden_at if "hidden_sum" in statistics else None
        self._thread = threading.local()

    @property
    def forward(self) -> CapturedForward | None:
        return getattr(self._thread, "forward", None)

    @forward.setter
    def forward(self, forward: CapturedForward | None) -> None:
        self._thread.forward = forward

    @property
    def on(self) -> bool:
        """Whether the caller is inside this capture's block."""
        return self in _captures.get()

    def read(self, ordinal: int, x: torch.Tensor, gate: torch.Tensor | None, up: torch.Tensor) -> torch.Tensor:
        """The activations of the MLP at ``ordinal``, once what is wanted of them has been told."""
        forward = self.forward
        assert forward is not None
        forward.enter(ordinal, x)
        act, segments = self.specs[ordinal].act, forward.segments
        hidden, stats = mlp_capture(gate, up, act, segments, self.statistics, forward.bits(ordinal))
        if ordinal == self.hidden_at:
            stats.hidden_sum = segment_sums(x, segments)
        forward.take(ordinal, stats)
        return hidden

    def ends_at(self, ordinal: int) -> bool:
        """Whether the forward need not go on behind the activations at ``ordinal``."""
        return self.stop and ordinal == len(self.specs) - 1


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


# Of the running thread or task, the innermost last: what a forward is captured for depends on who calls it.
_captures: ContextVar[tuple[Capture, ...]] = ContextVar("nait_fast captures", default=())
_installing = fork_safety.ForkSafeLock()


class _Tap:
    """A module's forward while captures are on: all of the caller's that await one read it, the innermost last."""

    def __init__(self, module: nn.Module):
        # A module may carry a forward of its own already (accelerate's hooks): that one comes back.
        self.instance_forward = module.__dict__.get("forward")
        self.module = module
        self.ordinals: dict[Capture, int] = {}

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        reading = [(c, self.ordinals[c]) for c in _captures.get() if c in self.ordinals and c.forward is not None]
        if not reading:
            if self.instance_forward is not None:
                return self.instance_forward(x)
            return type(self.module).forward(self.module, x)
        innermost, its_ordinal = reading[-1]
        spec = innermost.specs[its_ordinal]
        gate, up = project_up(spec, x)
        for capture, ordinal in reading:
            hidden = capture.read(ordinal, x, gate, up)
        if any(capture.ends_at(ordinal) for capture, ordinal in reading):
            raise StopForward
        return project_down(spec, hidden)

    def __deepcopy__(self, memo: dict[int, Any]) -> "_Tap":
        """Of a copied module: it has no captures, which are its original's."""
        made = _Tap.__new__(_Tap)
        memo[id(self)] = made
        made.instance_forward = copy.deepcopy(self.instance_forward, memo)
        made.module = copy.deepcopy(self.module, memo)
        made.ordinals = {}
        return made


def _install(capture: Capture) -> None:
    with _installing():
        for ordinal, spec in enumerate(capture.specs):
            tap = spec.module.__dict__.get("forward")
            if not isinstance(tap, _Tap):
                tap = spec.module.__dict__["forward"] = _Tap(spec.module)
            tap.ordinals[capture] = ordinal


def _remove(capture: Capture) -> None:
    with _installing():
        for spec in capture.specs:
            tap = spec.module.__dict__.get("forward")
            if not isinstance(tap, _Tap):  # somebody has put a forward around ours: that one stays
                continue
            tap.ordinals.pop(capture, None)
            if not tap.ordinals:
                del spec.module.__dict__["forward"]
                if tap.instance_forward is not None:
                    spec.module.__dict__["forward"] = tap.instance_forward


@contextmanager
def patched(capture: Capture) -> Iterator[None]:
    """Capture is on inside the block; the modules are untouched after it, whatever happens."""
    try:
        _install(capture)
        _captures.set((*_captures.get(), capture))
        yield
    finally:
        # Not by a token: a block may end in another context than it began in.
        _captures.set(tuple(other for other in _captures.get() if other is not capture))
        _remove(capture)


@contextmanager
def uncaptured() -> Iterator[None]:
    """Forwards of the block are nobody's: modules run as if no capture were on."""
    before = _captures.set(())
    try:
        yield
    finally:
        _captures.reset(before)


def probe(specs: Sequence[MlpSpec], dtype: torch.dtype = torch.float32) -> None:
    """Check on random input of ``dtype`` that every MLP in ``specs`` computes what its family's row says, bit for bit.

    Each one, not one of a kind: layers of a class may differ by a number in their configuration. The module runs once,
    and what goes in and out of its parts is compared, so that weights are read once only. Raises NaitError naming the
    module: a look-alike must be refused, not misread.
    """
    for spec in specs:
        try:
            fits = _computes_its_family(spec, dtype)
        except Exception as error:  # somebody else's code
            raise BadInput(
                f"{type(spec.module).__name__} fails ({first_line(error)})", where=f"layer {spec.layer}"
            ) from None
        if not fits:
            raise BadInput(
                f"{type(spec.module).__name__} looks like the family of {spec.family.examples} but computes something "
                "else; it is not supported",
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
