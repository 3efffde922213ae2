"""The scan of an index on a Ray cluster: actors score parts of it where they lie, and whoever asked gets the scores.

Parts are those that one machine would read, in units of many; what an actor scores them with is made once and sent to
it. Scores travel through Ray, in the order of the rows, a few units ahead: nothing is kept, so an actor that is lost
costs the units it had under way, which another one does.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import Any

import numpy as np

from nait_fast.env import strict_mkl
from nait_fast.errors import Mismatch, NaitError
from nait_fast.index.reader import Index
from nait_fast.index.stream import Stretch
from nait_fast.methods.signature import Signature
from nait_fast.notices import hushed
from nait_fast.ranking.scan import Block, LookAnywhere, LookApart, Scan, Scanner
from nait_fast.ranking.sources import check_index
from nait_fast.workers.ray_cluster import cause_of, cluster, cpus_each, number_of

UNIT_PARTS = 32  # that an actor reads at a time, at most 256 MB: what a lost one has to read again
_CALLS = 2  # at once in an actor: where one ends, the other reads
_AHEAD = 4  # units for each actor that are done, or under way, before their turn
MOST_TRIES = 5  # actors that may be lost over one unit
FIRST_REST, MOST_REST = 1.0, 60.0  # seconds


@dataclass(frozen=True)
class ScanJob:
    """What is asked of actors: ``scanner``, of the index with this ``checksum``."""

    scanner: Scanner
    checksum: str


class ScanActor:
    """One actor: reads the index in ``folder`` by ``cores`` threads a call."""

    def __init__(self, folder: str, cores: int):
        strict_mkl()
        self._folder, self._cores = folder, cores
        self._opening = threading.Lock()
        self._opened: tuple[Any, ScanJob, Index] | None = None

    def scan(self, job: list[Any], unit: list[list[Stretch]], look: LookApart | None) -> Block | NaitError:
        """The rows of a ``unit``, ``seen`` being what ``look`` has kept of them. ``job``: a reference to a ``ScanJob``,
        in a list, so that Ray does not fetch it anew for each unit. What is wrong with the index is returned: of what
        an actor raises, Ray keeps text only."""
        blocks = []
        try:
            with hushed():  # whoever asked has said it
                scanner, index = self._open(job[0])
                for block in scanner.blocks(index, look, unit, self._cores):
                    if look is not None:
                        look.add(block.seen)
                    blocks.append(block)
        except NaitError as error:
            return error.replace(note="; ".join(filter(None, [error.note, "on a node of the Ray cluster"])))
        row, n_tokens, scores = (
            np.concatenate([getattr(block, name) for block in blocks]) for name in ("row", "n_tokens", "scores")
        )
        return Block(row, n_tokens, scores, None if look is None else look.kept())

    def _open(self, reference: Any) -> tuple[Scanner, Index]:
        """What the job behind ``reference`` scores with, and the index that it is of."""
        import ray

        with self._opening:
            if self._opened is None or self._opened[0] != reference:
                self._opened = (reference, ray.get(reference), Index(self._folder))
            _, job, index = self._opened
            if index.manifest["checksum"] != job.checksum:
                self._opened = None
                raise Mismatch("is another index than where the command runs", where=self._folder)
            return job.scanner, index


@contextmanager
def scans_on_ray(index: Index, workers: int | None = None, address: str | None = None) -> Iterator[Scan]:
    """What scans ``index``, in a folder that all nodes share, as ``ranking.scan.scan`` does, by ``workers`` actors: by
    default one for each node. ``address``: as of ``ray_cluster.cluster``. Raises NaitError."""
    with cluster(address) as ray:
        number = number_of(workers, ray.nodes(), "cpu")
        cpus = cpus_each(ray.nodes(), number)
        actor = ray.remote(num_cpus=cpus, max_restarts=-1, max_concurrency=_CALLS)(ScanActor)
        actors = [actor.remote(index.origin or str(index.folder.resolve()), cpus) for _ in range(number)]
        try:
            yield partial(_scan, ray, actors)
        finally:
            for actor in actors:
                ray.kill(actor)


def _scan(
    ray: Any,
    actors: Sequence[Any],
    index: Index,
    signatures: Sequence[Signature],
    device: str = "cpu",
    rule: str | None = None,
    look: LookAnywhere | None = None,
) -> Iterator[Block]:
    check_index(index, signatures)
    scanner = Scanner(index, signatures, "cpu", rule)
    job = [ray.put(ScanJob(scanner, index.manifest["checksum"]))]
    return _in_order(ray, actors, index, job, _units(index, scanner), look)


def _units(index: Index, scanner: Scanner) -> Iterator[list[list[Stretch]]]:
    """All parts of the index, in units of consecutive ones."""
    parts = scanner.stream(index).stretches()
    while unit := list(islice(parts, UNIT_PARTS)):
        yield unit


@dataclass(eq=False)
class _Call:
    """One of the calls that an ``actor`` may have at once; none before ``until``, once it has been lost. ``rest``:
    seconds that it gets then to come back, twice as many each time."""

    actor: Any
    until: float = 0.0
    rest: float = field(default_factory=lambda: FIRST_REST)

    def fail(self) -> None:
        self.until, self.rest = time.monotonic() + self.rest, min(2 * self.rest, MOST_REST)


def _in_order(
    ray: Any,
    actors: Sequence[Any],
    index: Index,
    job: list[Any],
    units: Iterator[list[list[Stretch]]],
    look: LookAnywhere | None,
) -> Iterator[Block]:
    """The units' blocks in the order of the rows, whichever actor does them and whenever."""
    calls, first = [_Call(actor) for _ in range(_CALLS) for actor in actors], 0
    rest, lost, tries = enumerate(units), deque[tuple[int, Any]](), Counter[int]()
    running, done = dict[Any, tuple[int, Any, _Call]](), dict[int, Any]()

    def unit_to_do() -> tuple[int, Any] | None:
        if lost:
            return lost.popleft()
        ahead = first + _AHEAD * len(actors)
        return next(rest, None) if first + len(running) + len(done) < ahead else None

    while True:
        now, busy = time.monotonic(), [call for _, _, call in running.values()]
        free = [call for call in calls if call not in busy and call.until <= now]
        for call in free:
            if (some := unit_to_do()) is None:
                break
            number, unit = some
            seen = None if look is None else _apart(index, look, unit)
            running[call.actor.scan.remote(job, unit, seen)] = (number, unit, call)
        if free and not running and not done:
            return
        resting = [call.until - now for call in calls if call.until > now]
        if not running:
            time.sleep(0 if first in done else min(resting))
        else:
            wait = 0 if first in done else min(resting, default=None)
            for scores in ray.wait(list(running), num_returns=1, timeout=wait)[0]:
                number, unit, call = running.pop(scores)
                try:
                    done[number], call.rest = ray.get(scores), FIRST_REST
                except ray.exceptions.RayActorError as error:
                    call.fail()
                    lost.append((number, unit))
                    tries[number] += not isinstance(error, ray.exceptions.ActorUnavailableError)
                    if tries[number] == MOST_TRIES:
                        raise NaitError(cause_of(error), remedy="run the same command again") from None
                except ray.exceptions.RayError as error:
                    raise NaitError(cause_of(error), remedy="run the same command again") from None
        if first in done:
            block = done.pop(first)
            if isinstance(block, NaitError):
                raise block
            first += 1
            yield block


def _apart(index: Index, look: LookAnywhere, unit: Sequence[Sequence[Stretch]]) -> LookApart:
    first, last = index.entries[unit[0][0].number], index.entries[unit[-1][-1].number]
    return look.apart(first.first_row, last.first_row + last.pool_rows)
