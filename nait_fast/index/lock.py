"""Locks between processes that share a folder."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path


class Lock:
    """An exclusive lock on a file or folder, given back by the kernel when the process ends, however it ends.

    Where a system or a file system has no locks, all succeed: locks save work here, no result rests on them.
    """

    def __init__(self, path: Path):
        self.path = path
        self._descriptor: int | None = None

    def acquire(self, wait: bool = False, note: str = "") -> bool:
        """Whether the lock is ours now; ``note`` is then written into the file."""
        try:
            flags = os.O_RDONLY if self.path.is_dir() else os.O_RDWR | os.O_CREAT
            descriptor = os.open(self.path, flags, 0o644)
        except OSError:  # Windows cannot open a folder; a file's folder may be gone, the work being done
            return self.path.is_dir()
        try:
            import fcntl

            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
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
        self.acquire(wait=True)
        return self

    def __exit__(self, *_: object) -> None:
        self.release()
