"""Turns of a conversation: who speaks, what is said, and all else that a row holds of it."""

from __future__ import annotations

import json
import reprlib
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from nait_fast.data.unread import is_metadata, texts_in

ROLES = ("system", "user", "assistant", "tool", "developer", "environment")

# What published files call the roles, in small letters and with underscores, whatever their format.
_ROLE_NAMES: dict[str, str] = {
    **{name: name for name in ROLES},
    **dict.fromkeys(("human", "prompter"), "user"),
    **dict.fromkeys(
        ("gpt", "model", "ai", "bot", "chatbot", "chatgpt", "bing", "bard", "function_call", "tool_call"), "assistant"
    ),
    **dict.fromkeys(
        ("observation", "function", "function_response", "tool_response", "tool_result", "ipython"), "tool"
    ),
}
_NO_FIELDS: Mapping[str, Any] = {}  # one for all turns that have none
CALLS = ("tool_calls", "function_call", "function_calls")
_NAMES = ("role", "content", "from", "value")
_TEXT_PARTS = ("text", "input_text", "output_text")


class RowError(ValueError):
    """A row that cannot be used. The message is a short reason; the pool adds the file and the line."""


@dataclass(frozen=True, slots=True)
class Message:
    """One turn: `role` is one of ROLES.

    content: what is said, parts joined; "" where the row has null beside a call.
    fields: the turn's other fields as they are in the row (tool_calls, tool_call_id, name, reasoning_content …), those
        that are null left out, as everywhere. "content": None among them says that the row's content is null.
    """

    role: str
    content: str
    fields: Mapping[str, Any] = field(default_factory=lambda: _NO_FIELDS)

    def as_dict(self) -> dict[str, Any]:
        """The whole turn, as the chat template gets it."""
        if not self.fields:
            return {"role": self.role, "content": self.content}
        return {"role": self.role, "content": self.content, **self.fields}

    @property
    def calls(self) -> dict[str, Any]:
        """The fields that call functions."""
        return {key: self.fields[key] for key in CALLS if self.fields.get(key)} if self.fields else {}

    @property
    def text(self) -> str:
        """What is said and called, for templates and readers that know nothing of calls."""
        parts = [self.content, *(v if isinstance(v, str) else as_json(v) for v in self.calls.values())]
        return "\n".join(part for part in parts if part) if len(parts) > 1 else self.content

    @property
    def empty(self) -> bool:
        """Whether there is nothing to read: neither content nor a call."""
        return not self.content.strip() and not self.calls


def as_json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=str)


def call_texts(value: Any) -> Iterator[str]:
    """The texts of calls, or of tools, that the model would have to be shown: names, descriptions, arguments; all texts
    of one that has none of these."""
    if isinstance(value, str):
        yield value
    for call in [value] if isinstance(value, dict) else value if isinstance(value, list) else []:
        if not isinstance(call, dict):
            yield from _leaves(call)
            continue
        function = call["function"] if isinstance(call.get("function"), dict) else call
        names = [key for key in ("name", "description", "arguments") if key in function]
        for key in names or function:
            said = function[key] if key not in ("id", "type") else None
            if key == "arguments" and isinstance(said, str):
                said = _json_or_none(said) or said
            yield from _leaves(said)


def _leaves(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, (dict, list)):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _leaves(part)


def plain_call(call: Any) -> Any:
    """A call as most templates want it: {"type": "function", "function": {"name", "arguments": an object}}."""
    if not isinstance(call, dict):
        return call
    function = call.get("function")
    if not isinstance(function, dict):
        function = {k: v for k, v in call.items() if k not in ("id", "type")}
        call = {**{k: call[k] for k in ("id",) if k in call}, "type": "function"}
    arguments = function.get("arguments")
    decoded = _json_or_none(arguments) if isinstance(arguments, str) else arguments
    if isinstance(decoded, dict):
        function = {**function, "arguments": decoded}
    return {**call, "function": function}


def role_of(name: object, place: str, roles: Mapping[str, str]) -> str:
    """The role that a row calls ``name``; ``roles``: names that the user has mapped. Raises RowError."""
    if isinstance(name, str):
        if (mapped := roles.get(name)) is not None:
            return mapped
        role = _ROLE_NAMES.get(name) or _ROLE_NAMES.get(name.strip().lower().replace("-", "_").replace(" ", "_"))
        if role is not None:
            return role
    hint = ""
    if isinstance(name, str) and name:
        pair = f"{name}=user" if name.isprintable() and len(name) <= 40 else "NAME=user"
        hint = f" (--roles {shlex.quote(pair)} would read it)"
    raise RowError(f'"{place}" has the unknown role {reprlib.repr(name)}{hint}')


def message_list(
    value: object, key: str, roles: Mapping[str, str], names: tuple[str, str] = ("role", "content")
) -> list[Message]:
    """The turns under ``key``. ``names``: what they call role and content where they do not call them so, as the key
    that is missing is named in messages. Raises RowError."""
    turns = []
    for position, turn in enumerate(as_list(value, key)):
        place = f"{key}[{position}]"
        if not isinstance(turn, dict):
            raise wrong_type(place, turn, "an object")
        # Many published files keep the key `conversations` and name the parts of a turn as `messages` does.
        role_key, text_key = names if turn.get(names[0]) is not None else ("role", "content")
        if turn.get(role_key) is None:
            raise RowError(f'"{place}" lacks the key "{names[0]}"')
        role = role_of(turn[role_key], place, roles)
        if len(turn) == 2 and isinstance(content := turn.get(text_key), str):
            turns.append(Message(role, as_string(content, f"{place}.{text_key}")))
            continue
        turns.append(_message(turn, role, role_key, text_key, place))
    return turns


def _message(turn: dict[str, Any], role: str, role_key: str, text_key: str, place: str) -> Message:
    fields, content = {k: v for k, v in turn.items() if k not in _NAMES and v is not None}, turn.get(text_key)
    if role_key == "from" and turn.get("content") not in (None, "", turn.get("value")):
        raise RowError(f'"{place}" has both "value" and "content"; keep one')
    if role_key == "role" and turn.get("value") is not None:
        fields["value"] = turn["value"]
    if fields:
        _check(fields, place, 0)
        fields = {k: _without_nulls(v) for k, v in fields.items()}
        if isinstance(fields.get("tool_calls"), str):
            fields["tool_calls"] = _decoded_list(fields["tool_calls"], f"{place}.tool_calls")
    if isinstance(content, list):
        beside: dict[str, list[Any]] = {}  # what its parts hold beside their texts
        for part in (part for part in content if isinstance(part, dict)):
            for k in (k for k in part if k not in ("type", "text") and k not in fields):
                if isinstance(k, str) and not is_metadata(k) and any(text.strip() for text in texts_in(part[k])):
                    beside.setdefault(k, []).append(part[k])
        _check(beside, f"{place}.{text_key}", 0)
        fields |= beside
    if content is None and any(fields.get(key) for key in CALLS):
        return Message(role, "", {**fields, "content": None})
    return Message(role, _content(content, f"{place}.{text_key}"), fields or _NO_FIELDS)


def _content(content: object, place: str) -> str:
    if not isinstance(content, list):
        return as_string(content, place)
    texts = []
    for part in content:
        if not isinstance(part, dict) or part.get("type") not in _TEXT_PARTS:
            kind = part.get("type") if isinstance(part, dict) else part
            raise RowError(f'"{place}" has a part that is not text: {reprlib.repr(kind)}')
        texts.append(as_string(part.get("text"), f"{place}.text"))
    return "".join(texts)


def tools_of(row: Mapping[str, Any]) -> tuple[Any, ...] | None:
    """The row's ``tools``: a list of objects, or JSON text of one or of the list; None where it has none, or something
    else, which no chat template takes."""
    value = row.get("tools")
    if isinstance(value, str):
        value = _json_or_none(value)
    if isinstance(value, dict):
        value = [value]
    if not isinstance(value, list):
        return None
    tools = [_json_or_none(tool) if isinstance(tool, str) else tool for tool in value]
    if not all(isinstance(tool, dict) for tool in tools):
        return None
    _check(tools, "tools", 0)
    return tuple(_without_nulls(tool) for tool in tools)


def _without_nulls(value: Any) -> Any:
    """``value`` without entries that are null: Parquet gives each object the keys of all others."""
    if isinstance(value, dict):
        return {k: _without_nulls(v) for k, v in value.items() if v is not None}
    if isinstance(value, list):
        return [_without_nulls(v) for v in value]
    return value


def _check(value: Any, place: str, depth: int) -> None:
    """Raises RowError for text that no tokenizer takes, and for what is nested so deep that a template fails at it."""
    if isinstance(value, str):
        as_string(value, place)
    elif depth > 100:
        raise RowError(f'"{place}" is nested too deep')
    elif isinstance(value, dict):
        for k, v in value.items():
            as_string(k, place)
            _check(v, place, depth + 1)
    elif isinstance(value, list):
        for v in value:
            _check(v, place, depth + 1)


def _decoded_list(text: str, place: str) -> list[Any]:
    value = _json_or_none(text)
    if isinstance(value, dict):
        return [value]
    if not isinstance(value, list):
        raise RowError(f'"{place}" is text, but not JSON of a list')
    return value


def _json_or_none(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def as_string(value: object, key: str) -> str:
    """``value``, which must be text that a tokenizer takes. Raises RowError."""
    if not isinstance(value, str):
        raise wrong_type(key, value, "a string")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            # JSON can spell half a surrogate pair ("\ud83d"); no tokenizer takes one.
            raise RowError(f'"{key}" holds half a surrogate pair, which is no character') from None
    return value


def as_list(value: object, key: str) -> list[Any]:
    """``value``, which must be a list, or JSON text of one, which is how tables of text hold it. Raises RowError."""
    listed = _json_or_none(value) if isinstance(value, str) else value
    if not isinstance(listed, list):
        raise wrong_type(key, value, "a list")
    return listed


def wrong_type(key: str, value: object, wanted: str) -> RowError:
    kind = "null" if value is None else type(value).__name__
    return RowError(f'"{key}" is {kind}, not {wanted}')
