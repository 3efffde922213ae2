"""A Ray cluster: connected, how many actors find a place on it, and what went wrong there."""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from nait_fast.errors import BadInput, NaitError, first_line, missing_extra, one_line

_LAST_CALLS = 5.0  # seconds that Ray Data's threads get for what they still ask Ray
_ENDLESS = ("Prefetcher", "data-usage-metrics-poller")  # threads of Ray Data that end with the process


def _knock(address: str) -> None:
    """OSError where nobody listens at ``host:port``: Ray itself would try for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()


@contextmanager
def cluster(address: str | None) -> Iterator[Any]:
    """Ray, connected; what it was before it is again after the block."""
    try:
        import ray
    except ImportError:
        raise missing_extra("ray", "ray", "needs Ray", "--engine ray") from None
    ours = not ray.is_initialized()
    if ours:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        named = os.environ.get("RAY_ADDRESS", "")
        local: dict[str, Any] = {} if address or named else {"include_dashboard": False}
        try:
            _knock(address or named)
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **local)
        except (OSError, RuntimeError, ValueError) as error:
            raise BadInput(
                f"no Ray cluster answers there ({first_line(error, kind=False, errno=True)})",
                where=f"--address {address}" if address else f"RAY_ADDRESS={named}" if named else "--engine ray",
                remedy=f"start one with `ray start --head`, or {'leave the flag out' if address else 'unset it'}",
            ) from None
    try:
        yield ray
    finally:
        if ours:
            shut_down(ray)


def shut_down(ray: Any) -> None:
    """``ray.shutdown()`` once the threads of Ray Data have ended: one that still asks Ray for something afterwards, for
    a last count or block, ends the whole process without a word."""
    until = time.monotonic() + _LAST_CALLS
    for thread in threading.enumerate():
        kinds = type(thread).__module__, getattr(getattr(thread, "_target", None), "__module__", None) or ""
        if any(kind.startswith("ray.data.") for kind in kinds) and not thread.name.startswith(_ENDLESS):
            thread.join(max(0.0, until - time.monotonic()))
    ray.shutdown()


def gpus_of(nodes: Sequence[dict[str, Any]], device: str) -> int:
    if device == "cpu":
        return 0
    return int(sum(node["Resources"].get("GPU", 0) for node in nodes if node["Alive"]))


def number_of(workers: int | None, nodes: Sequence[dict[str, Any]], device: str) -> int:
    """Actors to start. Raises NaitError for more than the cluster has room for: Ray would wait for room for ever."""
    gpus = gpus_of(nodes, device)
    cpus = [int(node["Resources"].get("CPU", 0)) for node in nodes if node["Alive"]]
    room, what = (gpus, "GPUs") if gpus else (sum(cpus), "CPUs")
    number = workers or gpus or max(1, sum(1 for n in cpus if n))
    if number > room:
        raise BadInput(f"the Ray cluster has only {room} {what}", where=f"--workers {number}", remedy="ask for fewer")
    return number


def cpus_each(nodes: Sequence[dict[str, Any]], actors: int) -> int:
    """The most CPUs an actor may ask for so that all find a place on ``nodes`` (at least 1)."""
    each = [int(node["Resources"].get("CPU", 0)) for node in nodes if node["Alive"]]
    return next((cpus for cpus in range(max(each, default=1), 1, -1) if sum(n // cpus for n in each) >= actors), 1)


def cause_of(error: BaseException) -> str:
    """What an actor's own code raised, out of what Ray makes of it, or what Ray says."""
    inner: BaseException | None = error
    innermost = error
    while inner is not None:
        if isinstance(inner, NaitError):
            return one_line(inner)
        innermost, inner = inner, getattr(inner, "cause", None) or inner.__cause__
    return f"Ray: {first_line(innermost, kind=innermost is not error)}"
