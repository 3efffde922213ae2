"""Stopping in good order: the first SIGINT or SIGTERM lets the batch under way finish."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopped(KeyboardInterrupt):
    """The run was asked to stop, and has; the message says how far it came and how to go on."""


class StopSwitch:
    """``asked`` after the first signal, while in the ``with`` block; a second one ends the process as usual.

    ``parent``: a process whose end counts as the signal. Signals are only caught in the main thread.
    """

    def __init__(self, parent: int | None = None):
        self._asked, self._parent = False, parent
        self._before: dict[int, Any] = {}

    @property
    def asked(self) -> bool:
        return self._asked or (self._parent is not None and os.getppid() != self._parent)

    def __enter__(self) -> StopSwitch:
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                # One that is ignored (a job in the background) stays so; None: a handler that is not Python's.
                if (before := signal.getsignal(number)) not in (signal.SIG_IGN, None):
                    self._before[number] = before
                    signal.signal(number, self._catch)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def _catch(self, number: int, frame: FrameType | None) -> None:
        self._asked = True
        signal.signal(number, self._before[number])
