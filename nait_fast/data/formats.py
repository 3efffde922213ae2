"""Turn one row of a pool (a JSON object) into a `Sample`, whatever format the row came in."""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from nait_fast.data.row_conventions import LABEL_FALSE, NO_CONVENTIONS, RowConventions
from nait_fast.data.turns import Message, RowError, as_list, as_string, message_list, tools_of
from nait_fast.data.unread import texts_in, unread_of

FORMATS = ("alpaca", "sharegpt", "messages", "prompt_completion", "text", "input_ids")

# The keys that make a row one of a format, in the order in which they are tried. `detect` goes through the formats in
# this order: a list of turns holds more than flat keys beside it, and a row that also carries its rendering as `text`,
# or its tokens, counts as what it was made from.
_KEYS: dict[str, tuple[tuple[str, ...], ...]] = {
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
_EXTRA = ("input", "context", "question", "query")  # beside an instruction: what it is about
_SYSTEM = ("system", "system_prompt")
_PREFERENCE = ("chosen", "rejected")


class RowLeftOut(RowError):
    """A row that is well formed, but not to be learnt from."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One usable row of a pool.

    Exactly one of `messages`, `text` and `input_ids` is filled.

    row: 0-based position among the pool's rows, unusable ones included.
    id: the row's "id" as a string, if it has one.
    alpaca: (instruction, input, output) when the row came in Alpaca format; `messages` holds the same as turns.
    input_ids: token ids, those masked out by the row's attention_mask already removed.
    tools: the row's tools as the chat template gets them; None without any.
    unread: keys of the row that hold text which was not read, other than metadata.
    """

    row: int
    id: str | None
    messages: tuple[Message, ...] = ()
    alpaca: tuple[str, str, str] | None = None
    text: str | None = None
    input_ids: tuple[int, ...] | None = None
    tools: tuple[Any, ...] | None = None
    unread: tuple[str, ...] = ()

    @property
    def turns(self) -> list[tuple[str, str]]:
        """(role, text) of each turn, for people to read; what is no conversation is one turn."""
        if self.messages:
            return [(message.role, message.text) for message in self.messages]
        if self.text is not None:
            return [("text", self.text)]
        return [("token ids", " ".join(map(str, self.input_ids or ())))]


def fitting(row: Mapping[str, Any]) -> list[str]:
    """Those of FORMATS whose keys the row has, the one it is read as first."""
    # Parquet gives every row every column: null, NaN and an empty list count as absent, unless nothing else fits.
    filled = {key for key, value in row.items() if not (_absent(value) or (isinstance(value, list) and not value))}
    for keys in (filled, set(row)):
        if matches := [fmt for fmt, choices in _KEYS.items() if any(keys.issuperset(wanted) for wanted in choices)]:
            return matches
    return []


def detect(row: Mapping[str, Any]) -> str | None:
    """The one of FORMATS that a row is read as by its keys, or None."""
    return next(iter(fitting(row)), None)


def parse(row: dict[str, Any], fmt: str, index: int, conventions: RowConventions = NO_CONVENTIONS) -> Sample:
    """Read a row of format `fmt` (one of FORMATS); `index` becomes `Sample.row`.

    Raises RowError when the row lacks the format's keys, holds a value of another type, names an unknown role,
    or has nothing to read ("empty response": the last message, the text or the ids are empty); RowLeftOut when its
    label is false.
    """
    if "label" in row and fmt in _LABELLED and "label" not in conventions.ignore and _is_false(row["label"]):
        raise RowLeftOut(LABEL_FALSE)
    return _PARSERS[fmt](row, index, conventions)


def _is_false(label: object) -> bool:
    """false, or its name, as tables without types have it."""
    return label is False or (isinstance(label, str) and label.strip().lower() == "false")


def also_fitting(row: Mapping[str, Any]) -> list[str]:
    """The formats, other than the one a row is read as, whose keys it has, too, one of them at least left unread."""
    chosen, *others = fitting(row) or [""]
    read = {key for wanted in _KEYS.get(chosen, ()) for key in wanted} | ({*_EXTRA} if chosen == "alpaca" else set())
    return [fmt for fmt in others if any(row.keys() >= {*wanted} and not read >= {*wanted} for wanted in _KEYS[fmt])]


def parse_any(row: Any, index: int, conventions: RowConventions = NO_CONVENTIONS) -> Sample:
    """Read a row of whichever format it has; otherwise as ``parse``."""
    if not isinstance(row, Mapping):
        raise RowError(f"must be a mapping (a row of a pool), not {type(row).__name__}")
    row = dict(row)
    fmt = detect(row)
    if fmt is None:
        raise RowError(no_format(row, ""))
    return parse(row, fmt, index, conventions)


def no_format(row: dict[str, Any], choices: str = f" ({', '.join(FORMATS)})") -> str:
    """Why a row of no format cannot be used."""
    if all(key in row for key in _PREFERENCE):
        return (
            "a preference row (chosen, rejected): write what is to be learnt as prompt and completion, or as messages"
        )
    return f"no known format{choices} has these keys: {describe_keys(row)}"


def _alpaca(row: dict[str, Any], index: int, conventions: RowConventions) -> Sample:
    question_key, answer_key = _present_keys(row, "alpaca")
    instruction = as_string(row[question_key], question_key)
    extra, read = _extra(row, instruction)
    output = as_string(row[answer_key], answer_key)
    turns = [
        *_history(row, conventions),
        Message("user", "\n".join(part for part in (instruction, extra) if part)),
        Message("assistant", output),
    ]
    return _conversation(row, index, turns, (question_key, answer_key, "history", *read), (instruction, extra, output))


def _extra(row: dict[str, Any], instruction: str) -> tuple[str, tuple[str, ...]]:
    """(what stands beside an instruction, the keys that it was read from)."""
    texts, read = [_optional_string(row, "input")], ["input"]
    for key in _EXTRA[1:]:
        text = row.get(key)
        if isinstance(text, str) and text and text != instruction and text not in texts:
            texts.append(as_string(text, key))
            read.append(key)
    return "\n".join(filter(None, texts)), tuple(read)


def _sharegpt(row: dict[str, Any], index: int, conventions: RowConventions) -> Sample:
    (key,) = _present_keys(row, "sharegpt")
    return _conversation(row, index, message_list(row[key], key, conventions.roles, ("from", "value")), (key,))


def _messages(row: dict[str, Any], index: int, conventions: RowConventions) -> Sample:
    (key,) = _present_keys(row, "messages")
    return _conversation(row, index, message_list(row[key], key, conventions.roles), (key,))


def _prompt_completion(row: dict[str, Any], index: int, conventions: RowConventions) -> Sample:
    keys = _present_keys(row, "prompt_completion")
    turns: list[Message] = _history(row, conventions)
    for role, key in zip(("user", "assistant"), keys, strict=True):
        if isinstance(row[key], list) and all(isinstance(turn, dict) for turn in row[key]):
            turns += message_list(row[key], key, conventions.roles)
        else:
            turns.append(Message(role, as_string(row[key], key)))
    if not row[keys[1]]:
        raise RowError("empty response")
    return _conversation(row, index, turns, (*keys, "history"))


def _text(row: dict[str, Any], index: int, conventions: RowConventions) -> Sample:
    (key,) = _present_keys(row, "text")
    text = as_string(row[key], key)
    if not text.strip():
        raise RowError("empty response")
    return Sample(index, _id(row), text=text, unread=unread_of(row, _read((key,)), (text,)))


def _input_ids(row: dict[str, Any], index: int, conventions: RowConventions) -> Sample:
    (key,) = _present_keys(row, "input_ids")
    ids = as_list(row[key], key)
    if not set(map(type, ids)) <= {int} or (ids and min(ids) < 0):
        raise RowError(f'"{key}" holds something else than non-negative integers')
    if row.get("attention_mask") is not None:
        mask = as_list(row["attention_mask"], "attention_mask")
        if len(mask) != len(ids):
            raise RowError(f'"attention_mask" has {len(mask)} entries for {len(ids)} input_ids')
        if not set(map(type, mask)) <= {int, bool} or not set(mask) <= {0, 1}:
            raise RowError('"attention_mask" holds something else than 0 and 1')
        ids = [token for token, attended in zip(ids, mask, strict=True) if attended]
    if not ids:
        raise RowError("empty response")
    return Sample(index, _id(row), input_ids=tuple(ids), unread=unread_of(row, _read((key, "attention_mask")), ()))


_PARSERS: dict[str, Callable[[dict[str, Any], int, RowConventions], Sample]] = {
    "alpaca": _alpaca,
    "sharegpt": _sharegpt,
    "messages": _messages,
    "prompt_completion": _prompt_completion,
    "text": _text,
    "input_ids": _input_ids,
}
_LABELLED = ("alpaca", "sharegpt", "messages", "prompt_completion")


def _history(row: dict[str, Any], conventions: RowConventions) -> list[Message]:
    """Earlier turns: [user, assistant] pairs, or a list of turns."""
    value = row.get("history")
    if _absent(value) or not value:
        return []
    pairs = as_list(value, "history")
    if all(isinstance(turn, dict) for turn in pairs):
        return message_list(pairs, "history", conventions.roles)
    turns = []
    for pair in pairs:
        if not isinstance(pair, (list, tuple)) or len(pair) != 2:
            raise RowError('"history" is not a list of [user, assistant] pairs')
        turns += [Message("user", as_string(pair[0], "history")), Message("assistant", as_string(pair[1], "history"))]
    return turns


def _conversation(
    row: dict[str, Any],
    index: int,
    turns: list[Message],
    read: tuple[str, ...],
    alpaca: tuple[str, str, str] | None = None,
) -> Sample:
    """A sample of ``turns``, the row's own system prompt in front and its tools beside them. Raises RowError for a
    conversation that ends in nothing. ``read``: keys of the row that the turns hold."""
    if not turns:
        raise RowError("no messages")
    if turns[-1].empty:
        raise RowError("empty response")
    if turns[-1].role != "assistant" and all(row.get(key) for key in _PREFERENCE):
        raise RowError(no_format(row))  # the turns are its prompt
    if turns[0].role not in ("system", "developer"):
        for key in _SYSTEM:
            if system := _optional_string(row, key):
                turns.insert(0, Message("system", system))
                read = (*read, key)
                break
    tools = None if row.get("tools") is None else tools_of(row)
    if tools is not None:
        read = (*read, "tools")
    unread = unread_of(row, _read(read), _said(turns, alpaca))
    if "label" in row and row["label"] is not False and row["label"] in (0, "0"):
        unread = (*unread, "label")  # the number of a class, or false
    return Sample(index, _id(row), tuple(turns), alpaca, tools=tools, unread=unread)


def _said(turns: list[Message], alpaca: tuple[str, str, str] | None) -> Iterator[str]:
    if alpaca is not None:  # as the row has them, before they were joined
        turns, joined = turns[:-2], turns[-2:]
        yield from (turn.content for turn in turns)
        yield from alpaca
        turns = joined
    for turn in turns:
        yield turn.content
        if turn.fields:
            yield from texts_in(turn.fields)


@lru_cache(maxsize=1024)
def _read(keys: tuple[str, ...]) -> frozenset[str]:
    return frozenset(keys)


def _absent(value: object) -> bool:
    """null, or NaN, which is what a table has for a text that is not there."""
    return value is None or (isinstance(value, float) and value != value)


def _present_keys(row: dict[str, Any], fmt: str) -> tuple[str, ...]:
    choices = _KEYS[fmt]
    for wanted in choices:
        if all(not _absent(row.get(key)) for key in wanted):
            return wanted
    for wanted in choices:
        if all(key in row for key in wanted):
            return wanted
    nearest = min(choices, key=lambda wanted: sum(key not in row for key in wanted))
    missing = next(key for key in nearest if key not in row)
    raise RowError(f'no key "{missing}", which {fmt} needs (the row has: {describe_keys(row)})')


def keys_of(row: Mapping[str, Any], fmt: str) -> tuple[str, ...]:
    """The keys that a row of ``fmt`` is read from; of flat ones the question's and the answer's. Raises RowError."""
    return _present_keys(dict(row), fmt)


def describe_keys(row: dict[str, Any]) -> str:
    """The row's keys for a message: at most ten, each shortened."""
    names = [key if key.isidentifier() and len(key) <= 40 else reprlib.repr(key) for key in list(row)[:10]]
    return ", ".join([*names, "…"] if len(row) > 10 else names) or "no keys"


def _id(row: dict[str, Any]) -> str | None:
    value = row.get("id")
    return None if _absent(value) else as_string(str(value), "id")


def _optional_string(row: dict[str, Any], key: str) -> str:
    value = row.get(key)
    return "" if _absent(value) else as_string(value, key)
