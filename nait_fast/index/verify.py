"""Checks an index: every byte, what the bytes say, and every row of the pool exactly once (indexed or skipped).

Memory: what one shard takes, mapped, and the lines of ``skipped.jsonl`` that tell of its rows.
"""

import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np

from nait_fast.errors import NaitError
from nait_fast.index import values
from nait_fast.index.codebook import load_calibration
from nait_fast.index.files import sha256_file
from nait_fast.index.format import CALIBRATION, CODEBOOK, MANIFEST, SKIPPED, WORK
from nait_fast.index.reader import Index, Shard, ShardEntry

_LINE_BYTES = 1 << 20  # no reason for leaving out a row is as long


def shard_problem(index: Index, entry: ShardEntry) -> str | None:
    """What is wrong with the bytes of one shard; None if nothing is."""
    try:
        index.layout_of(entry)
        if sha256_file(entry.path) != entry.sha256:
            return f"{entry.path}: its bytes have changed (SHA-256 differs); rebuild it with index --repair"
    except NaitError as error:
        return str(error)
    return None


def problems_of(index: Index) -> list[str]:
    """One line a problem, in the order of the files."""
    problems = list(_beside(index))
    # A list that is not the one that was written would only repeat that for every shard.
    listed = None if any(SKIPPED in problem for problem in problems) else Listed(index)
    tokens, whole = 0, True
    try:
        for entry in index.entries:
            left_out, told = listed.until(entry.first_row + entry.pool_rows) if listed else (None, [])
            problem, own = _check(index, entry, left_out, told)
            tokens += own
            if problem is not None:
                problems.append(problem)
                whole = False
        if listed:
            problems += listed.end()
    except NaitError as error:  # of a line of skipped.jsonl, or of a shard that something changes now
        problems.append(str(error))
        whole = False
    if whole and tokens != index.manifest["tokens"]:
        problems.append(f"{index.folder / MANIFEST}: {index.manifest['tokens']} tokens, the shards hold {tokens}")
    return problems


def _check(index: Index, entry: ShardEntry, left_out: list[int] | None, told: list[int]) -> tuple[str | None, int]:
    """(what is wrong with one shard, its tokens)."""
    if (problem := shard_problem(index, entry)) is not None:
        return problem, 0
    shard = index.open(entry)
    problem = _content_problem(index, entry, shard) or _rows_problem(entry, shard, left_out, told)
    return problem, int(np.sum(shard.n_tokens, dtype=np.int64))


def _beside(index: Index) -> Iterator[str]:
    """Problems of the files beside the shards."""
    told, folder = index.manifest, index.folder
    remedy = "finish what is being added to it" if (folder / WORK).is_dir() else "rebuild the index"
    for name, known in (
        (CODEBOOK, index.codebook_hash),
        (CALIBRATION, told["calibration"]),
        (SKIPPED, told["skipped"].get("sha256")),
    ):
        file = folder / name
        try:
            if not known and file.exists():
                yield f"{file}: does not belong to this index, whose manifest names none; delete it"
            elif known and not file.is_file():
                yield f"{file}: is missing; {remedy}"
            elif known and not sha256_file(file).startswith(known):
                yield f"{file}: has changed since the index was made (SHA-256 differs); {remedy}"
            elif known and name == CALIBRATION:
                load_calibration(file, index.code_layout, index.exact, index.columns)
            elif known and name == CODEBOOK:
                meta = index.codebook.meta
                if other := [key for key in meta if key in told and meta[key] != told[key]]:
                    yield f"{file}: was made with another {other[0]} than the index; rebuild the index"
        except NaitError as error:
            yield str(error)


def _content_problem(index: Index, entry: ShardEntry, shard: Shard) -> str | None:
    """What no writer puts into a shard, though its bytes are as they were written."""
    row, n_tokens = np.array(shard.row), np.array(shard.n_tokens)
    if len(row) and (row[0] < entry.first_row or row[-1] >= entry.first_row + entry.pool_rows):
        return f"{entry.path}: rows beyond those of its unit; rebuild the index"
    if (row[1:] <= row[:-1]).any():
        return f"{entry.path}: rows that do not ascend: one is there twice; rebuild the index"
    if len(row) and (n_tokens.min() < 1 or n_tokens.max() > index.manifest["max_length"]):
        return f"{entry.path}: samples of impossible lengths (n_tokens); rebuild the index"
    padding = ~index.code_layout.pack(np.ones((1, index.code_layout.n_neurons), dtype=bool))[0]
    columns = np.flatnonzero(padding)
    if (shard.codes[:, columns] & padding[columns]).any():
        return f"{entry.path}: bits of codes beyond their layer's neurons are set; rebuild the index"
    for name, scores in shard.exact.items():
        if not np.isfinite(scores).all():
            return f"{entry.path}: exact scores of '{name}' that are not finite; rebuild the index"
    for name, column in shard.columns.items():
        if column.dtype.kind == "f" and not (np.isfinite(column).all() and (column >= 0).all()):
            return f"{entry.path}: impossible '{name}'; rebuild the index"
    try:
        shard.ids()
    except NaitError as error:
        return str(error)
    return None


def _rows_problem(entry: ShardEntry, shard: Shard, left_out: list[int] | None, told: list[int]) -> str | None:
    """Whether the shard's rows and those ``left_out`` are the unit's, and those only ``told`` of among the shard's."""
    if left_out is None:
        return None
    row = np.array(shard.row)
    both = np.sort(np.concatenate([row, np.array(left_out, dtype=np.int64)]))
    # Row numbers are within the unit by now; comparing lengths first keeps a monstrous unit from being written out.
    if len(both) != entry.pool_rows or (both[1:] == both[:-1]).any():
        return f"{entry.path}: the rows that it lacks are not those that {SKIPPED} lists; rebuild the index"
    if not np.isin(np.array(told, dtype=np.int64), row).all():
        return f"{entry.path}: {SKIPPED} says of a row that it is kept, but it is not there; rebuild the index"
    return None


class Listed:
    """``skipped.jsonl``, read along with the shards. Raises NaitError at a line that nait_fast does not write."""

    def __init__(self, index: Index):
        self._index, self._path = index, index.folder / SKIPPED
        self._reasons: Counter[str] = Counter()
        self._told, self._last = 0, 0
        self._lines = self._read()
        self._next = next(self._lines, None)

    def until(self, end: int) -> tuple[list[int], list[int]]:
        """(rows left out, rows only told of) that come before row ``end`` and have not been handed out."""
        lines = self.lines_until(end)
        return [line["row"] for line in lines if "kept" not in line], [line["row"] for line in lines if "kept" in line]

    def lines_until(self, end: int) -> list[dict[str, Any]]:
        """The lines themselves."""
        lines = []
        while self._next is not None and self._next["row"] < end:
            lines.append(self._next)
            self._next = next(self._lines, None)
        return lines

    def end(self) -> Iterator[str]:
        """Problems of the list as a whole, once the shards are done."""
        if self._next is not None:
            yield f"{self._path}: lists row {self._next['row']}, but the pool has {self._index.pool_rows}"
            return
        manifest = self._index.manifest
        if dict(self._reasons) != manifest["skipped"]["reasons"]:
            yield f"{self._path}: its reasons are not those of {MANIFEST}; rebuild the index"
        if self._told != manifest["truncated"] + manifest["duplicate_ids"]:
            yield f"{self._path}: not as many rows cut or of a repeated id as {MANIFEST} says; rebuild the index"

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
            raise NaitError(f"{self._path}:{number}: not a line of the list ({error}); rebuild the index") from None
        self._last = row
        if "kept" in entry:
            self._told += 1
        else:
            self._reasons[reason] += 1
        return entry
