"""Rows of codes that lie in any number of arrays, read where they lie."""

from collections.abc import Iterator, Sequence

import numpy as np

CHUNK_BYTES = 4 << 20  # of codes at a time


class CodeRows:
    """Rows of code matrices that follow one another, uint8 [n_k, W], each mapped from a file or in memory.

    Raises ValueError where they are no such matrices of one width, a multiple of 8 bytes.
    """

    def __init__(self, codes: np.ndarray | Sequence[np.ndarray]):
        blocks = [codes] if isinstance(codes, np.ndarray) else list(codes)
        if any(block.ndim != 2 or block.dtype.kind != "u" for block in blocks):
            raise ValueError("codes must be matrices of unsigned integers")
        self.blocks = [np.ascontiguousarray(block).view(np.uint8) for block in blocks]
        self.width = self.blocks[0].shape[1] if self.blocks else 0
        if any(block.shape[1] != self.width for block in self.blocks) or self.width % 8:
            raise ValueError("codes must be of one width, a multiple of 8 bytes")
        self._starts = np.cumsum([0] + [len(block) for block in self.blocks])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def take(self, rows: np.ndarray) -> np.ndarray:
        """Copies uint8 [n, W] of ``rows`` int64 [n]."""
        out = np.empty((len(rows), self.width), dtype=np.uint8)
        owner = np.searchsorted(self._starts, rows, side="right") - 1
        for block in np.unique(owner).tolist():
            mine = owner == block
            out[mine] = self.blocks[block][rows[mine] - self._starts[block]]
        return out

    def addresses(self, rows: np.ndarray) -> np.ndarray:
        """uint64 [n]: where in memory each of ``rows`` begins, as long as this object lives."""
        bases = np.array([block.ctypes.data for block in self.blocks], dtype=np.uint64)
        owner = np.searchsorted(self._starts, rows, side="right") - 1
        return bases[owner] + (rows - self._starts[owner]).astype(np.uint64) * np.uint64(self.width)

    def chunks(self, rows: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """(places in ``rows``, copies of their codes), in the order of the files."""
        step, places = max(1, CHUNK_BYTES // max(1, self.width)), np.argsort(rows, kind="stable")
        for start in range(0, len(rows), step):
            some = places[start : start + step]
            yield some, self.take(rows[some])
