"""The streaming loader: units of a pool read, checked, templated and tokenised ahead of the device.

Three stages overlap: one thread reads, parses and renders chunks of rows; two hand them to the tokenizer, which runs in
Rust on all cores (two, so that it has work while the one's tokens become arrays); whoever iterates gets whole windows,
a unit each, within which batches are formed by length. Two windows at most wait or are in the making, whatever the
pool's size. What a window holds depends only on the pool and the options.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from nait_fast.data.encode import encode, parsed
from nait_fast.data.formats import RowError, Sample
from nait_fast.data.parts import Record
from nait_fast.data.plan import Unit
from nait_fast.data.pool import Pool, SkippedRow, check, where_of
from nait_fast.data.tokenize import Encoded, Encoder, Refused
from nait_fast.stages import stage

_TOKENISING = 2


@dataclass
class Window:
    """A loaded unit: `encoded` good rows in order, `skipped` the others; `places[row]`: file and line of each row
    (line 0 where there is none), without what is stored there."""

    unit: Unit
    encoded: list[Encoded] = field(default_factory=list)
    skipped: list[SkippedRow] = field(default_factory=list)
    places: dict[int, tuple[str, int]] = field(default_factory=dict)

    def where(self, row: int) -> str:
        """How messages call a row."""
        return where_of(*self.places[row], row)


def tokenizer_threads() -> ThreadPoolExecutor:
    """What units are tokenised in."""
    return ThreadPoolExecutor(_TOKENISING, "nait_fast tokenizer")


class Loader:
    """Loads the units that `next_unit` names (None: no more) in a thread of its own; iterate for their windows.

    `next_unit` is called in that thread, and must return soon once `close` has been called. Errors of loading are
    raised to whoever iterates, after the windows before them.
    """

    def __init__(self, pool: Pool, fmt: str, encoder: Encoder, next_unit: Callable[[], Unit | None]):
        self._pool, self._format, self._encoder, self._next_unit = pool, fmt, encoder, next_unit
        self._queue: queue.Queue[Window | BaseException | None] = queue.Queue(maxsize=1)
        self._closed = threading.Event()
        self.loading: Unit | None = None  # the unit that is being loaded, or that failed to
        self.failed = False
        self._thread = threading.Thread(target=self._run, name="nait_fast loader", daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[Window]:
        while (item := self._next()) is not None:
            if isinstance(item, BaseException):
                self.failed = True
                raise item
            yield item

    @stage("read_wait")
    def _next(self) -> Window | BaseException | None:
        return self._queue.get()

    def close(self) -> None:
        """Stop loading; waits for the thread."""
        self._closed.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            reader = self._pool.reader()
            with tokenizer_threads() as tokenizer:
                while not self._closed.is_set() and (unit := self._next_unit()) is not None:
                    self.loading = unit
                    records = self._until_closed(reader.unit(unit))
                    self._put(load_unit(self._pool, records, unit, self._format, self._encoder, tokenizer))
                    self.loading = None
            self._put(None)
        except BaseException as error:
            self._put(error)

    def _until_closed(self, records: Iterator[tuple[int, Record]]) -> Iterator[tuple[int, Record]]:
        for record in records:
            if self._closed.is_set():
                raise _Closed
            yield record

    def _put(self, item: Window | BaseException | None) -> None:
        while not self._closed.is_set():
            try:
                self._queue.put(item, timeout=0.2)
                return
            except queue.Full:
                continue


class _Closed(Exception):
    """Nobody waits for the window any more."""


def load_unit(
    pool: Pool,
    records: Iterator[tuple[int, Record]],
    unit: Unit,
    fmt: str,
    encoder: Encoder,
    tokenizer: ThreadPoolExecutor,
) -> Window:
    """Load one unit. Raises NaitError at a row that cannot be used, unless `pool` is to skip such rows."""
    window = Window(unit)
    refused: list[Refused] = []
    samples = samples_of(pool, fmt, records, window.places, window.skipped)
    window.encoded.extend(encode(encoder, samples, refused.append, tokenizer))
    for result in refused:
        window.skipped.append(pool.refuse(window.where(result.row), result.row, result.reason))
    window.skipped.sort(key=lambda skipped: skipped.row)
    return window


def samples_of(
    pool: Pool,
    fmt: str,
    records: Iterable[tuple[int, Record]],
    places: dict[int, tuple[str, int]],
    skipped: list[SkippedRow],
) -> Iterator[Sample]:
    """The good rows of ``records``. ``places`` gets file and line of each row, ``skipped`` those that are left out.

    Raises NaitError at a row that cannot be used, unless ``pool`` is to skip such rows.
    """

    def placed() -> Iterator[tuple[int, Record]]:
        for row, record in records:
            places[row] = (record.file, record.line)
            yield row, record

    def skip(row: int, record: Record, error: RowError) -> None:
        skipped.append(pool.skip(record, row, fmt, error))

    return parsed(placed(), lambda record, row: check(record.payload, fmt, row, pool.conventions)[1], skip)
