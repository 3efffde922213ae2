"""Open a pool of samples, whatever it is stored in, and stream its rows.

Every pass streams: no more than one row, one Parquet batch or one compressed block is held, besides what the
caller asked for.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nait_fast.data.format_keys import FORMATS, describe_keys, read_by
from nait_fast.data.formats import RowError, RowLeftOut, Sample, also_fitting, detect, no_format, parse
from nait_fast.data.parts import Record, as_line
from nait_fast.data.plan import Plan, Reader, lines_of, make_plan
from nait_fast.data.pool_sources import Source, open_source
from nait_fast.data.row_conventions import NO_CONVENTIONS, RowConventions
from nait_fast.errors import BadInput, Mismatch, NaitError, first_line
from nait_fast.notices import warn
from nait_fast.urls import is_url, without_secrets

if TYPE_CHECKING:
    import numpy as np

_UNIT_ROWS = 8192


@dataclass(frozen=True)
class SkippedRow:
    """A row left out. row: 0-based; where: "file:line" (1-based) for JSONL, else "file row N" (0-based)."""

    row: int
    where: str
    reason: str


@dataclass(frozen=True)
class PoolInfo:
    """What one full pass over a pool found.

    kind: "jsonl", "json", "csv", "parquet", "disk" (a save_to_disk folder) or "hub".
    rows: all rows read; good: those that can be used, so rows - good == len(skipped).
    sha256: as in `plan.Plan`.
    """

    path: str
    kind: str
    format: str
    rows: int
    good: int
    skipped: tuple[SkippedRow, ...]
    sha256: str


class Pool:
    """A pool of samples in a file, a folder or on the Hugging Face Hub; ``path``: what may be shown of its name.

    source: `.jsonl`, `.ndjson`, `.json`, `.csv` or `.tsv`, each also with `.gz` or `.zst`; `.parquet`; a folder of
        `.jsonl` and `.json`, of `.parquet`, or of `.csv` and `.tsv` files (read in the order of their names); a
        `save_to_disk` folder; or a Hub id. The last three take a split as "name:split"; of the last two it is "train"
        without, or the only one.
    format: one of FORMATS, or "auto": the format of the first good row.
    skip_bad_rows: leave out the rows that cannot be used, and list them, instead of raising at the first.
    unit_rows: rows of a unit of its plan.
    conventions: what the user has said of the rows.

    Every method raises NaitError for input that cannot be used.
    """

    def __init__(
        self,
        source: str | os.PathLike[str],
        *,
        format: str = "auto",
        skip_bad_rows: bool = False,
        unit_rows: int = _UNIT_ROWS,
        conventions: RowConventions | None = None,
    ) -> None:
        if format not in ("auto", *FORMATS):
            raise BadInput("no such format", where=f"--format {format}", remedy=f"choose auto, {', '.join(FORMATS)}")
        self.path = without_secrets(os.fspath(source))
        self._name = os.fspath(source)
        self.unit_rows = unit_rows
        self.conventions = conventions or RowConventions()
        if format != "auto" and (unread := self.conventions.mapped - read_by(format)):
            raise BadInput(
                f"format {format} reads no {', '.join(sorted(unread))}", where="--columns", remedy="leave it out"
            )
        self._format = format
        self._skip_bad_rows = skip_bad_rows
        self._opened: Source | None = None
        self._plan: Plan | None = None
        self._info: PoolInfo | None = None
        self._good: tuple[str, Record] | None = None

    @property
    def source(self) -> Source:
        if self._opened is None:
            try:
                self._opened = open_source(self._name)
            except (OSError, ValueError) as error:
                refused = is_url(self._name) and isinstance(error, PermissionError)
                remedy = "check whose credentials are in use" if refused else "check the path"
                what = f"cannot be opened: {first_line(error, kind=False)}"
                raise BadInput(what, where=self.path, remedy=remedy) from None
        return self._opened

    def plan(self, trusted: Plan | None = None) -> Plan:
        """Where the rows are, made by one pass over the bytes at the first call, or ``trusted``."""
        if self._plan is None:
            self._plan = trusted or make_plan(self.source, self.unit_rows)
        return self._plan

    def reader(self) -> Reader:
        return Reader(self.source, self.plan())

    def scan(self) -> PoolInfo:
        """Read and check every row once; later calls return the same PoolInfo."""
        if self._info is None:
            self._info = self._scan()
        return self._info

    def samples(self) -> Iterator[Sample]:
        """Stream the good rows in order (after a scan, if there was none)."""
        info = self.scan()
        bad = {skipped.row for skipped in info.skipped}
        reader = self.reader()
        for row, record in reader.rows():
            if row not in bad:
                try:
                    sample = parse(decode(record.payload), info.format, row, self.conventions)
                except RowError:
                    raise reader.changed() from None
                yield sample

    def lines(self, rows: Sequence[int] | np.ndarray) -> list[bytes]:
        """The rows with these 0-based numbers, in this order, as JSON without the newline.

        Rows of JSONL are byte for byte as stored (no byte order mark, no newline); others are written anew.
        """
        plan, order = self.plan(), [int(row) for row in rows]
        for row in order:
            if not 0 <= row < plan.rows:
                raise Mismatch(
                    f"no row {row}, the last is {plan.rows - 1}",
                    where=plan.path,
                    remedy="give the pool that was indexed",
                )
        line_of = {row: as_line(record.payload) for row, record in lines_of(self.reader(), sorted(set(order)))}
        return [line_of[row] for row in order]

    def detect(self) -> str:
        """The format of the pool: given, or that of the first good row."""
        if self._format != "auto":
            return self._format
        if self._info is not None:
            return self._info.format
        return self._first_good()[0]

    def warn_of_formats(self) -> None:
        """Say so where the rows, by the first good one, could be read as another format, too."""
        if self._format != "auto":
            return
        fmt, record = self._good or self._first_good()
        row = decode(record.payload)
        others = also_fitting(row, self.conventions)
        if "text" in others and "text" not in parse(row, fmt, 0, self.conventions).unread:
            others.remove("text")  # what was read, rendered
        if others:
            warn(
                f"{self.path}: its rows are read as {fmt}, but have the keys of {' and '.join(others)}, too; "
                f"--format {others[0]} reads those instead, --format {fmt} silences this"
            )

    def columns_without_rows(self) -> dict[str, str]:
        """Those of the columns that names were mapped to which no row has: name -> column."""
        left = dict(self.conventions.columns)
        for _, record in self.reader().rows() if left else ():
            try:
                row = decode(record.payload)
            except RowError:
                continue
            left = {name: column for name, column in left.items() if column not in row}
            if not left:
                break
        return left

    def check_columns(self) -> None:
        """Raises NaitError where names were mapped to a column that no row has."""
        for name, column in self.columns_without_rows().items():
            keys = describe_keys(self._first_row())
            raise BadInput(
                f"no row has the column '{column}' (the first has: {keys})",
                where=f"{self.path}: --columns {name}={column}",
                remedy="name one that is there; where only a target has it, build that one apart: nait-fast signature",
            )

    def _first_row(self) -> dict[str, Any]:
        for _, record in self.reader().rows():
            with suppress(RowError):
                return decode(record.payload)
        return {}

    def _first_good(self) -> tuple[str, Record]:
        first: SkippedRow | None = None
        for row, record in self.reader().rows():
            try:
                self._good = check(record.payload, None, row, self.conventions)[0], record
                return self._good
            except RowError as error:
                bad = self.skip(record, row, None, error)
                first = first or bad
        assert first is not None
        raise self._no_good_row(first)

    def skip(self, record: Record, row: int, fmt: str | None, error: RowError) -> SkippedRow:
        """The note of a row that cannot be used; NaitError unless such rows are to be left out, as those are anyhow
        that are not to be learnt from."""
        where = where_of(record.file, record.line, row)
        if not self._skip_bad_rows and not isinstance(error, RowLeftOut):
            raise BadInput(str(error), where=where, remedy=self._remedy(record.payload, fmt))
        return SkippedRow(row, where, str(error))

    def refuse(self, where: str, row: int, reason: str, remedy: str | None = "fix the row") -> SkippedRow:
        """As ``skip``, of a row that is well formed, but of no use to the model. ``remedy``: what else may help."""
        if not self._skip_bad_rows:
            hint = "" if remedy is None else f"{remedy} or "
            raise BadInput(reason, where=where, remedy=f"{hint}pass --skip-bad-rows")
        return SkippedRow(row, where, reason)

    def _scan(self) -> PoolInfo:
        plan = self.plan()
        fmt = None if self._format == "auto" else self._format
        rows = 0
        skipped: list[SkippedRow] = []
        for row, record in self.reader().rows():
            rows += 1
            try:
                fmt, _ = check(record.payload, fmt, row, self.conventions)
            except RowError as error:
                skipped.append(self.skip(record, row, fmt, error))
        if fmt is None or len(skipped) == rows:
            raise self._no_good_row(skipped[0])
        return PoolInfo(plan.path, plan.kind, fmt, rows, rows - len(skipped), tuple(skipped), plan.sha256)

    def _no_good_row(self, first: SkippedRow) -> NaitError:
        plan = self.plan()
        return BadInput(
            f"not one of its {plan.rows} rows can be used; first, {first.where}: {first.reason}",
            where=plan.path,
            remedy=f"fix the rows, name their columns with --columns or pass another --format ({', '.join(FORMATS)})",
        )

    def _remedy(self, payload: Any, fmt: str | None) -> str:
        try:
            looks_like = detect(decode(payload), self.conventions)
        except RowError:
            return "fix the row or pass --skip-bad-rows"
        if fmt is None and looks_like is None:
            return "name its columns with --columns, or pass --format"
        if self._format != "auto" and looks_like not in (None, fmt):
            return f"fix the row, pass --skip-bad-rows, or --format {looks_like}, which the row looks like"
        return "fix the row or pass --skip-bad-rows"


def check(payload: Any, fmt: str | None, row: int, conventions: RowConventions = NO_CONVENTIONS) -> tuple[str, Sample]:
    """(format, sample) of a row; `fmt` None: by its keys. Raises RowError."""
    decoded = decode(payload)
    row_format = fmt or detect(decoded, conventions)
    if row_format is None:
        raise RowError(no_format(decoded, conventions))
    return row_format, parse(decoded, row_format, row, conventions)


def decode(payload: Any) -> dict[str, Any]:
    """The JSON object of a row. Raises RowError."""
    row = payload
    if isinstance(payload, RowError):
        raise payload
    if isinstance(payload, bytes):
        try:
            row = json.loads(payload.decode())
        except UnicodeDecodeError as error:
            raise RowError(f"not UTF-8 text (byte {error.start + 1} of the line)") from None
        except json.JSONDecodeError as error:
            raise RowError(f"not JSON: {error.msg}, column {error.colno}") from None
        except (ValueError, RecursionError) as error:
            raise RowError(f"not JSON that can be read: {first_line(error, kind=False)}") from None
    if not isinstance(row, dict):
        raise RowError(f"a row must be a JSON object, not {type(row).__name__}")
    return row


def where_of(file: str, line: int, row: int) -> str:
    """Where messages say a row is, by the `file` and `line` of its record: `row` counts in the pool."""
    return f"{file}:{line}" if line else f"{file} row {row}"
