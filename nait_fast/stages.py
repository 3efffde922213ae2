"""Seconds that a command spends in each of its stages, for its log."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_seconds: ContextVar[dict[str, float] | None] = ContextVar("nait_fast stages", default=None)


@contextmanager
def counted_stages() -> Iterator[dict[str, float]]:
    """Seconds by stage of what this thread does inside of the block, or of one around it: what it began with counts."""
    if (around := _seconds.get()) is not None:
        yield around
        return
    seconds: dict[str, float] = {}
    before = _seconds.set(seconds)
    try:
        yield seconds
    finally:
        _seconds.reset(before)


@contextmanager
def stage(name: str) -> Iterator[None]:
    """The block's seconds are those of stage ``name``, but for stages inside of it; of no account to whoever counts
    none."""
    if (seconds := _seconds.get()) is None:
        yield
        return
    started, before = time.perf_counter(), sum(seconds.values())
    try:
        yield
    finally:
        inside = sum(seconds.values()) - before
        seconds[name] = seconds.get(name, 0.0) + time.perf_counter() - started - inside
