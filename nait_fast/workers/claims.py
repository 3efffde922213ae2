"""Which worker does which unit: locks on files of a shared folder, no communication, no static shares.

A unit is done when its note is there. To take one, a worker locks the unit's lock file; the kernel gives the lock back
when the process ends, however it ends, so a dead worker's unit is free at once. A worker that has nothing left to take
does again a unit that another one holds but has not begun, or that has stood still for `LEASE_SECONDS`: a slow or
stopped worker holds nobody back. Two workers on one unit write the same bytes under the same name, so that locks save
work and no result rests on them.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from nait_fast.storage.lock import Lock, is_held

LEASE_SECONDS = 600.0
TOUCH_SECONDS = 5.0  # how often who is at a unit says so
_POLL_SECONDS = 0.1


class Claims:
    """The units of one worker. `units`: numbers of all that shall be done; `is_done(unit)`: its note is there.

    `first`: where among the units this worker begins to look, so that several do not meet at the first one; `since`:
    when the run began (seconds since 1970; default now). `next` may be called from another thread than the rest, and so
    may `touch` and `leave`, of a unit that nobody else is at.
    """

    def __init__(
        self,
        folder: Path,
        units: Sequence[int],
        is_done: Callable[[int], bool],
        worker: str,
        first: int = 0,
        since: float | None = None,
    ):
        self.folder, self.worker = folder, worker
        first = first % len(units) if units else 0
        self._units = [*units[first:], *units[:first]]
        self._is_done = is_done
        self._since = time.time() if since is None else since
        self._locks: dict[int, Lock] = {}
        self._closed = threading.Event()

    def next(self) -> int | None:
        """A unit to prepare, ours until ``leave``; None when there is none left. Waits while others hold
        the last ones."""
        while not self._closed.is_set():
            taken: list[int] = []  # by others, or failed
            for position, unit in enumerate(self._units):
                if unit in self._locks:
                    taken.append(unit)
                elif self._is_done(unit):
                    continue
                elif self.failure(unit) is None and not self._is_again(unit) and self._take(unit, ".lock"):
                    self._units = [*taken, *self._units[position:]]
                    return unit
                else:
                    taken.append(unit)
            self._units = taken
            waiting = [unit for unit in taken if unit not in self._locks and self.failure(unit) is None]
            if not waiting:
                return None
            for unit in waiting:
                if self._stands_still(unit) and self._take(unit, ".again"):
                    return unit
            self._closed.wait(_POLL_SECONDS)
        return None

    def begin(self, unit: int) -> bool:
        """The unit's turn has come; False if somebody else has done it meanwhile."""
        again = Lock(self._path(unit, ".again"))
        ours = self._locks[unit].path == again.path or again.acquire()
        if not ours or self._is_done(unit):
            again.release()
            self.leave(unit)
            return False
        self._locks[unit].write(self._note("running"))
        again.release()
        return True

    def hold(self, unit: int) -> None:
        """Begin a unit that was given to us from elsewhere: others shall see so, whoever else may hold it."""
        if self._take(unit, ".lock"):
            self._locks[unit].write(self._note("running"))

    def touch(self, unit: int) -> None:
        """Work on the unit goes on."""
        if (lock := self._locks.get(unit)) is not None:
            with suppress(OSError):  # of a file that others may have taken away: the next one may be told
                lock.touch()

    def leave(self, unit: int) -> None:
        """The unit is done, or given back."""
        if (lock := self._locks.pop(unit, None)) is not None:
            lock.release()

    def fail(self, unit: int, error: str) -> None:
        """No other worker of this run shall try the unit."""
        note = {"worker": self.worker, "error": error, "time": time.time()}
        with suppress(OSError):  # a full disk: the others will see for themselves
            self._path(unit, ".failed").write_text(json.dumps(note))

    def failure(self, unit: int) -> str | None:
        """What another worker of this run said of a unit that failed."""
        try:
            note = json.loads(self._path(unit, ".failed").read_text())
            # An older note is of an earlier run, which this one repeats.
            return f"{note['worker']}: {note['error']}" if note["time"] >= self._since else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def first_failure(self) -> str | None:
        return next((why for unit in self._units if (why := self.failure(unit)) is not None), None)

    def stop(self) -> None:
        """``next`` returns None from now on."""
        self._closed.set()

    def close(self) -> None:
        """Give everything back, once nobody is in ``next`` any more."""
        self.stop()
        for unit in list(self._locks):
            self.leave(unit)

    def _path(self, unit: int, suffix: str) -> Path:
        return self.folder / f"unit-{unit:05d}{suffix}"

    def _note(self, state: str) -> str:
        return json.dumps({"worker": self.worker, "pid": os.getpid(), "state": state})

    def _take(self, unit: int, suffix: str) -> bool:
        lock = Lock(self._path(unit, suffix))
        if not lock.acquire(note=self._note("waiting")):
            return False
        if self._is_done(unit):
            lock.release()
            return False
        self._locks[unit] = lock
        return True

    def _is_again(self, unit: int) -> bool:
        """Somebody does the unit in place of a worker that had it."""
        path = self._path(unit, ".again")
        return path.exists() and is_held(path)

    def _stands_still(self, unit: int) -> bool:
        """Another worker holds the unit, but has not begun it, or makes no progress."""
        path = self._path(unit, ".lock")
        try:
            state = json.loads(path.read_text())["state"]
            return state == "waiting" or time.time() - path.stat().st_mtime > LEASE_SECONDS
        except (OSError, ValueError, KeyError, TypeError):  # being written right now
            return False
