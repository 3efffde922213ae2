"""Writes a selection: the chosen rows and the scores."""

import hashlib
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
SELECTED, SCORES = "selected.jsonl", "scores.parquet"
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
    path: Path, index: Index, table: ScoreTable, selection: Selection, ranks: Spill, all_rows: bool
) -> None:
    """``scores.parquet``, in the order of the rows: all of them, or those of ``selection``.

    Columns: row int64, id string, n_tokens int32, score.<target> float64, rank int64, selected bool. ``ranks``: of all
    rows. Written a row group at a time. Raises NaitError.
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
    ]
    names, waiting = _Ids(index, group), []
    # A dictionary of numbers that hardly repeat would be built in vain.
    options: dict[str, Any] = {"compression": "zstd", "use_dictionary": ["id", "n_tokens"]}
    with atomic_file(path) as file, parquet.ParquetWriter(file, pa.schema(columns), **options) as writer:
        for start in range(0, table.rows, group):
            stop = min(start + group, table.rows)
            chosen = np.zeros(stop - start, dtype=bool)
            chosen[selection.places[slice(*np.searchsorted(selection.places, (start, stop)))] - start] = True
            scores = [table.scores.read(start, stop, column) for column in range(len(table.names))]
            row, n_tokens, rank = (spill.read(start, stop) for spill in (table.row, table.n_tokens, ranks))
            arrays = [row, names.take(stop - start), n_tokens, *scores, rank, chosen]
            rows = pa.table(arrays, schema=writer.schema)
            waiting.append(rows if all_rows else rows.filter(pa.array(chosen)))
            if stop == table.rows or sum(len(part) for part in waiting) >= group:
                writer.write_table(pa.concat_tables(waiting))
                waiting.clear()


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
