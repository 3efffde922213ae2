"""LLaMA-Factory's description of ``selected.jsonl``: the columns and tags of the chosen rows, if one entry fits all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from nait_fast.data.format_keys import EXTRA, SYSTEM
from nait_fast.data.formats import Sample, keys_of
from nait_fast.data.row_conventions import NO_CONVENTIONS, RowConventions
from nait_fast.data.turns import Message
from nait_fast.data.unread import is_metadata, texts_in

_TAGS = {
    "user_tag": "human",
    "assistant_tag": "gpt",
    "observation_tag": "observation",
    "function_tag": "function_call",
    "system_tag": "system",
}
_TAG_OF = {
    "user": "user_tag",
    "assistant": "assistant_tag",
    "tool": "observation_tag",
    "environment": "observation_tag",
    "system": "system_tag",
    "developer": "system_tag",
}
_ASKS, _ANSWERS = ("user_tag", "observation_tag"), ("assistant_tag", "function_tag")


class NotCarried(Exception):
    """Why LLaMA-Factory would not read a row with all of its text."""


class DatasetEntry:
    """The entry of ``dataset_info.json`` that all rows fit which were added."""

    def __init__(self) -> None:
        self._kind = ""
        self._names: dict[str, str] = {}  # of columns and tags
        self._blank_input = ""

    def add(
        self, row: Mapping[str, Any], format: str, sample: Sample, conventions: RowConventions = NO_CONVENTIONS
    ) -> None:
        """A row of ``format``, and what was read of it. Raises NotCarried."""
        if format == "input_ids":
            raise NotCarried("it reads no rows of token ids")
        fields, kind, names = conventions.fields(row), "text", {"prompt": "text"}
        if format != "text":
            kind, names = _conversation(fields, format, keys_of(fields, format, conventions), sample)
        names = {part: name if part.endswith("_tag") else conventions.called(name) for part, name in names.items()}
        if self._kind and kind != self._kind:
            raise NotCarried("the rows are of several formats")
        self._kind = kind
        if format == "alpaca" and fields.get("input") == "":
            self._blank_input = conventions.called("input")
        for part, name in names.items():
            if self._names.setdefault(part, name) != name:
                raise NotCarried(f"the rows call {_called(part)} {self._names[part]!r} and {name!r}")

    def as_dict(self, file: str) -> dict[str, Any]:
        """The entry for ``file``."""
        columns = {part: name for part, name in self._names.items() if not part.endswith("_tag")}
        entry: dict[str, Any] = {"file_name": file}
        if self._kind == "turns":
            tags = {part: name for part, name in self._names.items() if part.endswith("_tag")}
            used = set(tags.values())
            tags |= {part: name for part, name in _TAGS.items() if part not in tags and name not in used}
            return {**entry, "formatting": "sharegpt", "columns": columns, "tags": tags}
        if self._blank_input:  # Alpaca's column, which is empty in most rows
            columns.setdefault("query", self._blank_input)
        return {**entry, "columns": columns}


def _called(part: str) -> str:
    return f"the {part.removesuffix('_tag')} role" if part.endswith("_tag") else f"the {part} column"


def _conversation(
    row: Mapping[str, Any], format: str, keys: Sequence[str], sample: Sample
) -> tuple[str, dict[str, str]]:
    turns, names = list(sample.messages), dict[str, str]()
    row_turns = row[keys[0]] if format in ("messages", "sharegpt") else None
    if any(isinstance(value, str) for value in (row_turns, row.get("history") or None)):
        raise NotCarried("it reads turns and history as lists, and the rows hold JSON text")
    if row_turns is None or len(row_turns) < len(turns):
        system = next((key for key in SYSTEM if row.get(key) and turns[0] == Message("system", row[key])), "")
        if system:
            names["system"] = system
            turns = turns[1:]
    if sample.tools:
        if not isinstance(row["tools"], str):
            raise NotCarried("it reads tools as JSON text only, and the rows hold objects")
        names["tools"] = "tools"
    for turn in turns:
        if lost := next((key for key, value in turn.fields.items() if key != "content" and _is_text(key, value)), ""):
            raise NotCarried(f"it does not read {lost!r} of a turn")
    if row_turns is not None:
        return "turns", {**names, "messages": keys[0], **_tags(row_turns, format, turns)}
    if not all(isinstance(row[key], str) for key in keys):
        raise NotCarried(f"it reads {keys[0]} and {keys[1]} as text only, and the rows hold lists of turns")
    names |= {"prompt": keys[0], "response": keys[1]}
    if sample.alpaca is not None and (extra := sample.alpaca[1]):
        query = next((key for key in EXTRA if row.get(key) == extra), "")
        if not query:
            raise NotCarried("it reads one text beside the instruction, and the rows hold several")
        names["query"] = query
    if isinstance(row.get("history"), list) and row["history"]:
        if not all(isinstance(pair, list) for pair in row["history"]):
            raise NotCarried("it reads a history of pairs, and the rows hold one of turns")
        names["history"] = "history"
    return "flat", names


def _is_text(key: str, value: Any) -> bool:
    return not is_metadata(key) and any(text for text in texts_in(value))


def _tags(row_turns: list[dict[str, Any]], format: str, turns: list[Message]) -> dict[str, str]:
    """What the turns of a row call their parts and roles."""
    names: dict[str, str] = {}
    order = []
    for said, turn in zip(row_turns, turns, strict=True):
        old = format == "sharegpt" and said.get("from") is not None
        role_key, text_key = ("from", "value") if old else ("role", "content")
        if not isinstance(said.get(text_key), str):
            raise NotCarried("it reads a turn's content as text only, and the rows hold parts or null")
        tag = _TAG_OF.get(turn.role)
        if tag is None:
            raise NotCarried(f"it knows no role {turn.role}")
        name = said[role_key]
        if tag == "assistant_tag" and name.lower().replace("-", "_").endswith("_call"):
            tag = "function_tag"
        for part, value in (("role_tag", role_key), ("content_tag", text_key), (tag, name)):
            if names.setdefault(part, value) != value:
                raise NotCarried(f"the rows call {_called(part)} {names[part]!r} and {value!r}")
        order.append(tag)
    if order and order[0] == "system_tag":
        order = order[1:]
    if len(order) % 2 or not all(tag in (_ANSWERS if n % 2 else _ASKS) for n, tag in enumerate(order)) or not order:
        raise NotCarried(
            "it leaves out rows whose turns are not by turns a question or observation, and an answer or call"
        )
    return names
