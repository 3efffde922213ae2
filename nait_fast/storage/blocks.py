"""Checksums of what lies in a file of tensors: of each tensor a block of rows at a time, and of the header that holds
them. XXH3-64: as fast as the memory it reads, so that whoever reads a block can check it.
"""

import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import xxhash

from nait_fast.errors import Damaged, NaitError

BLOCK_BYTES = 256 << 10  # at most, but for longer rows: asked of a disk at once, and hashed without Python's lock
DIGITS = 16
_BLANK = b"0" * DIGITS
_MARK = b', \\"checksum\\": \\"'  # JSON within JSON


class Tensor(NamedTuple):
    """Where a tensor lies: its ``offset`` counts from the start of the file. ``block_rows``: rows of a block, and
    ``digests``: 16 hexadecimal digits a block; none in the file of an older nait_fast."""

    dtype: np.dtype
    shape: tuple[int, ...]
    offset: int
    name: str = ""
    block_rows: int = 1
    digests: str = ""

    @property
    def row_bytes(self) -> int:
        return self.dtype.itemsize * math.prod(self.shape[1:])

    def blocks(self, start: int, stop: int) -> range:
        """Numbers of the blocks that hold rows ``start`` to ``stop``."""
        return range(start // self.block_rows, -(-stop // self.block_rows)) if stop > start else range(0)

    def rows_of(self, block: int) -> tuple[int, int]:
        """(first row, the row behind the last) of a block."""
        first = block * self.block_rows
        return first, min(first + self.block_rows, self.shape[0])

    def check(self, block: int, data: Any, path: Any) -> None:
        """Raises NaitError where ``data``, the bytes of a block, are not those that were written."""
        if xxhash.xxh3_64_hexdigest(data) != self.digests[DIGITS * block : DIGITS * (block + 1)]:
            raise changed(path, f"bytes of '{self.name}' have")

    def check_all(self, array: np.ndarray, path: Any) -> None:
        """Check every block of the whole tensor, a contiguous ``array``. Raises NaitError."""
        if self.digests:
            data = array.reshape(-1).view(np.uint8).data
            for block in self.blocks(0, self.shape[0]):
                first, stop = self.rows_of(block)
                self.check(block, data[first * self.row_bytes : stop * self.row_bytes], path)


def changed(path: Any, where: str) -> NaitError:
    remedy = "rebuild it with index --repair" if Path(path).name.startswith("shard-") else "rebuild it"
    return Damaged(f"{where} changed since it was written (checksum differs)", where=path, remedy=remedy)


def blocks_of(array: np.ndarray) -> list[Any]:
    """What a file says of a contiguous tensor's blocks: [rows of a block, digests]."""
    row_bytes = array.nbytes // array.shape[0] if array.ndim and array.nbytes else array.nbytes
    rows = block_rows(row_bytes)
    data = array.reshape(-1).view(np.uint8).data if array.nbytes else memoryview(b"")
    step = max(1, rows * row_bytes)
    return [rows, "".join(xxhash.xxh3_64_hexdigest(data[at : at + step]) for at in range(0, len(data), step))]


def block_rows(row_bytes: int) -> int:
    """Rows of a block, where a row takes ``row_bytes``."""
    return max(1, BLOCK_BYTES // max(1, row_bytes))


def with_blocks(tensor: Tensor, entry: Any) -> Tensor:
    """``tensor`` with what the file says of its blocks. Raises ValueError where that cannot be."""
    rows, digests = entry if isinstance(entry, list) and len(entry) == 2 else (None, None)
    if type(rows) is not int or not 1 <= rows < 1 << 63 or not isinstance(digests, str) or not tensor.shape:
        raise ValueError(f"blocks of {tensor.name!r}")
    blocks = -(-tensor.shape[0] // rows) if tensor.row_bytes else 0
    if len(digests) != DIGITS * blocks:
        raise ValueError(f"blocks of {tensor.name!r}")
    return tensor._replace(block_rows=rows, digests=digests)


def unsealed(meta: str) -> str:
    """``meta``, a JSON object that is not empty, with room for the checksum of the header as its last entry."""
    return f'{meta[:-1]}, "checksum": "{_BLANK.decode()}"}}'


def seal(header: bytes) -> tuple[bytes, str]:
    """A file's header, with the eight bytes of its length, and in the last of its entries ``checksum`` what it is with
    zeros there; and that checksum. A header without one is returned as it is, with ""."""
    head, mark, tail = header.rpartition(_MARK)
    if not mark:
        return header, ""
    digest = xxhash.xxh3_64_hexdigest(head + mark + _BLANK + tail[DIGITS:])
    return head + mark + digest.encode() + tail[DIGITS:], digest
