"""Locks between processes that share a folder."""

from __future__ import annotations

import json
import os
import shlex
import socket
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from nait_fast.errors import BadInput, Busy, NaitError
from nait_fast.urls import without_secrets

FOLDER_LOCK = ".nait-fast.lock"  # of an output folder: held as long as a command writes there
_POLL_SECONDS = 0.05
_SURE_SECONDS = 0.2  # who has just taken a lock may not have written yet who it is
_JOIN_SECONDS = 10.0  # a fellow worker has the lock to itself for a moment, longer on a slow file system
_COMMAND_CHARACTERS = 160


def _open(path: Path) -> int:
    """The lock's file, made if need be, with the rights that the umask leaves. Raises NaitError."""
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0), 0o666)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise BadInput(f"cannot be opened ({error.strerror or error})", where=path) from None


def _kernel_lock(descriptor: int, shared: bool = False) -> bool | None:
    """Whether the lock is ours now; None where a system or a file system has no locks."""
    try:
        import fcntl

        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except (ImportError, OSError):
        return None
    return True


def _flock(descriptor: int, shared: bool = False) -> bool:
    """Whether the lock is ours now. Where there are no locks, all succeed."""
    return _kernel_lock(descriptor, shared) is not False


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
            descriptor = _open(self.path)
        except FileNotFoundError:
            return False
        if not _flock(descriptor):
            os.close(descriptor)
            return False
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
                raise NaitError("the folder is gone", where=self.path.parent, remedy="run again")
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


class OutputLock:
    """What a command holds of an output as long as it writes there: one command at a time.

    ``path``: the lock's file, which says who holds it (a line of JSON each: pid, host, command, since, run). ``run``:
    what several workers of one command have in common; they hold it together, None: this process alone. ``what``: the
    output, as a message names it. ``keep``: whether the file stays; else it goes with the lock. ``alone``: called when
    the lock is taken and nobody else has it, which is sure only where the kernel has locks.
    """

    def __init__(
        self, path: Path, what: str, run: str | None = None, keep: bool = True, alone: Callable[[], None] = lambda: None
    ):
        self.path, self._what, self._run, self._keep, self._alone = path, what, run, keep, alone
        self._descriptor: int | None = None
        self._made = False

    def acquire(self) -> None:
        """Take the lock. Raises NaitError naming who has it."""
        began = time.monotonic()
        while True:
            try:
                self._made = not os.path.lexists(self.path)
                descriptor = _open(self.path)
            except FileNotFoundError:
                raise NaitError("the folder is gone", where=self.path.parent, remedy="run again") from None
            try:
                if self._take(descriptor) and self._is_there(descriptor):
                    self._descriptor = descriptor
                    return
            except BaseException:
                os.close(descriptor)
                raise
            holders = _holders(descriptor)
            os.close(descriptor)
            ours = self._run is not None and any(holder["run"] == self._run for holder in holders)
            if time.monotonic() - began > (_JOIN_SECONDS if ours else _SURE_SECONDS):
                raise Busy(
                    f"in use by {described(holders)}",
                    where=self._what,
                    remedy="wait until it has ended, or choose another output",
                )
            time.sleep(_POLL_SECONDS)

    def _take(self, descriptor: int) -> bool:
        taken = _kernel_lock(descriptor)
        if taken is not False:
            with suppress(OSError):  # a full disk: the lock holds without a note
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, self._note(), 0)
            if taken and self._is_there(descriptor):
                self._alone()
            # A lock is given back in between: another one may come first, and this one begins anew.
            return self._run is None or _flock(descriptor, shared=True)
        if self._run is None or not _flock(descriptor, shared=True):
            return False
        if any(holder["run"] == self._run for holder in _holders(descriptor)):
            with suppress(OSError):
                os.lseek(descriptor, 0, os.SEEK_END)
                os.write(descriptor, self._note())
            return True
        return False  # closing the file gives it back

    def _is_there(self, descriptor: int) -> bool:
        """Whether the file is still the one under this name: who had it before may have taken it away."""
        try:
            return os.path.samestat(os.fstat(descriptor), os.stat(self.path))
        except FileNotFoundError:
            return False

    def _note(self) -> bytes:
        return json.dumps(note_of(self._run)).encode() + b"\n"

    def release(self) -> None:
        if self._descriptor is not None:
            if _flock(self._descriptor):  # else a fellow worker still has it
                with suppress(OSError):
                    os.ftruncate(self._descriptor, 0)
                    if not self._keep:
                        self.path.unlink(missing_ok=True)
            os.close(self._descriptor)
            self._descriptor = None

    def leave(self) -> None:
        """``release`` by who was refused the folder for other reasons: a file that this lock made goes, too."""
        self._keep = self._keep and not self._made
        self.release()

    def __enter__(self) -> OutputLock:
        if self._descriptor is None:
            self.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def note_of(run: str | None = None) -> dict[str, Any]:
    """Who this process is, for a lock that it holds."""
    arguments = (shlex.quote(without_secrets(argument)) for argument in sys.argv[1:])
    return {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "command": " ".join(["nait-fast", *arguments])[:_COMMAND_CHARACTERS],
        "since": time.strftime("%Y-%m-%d %H:%M:%S"),
        "run": run,
    }


def _holders(descriptor: int) -> list[dict[str, Any]]:
    """The notes in a lock's file, those first that are known to be of a process that lives."""
    notes = []
    try:
        text = os.pread(descriptor, 1 << 20, 0)
    except OSError:
        return []
    for line in text.splitlines():
        try:
            note = json.loads(line)
            notes.append({key: note[key] for key in ("pid", "host", "command", "since", "run")})
        except (ValueError, KeyError, TypeError, RecursionError):  # being written right now
            continue
    return sorted(notes, key=lambda note: not _lives(note))


def is_gone(note: dict[str, Any]) -> bool:
    """Whether the process was one of this machine that has ended."""
    return note.get("host") == socket.gethostname() and not _lives(note)


def _lives(note: dict[str, Any]) -> bool:
    if note["host"] != socket.gethostname() or not isinstance(note["pid"], int):
        return False
    try:
        os.kill(note["pid"], 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        pass
    with suppress(OSError, IndexError):  # one that has ended, whom its parent has not asked for its status
        return Path(f"/proc/{note['pid']}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return True


def described(holders: list[dict[str, Any]]) -> str:
    """Who holds a lock, by the notes in it."""
    if not holders:
        return "another command"
    note = holders[0]
    command = "".join(c if c.isprintable() else "?" for c in str(note["command"])[:_COMMAND_CHARACTERS])
    return f"pid {note['pid']} on {note['host']} since {note['since']} ({command})"
