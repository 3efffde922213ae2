"""``skipped.jsonl``: rows of the pools that are not in an index, and kept ones of which there is something to tell."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from nait_fast.errors import Damaged
from nait_fast.index.reader import Index
from nait_fast.storage import values
from nait_fast.storage.files import sha256_file
from nait_fast.storage.names import MANIFEST, SKIPPED

_DUPLICATE = "its id is that of row "
_LINE_BYTES = 1 << 20  # no reason for leaving out a row is as long


def duplicate(row: int, first: int) -> dict[str, Any]:
    """The line of a ``row`` that is kept, though row ``first`` has the same id."""
    return {"row": row, "where": f"row {row}", "reason": f"{_DUPLICATE}{first}", "kept": True}


def is_duplicate(line: Mapping[str, Any]) -> bool:
    """Whether this is such a line: its reason is all that tells it from that of a row that was cut."""
    return line["reason"].startswith(_DUPLICATE)


def check_list(index: Index) -> None:
    """Raises NaitError where ``skipped.jsonl`` is not the list that belongs to the index."""
    path, listed = index.folder / SKIPPED, index.manifest["skipped"].get("sha256")
    if listed and sha256_file(path) != listed:
        for _ in lines_before(path, index.pool_rows, listed):  # lines of what is being added to it are no harm
            pass
    if not listed and path.exists():
        raise Damaged("does not belong to this index, whose manifest names none", where=path, remedy="delete it")


def check_kept(index: Index, rows: np.ndarray) -> None:
    """Raises NaitError where ``skipped.jsonl`` says of one of ``rows`` int64, ascending, that it has been left out."""
    check_list(index)
    for line in Listed(index).lines():
        at = int(np.searchsorted(rows, line["row"]))
        if "kept" not in line and at < len(rows) and rows[at] == line["row"]:
            raise Damaged(
                f"row {line['row']} was left out ({line['reason'][:80]}), but the shards hold it",
                where=index.folder / SKIPPED,
                remedy="rebuild the index",
            )


def lines_before(path: Path, row: int, expected: str) -> Iterator[bytes]:
    """The lines of rows before ``row``. Raises NaitError, once all are read, where they are not those whose SHA-256 is
    ``expected``."""
    digest = hashlib.sha256()
    try:
        with open(path, "rb") as file:
            for line in file:
                if json.loads(line)["row"] < row:
                    digest.update(line)
                    yield line
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        digest.update(b"damaged")
    if digest.hexdigest() != expected:
        raise Damaged("has changed since the index was made (SHA-256 differs)", where=path, remedy="rebuild the index")


class Listed:
    """``skipped.jsonl``, read along with the shards. Raises NaitError at a line that nait_fast does not write."""

    def __init__(self, index: Index):
        self._index, self._path = index, index.folder / SKIPPED
        self._reasons: Counter[str] = Counter()
        self._noted, self._last = 0, 0
        self._lines = self._read()
        self._next = next(self._lines, None)

    def until(self, end: int) -> tuple[list[int], list[int]]:
        """(rows left out, rows only told of) that come before row ``end`` and have not been handed out."""
        lines = self.lines_until(end)
        return [line["row"] for line in lines if "kept" not in line], [line["row"] for line in lines if "kept" in line]

    def lines(self) -> Iterator[dict[str, Any]]:
        """All that have not been handed out."""
        while self._next is not None:
            yield self._next
            self._next = next(self._lines, None)

    def lines_until(self, end: int) -> list[dict[str, Any]]:
        """The lines themselves."""
        lines = []
        while self._next is not None and self._next["row"] < end:
            lines.append(self._next)
            self._next = next(self._lines, None)
        return lines

    def end(self) -> Iterator[Damaged]:
        """Problems of the list as a whole, once the shards are done."""
        if self._next is not None:
            problem = f"lists row {self._next['row']}, but the pool has {self._index.pool_rows}"
            yield Damaged(problem, where=self._path)
            return
        manifest = self._index.manifest
        if dict(self._reasons) != manifest["skipped"]["reasons"]:
            yield Damaged(f"its reasons are not those of {MANIFEST}", where=self._path, remedy="rebuild the index")
        if self._noted != manifest["truncated"] + manifest["duplicate_ids"]:
            problem = f"not as many rows cut or of a repeated id as {MANIFEST} says"
            yield Damaged(problem, where=self._path, remedy="rebuild the index")

    def _read(self) -> Iterator[dict[str, Any]]:
        if not self._path.exists():
            return
        with open(self._path, "rb") as file:
            number = 0
            while line := file.readline(_LINE_BYTES):
                number += 1
                yield self._entry(line, number)

    def _entry(self, line: bytes, number: int) -> dict[str, Any]:
        try:
            entry = values.mapping(json.loads(line), "line")
            row, reason = values.count(entry["row"], "row"), values.text(entry["reason"], "reason")
            values.text(entry["where"], "where")
            if row < self._last:
                raise ValueError("its row comes before that of the line above")
            if "kept" in entry and entry["kept"] is not True:
                raise ValueError(f"kept: {values.short(entry['kept'])}")
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            raise Damaged(
                f"not a line of the list ({error})", where=f"{self._path}:{number}", remedy="rebuild the index"
            ) from None
        self._last = row
        if "kept" in entry:
            self._noted += 1
        else:
            self._reasons[reason] += 1
        return entry
