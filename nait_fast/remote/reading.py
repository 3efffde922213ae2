"""The bytes of a file behind a URL, from any place, through connections that may be cut.

A few ranges are read ahead of whoever goes through the file; no more of it is ever held. After a cut, a range goes on
where its bytes end. A server that gives no ranges is read from the start, and after a cut from the start again, up to
where the bytes are new.
"""

from __future__ import annotations

import io
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any

from nait_fast.errors import BadInput, Damaged, NaitError
from nait_fast.remote.retrying import TRIES, as_os_error, is_final, wait_before
from nait_fast.remote.web import NoRanges, fetch_range
from nait_fast.urls import WEB

if TYPE_CHECKING:  # which opens these files itself
    from nait_fast.remote.places import RemotePath

FIRST, LARGEST = 1 << 20, 8 << 20  # bytes asked for at once: of the first range somewhere, and of those that follow it
AHEAD = 2  # ranges


class RemoteFile(io.RawIOBase):
    """A file to read; ``anywhere``: not only from some place on, but here and there. Not for several threads at once.
    Raises OSError, and NaitError where it cannot be read so, or is no longer what it was."""

    def __init__(self, place: RemotePath, anywhere: bool = False):
        self._place, self._anywhere, self._size = place, anywhere, place.size
        self._at = 0
        self._window, self._start = b"", 0  # bytes that were read, and where they begin
        self._step = FIRST
        self._ahead: deque[tuple[int, int, Future[bytes]]] = deque()  # start and size of what is on its way
        self._threads: ThreadPoolExecutor | None = None
        self._closing = threading.Event()
        self._fetch = _fetch_of(place)
        self._stream: Any = None
        self._streamed = 0  # bytes of the stream that were read
        self._ranges = True
        if self._size is None or not (place.info or {}).get("partial", True):
            self._only_whole()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        if whence == io.SEEK_END:
            assert self._size is not None  # else nobody reads it here and there
            offset += self._size
        self._at = max(0, offset + (self._at if whence == io.SEEK_CUR else 0))
        return self._at

    def readinto(self, target: Any) -> int:
        view = memoryview(target).cast("B")
        wanted = len(view) if self._size is None else min(len(view), self._size - self._at)
        if wanted <= 0:
            return 0
        if not self._start <= self._at < self._start + len(self._window):
            self._load(wanted)
        inside = self._at - self._start
        piece = memoryview(self._window)[inside : inside + wanted]
        view[: len(piece)] = piece
        self._at += len(piece)
        return len(piece)

    def read(self, size: int | None = -1) -> bytes:
        """As many bytes as are asked for, but at the end: to pyarrow, fewer are a file that is cut off."""
        if size is None or size < 0:
            return self.readall()
        out, done = bytearray(size), 0
        while done < size and (got := self.readinto(memoryview(out)[done:])):
            done += got
        return bytes(memoryview(out)[:done])

    def close(self) -> None:
        if not self.closed:
            self._closing.set()
            self._drop()
            if self._threads is not None:
                self._threads.shutdown(wait=False)
            self._end_stream()
        super().close()

    def _drop(self) -> None:
        while self._ahead:
            self._ahead.popleft()[2].cancel()

    def _load(self, wanted: int) -> None:
        """Put bytes from here on into the window; none only where a file of unknown size ends."""
        goes_on = bool(self._window) and self._at == self._start + len(self._window)
        if self._ranges:
            try:
                self._window = self._next_range(goes_on, wanted)
            except NoRanges:
                self._only_whole()
        if not self._ranges:
            self._window = self._trying(self._next_streamed, self._at)
        self._start = self._at

    def _next_range(self, goes_on: bool, wanted: int) -> bytes:
        assert self._size is not None
        self._step = min(2 * self._step, LARGEST) if goes_on else FIRST
        if self._ahead and self._ahead[0][0] != self._at:
            self._drop()
        end = sum(self._ahead[-1][:2]) if self._ahead else self._at  # of what is on its way
        if self._threads is None:
            self._threads = ThreadPoolExecutor(1 + AHEAD, "nait_fast reading ahead")
        while len(self._ahead) < (1 + AHEAD if goes_on else 1) and end < self._size:
            size = self._step if self._ahead else max(self._step, min(wanted, LARGEST))
            size = min(size, self._size - end)
            self._ahead.append((end, size, self._threads.submit(self._range, end, size)))
            end += size
        return self._ahead.popleft()[2].result()

    def _range(self, start: int, size: int) -> bytes:
        data = bytearray()
        while len(data) < size:
            at = start + len(data)
            data += self._trying(partial(self._fetch, at, start + size), at)
        if len(data) > size:  # more than was asked for may be anything
            raise NoRanges
        return bytes(data)

    def _trying(self, read: Callable[[], bytes | None], at: int) -> bytes:
        """What ``read`` gives of the bytes from ``at`` on; None: the connection ended."""
        why = "it ended early"
        for attempt in range(TRIES):
            try:
                if (data := read()) is not None:
                    return data
            except (NaitError, NoRanges):
                raise
            except Exception as error:  # every store raises errors of its own
                if is_final(error):
                    raise as_os_error(error) from None
                why = str(as_os_error(error).strerror)
            if self._closing.wait(wait_before(attempt)):
                break
        raise OSError(5, f"the connection was lost {TRIES} times in a row at byte {at:,} ({why})")

    def _only_whole(self) -> None:
        """Go on without ranges."""
        if self._anywhere:
            raise BadInput(
                "its server sends it only as a whole, and it must be read here and there",
                where=self._place,
                remedy="download it, and give the file",
            )
        self._ranges = False
        self._drop()

    def _next_streamed(self) -> bytes | None:
        """Bytes from here on of the one stream; None where it ended before the file did."""
        if self._stream is None or self._streamed > self._at:
            if self._place.stamp(anew=True) != self._place.stamp():
                raise Damaged("changed while it was read", where=self._place, remedy="run again")
            self._end_stream()
            self._stream, self._streamed = self._place.store.open(self._place.key, block_size=0), 0
        try:
            while True:
                skip = self._at - self._streamed
                data = self._stream.read(min(skip, FIRST) or FIRST)
                self._streamed += len(data)
                if data and not skip:
                    return data
                if not data:
                    break
        except Exception:
            self._end_stream()
            raise
        if self._size is None and self._streamed == self._at:
            return b""
        self._end_stream()
        return None

    def _end_stream(self) -> None:
        if self._stream is not None:
            self._stream.close()
            self._stream = None


def _fetch_of(place: RemotePath) -> Callable[[int, int], bytes | None]:
    """Reads bytes from one place to another, or the first of them."""
    store, key = place.store, place.key
    if place.scheme in WEB:
        return lambda start, stop: fetch_range(store, key, start, stop)
    if store.async_impl or place.scheme == "memory":
        return lambda start, stop: store.cat_file(key, start=start, end=stop)

    def through_file(start: int, stop: int) -> bytes:
        with store.open(key, "rb", cache_type="none") as file:
            file.seek(start)
            return file.read(stop - start)

    return through_file
