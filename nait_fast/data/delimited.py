"""Delimited text (CSV, TSV), record by record, as Python's ``csv`` reads it when it is strict: a field in quotes may
hold newlines, delimiters and doubled quotes. Where a record begins, only whoever has read those before it knows.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

from nait_fast.data.streams import BOM, row_limit, too_long
from nait_fast.data.turns import RowError
from nait_fast.errors import BadInput

DELIMITERS = {".csv": b",", ".tsv": b"\t"}
_CALLED = {b",": "comma", b"\t": "tab", b";": "semicolon"}
_QUOTED = re.compile(rb'[^"]*(?:""[^"]*)*')  # what stands in quotes, up to those that close it, or the end of the line
_UTF_16 = (b"\xff\xfe", b"\xfe\xff")


class DelimitedText:
    """The records of ``stream``, whose next byte is at ``at`` (of the decompressed text) in ``line`` (from 1).

    at, line: where the next record begins. Methods raise NaitError where no row after it can be read.
    """

    def __init__(self, stream: Any, name: str, delimiter: bytes, at: int = 0, line: int = 1):
        self.at, self.line = at, line
        self._stream, self._name, self._delimiter, self._limit = stream, name, delimiter, row_limit()
        self._text, self._size, self._bare_return = b"", 0, False  # of the current record: a line of it, bytes read

    def place(self) -> tuple[int, int] | None:
        """(at, line) of the next record, past blank lines; None at the end. Then comes ``record`` or ``row``."""
        blank = 0
        while True:
            start = self.at, self.line
            self._size = 0
            self._text = self._next_line()
            if self._text.strip(b"\r\n"):
                return start
            if not self._text:
                return None
            blank += len(self._text)
            if blank > self._limit:
                raise too_long(f"{self._name}:{self.line}", "blank space", self._limit)

    def record(self) -> list[bytes]:
        """The fields of the record that ``place`` has come to."""
        self._bare_return = False
        text = self._text
        if b'"' not in text:
            body = text.removesuffix(b"\n").removesuffix(b"\r")
            self._bare_return = b"\r" in body
            return body.split(self._delimiter)
        fields, at, more = list[bytes](), 0, True
        while more:
            if text.startswith(b'"', at):
                value, text, at = self._quoted(text, at + 1)
                more = text.startswith(self._delimiter, at)
                if not more and text[at:] not in (b"", b"\n", b"\r\n"):
                    raise self._wrong("text follows the quotes that close a field", self.line - 1)
            else:
                end = text.find(self._delimiter, at)
                more = end >= 0
                value = text[at:end] if more else text[at:].removesuffix(b"\n").removesuffix(b"\r")
                self._bare_return = self._bare_return or b"\r" in value
                at = end
            fields.append(value)
            at += 1
        return fields

    def row(self, columns: list[str]) -> dict[str, str | None] | RowError:
        """The record that ``place`` has come to, by its columns: None for an empty field; or why it is no row."""
        fields = self.record()
        if len(fields) != len(columns):
            rule = f"quote fields that hold a {_CALLED[self._delimiter]} or a quote"
            return RowError(f"{_count(len(fields), 'field')} for {_count(len(columns), 'column')}: {rule}")
        if self._bare_return:
            return RowError("a carriage return outside of quotes")
        row: dict[str, str | None] = {}
        for column, field in zip(columns, fields, strict=True):
            try:
                row[column] = field.decode() or None
            except UnicodeDecodeError as error:
                return RowError(f"not UTF-8 text (byte {error.start + 1} of column '{column}')")
        return row

    def columns(self) -> list[str]:
        """The names in the first record; "Unnamed: N" for an empty one, as pandas and `datasets` call it."""
        if self.place() is None:
            return []
        where = f"{self._name}:{self.line - 1}"
        if self._text.startswith(_UTF_16):
            raise BadInput("UTF-16 text", where=where, remedy="store the file as UTF-8")
        try:
            names = [field.decode() for field in self.record()]
        except UnicodeDecodeError:
            raise BadInput("not UTF-8 text", where=where, remedy="store the file as UTF-8") from None
        if self._bare_return:
            raise BadInput("its lines end in carriage returns alone", where=where, remedy="store it with newlines")
        if len(names) == 1:
            for other, called in _CALLED.items():
                if other != self._delimiter and other.decode() in names[0]:
                    raise BadInput(
                        f"its columns seem to be separated by a {called}, not by a {_CALLED[self._delimiter]}",
                        where=where,
                        remedy="write .csv with commas, .tsv with tabs",
                    )
        names = [name or f"Unnamed: {number}" for number, name in enumerate(names)]
        if (twice := Counter(names).most_common(1)[0])[1] > 1:
            raise BadInput(f"two columns are called '{twice[0]}'", where=where, remedy="rename one")
        return names

    def _quoted(self, text: bytes, at: int) -> tuple[bytes, bytes, int]:
        """(what stands in the quotes that open before ``at``, the line that they close in, the place behind them)."""
        opened, pieces = self.line - 1, list[bytes]()
        while (end := _end(text, at)) == len(text):
            pieces.append(text[at:])
            text, at = self._next_line(opened), 0
            if not text:
                raise self._wrong("the quotes that open a field are never closed", opened)
        pieces.append(text[at:end])
        return b"".join(pieces).replace(b'""', b'"'), text, end + 1

    def _next_line(self, opened: int = 0) -> bytes:
        """``opened``: the line of the quotes that it stands in; 0 where it begins a record."""
        line = self._stream.readline(self._limit + 1)
        self._size += len(line)
        if self._size > self._limit:
            what = "a record (are its quotes closed?)" if opened else "a line"
            raise too_long(f"{self._name}:{opened or self.line}", what, self._limit)
        first, self.at, self.line = not self.at, self.at + len(line), self.line + bool(line)
        return line.removeprefix(BOM) if first else line

    def _wrong(self, what: str, line: int) -> BadInput:
        return BadInput(
            f"{what}, and no row after it can be read",
            where=f"{self._name}:{line}",
            remedy="double the quotes that stand inside a field, and put the field in quotes",
        )


def _end(text: bytes, at: int) -> int:
    match = _QUOTED.match(text, at)
    return match.end() if match else at


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
