"""Writes a selection: the chosen rows and the scores."""

import hashlib
import json
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from nait_fast.errors import Damaged
from nait_fast.index.reader import Index
from nait_fast.index.stream import Ids, ids
from nait_fast.ranking.columns import ScoreTable, Spill
from nait_fast.ranking.select import Selection
from nait_fast.storage.files import atomic_file

KIND = "nait_fast selection"  # `kind` in a selection's manifest
SELECTED, SCORES, DROPPED = "selected.jsonl", "scores.parquet", "dropped.jsonl"
DROPPED_BY = "dropped_by"  # column of scores.parquet, where constraints were asked for
QUALITY = "quality"  # column of scores.parquet, where one was mixed in
REPORT = "report.html"  # of a selection, where nobody names another file
GROUP_CELLS = 1 << 20  # numbers in a row group of scores.parquet
COPIED_LINES = 4096  # lines put in order at a time


def write_selected(path: Path, lines: Iterable[bytes], order: np.ndarray) -> str:
    """Write ``lines`` [k] in the ``order`` int64 [k]; returns the file's SHA-256.

    They are kept on disk meanwhile: memory holds where each begins. Raises NaitError.
    """
    digest, ends = hashlib.sha256(), np.zeros(len(order) + 1, dtype=np.int64)
    with atomic_file(path) as out, tempfile.TemporaryFile(dir=path.parent) as scratch:
        at = 0
        for number, line in enumerate(lines, 1):
            at += scratch.write(line) + scratch.write(b"\n")
            ends[number] = at
        scratch.flush()
        for start in range(0, len(order), COPIED_LINES):
            some = order[start : start + COPIED_LINES]
            spans = zip(ends[some].tolist(), ends[some + 1].tolist(), strict=True)
            data = b"".join(os.pread(scratch.fileno(), end - begin, begin) for begin, end in spans)
            digest.update(data)
            out.write(data)
    return digest.hexdigest()


def write_scores(
    path: Path,
    index: Index,
    table: ScoreTable,
    selection: Selection,
    ranks: Spill,
    all_rows: bool,
    constrained: bool = False,
    quality: np.ndarray | None = None,
) -> None:
    """``scores.parquet``, in the order of the rows: all of them, or those of ``selection``.

    Columns: row int64, id string, n_tokens int32, score.<target> float64, rank int64, selected bool; of ``quality``
    float64 [n], quality float64; and where ``constrained``, dropped_by string: the constraint that took the row, or
    null. ``ranks``: of all rows. Written a row group at a time. Raises NaitError.
    """
    import pyarrow as pa
    from pyarrow import parquet

    group = max(4096, GROUP_CELLS // (len(table.names) + 4))
    columns = [
        ("row", pa.int64()),
        ("id", pa.string()),
        ("n_tokens", pa.int32()),
        *((f"score.{name}", pa.float64()) for name in table.names),
        ("rank", pa.int64()),
        ("selected", pa.bool_()),
        *([(QUALITY, pa.float64())] if quality is not None else []),
        *([(DROPPED_BY, pa.string())] if constrained else []),
    ]
    names, waiting, dropped = _Ids(index, group), [], _DroppedBy(selection)
    # A dictionary of numbers that hardly repeat would be built in vain.
    repeating = ["id", "n_tokens", *([DROPPED_BY] if constrained else [])]
    options: dict[str, Any] = {"compression": "zstd", "use_dictionary": repeating}
    with atomic_file(path) as file, parquet.ParquetWriter(file, pa.schema(columns), **options) as writer:
        for start in range(0, table.rows, group):
            stop = min(start + group, table.rows)
            chosen = np.zeros(stop - start, dtype=bool)
            chosen[selection.places[slice(*np.searchsorted(selection.places, (start, stop)))] - start] = True
            scores = [table.scores.read(start, stop, column) for column in range(len(table.names))]
            row, n_tokens, rank = (spill.read(start, stop) for spill in (table.row, table.n_tokens, ranks))
            arrays = [row, names.take(stop - start), n_tokens, *scores, rank, chosen]
            arrays += [quality[start:stop]] if quality is not None else []
            arrays += [dropped.of(start, stop)] if constrained else []
            rows = pa.table(arrays, schema=writer.schema)
            waiting.append(rows if all_rows else rows.filter(pa.array(chosen)))
            if stop == table.rows or sum(len(part) for part in waiting) >= group:
                writer.write_table(pa.concat_tables(waiting))
                waiting.clear()


class _DroppedBy:
    """Which constraint took which row of a selection, by place."""

    def __init__(self, selection: Selection):
        self._names = [dropped.constraint for dropped in selection.dropped]
        places = [dropped.places for dropped in selection.dropped] or [np.empty(0, np.int64)]
        taker = np.repeat(np.arange(len(self._names)), [len(some) for some in places][: len(self._names)])
        by_place = np.argsort(np.concatenate(places))
        self._places, self._taker = np.concatenate(places)[by_place], taker[by_place]

    def of(self, start: int, stop: int) -> Any:
        """The names of the rows from ``start`` to ``stop``, an Arrow array, null where none took a row."""
        import pyarrow as pa

        some = slice(*np.searchsorted(self._places, (start, stop)))
        numbers = np.full(stop - start, -1)
        numbers[self._places[some] - start] = self._taker[some]
        names = pa.array([*self._names, None], pa.string())
        return names.take(pa.array(np.where(numbers < 0, len(self._names), numbers)))


def write_dropped(path: Path, index: Index, table: ScoreTable, selection: Selection) -> str:
    """``dropped.jsonl``: a line for each row that a constraint took, in the order of the rows: its ``row`` and ``id``,
    the ``constraint`` and what that says of it. Returns the file's SHA-256. Raises NaitError."""
    digest, group = hashlib.sha256(), GROUP_CELLS
    names = _Ids(index, group)
    every = [(place, d, number) for d in selection.dropped for number, place in enumerate(d.places.tolist())]
    every.sort(key=lambda entry: entry[0])
    at = 0
    with atomic_file(path) as out:
        for start in range(0, table.rows, group):
            stop = min(start + group, table.rows)
            some = names.take(stop - start)
            end = at
            while end < len(every) and every[end][0] < stop:
                end += 1
            rows = table.row.take(np.array([place for place, _, _ in every[at:end]], dtype=np.int64)).tolist()
            for row, (place, dropped, number) in zip(rows, every[at:end], strict=True):
                details = {name: _plain(values[number]) for name, values in dropped.details.items()}
                line = {"row": row, "id": some[place - start].as_py(), "constraint": dropped.constraint, **details}
                data = json.dumps(line, ensure_ascii=False).encode() + b"\n"
                digest.update(data)
                out.write(data)
            at = end
    return digest.hexdigest()


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


class _Ids:
    """The ids of an index's rows as Arrow arrays of any length, in order."""

    def __init__(self, index: Index, rows: int):
        self._index, self._pieces, self._rest = index, ids(index, rows), None

    def take(self, n: int) -> Any:
        """The next ``n``."""
        import pyarrow as pa

        out = []
        while n:
            piece = self._rest if self._rest is not None else self._array(next(self._pieces))
            out.append(piece[:n])
            self._rest = piece[n:] if len(piece) > n else None
            n -= len(out[-1])
        return pa.chunked_array(out, pa.string())

    def _array(self, piece: Ids) -> Any:
        import pyarrow as pa

        valid = np.packbits(~piece.absent, bitorder="little")
        buffers = [pa.py_buffer(array) for array in (valid, piece.offsets, piece.text)]
        array = pa.Array.from_buffers(pa.large_string(), len(piece.absent), buffers)
        try:
            array.validate(full=True)
        except pa.ArrowInvalid:
            raise Damaged(
                "its ids are damaged", where=self._index.folder, remedy="nait-fast verify tells where"
            ) from None
        return array.cast(pa.string())
