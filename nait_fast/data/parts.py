"""The parts that a pool is read from: JSON lines and lists, delimited text, Parquet files, tables of `datasets`.

Every part yields its rows as records, from any place on. Parts whose rows cannot be counted without reading them tell
their places (byte offset, line) as they are read for the first time; plan.py keeps every n-th.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from itertools import islice
from typing import Any, NamedTuple

from nait_fast.data.delimited import DelimitedText
from nait_fast.data.streams import (
    BLOCK,
    Digest,
    import_optional,
    open_stream,
    read_blocks,
    read_lines,
    row_limit,
    too_long,
)
from nait_fast.errors import BadInput, NaitError, first_line
from nait_fast.remote.places import Place, RemotePath
from nait_fast.remote.reading import RemoteFile

BATCH_ROWS, BATCH_BYTES = 1024, 64 << 20  # rows of a table read at a time: so many, and about so many bytes
# A dictionary's value is stored once for all rows that have it: what a batch of them may take, and the fewest rows that
# are read at a time all the same.
UNPACKED_BYTES, LEAST_ROWS = 512 << 20, 4


class Record(NamedTuple):
    """A row as read: `payload` is a JSONL line (bytes), an already decoded value, or the RowError that says why there
    is none; `line` is 0 if there is none."""

    file: str
    line: int
    payload: Any


class RowPlace(NamedTuple):
    """Where a row begins: for lines `at` is the offset in the decompressed bytes and `line` counts from 1; elsewhere
    `at` is the row's number within the part and `line` 0."""

    at: int
    line: int


class PoolPart(ABC):
    """One file or table. `name` is what messages call it; `seeks`: reading from a place costs nothing but the rows."""

    def __init__(self, name: str, seeks: bool):
        self.name, self.seeks = name, seeks

    def count(self, digest: Digest) -> int | None:
        """Number of rows, where they need not be read for that; `digest` gets what is stored, if `sha256` is None."""
        return None

    def places(self, digest: Digest) -> Iterator[tuple[RowPlace, bytes | None]]:
        """Place of every row and, of lines, its bytes: of a part that does not `count`. `digest` as there."""
        return iter(())

    @abstractmethod
    def records(self, start: RowPlace) -> Iterator[Record]:
        """The rows from `start` on."""

    @property
    def sha256(self) -> str | None:
        """Of what is stored, where it is known without reading it."""
        return None

    def stamp(self, anew: bool = True) -> list[int]:
        """What changes when somebody writes to the part, renames or replaces it; nothing where there is no file.
        ``anew`` false: of a file that is not on this machine, as it was when the pool was opened."""
        return []

    def goes_on(self, row: int, later: int) -> bool:
        """Whether to read on from ``row`` of the part costs less than to begin at ``later``."""
        return not self.seeks


class _File(PoolPart):
    def __init__(self, path: Place, seeks: bool):
        super().__init__(str(path), seeks)
        self.path = path

    @property
    def sha256(self) -> str | None:
        return self.path.sha256 if isinstance(self.path, RemotePath) else None

    def stamp(self, anew: bool = True) -> list[int]:
        if isinstance(self.path, RemotePath):
            return self.path.stamp(anew)
        status = self.path.stat()
        return [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]


class _TextFile(_File):
    """Text in lines, also compressed."""

    def __init__(self, path: Place):
        super().__init__(path, seeks=path.suffix.lower() not in (".gz", ".zst"))

    def _open_at(self, at: int) -> Any:
        """The decompressed bytes from ``at`` on; close it."""
        if self.seeks:
            stream: Any = self.path.open("rb", BLOCK)
            stream.seek(at)
            return stream
        stream = open_stream(self.path, hashlib.sha256())
        while at and (skipped := len(stream.read(min(at, BLOCK)))):
            at -= skipped
        return stream


class Lines(_TextFile):
    """JSON lines. Blank lines are no rows."""

    def places(self, digest: Digest) -> Iterator[tuple[RowPlace, bytes | None]]:
        for at, number, payload in read_lines(open_stream(self.path, digest), self.name, 0, 1):
            yield RowPlace(at, number), payload

    def records(self, start: RowPlace) -> Iterator[Record]:
        name = self.name
        with self._open_at(start.at) as stream:
            for _, number, payload in read_lines(stream, name, start.at, start.line or 1):
                yield Record(name, number, payload)


class Delimited(_TextFile):
    """CSV or TSV, by its ``delimiter``: the first record names the columns. A row is an object of texts, null for an
    empty one."""

    def __init__(self, path: Place, delimiter: bytes):
        super().__init__(path)
        self._delimiter = delimiter
        self._columns: list[str] = []
        self._first = RowPlace(0, 1)  # behind them

    def places(self, digest: Digest) -> Iterator[tuple[RowPlace, bytes | None]]:
        text = DelimitedText(open_stream(self.path, digest), self.name, self._delimiter)
        text.columns()
        while (place := text.place()) is not None:
            yield RowPlace(*place), None
            text.record()

    def records(self, start: RowPlace) -> Iterator[Record]:
        if not self._columns:
            with self._open_at(0) as stream:
                text = DelimitedText(stream, self.name, self._delimiter)
                self._columns, self._first = text.columns(), RowPlace(text.at, text.line)
        start = start if start.at else self._first
        with self._open_at(start.at) as stream:
            text = DelimitedText(stream, self.name, self._delimiter, *start)
            while (place := text.place()) is not None:
                yield Record(self.name, place[1], text.row(self._columns))


class JsonRows(_File):
    """A `.json` file whose rows ``read(path, digest)`` gives."""

    def __init__(self, path: Place, read: Callable[[Place, Digest], Iterator[Any]]):
        super().__init__(path, seeks=False)
        self._read = read

    def places(self, digest: Digest) -> Iterator[tuple[RowPlace, bytes | None]]:
        for number, _ in enumerate(self._read(self.path, digest)):
            yield RowPlace(number, 0), None

    def records(self, start: RowPlace) -> Iterator[Record]:
        for row in islice(self._read(self.path, hashlib.sha256()), start.at, None):
            yield Record(self.name, 0, row)


class ParquetFile(_File):
    """Of one that is not on this machine, only the row groups that are asked for are read."""

    def __init__(self, path: Place):
        super().__init__(path, seeks=True)
        self._metadata: Any = None

    @contextmanager
    def _open(self) -> Iterator[Any]:
        parquet, remote = import_optional("pyarrow.parquet", "a Parquet file", self.name), None
        try:
            if isinstance(self.path, RemotePath):
                remote = RemoteFile(self.path, anywhere=True)
                file = parquet.ParquetFile(remote, metadata=self._metadata, pre_buffer=True)
                self._metadata = file.metadata
            else:
                file = parquet.ParquetFile(self.path)
        except (OSError, ValueError) as error:
            raise self._unreadable(error) from None
        with remote or nullcontext(), file:
            yield file

    def _unreadable(self, error: Exception) -> NaitError:
        return BadInput(f"no Parquet that can be read: {first_line(error, kind=False)}", where=self.name)

    def count(self, digest: Digest) -> int | None:
        if self.sha256 is None:
            for _ in read_blocks(self.path, digest):
                pass
        with self._open() as file:
            return file.metadata.num_rows

    def goes_on(self, row: int, later: int) -> bool:
        with self._open() as file:
            end = 0
            for group in range(file.metadata.num_row_groups):
                end += file.metadata.row_group(group).num_rows
                if row < end:
                    return later < end
        return False

    def records(self, start: RowPlace) -> Iterator[Record]:
        with self._open() as file:
            skip, groups, size, row, shared = start.at, list[int](), 1.0, start.at, 0
            for group in range(file.metadata.num_row_groups):
                about = file.metadata.row_group(group)
                if groups or skip < about.num_rows:
                    groups.append(group)
                    size = max(size, about.total_byte_size / max(1, about.num_rows))
                    columns = (about.column(number) for number in range(about.num_columns))
                    sizes = (c.total_uncompressed_size for c in columns if c.has_dictionary_page)
                    shared = max(shared, sum(sizes))
                    if size > row_limit():  # so is one of its rows, which is not unpacked to be refused
                        raise too_long(f"{self.name} row group {group}", "a row", row_limit())
                else:
                    skip -= about.num_rows
            try:
                for batch in self._batches(file, _batch_rows(size, shared), groups):
                    if skip < len(batch):
                        part = batch.slice(skip)
                        _check(part, f"{self.name} row", row)
                        for value in part.to_pylist():
                            yield Record(self.name, 0, value)
                        row += len(part)
                    skip = max(0, skip - len(batch))
            except (OSError, ValueError) as error:
                raise self._unreadable(error) from None

    def _batches(self, file: Any, rows: int, groups: list[int]) -> Iterator[Any]:
        """``rows`` at a time, the last ones fewer. Of a file that is not on this machine one row group after another:
        what a batch would take of the next one may not be asked for."""
        for some in [[group] for group in groups] if isinstance(self.path, RemotePath) else [groups]:
            yield from file.iter_batches(batch_size=rows, row_groups=some)


def _check(batch: Any, where: str, first: int) -> None:
    """Raises NaitError at a row of more bytes than a row may take, before it becomes Python's objects."""
    limit = row_limit()
    if batch.nbytes > limit:
        for number in range(len(batch)):
            if batch.slice(number, 1).nbytes > limit:
                raise too_long(f"{where} {first + number}", "a row", limit)


def _batch_rows(size: float, shared: int = 0) -> int:
    """How many rows of about ``size`` bytes are read at a time; ``shared``: bytes that each of them may hold anew."""
    rows = max(1, min(BATCH_ROWS, int(BATCH_BYTES / max(size, 1))))
    return min(rows, max(LEAST_ROWS, UNPACKED_BYTES // max(1, shared)))


class DatasetTable(PoolPart):
    """A split of `datasets`, from a folder or the Hub: `rows` in the format "arrow", which leaves pictures encoded."""

    def __init__(self, rows: Any, name: str):
        super().__init__(name, seeks=True)
        self.rows = rows

    def count(self, digest: Digest) -> int | None:
        for record in self.records(RowPlace(0, 0)):
            digest.update(_dump(record.payload))
            digest.update(b"\n")
        return len(self.rows)

    def records(self, start: RowPlace) -> Iterator[Record]:
        try:
            rows = self.rows.select(range(start.at, len(self.rows))) if start.at else self.rows
            size, number = rows.data.nbytes / max(1, rows.data.num_rows), start.at
            for batch in rows.iter(batch_size=_batch_rows(size)):
                _check(batch, f"{self.name} row", number)
                number += len(batch)
                for value in batch.to_pylist():
                    yield Record(self.name, 0, value)
        except NaitError:
            raise
        except Exception as error:  # a feature's decoder may raise anything
            raise BadInput(f"datasets cannot read it: {first_line(error, kind=False)}", where=self.name) from None


def as_line(payload: Any) -> bytes:
    """A row as JSON without the newline: lines as they are stored, others written anew, with null for NaN and infinite
    numbers, which JSON does not know."""
    if isinstance(payload, bytes):
        return payload
    try:
        return _dump(payload, allow_nan=False)
    except ValueError:  # NaN, or a circle, which no row has
        return _dump(_with_nulls(payload))
    except RecursionError:
        raise BadInput("a row is nested too deep to be written as JSON", remedy="remove it") from None


def with_nulls(line: bytes) -> bytes:
    """A line of JSON with null for the NaN, Infinity and -Infinity that some writers leave in it."""
    if b"NaN" not in line and b"Infinity" not in line:
        return line
    return _NO_NUMBER.sub(lambda match: match[0] if match[0].startswith(b'"') else b"null", line)


_NO_NUMBER = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"|-?Infinity|NaN')  # strings are stepped over


def _dump(payload: Any, **options: Any) -> bytes:
    try:
        return json.dumps(payload, ensure_ascii=False, default=_plain, **options).encode()
    except UnicodeEncodeError:  # half a surrogate pair
        return json.dumps(payload, default=_plain, **options).encode()


def _with_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _with_nulls(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_with_nulls(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _plain(value: object) -> str:
    return base64.b64encode(value).decode() if isinstance(value, bytes) else str(value)
