"""Processes that fork while a model is at work, or after it has been.

A forked process has the forking thread alone: a lock that another thread held stays locked in it, and OpenMP waits for
threads that are not there. So a fork waits for the batches under way, locks are made anew in the new process, and
torch's operations run there in one thread.
"""

import os
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from nait_fast.notices import warn


class ForkSafeLock:
    """A call gives a lock to use with ``with``; in a forked process it is another one, that nobody holds."""

    def __init__(self) -> None:
        self.current = threading.Lock()
        _locks.add(self)

    def __call__(self) -> threading.Lock:
        return self.current


_locks: "weakref.WeakSet[ForkSafeLock]" = weakref.WeakSet()
_state = threading.Condition(threading.Lock())
_running: dict[int, int] = {}  # thread -> batches that it is at
_forking = False
_worked = False  # a model has run in this process
_forked = False  # this process is a fork of one in which a model had run


@contextmanager
def at_work() -> Iterator[None]:
    """A batch: no other thread forks inside of the block."""
    global _worked
    if _forked and torch.get_num_threads() > 1:
        torch.set_num_threads(1)
        warn("this process was forked from one that had run a model: torch uses one thread here")
    mine = threading.get_ident()
    with _state:
        while _forking and mine not in _running:  # one that is at a batch is waited for
            _state.wait()
        _worked = True
        _running[mine] = _running.get(mine, 0) + 1
    try:
        yield
    finally:
        with _state:
            _running[mine] -= 1
            if not _running[mine]:
                del _running[mine]
            _state.notify_all()


def _before() -> None:
    global _forking
    mine = threading.get_ident()
    with _state:
        batches = _running.pop(mine, 0)  # who waits here is at nothing: two that fork must not wait for each other
        _state.notify_all()
        while _forking:
            _state.wait()
        _forking = True
        while _running:
            _state.wait()
        if batches:
            _running[mine] = batches


def _in_parent() -> None:
    global _forking
    with _state:
        _forking = False
        _state.notify_all()


def _in_child() -> None:
    global _state, _forking, _forked
    _state, _forking, _forked = threading.Condition(threading.Lock()), False, _worked
    mine = threading.get_ident()
    for thread in [t for t in _running if t != mine]:
        del _running[thread]
    for lock in list(_locks):
        lock.current = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before, after_in_parent=_in_parent, after_in_child=_in_child)
