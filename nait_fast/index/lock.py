"""Locks between processes that share a folder."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from nait_fast.errors import NaitError

_POLL_SECONDS = 0.05


class Lock:
    """An exclusive lock on a file, given back by the kernel when the process ends, however it ends.

    On a file, not on a folder: NFS and Lustre show other nodes the locks of files only. Where a system or a file system
    has no locks, all succeed: locks save work here, no result rests on them. ``on_wait`` is called while ``with`` waits
    for it, and may raise.
    """

    def __init__(self, path: Path, on_wait: Callable[[], None] = lambda: None):
        self.path, self._on_wait = path, on_wait
        self._descriptor: int | None = None

    def acquire(self, note: str = "") -> bool:
        """Whether the lock is ours now; ``note`` is then written into the file. False, too, for a file whose folder is
        gone. Raises NaitError for a file that cannot be opened."""
        try:
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
        except FileNotFoundError:
            return False
        except OSError as error:
            raise NaitError(f"{self.path}: cannot be opened ({error.strerror or error})") from None
        try:
            import fcntl

            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return False
        except (ImportError, OSError):  # no locks here
            pass
        self._descriptor = descriptor
        if note:
            self.write(note)
        return True

    def write(self, note: str) -> None:
        """Replace the file's content."""
        if self._descriptor is not None:
            with suppress(OSError):  # a full disk: the lock holds without a note
                os.ftruncate(self._descriptor, 0)
                os.pwrite(self._descriptor, note.encode(), 0)

    def touch(self) -> None:
        """Set the file's time: work goes on."""
        if self._descriptor is not None:
            os.utime(self._descriptor)

    def release(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def __enter__(self) -> Lock:
        while not self.acquire():
            if not self.path.parent.is_dir():
                raise NaitError(f"{self.path.parent}: the folder is gone; run again")
            self._on_wait()
            time.sleep(_POLL_SECONDS)
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def is_held(path: Path) -> bool:
    """Whether some process, this one included, holds the lock on ``path``."""
    lock = Lock(path)
    free = lock.acquire()
    lock.release()
    return not free and path.exists()
