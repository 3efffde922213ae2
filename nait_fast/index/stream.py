"""Reads the shards of an index through a few reusable buffers, ahead of whoever works on them.

Not mapped: mapped pages count as the process's memory, and a page fault costs more than copying the page.
"""

import math
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path
from queue import SimpleQueue
from typing import TypeVar

import numpy as np

from nait_fast.errors import BadInput, Damaged
from nait_fast.index.reader import Index, check_rows
from nait_fast.storage.blocks import Tensor, block_rows

BUFFER_BYTES = 8 << 20  # of codes: a thread's share of a processor's last cache, from where they are scanned
READ_BYTES = 256 << 10  # asked for at once: from a disk, larger reads took 1.5 times as long
HEADER_BYTES = 4096
READERS = 2
ALIGNMENT = 4096

T = TypeVar("T")


@dataclass(frozen=True)
class Part:
    """Consecutive rows: ``codes`` uint8 [n, W], ``row`` int64 [n], ``n_tokens`` int32 [n] and the asked
    ``exact`` scores, float64 [n] each, and ``columns``. ``codes`` lies in a buffer that the next part may overwrite."""

    codes: np.ndarray
    row: np.ndarray
    n_tokens: np.ndarray
    exact: dict[str, np.ndarray]
    columns: dict[str, np.ndarray]


@dataclass(frozen=True)
class Stretch:
    """Rows ``start`` to ``stop`` of the shard ``number``."""

    number: int
    start: int
    stop: int


Stretches = Iterable[Sequence[Stretch]]


def aligned(size: int) -> np.ndarray:
    """uint8 [size] at an address that is a multiple of a page's size."""
    raw = np.empty(size + ALIGNMENT, dtype=np.uint8)
    start = -raw.ctypes.data % ALIGNMENT
    return raw[start : start + size]


def read_into(descriptor: int, path: Path, target: np.ndarray | memoryview, offset: int) -> None:
    """Fill the contiguous ``target`` with the bytes of the file from ``offset`` on. Raises NaitError if it is short."""
    view = target if isinstance(target, memoryview) else target.reshape(-1).view(np.uint8).data
    done, size = 0, len(view)
    while done < size:
        got = os.preadv(descriptor, [view[done : done + READ_BYTES]], offset + done)
        if not got:
            raise Damaged(
                "ends early, something cut it off while it was read", where=path, remedy="rebuild it (index --repair)"
            )
        done += got


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    try:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            yield descriptor
        finally:
            os.close(descriptor)
    except FileNotFoundError:
        raise Damaged("no such file", where=path, remedy="rebuild it with index --repair") from None
    except OSError as error:
        raise BadInput(f"cannot be read ({error.strerror or error})", where=path) from None


def _fill(out: np.ndarray, descriptor: int, path: Path, tensor: Tensor, start: int) -> None:
    """The rows of ``tensor`` from ``start`` on, as many as ``out`` has, each block checked as it has been read. Of
    blocks that reach beyond ``out``, all is read. Raises NaitError."""
    row_bytes, stop = tensor.row_bytes, start + len(out)
    if not tensor.digests:  # nothing to read, or an index of format 2
        read_into(descriptor, path, out, tensor.offset + start * row_bytes)
        return
    view, step = out.reshape(-1).view(np.uint8).data, tensor.block_rows * row_bytes
    for block in tensor.blocks(start, stop):
        first, end = tensor.rows_of(block)
        at = (first - start) * row_bytes
        mine = view[max(at, 0) : at + step]
        data = mine if at >= 0 and end <= stop else memoryview(bytearray((end - first) * row_bytes))
        read_into(descriptor, path, data, tensor.offset + first * row_bytes)
        tensor.check(block, data, path)
        if data is not mine:
            mine[:] = data[max(-at, 0) :][: len(mine)]


def _stretches(index: Index, rows: int, step: int = 1) -> Iterator[list[Stretch]]:
    """All rows in order, at most ``rows`` at a time; a shard is parted behind a multiple of ``step`` rows, if it can
    be."""
    some, free = [], rows
    for entry in index.entries:
        start = 0
        while start < entry.rows:
            stop = min(entry.rows, start + free)
            if stop < entry.rows:
                stop = max(start, stop // step * step)
            if stop == start and free == rows:
                stop = start + free  # a block is more than is read at once
            if stop > start:
                some.append(Stretch(entry.number, start, stop))
            start, free = stop, free - (stop - start)
            if start < entry.rows or not free:
                yield some
                some, free = [], rows
    if some:
        yield some


class Stream:
    """All rows of ``index`` in order, at most ``rows`` and ``buffer_bytes`` of codes at a time (``codes`` false: none).

    ``exact``: names of the exact scores to read, ``columns``: of the index's columns. Threads read ahead of the caller.
    Both ways to use it raise NaitError for shards that are not as the manifest says; ``only``: some of the
    ``stretches`` instead of all.
    """

    def __init__(
        self,
        index: Index,
        exact: Sequence[str] = (),
        *,
        codes: bool = True,
        columns: Sequence[str] = (),
        rows: int | None = None,
        buffer_bytes: int = BUFFER_BYTES,
    ):
        self._index, self._exact = index, exact
        self._columns = {name: index.columns[name] for name in columns}
        self._width = index.code_layout.row_bytes if codes else 0
        widths = [np.dtype(dtype).itemsize * math.prod(shape) for dtype, shape in self._columns.values()]
        most = buffer_bytes // max(1, self._width + sum(widths))
        self._rows = max(1, min(rows or buffer_bytes, most, index.rows))
        self._step = block_rows(max(self._width, *widths, 8))
        self._free: SimpleQueue[np.ndarray] = SimpleQueue()
        self._layout_of = lru_cache(maxsize=16)(index.layout_of)  # a shard may be read in many parts

    def stretches(self) -> Iterator[list[Stretch]]:
        """What each part is read from, in order."""
        return _stretches(self._index, self._rows, self._step)

    def map(self, work: Callable[[Part], T], threads: int, only: Stretches | None = None) -> Iterator[T]:
        """``work`` of each part, in order: done by the thread that read it, while its cache holds the codes."""

        def job(some: Sequence[Stretch]) -> T:
            buffer = self._free.get()
            try:
                return work(self._read(some, buffer))
            finally:
                self._free.put(buffer)

        # Two more than there are threads: none waits for the caller to take a result.
        return self._run(job, only, threads, ahead=threads + 2, buffers=threads)

    def parts(self, threads: int = READERS) -> Iterator[Part]:
        """The parts themselves; the caller must be done with one when it asks for the next."""

        def job(some: Sequence[Stretch]) -> tuple[Part, np.ndarray]:
            buffer = self._free.get()
            return self._read(some, buffer), buffer

        for part, buffer in self._run(job, None, threads, ahead=threads, buffers=threads + 1):
            yield part
            self._free.put(buffer)

    def _read(self, stretches: Sequence[Stretch], buffer: np.ndarray) -> Part:
        n = sum(one.stop - one.start for one in stretches)
        codes = buffer[: n * self._width].reshape(n, self._width)
        columns: dict[str, np.ndarray] = {
            "row": np.empty(n, np.int64),
            "n_tokens": np.empty(n, np.int32),
            **{f"exact.{name}": np.empty(n) for name in self._exact},
        }
        if self._width:
            columns["codes"] = codes
        columns |= {name: np.empty((n, *shape), dtype) for name, (dtype, shape) in self._columns.items()}
        at = 0
        for one in stretches:
            entry, end = self._index.entries[one.number], at + one.stop - one.start
            path = entry.path
            with _opened(path) as descriptor:
                # The header is parsed from a mapping: a page fault would wait for all that the system reads ahead.
                os.pread(descriptor, HEADER_BYTES, 0)
                layout = self._layout_of(entry)
                for name in sorted(columns, key=lambda name: layout[name].offset):
                    _fill(columns[name][at:end], descriptor, path, layout[name], one.start)
            check_rows(entry, columns["row"][at:end])
            at = end
        exact = {name: columns[f"exact.{name}"] for name in self._exact}
        beside = {name: columns[name] for name in self._columns}
        return Part(codes, columns["row"], columns["n_tokens"], exact, beside)

    def _run(
        self, job: Callable[[Sequence[Stretch]], T], only: Stretches | None, threads: int, ahead: int, buffers: int
    ) -> Iterator[T]:
        for _ in range(buffers):
            self._free.put(aligned(self._rows * self._width))
        stretches = iter(only) if only is not None else self.stretches()
        with ThreadPoolExecutor(threads, "nait-read") as pool:
            waiting = deque(pool.submit(job, some) for some in islice(stretches, ahead))
            try:
                while waiting:
                    done = waiting.popleft().result()
                    waiting.extend(pool.submit(job, some) for some in islice(stretches, 1))
                    yield done
            finally:
                for future in waiting:
                    future.cancel()


@dataclass(frozen=True)
class Ids:
    """Ids of consecutive rows: UTF-8 ``text`` uint8, ``offsets`` int64 [n + 1] into it, ``absent`` bool [n]."""

    text: np.ndarray
    offsets: np.ndarray
    absent: np.ndarray


def ids(index: Index, rows: int) -> Iterator[Ids]:
    """The ids of all rows of ``index`` in order, at most ``rows`` at a time, never of two shards. Raises NaitError."""
    layout_of = lru_cache(maxsize=2)(index.layout_of)
    for stretches in _stretches(index, rows):
        for one in stretches:
            entry = index.entries[one.number]
            yield _read_ids(entry.path, layout_of(entry), one)


def _read_ids(path: Path, layout: dict[str, Tensor], stretch: Stretch) -> Ids:
    n = stretch.stop - stretch.start
    if "ids" not in layout:
        return Ids(np.empty(0, np.uint8), np.zeros(n + 1, np.int64), np.ones(n, bool))
    offsets, absent = np.zeros(n + 1, np.int64), np.empty(n, bool)
    with _opened(path) as descriptor:
        # A row's id begins where that of the row before ends; that of the first row at 0.
        skip = 0 if stretch.start else 1
        _fill(offsets[skip:], descriptor, path, layout["id_ends"], stretch.start - 1 + skip)
        _fill(absent, descriptor, path, layout["id_absent"], stretch.start)
        # Within the text first: then no difference wraps round.
        within = offsets.min() >= 0 and offsets.max() <= layout["ids"].shape[0]
        if not within or (np.diff(offsets) < 0).any() or (absent.view(np.uint8) > 1).any():
            raise Damaged("its ids are damaged", where=path, remedy="rebuild it with index --repair")
        text = np.empty(int(offsets[-1] - offsets[0]), dtype=np.uint8)
        _fill(text, descriptor, path, layout["ids"], int(offsets[0]))
    return Ids(text, offsets - offsets[0], absent)
