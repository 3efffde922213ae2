"""The keys that make a row one of a format, and what else a format reads: the names that columns can be mapped to."""

from __future__ import annotations

import reprlib
from collections.abc import Iterable, Mapping
from functools import lru_cache
from itertools import product
from typing import Any

FORMATS = ("alpaca", "sharegpt", "messages", "prompt_completion", "text", "input_ids")

# The keys that make a row one of a format, in the order in which they are tried. `fitting` goes through the formats in
# this order: a list of turns holds more than flat keys beside it, and a row that also carries its rendering as `text`,
# or its tokens, counts as what it was made from.
KEYS: dict[str, tuple[tuple[str, ...], ...]] = {
    "messages": (("messages",),),
    "sharegpt": (("conversations",), ("conversation",)),
    "alpaca": (("instruction", "output"), ("instruction", "response")),
    "prompt_completion": (
        ("prompt", "completion"),
        ("prompt", "response"),
        ("query", "response"),
        ("question", "answer"),
        ("question", "response"),
    ),
    "text": (("text",),),
    "input_ids": (("input_ids",),),
}
EXTRA = ("input", "context", "question", "query")  # beside an instruction: what it is about
SYSTEM = ("system", "system_prompt")
CONVERSATIONS = ("alpaca", "sharegpt", "messages", "prompt_completion")
_BESIDE = {
    **dict.fromkeys(CONVERSATIONS, frozenset([*SYSTEM, "tools", "label"])),
    "text": frozenset[str](),
    "input_ids": frozenset(["attention_mask"]),
}
_BESIDE["alpaca"] |= {*EXTRA, "history"}
_BESIDE["prompt_completion"] |= {"history"}


def read_by(format: str) -> frozenset[str]:
    """All keys that a format reads."""
    return frozenset(key for choice in KEYS[format] for key in choice) | _BESIDE[format] | {"id"}


NEEDED = frozenset(key for choices in KEYS.values() for choice in choices for key in choice)
NAMES = frozenset().union(*map(read_by, FORMATS))


@lru_cache(maxsize=256)
def choices_of(format: str, mapped: frozenset[str] = frozenset()) -> tuple[tuple[str, ...], ...]:
    """The sets of keys that make a row one of ``format``, of which it needs one whole. With names that columns are
    ``mapped`` to only those that use all of them which they may, a question with any answer; none where the format does
    not read one of the names."""
    if not mapped <= read_by(format):
        return ()
    choices = KEYS[format]
    wanted = mapped & {key for choice in choices for key in choice}
    if wanted and len(choices[0]) > 1:
        choices = tuple(product(*(dict.fromkeys(keys) for keys in zip(*choices, strict=True))))
    return tuple(choice for choice in choices if wanted <= {*choice})


def formats_that_read(mapped: Iterable[str]) -> list[str]:
    """The formats that read all these names together."""
    return [format for format in KEYS if choices_of(format, frozenset(mapped))]


def fitting(fields: Mapping[str, Any], mapped: frozenset[str] = frozenset()) -> list[str]:
    """Those of FORMATS whose keys a row has, the one it is read as first. ``fields``: the row by the names that formats
    know, ``mapped``: those that are the user's."""
    # Parquet gives every row every column: null, NaN and an empty list count as absent, unless nothing else fits.
    filled = {key for key, value in fields.items() if not (absent(value) or (isinstance(value, list) and not value))}
    for keys in (filled, set(fields)):
        if matches := [
            format for format in KEYS if any(keys.issuperset(wanted) for wanted in choices_of(format, mapped))
        ]:
            return matches
    return []


def absent(value: object) -> bool:
    """null, or NaN, which is what a table has for a text that is not there."""
    return value is None or (isinstance(value, float) and value != value)


def describe_keys(row: Mapping[str, Any]) -> str:
    """The row's keys for a message: at most ten, each shortened."""
    names = [key if key.isidentifier() and len(key) <= 40 else reprlib.repr(key) for key in list(row)[:10]]
    return ", ".join([*names, "…"] if len(row) > 10 else names) or "no keys"
