"""Open a pool of samples, whatever it is stored in, and stream its rows.

Every pass streams: no more than one row, one Parquet batch or one compressed block is held, besides what the
caller asked for. (The exception is a `.json` file that holds an object with its rows under "data".)
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nait_fast.data.formats import FORMATS, RowError, Sample, describe_keys, detect, parse
from nait_fast.data.sources import Record, Source, open_source
from nait_fast.data.streams import Digest, first_line
from nait_fast.errors import NaitError

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class SkippedRow:
    """A row left out. row: 0-based; where: "file:line" (1-based) for JSONL, else "file row N" (0-based)."""

    row: int
    where: str
    reason: str


@dataclass(frozen=True)
class PoolInfo:
    """What one full pass over a pool found.

    kind: "jsonl", "json", "parquet", "disk" (a save_to_disk folder) or "hub".
    rows: all rows read; good: those that can be used, so rows - good == len(skipped).
    sha256: of the file as stored (compressed, if it is), or for folders and the Hub of the rows as `Pool.lines`
        gives them, each followed by a newline.
    """

    path: str
    kind: str
    format: str
    rows: int
    good: int
    skipped: tuple[SkippedRow, ...]
    sha256: str


class Pool:
    """A pool of samples in a file, a folder or on the Hugging Face Hub.

    source: `.jsonl`, `.ndjson` or `.json`, each also with `.gz` or `.zst`; `.parquet`; a folder of `.jsonl` or of
        `.parquet` files (read in the order of their names); a `save_to_disk` folder; or a Hub id. The last two take
        a split as "name:split"; without one it is "train", or the only one.
    format: one of FORMATS, or "auto": the format of the first good row.
    skip_bad_rows: leave out the rows that cannot be used, and list them, instead of raising at the first.

    Every method raises NaitError for input that cannot be used.
    """

    def __init__(
        self,
        source: str | os.PathLike[str],
        *,
        format: str = "auto",
        skip_bad_rows: bool = False,
        split: str | None = None,
    ) -> None:
        if format not in ("auto", *FORMATS):
            raise NaitError(f"--format {format}: no such format; choose auto, {', '.join(FORMATS)}")
        self.path = os.fspath(source)
        self._format = format
        self._skip_bad_rows = skip_bad_rows
        self._split = split
        self._opened: Source | None = None
        self._info: PoolInfo | None = None

    def scan(self, progress: Callable[[int], None] | None = None) -> PoolInfo:
        """Read and check every row once; later calls return the same PoolInfo.

        progress: called with the number of rows read so far, every 1,000 rows and at the end.
        """
        if self._info is None:
            self._info = self._scan(progress)
        return self._info

    def samples(self) -> Iterator[Sample]:
        """Stream the good rows in order (after a scan, if there was none)."""
        info = self.scan()
        bad = {skipped.row for skipped in info.skipped}
        for row, record in self._checked_pass(info):
            if row not in bad:
                try:
                    sample = parse(_decode(record.payload), info.format, row)
                except RowError:
                    raise self._changed() from None
                yield sample

    def lines(self, rows: Sequence[int] | np.ndarray) -> list[bytes]:
        """The rows with these 0-based numbers, in this order, as JSON without the newline.

        Rows of JSONL are byte for byte as stored (no byte order mark, no newline); others are written anew.
        """
        info = self.scan()
        order = [int(row) for row in rows]
        for row in order:
            if not 0 <= row < info.rows:
                raise NaitError(
                    f"{info.path}: no row {row}, the last is {info.rows - 1}; give the pool that was indexed"
                )
        wanted = set(order)
        found = {row: _line(record.payload) for row, record in self._checked_pass(info) if row in wanted}
        return [found[row] for row in order]

    def _scan(self, progress: Callable[[int], None] | None) -> PoolInfo:
        source = self._source()
        digest = hashlib.sha256()
        fmt = None if self._format == "auto" else self._format
        rows = 0
        skipped: list[SkippedRow] = []
        for row, record in self._pass(digest):
            rows += 1
            try:
                fmt = _check(record.payload, fmt, row)
            except RowError as error:
                bad = SkippedRow(row, _where(record, row), str(error))
                if not self._skip_bad_rows:
                    raise NaitError(f"{bad.where}: {bad.reason}; {self._remedy(record.payload, fmt)}") from None
                skipped.append(bad)
            if progress and rows % 1000 == 0:
                progress(rows)
        if progress and rows % 1000:
            progress(rows)
        if not rows:
            raise NaitError(f"{source.path}: holds no rows; give a pool with at least one")
        if fmt is None or len(skipped) == rows:
            first = skipped[0]
            raise NaitError(
                f"{source.path}: not one of its {rows} rows can be used; first, {first.where}: {first.reason}; "
                f"fix the rows or pass another --format ({', '.join(FORMATS)})"
            )
        return PoolInfo(source.path, source.kind, fmt, rows, rows - len(skipped), tuple(skipped), digest.hexdigest())

    def _remedy(self, payload: Any, fmt: str | None) -> str:
        try:
            looks_like = detect(_decode(payload))
        except RowError:
            return "fix the row or pass --skip-bad-rows"
        if fmt is None and looks_like is None:
            return "rename the keys, or pass --format"
        if self._format != "auto" and looks_like not in (None, fmt):
            return f"fix the row, pass --skip-bad-rows, or --format {looks_like}, which the row looks like"
        return "fix the row or pass --skip-bad-rows"

    def _source(self) -> Source:
        if self._opened is None:
            try:
                self._opened = open_source(self.path, self._split)
            except (OSError, ValueError) as error:
                raise NaitError(f"{self.path}: cannot be opened: {first_line(error)}; check the path") from None
        return self._opened

    def _pass(self, digest: Digest) -> Iterator[tuple[int, Record]]:
        source = self._source()
        try:
            for row, record in enumerate(source.read(digest)):
                if source.hash_rows:
                    digest.update(_line(record.payload))
                    digest.update(b"\n")
                yield row, record
        except OSError as error:
            raise NaitError(f"{source.path}: cannot be read: {first_line(error)}; check the file") from None

    def _checked_pass(self, info: PoolInfo) -> Iterator[tuple[int, Record]]:
        digest = hashlib.sha256()
        yield from self._pass(digest)
        if digest.hexdigest() != info.sha256:
            raise self._changed()

    def _changed(self) -> NaitError:
        return NaitError(f"{self.path}: changed since it was first read; run again on a pool that nothing writes to")


def _check(payload: Any, fmt: str | None, row: int) -> str:
    decoded = _decode(payload)
    found = fmt or detect(decoded)
    if found is None:
        raise RowError(f"no known format ({', '.join(FORMATS)}) has these keys: {describe_keys(decoded)}")
    parse(decoded, found, row)
    return found


def _decode(payload: Any) -> dict[str, Any]:
    row = payload
    if isinstance(payload, bytes):
        try:
            row = json.loads(payload.decode())
        except UnicodeDecodeError as error:
            raise RowError(f"not UTF-8 text (byte {error.start + 1} of the line)") from None
        except json.JSONDecodeError as error:
            raise RowError(f"not JSON: {error.msg}, column {error.colno}") from None
        except (ValueError, RecursionError) as error:
            raise RowError(f"not JSON that can be read: {first_line(error)}") from None
    if not isinstance(row, dict):
        raise RowError(f"a row must be a JSON object, not {type(row).__name__}")
    return row


def _line(payload: Any) -> bytes:
    if isinstance(payload, bytes):
        return payload
    try:
        return json.dumps(payload, ensure_ascii=False, default=_plain).encode()
    except UnicodeEncodeError:  # half a surrogate pair
        return json.dumps(payload, default=_plain).encode()


def _plain(value: object) -> str:
    return base64.b64encode(value).decode() if isinstance(value, bytes) else str(value)


def _where(record: Record, row: int) -> str:
    return f"{record.file}:{record.line}" if record.line else f"{record.file} row {row}"
