"""What is printed: a pool's text, a file's name or a target's may hold what a terminal takes as an order."""

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from nait_fast.notices import NaitWarning

# Control characters (C0, DEL, C1), line and paragraph separators, and marks that turn the direction of what follows.
_ORDERS = [*range(0x20), *range(0x7F, 0xA0), 0x061C, 0x200E, 0x200F, *range(0x2028, 0x202F), *range(0x2066, 0x206A)]
_ESCAPES = {code: repr(chr(code))[1:-1] for code in _ORDERS}
_ESCAPES_IN_LINES = {code: text for code, text in _ESCAPES.items() if chr(code) not in "\t\n"}


def printable(text: str, lines: bool = False) -> str:
    """``text`` with the escapes of Python's strings for characters that are orders to a terminal, as it stands else;
    ``lines``: it may be of several lines."""
    return text.translate(_ESCAPES_IN_LINES if lines else _ESCAPES)


@contextmanager
def warnings_on_stderr() -> Iterator[None]:
    """Notices as one line each, without the place in the code that Python would tell."""
    show = warnings.showwarning

    def tell(message: Warning | str, category: type[Warning], *place: Any, **named: Any) -> None:
        if issubclass(category, NaitWarning):
            print(printable(f"nait-fast: warning: {' '.join(str(message).splitlines())}"), file=sys.stderr)
        else:
            show(message, category, *place, **named)

    warnings.showwarning = tell
    try:
        yield
    finally:
        warnings.showwarning = show
