"""Turn one row of a pool (a JSON object) into a `Sample`, whatever format the row came in."""

from __future__ import annotations

import json
import reprlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

FORMATS = ("alpaca", "sharegpt", "messages", "prompt_completion", "text", "input_ids")

# The keys that make a row one of a format, in the order in which they are tried. `detect` goes through the
# formats in the order of FORMATS, so that a row that also carries its rendering as `text`, or its tokens,
# counts as what it was made from.
_KEYS: dict[str, tuple[tuple[str, ...], ...]] = {
    "alpaca": (("instruction", "output"), ("instruction", "response")),
    "sharegpt": (("conversations",), ("conversation",)),
    "messages": (("messages",),),
    "prompt_completion": (
        ("prompt", "completion"),
        ("prompt", "response"),
        ("query", "response"),
        ("question", "answer"),
    ),
    "text": (("text",),),
    "input_ids": (("input_ids",),),
}

_ROLES = frozenset(("system", "user", "assistant", "tool"))
_SHAREGPT_ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "model": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "function_call": "assistant",
    "system": "system",
    "observation": "tool",
    "tool": "tool",
    "function": "tool",
}


class RowError(ValueError):
    """A row that cannot be used. The message is a short reason; the pool adds the file and the line."""


@dataclass(frozen=True, slots=True)
class Message:
    """One turn: `role` is "system", "user", "assistant" or "tool"."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Sample:
    """One usable row of a pool.

    Exactly one of `messages`, `text` and `input_ids` is filled.

    row: 0-based position among the pool's rows, unusable ones included.
    id: the row's "id" as a string, if it has one.
    alpaca: (instruction, input, output) when the row came in Alpaca format; `messages` holds the same as turns.
    input_ids: token ids, those masked out by the row's attention_mask already removed.
    """

    row: int
    id: str | None
    messages: tuple[Message, ...] = ()
    alpaca: tuple[str, str, str] | None = None
    text: str | None = None
    input_ids: tuple[int, ...] | None = None

    @property
    def turns(self) -> list[tuple[str, str]]:
        """(role, text) of each turn, for people to read; what is no conversation is one turn."""
        if self.messages:
            return [(message.role, message.content) for message in self.messages]
        if self.text is not None:
            return [("text", self.text)]
        return [("token ids", " ".join(map(str, self.input_ids or ())))]


def detect(row: dict[str, Any]) -> str | None:
    """Name the first of FORMATS whose keys the row has, or None."""
    # Parquet gives every row every column: a null counts as absent, unless nothing else fits.
    filled = {key for key, value in row.items() if value is not None}
    for keys in (filled, set(row)):
        for fmt in FORMATS:
            if any(keys.issuperset(wanted) for wanted in _KEYS[fmt]):
                return fmt
    return None


def parse(row: dict[str, Any], fmt: str, index: int) -> Sample:
    """Read a row of format `fmt` (one of FORMATS); `index` becomes `Sample.row`.

    Raises RowError when the row lacks the format's keys, holds a value of another type, names an unknown role,
    or has nothing to read ("empty response": the last message, the text or the ids are empty).
    """
    return _PARSERS[fmt](row, index)


def parse_any(row: Any, index: int) -> Sample:
    """Read a row of whichever format it has; otherwise as ``parse``."""
    if not isinstance(row, Mapping):
        raise RowError(f"must be a mapping (a row of a pool), not {type(row).__name__}")
    fmt = detect(dict(row))
    if fmt is None:
        raise RowError(f"no known format has these keys: {describe_keys(dict(row))}")
    return parse(dict(row), fmt, index)


def _alpaca(row: dict[str, Any], index: int) -> Sample:
    question_key, answer_key = _present_keys(row, "alpaca")
    instruction = _string(row[question_key], question_key)
    # Dolly has Alpaca's keys but for `response` and `context`.
    extra_key = "context" if answer_key == "response" and "input" not in row else "input"
    extra = _optional_string(row, extra_key)
    output = _string(row[answer_key], answer_key)

    turns: list[Message] = []
    for pair in _list(row.get("history") or [], "history"):
        if not isinstance(pair, (list, tuple)) or len(pair) != 2:
            raise RowError('"history" is not a list of [user, assistant] pairs')
        turns += (Message("user", _string(pair[0], "history")), Message("assistant", _string(pair[1], "history")))
    turns += (
        Message("user", "\n".join(part for part in (instruction, extra) if part)),
        Message("assistant", output),
    )
    return Sample(index, _id(row), _finish(row, turns), alpaca=(instruction, extra, output))


def _sharegpt(row: dict[str, Any], index: int) -> Sample:
    (key,) = _present_keys(row, "sharegpt")
    turns = []
    for position, turn in enumerate(_list(row[key], key)):
        place = f"{key}[{position}]"
        if not isinstance(turn, dict):
            raise _wrong_type(place, turn, "an object")
        # Many published files keep the key `conversations` and name the parts of a turn as `messages` does.
        role_key, text_key = ("from", "value") if turn.get("from") is not None else ("role", "content")
        if turn.get(role_key) is None:
            raise RowError(f'"{place}" lacks the key "from"')
        name = turn[role_key]
        role = _SHAREGPT_ROLES.get(name) if isinstance(name, str) else None
        if role is None:
            raise RowError(f'"{place}" has the unknown role {reprlib.repr(name)}')
        turns.append(Message(role, _string(turn.get(text_key), f"{place}.{text_key}")))
    return Sample(index, _id(row), _finish(row, turns))


def _messages(row: dict[str, Any], index: int) -> Sample:
    (key,) = _present_keys(row, "messages")
    return Sample(index, _id(row), _finish({}, _message_list(row[key], key)))


def _prompt_completion(row: dict[str, Any], index: int) -> Sample:
    keys = _present_keys(row, "prompt_completion")
    if all(isinstance(row[key], list) for key in keys):
        turns = [message for key in keys for message in _message_list(row[key], key)]
        if not row[keys[1]]:
            raise RowError("empty response")
    else:
        turns = [Message(role, _string(row[key], key)) for role, key in zip(("user", "assistant"), keys, strict=True)]
    return Sample(index, _id(row), _finish(row, turns))


def _text(row: dict[str, Any], index: int) -> Sample:
    (key,) = _present_keys(row, "text")
    text = _string(row[key], key)
    if not text.strip():
        raise RowError("empty response")
    return Sample(index, _id(row), text=text)


def _input_ids(row: dict[str, Any], index: int) -> Sample:
    (key,) = _present_keys(row, "input_ids")
    ids = _list(row[key], key)
    if not set(map(type, ids)) <= {int} or (ids and min(ids) < 0):
        raise RowError(f'"{key}" holds something else than non-negative integers')
    if row.get("attention_mask") is not None:
        mask = _list(row["attention_mask"], "attention_mask")
        if len(mask) != len(ids):
            raise RowError(f'"attention_mask" has {len(mask)} entries for {len(ids)} input_ids')
        if not set(map(type, mask)) <= {int, bool} or not set(mask) <= {0, 1}:
            raise RowError('"attention_mask" holds something else than 0 and 1')
        ids = [token for token, kept in zip(ids, mask, strict=True) if kept]
    if not ids:
        raise RowError("empty response")
    return Sample(index, _id(row), input_ids=tuple(ids))


_PARSERS: dict[str, Callable[[dict[str, Any], int], Sample]] = {
    "alpaca": _alpaca,
    "sharegpt": _sharegpt,
    "messages": _messages,
    "prompt_completion": _prompt_completion,
    "text": _text,
    "input_ids": _input_ids,
}


def _message_list(value: object, key: str) -> list[Message]:
    turns = []
    for position, turn in enumerate(_list(value, key)):
        place = f"{key}[{position}]"
        if not isinstance(turn, dict):
            raise _wrong_type(place, turn, "an object")
        role = turn.get("role")
        if role is None:
            raise RowError(f'"{place}" lacks the key "role"')
        if not isinstance(role, str) or role not in _ROLES:
            raise RowError(f'"{place}" has the unknown role {reprlib.repr(role)}')
        turns.append(Message(role, _content(turn, f"{place}.content")))
    return turns


def _content(turn: dict[str, Any], place: str) -> str:
    content = turn.get("content")
    if not content and turn.get("tool_calls"):
        calls = json.dumps(turn["tool_calls"], ensure_ascii=False, separators=(",", ":"), default=str)
        return _string(calls, place)
    if not isinstance(content, list):
        return _string(content, place)
    texts = []
    for part in content:
        if not isinstance(part, dict) or part.get("type") != "text":
            found = part.get("type") if isinstance(part, dict) else part
            raise RowError(f'"{place}" has a part that is not text: {reprlib.repr(found)}')
        texts.append(_string(part.get("text"), f"{place}.text"))
    return "".join(texts)


def _finish(row: dict[str, Any], turns: list[Message]) -> tuple[Message, ...]:
    """Put the row's own system prompt in front and refuse a conversation that ends in nothing."""
    if not turns:
        raise RowError("no messages")
    if not turns[-1].content.strip():
        raise RowError("empty response")
    system = _optional_string(row, "system")
    if system and turns[0].role != "system":
        return (Message("system", system), *turns)
    return tuple(turns)


def _present_keys(row: dict[str, Any], fmt: str) -> tuple[str, ...]:
    choices = _KEYS[fmt]
    for wanted in choices:
        if all(row.get(key) is not None for key in wanted):
            return wanted
    for wanted in choices:
        if all(key in row for key in wanted):
            return wanted
    nearest = min(choices, key=lambda wanted: sum(key not in row for key in wanted))
    missing = next(key for key in nearest if key not in row)
    raise RowError(f'no key "{missing}", which {fmt} needs (the row has: {describe_keys(row)})')


def describe_keys(row: dict[str, Any]) -> str:
    """The row's keys for a message: at most ten, each shortened."""
    names = [key if key.isidentifier() and len(key) <= 40 else reprlib.repr(key) for key in list(row)[:10]]
    return ", ".join([*names, "…"] if len(row) > 10 else names) or "no keys"


def _id(row: dict[str, Any]) -> str | None:
    value = row.get("id")
    return None if value is None else _string(str(value), "id")


def _optional_string(row: dict[str, Any], key: str) -> str:
    value = row.get(key)
    return "" if value is None else _string(value, key)


def _string(value: object, key: str) -> str:
    if not isinstance(value, str):
        raise _wrong_type(key, value, "a string")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            # JSON can spell half a surrogate pair ("\ud83d"); no tokenizer takes one.
            raise RowError(f'"{key}" holds half a surrogate pair, which is no character') from None
    return value


def _list(value: object, key: str) -> list[Any]:
    if not isinstance(value, list):
        raise _wrong_type(key, value, "a list")
    return value


def _wrong_type(key: str, value: object, wanted: str) -> RowError:
    found = "null" if value is None else type(value).__name__
    return RowError(f'"{key}" is {found}, not {wanted}')
