"""Exact match of short answers: what a text gives as its answer, and whether two say the same."""

import re
import string
from collections.abc import Callable

_NUMBER = re.compile(r"((?<![\w)])[-−])?\$?(\d[\d,]*(?:\.\d+)?|\.\d+)")  # 3-5 is no -5
_MARKED = re.compile(r"####\s*(.+)")
_SAYS = re.compile(r"answer is:?\s*(.+?)(?:\.\s|\.?$)", re.IGNORECASE | re.MULTILINE)
_FIRST = re.compile(r"[\W_]*([A-Z])(?:[.):,*]|\s*$)", re.MULTILINE)
_BRACKETS = re.compile(r"\(([A-Z])\)")
# Neither "I am", "I'm" nor "A dog".
_ALONE = re.compile(r"(?<![^\W_])(?!I\s+[a-z]|A\s+(?!is\b|because\b)[a-z])([A-Z])(?![^\W_]|['’]\w)")


def number(text: str) -> str | None:
    """The number that ``text`` ends in, or the one that follows GSM8K's ####; without commas, signs of money and zeros
    that say nothing. None without any."""
    marked = _MARKED.findall(text)
    found = _NUMBER.findall(marked[-1] if marked else text)
    if not found:
        return None
    sign, digits = found[0 if marked else -1]
    whole, _, part = digits.replace(",", "").partition(".")
    plain = (whole.lstrip("0") or "0") + f".{part}".rstrip("0").rstrip(".")
    return f"-{plain}" if sign and plain != "0" else plain


def choice(text: str) -> str | None:
    """The letter that ``text`` chooses: what follows "answer is", where it says so (the last time); else the letter
    that it begins with; else the last in brackets, BBH's (A); else the last capital that stands alone. None without
    any."""
    for part in reversed(_SAYS.findall(text)):
        if found := _BRACKETS.search(part) or _ALONE.search(part):
            return found[1]
    if found := _FIRST.match(text):
        return found[1]
    several = _BRACKETS.findall(text) or _ALONE.findall(text)
    return several[-1] if several else None


def exact(text: str) -> str | None:
    """All of ``text``, in lower case, without articles, punctuation and doubled spaces (SQuAD's rule)."""
    lowered = "".join(" " if letter in string.punctuation else letter for letter in text.lower())
    return " ".join(word for word in lowered.split() if word not in ("a", "an", "the"))


ANSWERS: dict[str, Callable[[str], str | None]] = {"number": number, "choice": choice, "exact": exact}


def correct(kind: str, said: str, reference: str) -> bool:
    """Whether ``said`` gives the answer of ``reference``."""
    of = ANSWERS[kind]
    wanted = of(reference)
    return wanted is not None and of(said) == wanted
