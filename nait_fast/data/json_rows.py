"""The rows of a `.json` file, read a block at a time, and how they lie in it."""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from nait_fast.data.streams import BLOCK, BOM, Digest, TooLong, open_stream, read_lines, row_limit, too_long
from nait_fast.errors import BadInput, NaitError, first_line
from nait_fast.remote.places import Place


class _NotJson(BadInput):
    """A file that is no JSON, or no text."""


def json_list(path: Place, digest: Digest) -> Iterator[Any]:
    """The items of the JSON list that a file holds. Raises NaitError."""
    text = _Text(path, digest)
    with text.errors():
        text.step("[")
        yield from text.items()
        text.end()


def json_object(path: Place, digest: Digest) -> Iterator[Any]:
    """The items of the list under "data" of the JSON object that a file holds. Raises NaitError."""
    text, has_rows = _Text(path, digest), False
    with text.errors():
        text.step("{")
        separator = "" if text.mark() == "}" else ","
        while separator == ",":
            if text.mark() != '"':
                raise text.wrong("Expecting a name in double quotes")
            key = text.value()
            text.step(":")
            if key == "data" and text.mark() == "[":
                if has_rows:
                    raise BadInput('has a second list under "data"', where=path, remedy="keep one")
                has_rows = True
                text.step("[")
                yield from text.items()
            else:
                text.value()
            separator = text.mark()
            if separator == ",":
                text.step(",")
        text.step("}")
        text.end()
    if not has_rows:
        raise BadInput(
            'holds one object without a list under "data"', where=path, remedy="give a list of rows or JSON lines"
        )


def json_layout(path: Place) -> str:
    """Tell "list" ([row, …]), "object" ({"data": [row, …]}) or "lines" (JSON lines under the name .json)."""
    name = str(path)
    with open_stream(path, hashlib.sha256()) as stream:
        head, left = stream.read(BLOCK).removeprefix(BOM).lstrip(), row_limit()
        while not head and left > 0 and (block := stream.read(BLOCK)):
            head, left = block.lstrip(), left - len(block)
    if not head.startswith(b"{"):
        return "list" if head.startswith(b"[") else "lines"
    with open_stream(path, hashlib.sha256()) as stream:
        lines = read_lines(stream, name, 0, 1)
        try:
            value = json_or_none(next(lines)[2])
            # A first line that is JSON by itself is a row, unless it is all there is and holds the rows.
            if value is not None:
                return "object" if isinstance(value.get("data"), list) and next(lines, None) is None else "lines"
        except TooLong:
            pass
    try:
        for _ in json_object(path, hashlib.sha256()):
            pass
    except _NotJson:
        return "lines"
    except NaitError:  # what is wrong with the object is told when its rows are read
        pass
    return "object"


def json_or_none(text: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


_MARK = 16  # characters that no name, number, escape or mark of JSON is longer than, which a block may cut


def _cut_short(error: json.JSONDecodeError) -> bool:
    """Whether more text could mend what is wrong: it is wrong at the end of the text, or a string has no end."""
    return error.pos >= len(error.doc) - _MARK or error.msg.startswith("Unterminated string")


_SPACE = re.compile(r"[ \t\r\n]*")
_decode = json.JSONDecoder().raw_decode


class _Text:
    """A place in the JSON of a file; what is before it is forgotten. Methods raise ValueError and RecursionError."""

    def __init__(self, path: Place, digest: Digest) -> None:
        self._name, self._limit, self._row = str(path), row_limit(), 0
        self._stream = io.TextIOWrapper(open_stream(path, digest), encoding="utf-8-sig")
        self._buffer, self._at, self._ended = "", 0, False

    def mark(self) -> str:
        """Move past white space and return the next character, "" at the end."""
        blank = 0
        while True:
            space = _SPACE.match(self._buffer, self._at)
            end = space.end() if space else self._at
            blank, self._at = blank + end - self._at, end
            if end < len(self._buffer) or self._ended:
                return self._buffer[end : end + 1]
            if blank > self._limit:
                raise too_long(f"{self._name} row {self._row}", "blank space", self._limit)
            self._more()

    def step(self, mark: str) -> None:
        """Go past ``mark``, which must come next."""
        if self.mark() != mark:
            raise self.wrong(f"Expecting '{mark}'")
        self._at += 1

    def value(self) -> Any:
        """The value that comes next."""
        self.mark()
        while True:
            try:
                value, end = _decode(self._buffer, self._at)
            except json.JSONDecodeError as error:
                if self._ended or not _cut_short(error):
                    raise
                self._more()
                continue
            if end == len(self._buffer) and not self._ended:  # a number may go on in the next block
                self._more()
                continue
            if end - self._at > self._limit:
                raise too_long(f"{self._name} row {self._row}", "a value", self._limit)
            self._at = end
            return value

    def items(self) -> Iterator[Any]:
        """The rest of a list, behind its bracket."""
        separator = "" if self.mark() == "]" else ","
        while separator == ",":
            yield self.value()
            self._row += 1
            separator = self.mark()
            if separator not in ("]", ","):
                raise self.wrong("Expecting ',' or ']'")
            self._at += separator == ","
        self.step("]")

    def end(self) -> None:
        if self.mark():
            raise self.wrong("Extra data after the list")

    def wrong(self, what: str) -> json.JSONDecodeError:
        return json.JSONDecodeError(what, self._buffer, self._at)

    @contextmanager
    def errors(self) -> Iterator[None]:
        """What is wrong with the text as NaitError."""
        try:
            yield
        except UnicodeDecodeError:
            raise _NotJson(
                "not UTF-8 text", where=f"{self._name} near row {self._row}", remedy="store the file as UTF-8"
            ) from None
        except (ValueError, RecursionError) as error:
            reason = error.msg if isinstance(error, json.JSONDecodeError) else first_line(error, kind=False)
            raise _NotJson(
                f"not JSON ({reason}), and no row after it can be read",
                where=f"{self._name} row {self._row}",
                remedy="fix the file",
            ) from None

    def _more(self) -> None:
        unread = len(self._buffer) - self._at
        if unread > self._limit:
            raise too_long(f"{self._name} row {self._row}", "a value", self._limit)
        # Doubling what is unread keeps the work linear when one row is longer than a block.
        read = self._stream.read(max(BLOCK, unread))
        self._buffer, self._at, self._ended = self._buffer[self._at :] + read, 0, not read
