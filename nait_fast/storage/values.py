"""Values out of a file's JSON, whoever wrote it: each of these returns what it is asked for or raises ValueError."""

import math
import re
import reprlib
from typing import Any

MAX_NEURONS = 1 << 28  # a row of 32 MB: beyond any model, and nothing that a buffer cannot hold
_NAME = re.compile(r"[\w.-]+")
_HEX = re.compile(r"[0-9a-f]+")


def short(value: Any) -> str:
    """``value`` in a few characters, for a message of one line."""
    return reprlib.repr(value)


def count(value: Any, what: str, least: int = 0) -> int:
    """A whole number that fits 64 bits; true and 3.0 are none."""
    if type(value) is not int or not least <= value < 1 << 63:
        raise ValueError(f"{what}: {short(value)}")
    return value


def at_most(value: Any, what: str, most: int, least: int = 0) -> int:
    """A whole number from ``least`` to ``most``."""
    if count(value, what, least) > most:
        raise ValueError(f"{what}: {short(value)}")
    return value


def number(value: Any, what: str) -> float:
    """A finite number."""
    if type(value) not in (int, float) or not math.isfinite(value):
        raise ValueError(f"{what}: {short(value)}")
    return float(value)


def text(value: Any, what: str) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{what}: {short(value)}")
    return value


def name(value: Any, what: str) -> str:
    """What a target may be called: letters, digits, '.', '_' and '-'; it becomes a file's name."""
    if not _NAME.fullmatch(text(value, what)):
        raise ValueError(f"{what}: {short(value)}")
    return value


def digest(value: Any, what: str, digits: int = 64) -> str:
    """A checksum, or the beginning of one: ``digits`` hexadecimal digits."""
    if len(text(value, what)) != digits or not _HEX.fullmatch(value):
        raise ValueError(f"{what}: {short(value)}")
    return value


def entries(value: Any, what: str) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError(f"{what}: {short(value)}")
    return value


def mapping(value: Any, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{what}: {short(value)}")
    return value
