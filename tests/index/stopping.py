"""Runs that are stopped in the middle."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from nait_fast.index.writer import IndexWriter


class Stopped(Exception):
    """What stops a run."""


@contextmanager
def stopping_at(shard: int, error: type[BaseException] = Stopped) -> Iterator[None]:
    """Inside the block a pass ends in ``error`` where it would write this shard."""
    write = IndexWriter.write_shard

    def failing(self: IndexWriter, number: int, *arguments: Any) -> None:
        if number == shard:
            raise error
        write(self, number, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(IndexWriter, "write_shard", failing)
        yield
