"""Writing in the background: the shard of one unit while the model runs over the next."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress

from nait_fast.stages import stage


class BackgroundWriter:
    """Writes units in a thread of its own, one at a time.

    ``put`` waits for the unit before, so that one at most is held besides the one that runs. What goes wrong is raised
    once, by whichever of ``put``, ``check`` and ``wait`` comes next; ``failed`` is then the number of that unit.
    """

    def __init__(self) -> None:
        self.failed: int | None = None
        self._thread: ThreadPoolExecutor | None = None
        self._number = -1
        self._writing: Future[None] | None = None

    def put(self, number: int, write: Callable[[], None]) -> None:
        """Let unit ``number`` be written by ``write()``."""
        self.wait()
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, "nait_fast writer")
        self._number, self._writing = number, self._thread.submit(write)

    def check(self) -> None:
        """Raise what has gone wrong so far."""
        if self._writing is not None and self._writing.done():
            self.wait()

    def wait(self) -> None:
        """Return once nothing is left to write."""
        writing, self._writing = self._writing, None
        if writing is None:
            return
        try:
            with stage("write_wait"):
                writing.result()
        except BaseException:
            self.failed = self._number
            raise

    def close(self) -> None:
        """End the thread, once it has written what it has; another failure than the one that is being raised already is
        found again by whoever does the unit anew."""
        with suppress(Exception):
            self.wait()
        if self._thread is not None:
            self._thread.shutdown()
        self._thread = self.failed = None
