"""What a ranking knows of every row: its number, its tokens and its scores, kept on disk."""

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from nait_fast.errors import NaitError
from nait_fast.ranking.scan import Block
from nait_fast.ranking.spill import Spill


class Table:
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
        """Another column (or several) beside the rows."""
        return self.keep(Spill(self.folder, dtype, self.rows, columns))

    def keep(self, spill: Spill) -> Spill:
        """Close ``spill`` with the table."""
        return self._files.enter_context(spill)

    def add(self, block: Block) -> None:
        """The next rows. Raises NaitError for rows that do not ascend and for scores that are no finite numbers."""
        if not len(block.row):
            return
        if block.row[0] <= self._last or (np.diff(block.row) <= 0).any():
            raise NaitError("the index's rows do not ascend: it is damaged; nait-fast verify tells which file")
        columns = np.ascontiguousarray(block.scores.T)
        low, high = columns.min(axis=1), columns.max(axis=1)
        if not np.isfinite([low, high]).all():
            name = self.names[int(np.argmin(np.isfinite(low) & np.isfinite(high)))]
            raise NaitError(f"signature '{name}' gives a score that is not a finite number; rebuild it, or the index")
        self.row.write(self._filled, block.row)
        self.n_tokens.write(self._filled, block.n_tokens)
        for number, column in enumerate(columns):
            self.scores.write(self._filled, column, number)
        self.low, self.high = np.minimum(self.low, low), np.maximum(self.high, high)
        self._filled, self._last = self._filled + len(block.row), int(block.row[-1])

    def __enter__(self) -> "Table":
        return self

    def __exit__(self, *_: object) -> None:
        self._files.close()
