"""Quality: a number a row that is mixed into what rows are ordered by, before any constraint sees them.

It is a column of the index, a key of the pool's rows, or a column of another file that names rows or ids.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from nait_fast.data.formats import RowError
from nait_fast.data.pool import Pool, decode, where_of
from nait_fast.errors import BadInput
from nait_fast.index.stream import Stream, ids
from nait_fast.notices import hushed, warn
from nait_fast.rules.constraints.base import ScoredRows

if TYPE_CHECKING:
    from nait_fast.config import ConstraintOptions

DIRECTIONS = {"asc": True, "desc": False}  # whether small numbers are the good ones
IDS_AT_ONCE = 1 << 16
_SHOWN = 60  # characters of a value in a message


@dataclass(frozen=True)
class Quality:
    """What --quality names: ``column``, of ``file`` or ("") of the pool or index; ``ascending``: small is good."""

    file: str
    column: str
    ascending: bool

    @property
    def where(self) -> str:
        return f"--quality {self.file}{'#' * bool(self.file)}{self.column}"


def read_quality(text: str) -> Quality:
    """``COLUMN``, ``COLUMN:asc`` or ``FILE#COLUMN``. Raises BadInput."""
    name, colon, direction = text.rpartition(":")
    if not colon or direction not in DIRECTIONS:
        name, direction = text, "desc"
    file, joined, column = name.rpartition("#")
    if not column or (joined and not file):
        raise BadInput("write COLUMN, COLUMN:asc, or FILE#COLUMN", where=f"--quality {text[:80]}")
    return Quality(file, column, DIRECTIONS[direction])


def check_quality(options: "ConstraintOptions") -> None:
    """Look at what --quality names before anything else is done. Raises NaitError where it cannot be read."""
    if options.quality is not None and (quality := read_quality(options.quality)).file:
        _joined(quality)


def quality_of(options: "ConstraintOptions", rows: ScoredRows) -> np.ndarray:
    """The quality float64 [n] of the scored rows by place, as it is written. In memory, as is the other file. Raises
    NaitError where a row has none, or one that is no finite number."""
    assert options.quality is not None
    quality = read_quality(options.quality)
    if quality.file:
        values, remedy = _of_file(quality, rows), "give the file a number for every row that is scored"
    elif quality.column in rows.index.columns and rows.index.columns[quality.column][1] == ():
        parts = Stream(rows.index, codes=False, columns=[quality.column]).parts()
        values = np.concatenate([part.columns[quality.column].astype(np.float64) for part in parts])
        remedy = "name another column"
    else:
        with hushed():  # of what would be written otherwise than it was read: nothing is written here
            lines = rows.pool.lines(rows.row(np.arange(rows.number)))
            values = np.array(list(_numbers_in(lines, quality)))
        remedy = "give every row a number, or name another column"
    if (bad := np.flatnonzero(~np.isfinite(values))).size:
        raise BadInput(
            f"{len(bad):,} of {rows.number:,} rows have no finite number there, row {int(rows.row(bad[:1])[0])} of the "
            "pool is the first",
            where=quality.where,
            remedy=remedy,
        )
    return values


def described(options: "ConstraintOptions", values: np.ndarray) -> dict[str, Any]:
    """What a manifest says of the quality with ``values`` float64 [n]. Raises NaitError."""
    assert options.quality is not None
    said = {"column": options.quality, "weight": options.quality_weight, "scale": options.quality_scale}
    if file := read_quality(options.quality).file:
        said["sha256"] = Pool(file).plan().sha256
    return {**said, "least": float(values.min()), "greatest": float(values.max())}


def _numbers_in(lines: Iterable[bytes], quality: Quality) -> Iterator[float]:
    """Each row's number, NaN where it has none. Raises BadInput where no row has the key."""
    known = False
    for line in lines:
        row = json.loads(line)
        known = known or quality.column in row
        yield _number(row.get(quality.column))
    if not known:
        raise BadInput("no row of the pool has this key, and the index no such column", where=quality.where)


def _number(value: Any) -> float:
    if not isinstance(value, (int, float, str)) or isinstance(value, bool):
        return float("nan")
    try:
        return float(value)  # of text, as tables of text have it
    except ValueError:
        return float("nan")
    except OverflowError:
        return float("inf")


def _joined(quality: Quality) -> tuple[str, dict[Any, float]]:
    """("row" or "id", that of each row of the file -> its number, NaN for none). Raises NaitError."""
    by, values = "", dict[Any, float]()
    for number, record in Pool(quality.file).reader().rows():
        where = where_of(record.file, record.line, number)
        try:
            row = decode(record.payload)
        except RowError as error:
            raise BadInput(str(error), where=where, note="of --quality") from None
        if not by:
            by = _key_of(row, quality)
        name = row.get(by)
        if by == "row" and isinstance(name, str) and name.isdecimal():
            name = int(name)
        if name is None or isinstance(name, (bool, float)) or (by == "row" and not isinstance(name, int)):
            raise BadInput(f"has no '{by}' that names a row", where=where, note="of --quality")
        name = name if by == "row" else str(name)
        if name in values:
            raise BadInput(f"{by} {str(name)[:_SHOWN]} is there twice", where=where, note="of --quality")
        values[name] = _number(row.get(quality.column))
    return by, values


def _key_of(row: Mapping[str, Any], quality: Quality) -> str:
    """What the file's rows name the pool's rows by. Raises BadInput."""
    if quality.column not in row:
        raise BadInput(f"its rows have {', '.join(map(str, list(row)[:12]))}", where=quality.where)
    for key in ("row", "id"):
        if key in row:
            return key
    raise BadInput("its rows need a column 'row' (numbers from 0) or 'id', to be joined by", where=quality.where)


def _of_file(quality: Quality, rows: ScoredRows) -> np.ndarray:
    by, values = _joined(quality)
    if by == "row":
        names: Iterator[Any] = iter(rows.row(np.arange(rows.number)).tolist())
    else:
        names = _ids_of(rows)
    out, seen = np.empty(rows.number), set[Any]()
    for place, name in enumerate(names):
        out[place] = values.get(name, float("nan"))
        if name in values:
            if by == "id" and name in seen:
                raise BadInput(
                    f"several rows of the pool have id {name[:_SHOWN]}", where=quality.where, remedy="join by row"
                )
            seen.add(name)
    if more := len(values) - len(seen):
        warn(f"{quality.where}: {more:,} of its {len(values):,} rows name no row that is scored")
    return out


def _ids_of(rows: ScoredRows) -> Iterator[str | None]:
    for some in ids(rows.index, IDS_AT_ONCE):
        text, ends = some.text.tobytes(), some.offsets.tolist()
        for number, absent in enumerate(some.absent.tolist()):
            yield None if absent else text[ends[number] : ends[number + 1]].decode(errors="replace")
