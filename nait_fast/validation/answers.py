"""Exact match of short answers: what a text gives as its answer, and whether two say the same."""

import re
import string
from collections.abc import Callable

_NUMBER = re.compile(r"-?\$?\d[\d,]*(?:\.\d+)?|-?\$?\.\d+")
_MARKED = re.compile(r"####\s*(.+)")
_CHOICE = re.compile(r"\(([A-Z])\)|\b([A-Z])\b(?=[\s.):]|$)")
_SAYS = re.compile(r"answer is:?\s*(.+?)(?:\.\s|\.?$)", re.IGNORECASE | re.MULTILINE)


def number(text: str) -> str | None:
    """The number that ``text`` ends in, or what follows GSM8K's ####; without commas, signs of money and zeros behind
    the point. None without any."""
    marked = _MARKED.findall(text)
    found = _NUMBER.findall(marked[-1] if marked else text)
    if not found:
        return None
    plain = found[-1].replace(",", "").replace("$", "")
    return plain.rstrip("0").rstrip(".") if "." in plain else plain


def choice(text: str) -> str | None:
    """The letter that ``text`` chooses: BBH's (A), or the last capital that stands alone; behind "answer is" if it says
    so. None without any."""
    said = _SAYS.findall(text)
    for part in (*reversed(said), text):
        if found := _CHOICE.findall(part):
            return next(filter(None, found[-1]))
    return None


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
