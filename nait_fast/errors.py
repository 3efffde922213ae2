"""The errors that a user should see: one line each, which the command line prints before it ends with exit status 2.

What code may want to know of an error is its class and its fields; nothing reads the line again.
"""

from __future__ import annotations

import copy
import re
from typing import TYPE_CHECKING

from nait_fast.urls import without_secrets

if TYPE_CHECKING:
    from typing_extensions import Self


class NaitError(Exception):
    """Something that the caller can mend: bad input or an unusable environment.

    ``where``: the file, row or flag; ``what``: what is wrong there; ``remedy``: what to do about it; ``note``: what it
    came up in. Each but ``what`` may be "". ``str()`` is one line of them all: ``where: what; remedy (note)``. One that
    nobody takes apart may have all of the line in ``what``.
    """

    def __init__(self, what: str, *, where: object = "", remedy: str = "", note: str = "", join: str = "; "):
        """``join``: what stands before the remedy."""
        texts = (without_secrets(text) for text in (str(where), what, remedy, note))
        self.where, self.what, self.remedy, self.note = texts
        self._join = join
        super().__init__(self._line())  # also what the error is made of again in another process, before its fields

    def _line(self) -> str:
        line = f"{self.where}: {self.what}" if self.where else self.what
        line += f"{self._join}{self.remedy}" if self.remedy else ""
        return f"{line} ({self.note})" if self.note else line

    def replace(self, **fields: str) -> Self:
        """The same error with other ``fields``, without what it was raised from."""
        error = copy.copy(self)
        vars(error).update({name: without_secrets(text) for name, text in fields.items()})
        error.args = (error._line(),)
        return error


class BadInput(NaitError):
    """A file, row or flag that was given and cannot be used."""


class Mismatch(NaitError):
    """Two things that do not fit each other: a signature and an index, two indexes, an index and a pool."""


class Damaged(NaitError):
    """A file is not what it was when it was written, or when it was first read; or it is gone."""


class Busy(NaitError):
    """Another command is at work there: the same may be tried again later."""


class MissingExtra(NaitError):
    """A package is not installed that only some of nait_fast needs.

    ``package``: what is lacking; ``extra``: the extra of nait-fast that brings it, "" where the package is installed by
    its own name.
    """

    def __init__(
        self,
        what: str,
        *,
        where: object = "",
        remedy: str = "",
        note: str = "",
        join: str = "; ",
        package: str = "",
        extra: str = "",
    ):
        super().__init__(what, where=where, remedy=remedy, note=note, join=join)
        self.package, self.extra = package, extra


def missing_extra(
    package: str, extra: str, what: str, where: object, *, remedy: str = "", join: str = ": "
) -> MissingExtra:
    """The error of ``what`` needs ``package``; ``remedy``: by default pip's command."""
    remedy = remedy or "pip install " + (f'"nait-fast[{extra}]"' if extra else package)
    return MissingExtra(what, where=where, remedy=remedy, join=join, package=package, extra=extra)


# Of somebody else's errors, in the words of torch's allocators, CUDA and HIP, their libraries, Triton and C++.
_NO_MEMORY = re.compile(
    r"out of memory|can't allocate memory|Cannot allocate memory|not enough memory"
    r"|STATUS_ALLOC_FAILED|ALLOCATION_FAILED|StatusAllocFailed|status_memory_error|std::bad_alloc"
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether ``error``, of Python, torch or what torch calls, says that there was no memory, of a device or the host,
    so that less of the same may run. A device's other errors are none of these: most leave it unusable.

    torch need not be imported.
    """
    if isinstance(error, MemoryError) or any(kind.__name__ == "OutOfMemoryError" for kind in type(error).__mro__):
        return True
    return isinstance(error, RuntimeError) and _NO_MEMORY.search(str(error)) is not None


def one_line(error: BaseException) -> str:
    """All that ``error`` says, in one line."""
    return " ".join(str(error).splitlines())


def first_line(error: BaseException, kind: bool = True, errno: bool = False) -> str:
    """The first line of somebody else's error, for the one line of ours: in at most 200 characters, its kind before it.

    ``kind`` false: without that, and of an error of the system, unless ``errno``, only what the system calls it.
    """
    system = error.strerror if isinstance(error, OSError) and not kind and not errno else None
    lines = (" ".join(line.split()) for line in (system or str(error)).splitlines())
    line, name = next(filter(None, lines), "")[:200], type(error).__name__
    return (f"{name}: {line}" if kind else line) if line else name
