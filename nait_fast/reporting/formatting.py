"""Text for a page: numbers as people read them, and whatever a pool's row holds made safe to show."""

import math
import re
from collections.abc import Sequence

# Control characters but tab and newline, halves of surrogate pairs, and what Unicode says is no character.
_UNSHOWABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]")
# Marks that stand above and below the letter before: a few make a letter, hundreds a column across the page.
_MARK = "[\u0300-\u036f\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff\ufe20-\ufe2f]"
_MARKS = re.compile(f"({_MARK}{{4}}){_MARK}+")
REPLACEMENT = "\ufffd"
MINUS = "\u2212"  # as wide as a plus


def clean(text: str) -> str:
    """``text`` that UTF-8, HTML and XML can all hold: other characters become U+FFFD, every line's end a newline.

    Of more than four combining marks in a row, four are kept.
    """
    return _MARKS.sub(r"\1", _UNSHOWABLE.sub(REPLACEMENT, text.replace("\r\n", "\n").replace("\r", "\n")))


def short(text: str, length: int) -> str:
    """``text`` on one line of at most ``length`` characters."""
    line = " ".join(clean(text[: 8 * length]).split())
    return line if len(line) <= length and len(text) <= 8 * length else line[: length - 1].rstrip() + "…"


def split(text: str, length: int) -> tuple[str, str]:
    """``text`` in two: about ``length`` characters, to the end of a word where there is one, and the rest behind it.

    Nothing is put into two parts for a rest of less than a quarter of ``length``.
    """
    if len(text) <= length + length // 4:
        return text, ""
    at = max(text.rfind(space, length // 2, length) for space in " \n\t")
    at = at if at > 0 else length
    return text[:at], text[at:].removeprefix(" ")


def number(value: float | None, digits: int = 4) -> str:
    """``digits`` significant digits, thousands parted; a dash for None and for what is no finite number."""
    if value is None or not math.isfinite(value):
        return "–"
    if value == int(value) and abs(value) < 1e15:
        return f"{int(value):,}".replace("-", MINUS)
    size = math.floor(math.log10(abs(value)))
    text = f"{value:,.{max(0, digits - 1 - size)}f}" if -5 < size < 15 else f"{value:.{digits - 1}e}"
    return text.replace("-", MINUS)


def signed(value: float) -> str:
    """With its sign, to three significant digits."""
    return ("+" if value >= 0 else MINUS) + number(abs(value), 3)


def correlation(value: float | None) -> str:
    return "–" if value is None or not math.isfinite(value) else f"{value:+.2f}".replace("-", MINUS)


def fixed(value: float | None) -> str:
    """Two digits behind the point."""
    return "–" if value is None or not math.isfinite(value) else f"{value:.2f}".replace("-", MINUS)


def percent(value: float | None) -> str:
    """A share as a percentage, finer where it is small."""
    if value is None or not math.isfinite(value):
        return "–"
    if 0 < abs(value) < 0.001:
        return "<0.1%" if value > 0 else "0%"
    return f"{value:.1%}"


def count(n: int, one: str, many: str | None = None) -> str:
    """``1 sample``, ``2,000 samples``."""
    return f"{n:,} {one if n == 1 else many or one + 's'}"


def listed(names: Sequence[str]) -> str:
    """``a``, ``a and b``, ``a, b and c``."""
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))
