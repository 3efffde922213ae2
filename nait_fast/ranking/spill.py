"""Columns of all rows on disk: what a ranking needs of every row, in files that no crash can leave behind."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from nait_fast.errors import NaitError

BLOCK_CELLS = 1 << 18  # numbers read at a time, 2 MB of float64


def block_rows(columns: int) -> int:
    """Rows of a block of ``columns`` columns. Sums go over such blocks: it must not depend on anything else."""
    return max(1, BLOCK_CELLS // max(1, columns))


class Spill:
    """``columns`` columns of ``rows`` numbers, one after another in a file without a name, gone with the process.

    It lies in ``folder``, where there must be room for the results anyway. Raises NaitError when it cannot be written.
    """

    def __init__(self, folder: Path, dtype: Any, rows: int, columns: int = 1):
        self.folder, self.dtype, self.rows, self.columns = folder, np.dtype(dtype), rows, columns
        try:
            self._file = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115 (closed by close)
        except OSError as error:
            raise self._failed("written", error) from None

    def _failed(self, what: str, error: OSError) -> NaitError:
        return NaitError(
            f"{self.folder}: a temporary file cannot be {what} ({error.strerror or error}); free some space and rerun"
        )

    def _offset(self, start: int, column: int) -> int:
        return (column * self.rows + start) * self.dtype.itemsize

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

    def blocks(self, rows: int | None = None) -> Iterator[tuple[int, np.ndarray]]:
        """(first row, values [n]) of a single column, block by block."""
        rows = rows or block_rows(1)
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
