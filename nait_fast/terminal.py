"""What is printed: a pool's text, a file's name or a target's may hold what a terminal takes as an order."""

import sys
import unicodedata
import warnings
from collections.abc import Iterator, Sequence
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


WIDTH = 80  # columns of a terminal that everybody has
_GAP, _LEAST = 2, 8  # columns between those of a table, and at least left of a text that is cut


def cells_of(text: str) -> int:
    """Columns of a terminal that ``text`` takes: two for a wide character, none for a mark on the one before."""
    return sum(
        0 if unicodedata.combining(character) else 2 if unicodedata.east_asian_width(character) in "WF" else 1
        for character in text
    )


def cut(text: str, cells: int) -> str:
    """``text`` on one line of at most ``cells`` columns of a terminal."""
    line = " ".join(text.split())
    if cells_of(line) <= cells:
        return line
    while cells_of(line) > cells - 1:
        line = line[:-1]
    return line.rstrip() + "…"


def text_table(
    header: Sequence[str], rows: Sequence[Sequence[str]], texts: Sequence[int] = (0,), width: int = WIDTH
) -> str:
    """A table of aligned columns, no wider than ``width``: numbers to the right, those of the columns ``texts`` to the
    left, where long ones are cut. What does not fit stands below, behind the first column again."""
    if not rows:
        return ""
    lines = [list(map(printable, line)) for line in (header, *rows)]
    widths = [max(map(cells_of, column)) for column in zip(*lines, strict=True)]
    while sum(widths) + _GAP * (len(widths) - 1) > width:
        widest = max(texts, key=lambda number: widths[number])
        if widths[widest] <= _LEAST:
            break
        widths[widest] -= 1
    parts, free = [[0]], width - widths[0]
    for number in range(1, len(widths)):
        if widths[number] + _GAP > free and len(parts[-1]) > 1:
            parts.append([0])
            free = width - widths[0]
        parts[-1].append(number)
        free -= widths[number] + _GAP

    def shown(line: Sequence[str], columns: Sequence[int]) -> str:
        cells = []
        for number in columns:
            text = cut(line[number], widths[number])
            space = " " * (widths[number] - cells_of(text))
            cells.append(text + space if number in texts else space + text)
        return (" " * _GAP).join(cells).rstrip()

    return "\n\n".join("\n".join(shown(line, columns) for line in lines) for columns in parts)


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
