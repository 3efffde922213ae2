"""Turn one row of a pool (a JSON object) into a `Sample`, whatever format the row came in."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, NamedTuple

from nait_fast.data.format_keys import (
    CONVERSATIONS,
    EXTRA,
    FORMATS,
    KEYS,
    NEEDED,
    SYSTEM,
    absent,
    choices_of,
    describe_keys,
    fitting,
    formats_that_read,
)
from nait_fast.data.row_conventions import LABEL_FALSE, NO_CONVENTIONS, RowConventions
from nait_fast.data.turns import Message, RowError, as_list, as_string, message_list, tools_of
from nait_fast.data.unread import texts_in, unread_of

_PREFERENCE = ("chosen", "rejected")
_A_PREFERENCE = (
    "a preference row (chosen, rejected): write what is to be learnt as prompt and completion, or as messages"
)


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


class _Read(NamedTuple):
    """A sample; the names that it was read from, and the texts, in the order of the conversation."""

    sample: Sample
    names: tuple[str, ...]
    texts: Iterable[str]


def detect(row: Mapping[str, Any], conventions: RowConventions = NO_CONVENTIONS) -> str | None:
    """The one of FORMATS that a row is read as by its keys, or None."""
    return next(iter(fitting(conventions.fields(row), conventions.mapped)), None)


def parse(row: dict[str, Any], fmt: str, index: int, conventions: RowConventions = NO_CONVENTIONS) -> Sample:
    """Read a row of format `fmt` (one of FORMATS); `index` becomes `Sample.row`.

    Raises RowError when the row lacks the format's keys, holds a value of another type, names an unknown role,
    or has nothing to read ("empty response": the last message, the text or the ids are empty); RowLeftOut when its
    label is false.
    """
    fields = conventions.fields(row)
    label = fields.get("label") if fmt in CONVERSATIONS else None
    if label is not None and "label" not in conventions.ignore and _is_false(label):
        raise RowLeftOut(LABEL_FALSE)
    sample, names, texts = _PARSERS[fmt](fields, index, conventions)
    read = frozenset(map(conventions.called, names)) if conventions.columns else _read(names)
    unread = unread_of(row, read, texts)
    if label is not None and label is not False and label in (0, "0"):
        unread = (*unread, conventions.called("label"))  # the number of a class, or false
    return replace(sample, unread=unread) if unread else sample


def _is_false(label: object) -> bool:
    """false, or its name, as tables without types have it."""
    return label is False or (isinstance(label, str) and label.strip().lower() == "false")


def also_fitting(row: Mapping[str, Any], conventions: RowConventions = NO_CONVENTIONS) -> list[str]:
    """The formats, other than the one a row is read as, whose keys it has, too, one of them at least left unread."""
    fields = conventions.fields(row)
    chosen, *others = fitting(fields, conventions.mapped) or [""]
    read = {key for wanted in KEYS.get(chosen, ()) for key in wanted} | ({*EXTRA} if chosen == "alpaca" else set())
    return [fmt for fmt in others if any(fields.keys() >= {*keys} and not read >= {*keys} for keys in KEYS[fmt])]


def parse_any(row: Any, index: int, conventions: RowConventions = NO_CONVENTIONS) -> Sample:
    """Read a row of whichever format it has; otherwise as ``parse``."""
    if not isinstance(row, Mapping):
        raise RowError(f"must be a mapping (a row of a pool), not {type(row).__name__}")
    row = dict(row)
    fmt = detect(row, conventions)
    if fmt is None:
        raise RowError(no_format(row, conventions, listed=False))
    return parse(row, fmt, index, conventions)


def no_format(row: Mapping[str, Any], conventions: RowConventions = NO_CONVENTIONS, listed: bool = True) -> str:
    """Why a row of no format cannot be used; ``listed``: with the formats that there are."""
    for name, column in conventions.columns.items():
        if name in NEEDED and column not in row:
            return _lacks(row, name, conventions)
    if all(key in row for key in _PREFERENCE):
        return _A_PREFERENCE
    reading = f" that reads {', '.join(conventions.columns)}" if conventions.columns else ""
    formats = [format for format in FORMATS if format in formats_that_read(conventions.mapped)]
    choices = f" ({', '.join(formats)})" if listed else ""
    return f"no known format{reading}{choices} has these keys: {describe_keys(row)}"


def _lacks(row: Mapping[str, Any], name: str, conventions: RowConventions) -> str:
    return f'no column "{conventions.columns[name]}" for {name} (the row has: {describe_keys(row)})'


def _alpaca(fields: Mapping[str, Any], index: int, conventions: RowConventions) -> _Read:
    question_key, answer_key = keys_of(fields, "alpaca", conventions)
    instruction = as_string(fields[question_key], conventions.called(question_key))
    extra, read = _extra(fields, instruction, conventions)
    output = as_string(fields[answer_key], conventions.called(answer_key))
    turns = [
        *_history(fields, conventions),
        Message("user", "\n".join(part for part in (instruction, extra) if part)),
        Message("assistant", output),
    ]
    names = (question_key, answer_key, "history", *read)
    return _conversation(fields, index, turns, names, conventions, (instruction, extra, output))


def _extra(fields: Mapping[str, Any], instruction: str, conventions: RowConventions) -> tuple[str, tuple[str, ...]]:
    """(what stands beside an instruction, the keys that it was read from)."""
    texts, read = [_optional_string(fields, "input", conventions)], ["input"]
    for key in EXTRA[1:]:
        text = fields.get(key)
        if isinstance(text, str) and text and text != instruction and text not in texts:
            texts.append(as_string(text, conventions.called(key)))
            read.append(key)
    return "\n".join(filter(None, texts)), tuple(read)


def _sharegpt(fields: Mapping[str, Any], index: int, conventions: RowConventions) -> _Read:
    (key,) = keys_of(fields, "sharegpt", conventions)
    turns = message_list(fields[key], conventions.called(key), conventions.roles, ("from", "value"))
    return _conversation(fields, index, turns, (key,), conventions)


def _messages(fields: Mapping[str, Any], index: int, conventions: RowConventions) -> _Read:
    (key,) = keys_of(fields, "messages", conventions)
    turns = message_list(fields[key], conventions.called(key), conventions.roles)
    return _conversation(fields, index, turns, (key,), conventions)


def _prompt_completion(fields: Mapping[str, Any], index: int, conventions: RowConventions) -> _Read:
    keys = keys_of(fields, "prompt_completion", conventions)
    turns: list[Message] = _history(fields, conventions)
    for role, key in zip(("user", "assistant"), keys, strict=True):
        value, called = fields[key], conventions.called(key)
        if isinstance(value, list) and all(isinstance(turn, dict) for turn in value):
            turns += message_list(value, called, conventions.roles)
        else:
            turns.append(Message(role, as_string(value, called)))
    if not fields[keys[1]]:
        raise RowError("empty response")
    return _conversation(fields, index, turns, (*keys, "history"), conventions)


def _text(fields: Mapping[str, Any], index: int, conventions: RowConventions) -> _Read:
    (key,) = keys_of(fields, "text", conventions)
    text = as_string(fields[key], conventions.called(key))
    if not text.strip():
        raise RowError("empty response")
    return _Read(Sample(index, _id(fields), text=text), (key,), (text,))


def _input_ids(fields: Mapping[str, Any], index: int, conventions: RowConventions) -> _Read:
    (key,) = keys_of(fields, "input_ids", conventions)
    called, of_mask = conventions.called(key), conventions.called("attention_mask")
    ids = as_list(fields[key], called)
    if not set(map(type, ids)) <= {int} or (ids and min(ids) < 0):
        raise RowError(f'"{called}" holds something else than non-negative integers')
    if fields.get("attention_mask") is not None:
        mask = as_list(fields["attention_mask"], of_mask)
        if len(mask) != len(ids):
            raise RowError(f'"{of_mask}" has {len(mask)} entries for {len(ids)} {called}')
        if not set(map(type, mask)) <= {int, bool} or not set(mask) <= {0, 1}:
            raise RowError(f'"{of_mask}" holds something else than 0 and 1')
        ids = [token for token, attended in zip(ids, mask, strict=True) if attended]
    if not ids:
        raise RowError("empty response")
    return _Read(Sample(index, _id(fields), input_ids=tuple(ids)), (key, "attention_mask"), ())


_PARSERS: dict[str, Callable[[Mapping[str, Any], int, RowConventions], _Read]] = {
    "alpaca": _alpaca,
    "sharegpt": _sharegpt,
    "messages": _messages,
    "prompt_completion": _prompt_completion,
    "text": _text,
    "input_ids": _input_ids,
}


def _history(fields: Mapping[str, Any], conventions: RowConventions) -> list[Message]:
    """Earlier turns: [user, assistant] pairs, or a list of turns."""
    value, called = fields.get("history"), conventions.called("history")
    if absent(value) or not value:
        return []
    pairs = as_list(value, called)
    if all(isinstance(turn, dict) for turn in pairs):
        return message_list(pairs, called, conventions.roles)
    turns = []
    for pair in pairs:
        if not isinstance(pair, (list, tuple)) or len(pair) != 2:
            raise RowError(f'"{called}" is not a list of [user, assistant] pairs')
        turns += [Message("user", as_string(pair[0], called)), Message("assistant", as_string(pair[1], called))]
    return turns


def _conversation(
    fields: Mapping[str, Any],
    index: int,
    turns: list[Message],
    names: tuple[str, ...],
    conventions: RowConventions,
    alpaca: tuple[str, str, str] | None = None,
) -> _Read:
    """A sample of ``turns``, the row's own system prompt in front and its tools beside them. Raises RowError for a
    conversation that ends in nothing. ``names``: what the turns were read from."""
    if not turns:
        raise RowError("no messages")
    if turns[-1].empty:
        raise RowError("empty response")
    if turns[-1].role != "assistant" and all(fields.get(key) for key in _PREFERENCE):
        raise RowError(_A_PREFERENCE)  # the turns are its prompt
    if turns[0].role not in ("system", "developer"):
        for key in sorted(SYSTEM, key=lambda key: key not in conventions.columns):
            if system := _optional_string(fields, key, conventions):
                turns.insert(0, Message("system", system))
                names = (*names, key)
                break
    tools = None if fields.get("tools") is None else tools_of(fields)
    if tools is not None:
        names = (*names, "tools")
    return _Read(Sample(index, _id(fields), tuple(turns), alpaca, tools=tools), names, _said(turns, alpaca))


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


def keys_of(fields: Mapping[str, Any], fmt: str, conventions: RowConventions) -> tuple[str, ...]:
    """Those of a row's ``fields`` that make it one of ``fmt``; of flat ones the question and the answer. Raises
    RowError."""
    choices = choices_of(fmt, conventions.mapped)
    for wanted in choices:
        if all(not absent(fields.get(key)) for key in wanted):
            return wanted
    for wanted in choices:
        if all(key in fields for key in wanted):
            return wanted
    if not choices:
        raise RowError(f"format {fmt} does not read {', '.join(conventions.columns)}")
    nearest = min(choices, key=lambda wanted: sum(key not in fields for key in wanted))
    missing = next(key for key in nearest if key not in fields)
    row = {conventions.called(key): None for key in fields}
    if missing in conventions.columns:
        raise RowError(_lacks(row, missing, conventions))
    raise RowError(f'no key "{missing}", which {fmt} needs (the row has: {describe_keys(row)})')


def _id(fields: Mapping[str, Any]) -> str | None:
    value = fields.get("id")
    return None if absent(value) else as_string(str(value), "id")


def _optional_string(fields: Mapping[str, Any], key: str, conventions: RowConventions) -> str:
    value = fields.get(key)
    return "" if absent(value) else as_string(value, conventions.called(key))
