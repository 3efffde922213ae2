"""The plan of a pool: how many rows it has, where every n-th of them begins, and digests that tell when it changes.

One pass over the bytes, nothing is decoded (but JSON lists, which give no other way). The rows between two places are a
unit: the piece of work that one worker takes, that becomes one shard, and that can be read again alone.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from nait_fast.data.parts import Record, RowPlace
from nait_fast.data.pool_sources import Source
from nait_fast.errors import BadInput, Damaged, NaitError, first_line
from nait_fast.storage import values
from nait_fast.storage.files import read_sealed, write_sealed
from nait_fast.storage.names import PLAN_KIND

REMEDY = "delete it, it only spares reading the pool"


@dataclass(frozen=True)
class Unit:
    """`rows` rows from `row` on (0-based in the pool), which begin in part `part` at `place`.

    sha256: of its rows, each followed by a newline, or "" where the parts are told apart by their stamps.
    """

    number: int
    row: int
    rows: int
    part: int
    place: RowPlace
    sha256: str


@dataclass(frozen=True)
class Plan:
    """sha256: of a single file as stored (compressed, if it is); of several, of the lines "name, tab, SHA-256" (names
    without their folder); of tables, of their rows as JSON lines."""

    path: str
    kind: str
    rows: int
    sha256: str
    unit_rows: int
    stamps: tuple[tuple[int, ...], ...]
    units: tuple[Unit, ...]

    def to_mapping(self) -> dict[str, Any]:
        units = [[u.row, u.rows, u.part, *u.place, u.sha256] for u in self.units]
        return {
            "kind": PLAN_KIND,
            "path": self.path,
            "pool_kind": self.kind,
            "rows": self.rows,
            "sha256": self.sha256,
            "unit_rows": self.unit_rows,
            "stamps": [list(s) for s in self.stamps],
            "units": units,
        }

    def save(self, path: Path) -> None:
        write_sealed(path, self.to_mapping())


def read_plan(path: Path) -> dict[str, Any]:
    """What a plan's file says. Raises NaitError when it is missing or a byte of it has changed."""
    try:
        return read_sealed(path)
    except NaitError as error:
        if not path.exists():
            raise
        raise error.replace(remedy=REMEDY) from None


def load_plan(path: Path) -> Plan:
    """Read a plan's file. Raises NaitError when it is missing or damaged."""
    value = read_plan(path)
    try:
        if value["kind"] != PLAN_KIND:
            raise ValueError("it is something else")
        return _checked(value)
    except (KeyError, TypeError, ValueError) as error:
        raise Damaged(f"not a valid plan ({error})", where=path, remedy=REMEDY) from None


def _checked(value: dict[str, Any]) -> Plan:
    """Raises KeyError, TypeError or ValueError."""
    stamps = tuple(
        tuple(values.count(x, "stamps", -1 << 63) for x in values.entries(stamp, "stamps"))
        for stamp in values.entries(value["stamps"], "stamps")
    )
    rows, unit_rows = values.count(value["rows"], "rows", 1), values.count(value["unit_rows"], "unit_rows", 1)
    units: list[Unit] = []
    for number, entry in enumerate(values.entries(value["units"], "units")):
        *counts, sha256 = values.entries(entry, "units")
        row, length, part, at, line = (values.count(x, f"unit {number}") for x in counts)
        # All units but the last have as many rows as was asked for: a row's unit is found by division.
        if (row, length) != (number * unit_rows, min(unit_rows, rows - row)) or part >= len(stamps):
            raise ValueError(f"unit {number}: {values.short(entry)}")
        if values.text(sha256, f"unit {number}"):
            values.digest(sha256, f"unit {number}")
        units.append(Unit(number, row, length, part, RowPlace(at, line), sha256))
    if len(units) != -(-rows // unit_rows):
        raise ValueError(f"{len(units)} units of {unit_rows} rows for {rows}")
    return Plan(
        values.text(value["path"], "path"),
        values.text(value["pool_kind"], "pool_kind"),
        rows,
        values.digest(value["sha256"], "sha256"),
        unit_rows,
        stamps,
        tuple(units),
    )


def stamps_of(source: Source) -> tuple[tuple[int, ...], ...]:
    """As the parts were when the source was opened."""
    return tuple(tuple(part.stamp(anew=False)) for part in source.parts)


def make_plan(source: Source, unit_rows: int) -> Plan:
    """Go through the bytes of `source` once. Raises NaitError for a source that cannot be read or is empty."""
    starts: list[tuple[int, int, RowPlace]] = []
    digests: list[str] = []
    rows, parts, unit = 0, [], hashlib.sha256()
    try:
        stamps = stamps_of(source)
        for number, part in enumerate(source.parts):
            digest = hashlib.sha256()
            counted = part.count(digest)
            if counted is not None:
                first = -rows % unit_rows  # the part's first row that begins a unit
                starts += [(rows + at, number, RowPlace(at, 0)) for at in range(first, counted, unit_rows)]
                rows += counted
            else:
                for place, payload in part.places(digest):
                    if rows % unit_rows == 0:
                        if rows:
                            digests.append(unit.hexdigest())
                        unit = hashlib.sha256()
                        starts.append((rows, number, place))
                    if payload is not None:
                        unit.update(payload)
                        unit.update(b"\n")
                    rows += 1
            if tuple(part.stamp()) != stamps[number]:
                raise _changed(source)
            parts.append(part.sha256 or digest.hexdigest())
    except OSError as error:
        raise BadInput(
            f"cannot be read: {first_line(error, kind=False)}", where=source.path, remedy="check the file"
        ) from None
    if not rows:
        raise BadInput("holds no rows", where=source.path, remedy="give a pool with at least one")
    digests.append(unit.hexdigest())
    if source.kind != "jsonl":
        digests = [""] * len(starts)
    ends = [start[0] for start in starts[1:]] + [rows]
    units = tuple(
        Unit(n, row, end - row, part, place, sha256)
        for n, ((row, part, place), end, sha256) in enumerate(zip(starts, ends, digests, strict=True))
    )
    whole = parts[0]
    if len(parts) > 1:
        names = [os.path.basename(part.name) for part in source.parts]
        listed = "".join(f"{name}\t{sha256}\n" for name, sha256 in zip(names, parts, strict=True))
        whole = hashlib.sha256(listed.encode(errors="surrogateescape")).hexdigest()
    return Plan(source.path, source.kind, rows, whole, unit_rows, stamps, units)


def _changed(source: Source) -> NaitError:
    return Damaged(
        "changed since it was first read", where=source.path, remedy="run again on a pool that nothing writes to"
    )


class Reader:
    """Reads the units of a plan. Keeps the last part open, so that units in order cost one pass of a compressed file.

    Not for several threads at once; raises NaitError when the pool is no longer what it was when it was planned.
    """

    def __init__(self, source: Source, plan: Plan):
        self.source, self.plan = source, plan
        self._rows: Iterator[Record] = iter(())
        self._next, self._part = -1, -1

    def unit(self, unit: Unit) -> Iterator[tuple[int, Record]]:
        """(row, record) of the unit's rows, in order."""
        self._check_stamps(unit)
        digest = hashlib.sha256()
        row = unit.row
        try:
            for record in islice(self._from(unit), unit.rows):
                if unit.sha256:
                    digest.update(record.payload)
                    digest.update(b"\n")
                self._next = row + 1
                yield row, record
                row += 1
        except OSError as error:
            raise BadInput(
                f"cannot be read: {first_line(error, kind=False)}", where=self.source.path, remedy="check the file"
            ) from None
        if row != unit.row + unit.rows or (unit.sha256 and digest.hexdigest() != unit.sha256):
            raise self.changed()
        self._check_stamps(unit)

    def _check_stamps(self, unit: Unit) -> None:
        """Raises NaitError where a part that rows of ``unit`` lie in has changed, if its rows do not tell that."""
        if unit.sha256:
            return
        units, parts = self.plan.units, self.source.parts
        last = units[unit.number + 1].part if unit.number + 1 < len(units) else len(parts) - 1
        for number in range(unit.part, last + 1):
            try:
                same = tuple(parts[number].stamp()) == self.plan.stamps[number]
            except FileNotFoundError:
                same = False
            if not same:
                raise self.changed()

    def rows(self) -> Iterator[tuple[int, Record]]:
        """(row, record) of the whole pool."""
        for unit in self.plan.units:
            yield from self.unit(unit)

    def changed(self) -> NaitError:
        return _changed(self.source)

    def _from(self, unit: Unit) -> Iterator[Record]:
        ahead = unit.row - self._next
        part, at = self.source.parts[unit.part], unit.place.at
        if self._next < 0 or ahead < 0 or (ahead and (self._part != unit.part or not part.goes_on(at - ahead, at))):
            self._rows = self._records(unit.part, unit.place)
        else:
            for _ in islice(self._rows, ahead):
                pass
        self._next = unit.row
        return self._rows

    def _records(self, first: int, place: RowPlace) -> Iterator[Record]:
        for number, part in enumerate(self.source.parts[first:], first):
            self._part = number
            yield from part.records(place)
            place = RowPlace(0, 1)


def unit_of(plan: Plan, row: int) -> Unit:
    """The unit that holds `row`."""
    return plan.units[row // plan.unit_rows]


def lines_of(reader: Reader, rows: Sequence[int]) -> Iterator[tuple[int, Record]]:
    """(row, record) of ascending `rows`; only the units that hold one are read, whole."""
    position = 0
    while position < len(rows):
        unit = unit_of(reader.plan, rows[position])
        end = unit.row + unit.rows
        for row, record in reader.unit(unit):
            if position < len(rows) and row == rows[position]:
                yield row, record
                position += 1
        if position < len(rows) and rows[position] < end:
            raise reader.changed()
