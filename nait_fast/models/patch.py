"""Reversible capture: replaces the forward of the chosen MLPs by one that also yields statistics.

Several captures may be on at once, of several threads: a forward belongs to the captures of its own context (thread or
asyncio task), and modules get their forward back when the last capture ends, in whatever order they do.
"""

import copy
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import nn

from nait_fast.kernels import segment_sums
from nait_fast.kernels.capture.types import BitSpec, Segments, Stats
from nait_fast.models import fork_safety
from nait_fast.models.experts import refuse_statistics
from nait_fast.models.spec import Op, Spec


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
    ``hidden_sum``, of what goes into the MLP, is taken at ``hidden_at`` only. Raises NaitError for statistics that a
    spec does not give.
    """

    def __init__(self, specs: Sequence[Spec], statistics: frozenset[str], stop: bool, hidden_at: int | None = None):
        refuse_statistics(specs, statistics)
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

    def read(self, ordinal: int, x: torch.Tensor, op: Op) -> torch.Tensor:
        """The activations at ``ordinal``, into whose module goes ``x``, once what is wanted of them has been told."""
        forward = self.forward
        assert forward is not None
        forward.enter(ordinal, x)
        hidden, stats = op(forward.segments, self.statistics, forward.bits(ordinal))
        if ordinal == self.hidden_at:
            stats.hidden_sum = segment_sums(x, forward.segments)
        forward.take(ordinal, stats)
        return hidden

    def ends_at(self, ordinal: int) -> bool:
        """Whether the forward need not go on behind the activations at ``ordinal``."""
        return self.stop and ordinal == len(self.specs) - 1


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

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        reading = [(c, self.ordinals[c]) for c in _captures.get() if c in self.ordinals and c.forward is not None]
        if not reading:
            if self.instance_forward is not None:
                return self.instance_forward(*args, **kwargs)
            return type(self.module).forward(self.module, *args, **kwargs)

        def read(x: torch.Tensor, op: Op) -> torch.Tensor:
            for capture, ordinal in reading:
                hidden = capture.read(ordinal, x, op)
            if any(capture.ends_at(ordinal) for capture, ordinal in reading):
                raise StopForward
            return hidden

        innermost, its_ordinal = reading[-1]
        return innermost.specs[its_ordinal].forward(read, *args, **kwargs)

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
