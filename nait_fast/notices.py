"""What a user should mind though the work goes on: Python warnings of a class of their own, one line each.

A library user sees and filters them as any other warning; the command line prints each once on stderr, terminal or not,
and hands them out in its summary.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from nait_fast.urls import without_secrets


class NaitWarning(UserWarning):
    """One line: what (and how many), where, what to do about it."""


# Of the running thread or task: Python's own filters are of the whole process, and threads would undo each other's.
_hushed: ContextVar[bool] = ContextVar("nait_fast hushed", default=False)


def warn(text: str) -> None:
    """Say ``text``, one line, to whoever runs this."""
    if not _hushed.get():
        warnings.warn(without_secrets(text), NaitWarning, stacklevel=3)


@contextmanager
def hushed() -> Iterator[None]:
    """Nothing is said inside the block, by this thread."""
    before = _hushed.set(True)
    try:
        yield
    finally:
        _hushed.reset(before)


@contextmanager
def recorded() -> Iterator[list[str]]:
    """The texts of all that is said inside the block, each once, in order; they are shown as they would be without."""
    messages: list[str] = []
    with warnings.catch_warnings():
        warnings.simplefilter("always", NaitWarning)
        show = warnings.showwarning

        def keep(message: Warning | str, category: type[Warning], *place: Any, **named: Any) -> None:
            if issubclass(category, NaitWarning):
                if str(message) in messages:
                    return
                messages.append(str(message))
            show(message, category, *place, **named)

        warnings.showwarning = keep
        yield messages
