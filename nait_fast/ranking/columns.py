"""What a ranking holds of every row, its number, tokens and scores: on disk, in files that no crash leaves behind."""

import copy
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from nait_fast.errors import BadInput, Damaged, NaitError
from nait_fast.ranking.scan import Block

BLOCK_CELLS = 1 << 18  # numbers read at a time, 2 MB of float64


def block_rows(columns: int) -> int:
    """Rows of a block of ``columns`` columns. Sums go over such blocks: it must not depend on anything else."""
    return max(1, BLOCK_CELLS // max(1, columns))


class Spill:
    """``columns`` columns of ``rows`` numbers, one after another in a file without a name, gone with the process.

    It lies in ``folder``: of a verb, where there must be room for the results anyway. Raises NaitError when it cannot
    be written.
    """

    def __init__(self, folder: Path, dtype: Any, rows: int, columns: int = 1):
        self.folder, self.dtype, self.rows, self.columns = folder, np.dtype(dtype), rows, columns
        self._first = 0  # column of the file
        try:
            self._file = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115 (closed by close)
        except OSError as error:
            raise self._failed("written", error) from None

    def _failed(self, what: str, error: OSError) -> NaitError:
        what = f"a temporary file cannot be {what} ({error.strerror or error})"
        remedy = "free some space and rerun" if self.folder.is_dir() else "make the folder"
        return NaitError(what, where=self.folder, remedy=remedy)

    def _offset(self, start: int, column: int) -> int:
        return ((self._first + column) * self.rows + start) * self.dtype.itemsize

    def only(self, column: int) -> "Spill":
        """One of the columns, in the same file."""
        one = copy.copy(self)
        one._first, one.columns = self._first + column, 1
        return one

    def write(self, start: int, values: np.ndarray, column: int = 0) -> None:
        """``values`` [n] become the rows from ``start`` on of ``column``."""
        data = np.ascontiguousarray(values, dtype=self.dtype).view(np.uint8).data
        offset = self._offset(start, column)
        try:
            while len(data):
                done = os.pwrite(self._file.fileno(), data, offset)
                data, offset = data[done:], offset + done
        except OSError as error:
            raise self._failed("written", error) from None

    def read(self, start: int, stop: int, column: int = 0) -> np.ndarray:
        """The rows ``start`` to ``stop`` of ``column``: [stop - start]."""
        out = np.empty(max(0, min(stop, self.rows) - start), dtype=self.dtype)
        view, offset = out.view(np.uint8).data, self._offset(start, column)
        try:
            while len(view):
                done = os.preadv(self._file.fileno(), [view], offset)
                if not done:
                    raise OSError("cut short")
                view, offset = view[done:], offset + done
        except OSError as error:
            raise self._failed("read", error) from None
        return out

    def take(self, places: np.ndarray, column: int = 0) -> np.ndarray:
        """Values [n] of ``column`` at ``places`` int64 [n], in any order; reads the blocks that hold one."""
        out, by_place, step = np.empty(len(places), dtype=self.dtype), np.argsort(places, kind="stable"), block_rows(1)
        ascending = places[by_place]
        for block in np.unique(ascending // step).tolist():
            some = slice(*np.searchsorted(ascending, (block * step, (block + 1) * step)))
            first, last = int(ascending[some.start]), int(ascending[some.stop - 1])
            out[by_place[some]] = self.read(first, last + 1, column)[ascending[some] - first]
        return out

    def blocks(self) -> Iterator[tuple[int, np.ndarray]]:
        """(first row, values [n]) of a single column, block by block."""
        rows = block_rows(1)
        for start in range(0, self.rows, rows):
            yield start, self.read(start, start + rows)

    def tables(self) -> Iterator[tuple[int, np.ndarray]]:
        """(first row, values [columns, n]), block by block."""
        rows = block_rows(self.columns)
        for start in range(0, self.rows, rows):
            yield start, np.stack([self.read(start, start + rows, column) for column in range(self.columns)])

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> "Spill":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class ScoreTable:
    """``row`` int64, ``n_tokens`` int32 and ``scores`` float64 [C] of ``rows`` rows, in ascending order of ``row``.

    Filled block by block with ``add``. ``low``, ``high`` [C]: the scores' extremes. A context manager: the files in
    ``folder`` go with it.
    """

    def __init__(self, folder: Path, rows: int, names: Sequence[str]):
        self.folder, self.rows, self.names = folder, rows, list(names)
        self.low, self.high = np.full(len(names), np.inf), np.full(len(names), -np.inf)
        self._files, self._filled, self._last = ExitStack(), 0, -1
        self.row, self.n_tokens = self.scratch(np.int64), self.scratch(np.int32)
        self.scores = self.scratch(np.float64, len(names))

    def scratch(self, dtype: type, columns: int = 1) -> Spill:
        """Another column (or several) beside the rows, closed with the table."""
        return self._files.enter_context(Spill(self.folder, dtype, self.rows, columns))

    def add(self, block: Block) -> None:
        """The next rows. Raises NaitError for rows that do not ascend and for scores that are no finite numbers."""
        if not len(block.row):
            return
        if block.row[0] <= self._last or (np.diff(block.row) <= 0).any():
            raise Damaged("the index's rows do not ascend: it is damaged", remedy="nait-fast verify tells which file")
        columns = np.ascontiguousarray(block.scores.T)
        low, high = columns.min(axis=1), columns.max(axis=1)
        if not np.isfinite([low, high]).all():
            name = self.names[int(np.argmin(np.isfinite(low) & np.isfinite(high)))]
            what = f"signature '{name}' gives a score that is not a finite number"
            raise BadInput(what, remedy="rebuild it, or the index")
        self.row.write(self._filled, block.row)
        self.n_tokens.write(self._filled, block.n_tokens)
        for number, column in enumerate(columns):
            self.scores.write(self._filled, column, number)
        self.low, self.high = np.minimum(self.low, low), np.maximum(self.high, high)
        self._filled, self._last = self._filled + len(block.row), int(block.row[-1])

    def take_scores(self, places: np.ndarray) -> np.ndarray:
        """float64 [n, C] of the rows at ``places`` int64 [n], in any order."""
        return np.stack([self.scores.take(places, column) for column in range(len(self.names))], axis=1)

    def beside(self, names: Sequence[str]) -> "ScoreTable":
        """An empty table of the same rows for other scores, closed with this one: ``add`` expects the same rows."""
        other = copy.copy(self)
        other.names, other.scores = list(names), self.scratch(np.float64, len(names))
        other.low, other.high = np.full(len(names), np.inf), np.full(len(names), -np.inf)
        other._filled, other._last = 0, -1
        return other

    def only(self, column: int) -> "ScoreTable":
        """The same rows under one of the targets; closed with this one."""
        one = copy.copy(self)
        one.names, one.scores = [self.names[column]], self.scores.only(column)
        one.low, one.high = self.low[column : column + 1], self.high[column : column + 1]
        return one

    def rescored(self, change: Callable[[np.ndarray], np.ndarray]) -> "ScoreTable":
        """The same rows with other scores, ``change`` of each target's, float64 [n] both; closed with this one."""
        other = copy.copy(self)
        other.scores = self.scratch(np.float64, len(self.names))
        other.low, other.high = self.low.copy(), self.high.copy()
        for column in range(len(self.names)):
            scores = change(self.scores.read(0, self.rows, column))
            other.scores.write(0, scores, column)
            if len(scores):
                other.low[column], other.high[column] = scores.min(), scores.max()
        return other

    def __enter__(self) -> "ScoreTable":
        return self

    def __exit__(self, *_: object) -> None:
        self._files.close()
