"""Copies between host and device that do not make the host wait."""

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch


def to_device(x: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Host tensor ``x`` on ``device``; to a GPU through pinned memory, behind the work already queued there."""
    return x.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else x.to(device)


class Outbox:
    """Device tensors on their way home: ``send`` queues the copies, ``receive`` gets the arrays once they are here.

    At most ``depth`` sendings are under way; tensors of the CPU are handed over at once. ``flush`` waits for the rest,
    by its sendings' events alone: work queued on the device behind them is not waited for. It may be called in another
    thread, once nothing more is sent.
    """

    def __init__(self, depth: int = 2):
        self.depth = depth
        self._pending: deque[tuple[Any, list[torch.Tensor], Callable[[list[np.ndarray]], None]]] = deque()

    def send(self, tensors: Sequence[torch.Tensor], receive: Callable[[list[np.ndarray]], None]) -> None:
        if all(x.device.type == "cpu" for x in tensors):
            receive([x.numpy() for x in tensors])
            return
        home = [torch.empty(x.shape, dtype=x.dtype, pin_memory=True) for x in tensors]
        for source, copy in zip(tensors, home, strict=True):
            copy.copy_(source, non_blocking=True)
        device = next(x.device for x in tensors if x.device.type == "cuda")
        event = torch.cuda.Event()
        event.record(torch.cuda.current_stream(device))  # which need not be the current device
        self._pending.append((event, home, receive))
        while len(self._pending) > self.depth:
            self._take()

    def _take(self) -> None:
        event, home, receive = self._pending.popleft()
        event.synchronize()
        receive([x.numpy() for x in home])

    def flush(self) -> None:
        while self._pending:
            self._take()
