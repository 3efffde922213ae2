"""What ``ray_scan`` asks of Ray, in this process: whatever goes to an actor or comes from one is pickled, arrays arrive
read-only, and calls end in any order."""

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
import ray
import ray.exceptions
from ray import cloudpickle

from nait_fast.index.reader import Index
from nait_fast.verbs import rank
from nait_fast.workers import ray_scan


def travelled(value: Any) -> Any:
    """``value`` as another process gets it."""
    buffers: list[Any] = []
    data = cloudpickle.dumps(value, protocol=5, buffer_callback=buffers.append)
    return cloudpickle.loads(data, buffers=[bytes(buffer.raw()) for buffer in buffers])


@dataclass(frozen=True)
class Reference:
    number: int


class FakeRay:
    """Calls are made when somebody waits for them, a random one of those that wait. Up to ``lost`` calls end, each by
    this ``chance``, with the actor's death; the one that comes in its place knows nothing. ``units``: how many calls
    there were."""

    exceptions = ray.exceptions

    def __init__(self, folder: str, actors: int, seed: int, lost: int = 0, chance: float = 0.3):
        self._values: dict[Reference, Any] = {}
        self._calls: dict[Reference, Callable[[], Any]] = {}
        self._random, self.folder, self.lost, self._chance = random.Random(seed), folder, lost, chance
        self.units = 0
        self.actors = [_Actor(self) for _ in range(actors)]

    def put(self, value: Any) -> Reference:
        reference = Reference(len(self._values) + len(self._calls))
        self._values[reference] = travelled(value)
        return reference

    def get(self, reference: Reference) -> Any:
        if isinstance(value := self._values[reference], ray.exceptions.RayError):
            raise value
        return value

    def wait(
        self, references: Sequence[Reference], num_returns: int, timeout: float | None
    ) -> tuple[list[Reference], list[Reference]]:
        done = [one for one in references if one in self._values]
        if not done and timeout is None:
            done = [self._random.choice(references)]
            self._values[done[0]] = travelled(self._calls.pop(done[0])())
        return done[:num_returns], [one for one in references if one not in done[:num_returns]]

    def call(self, actor: "_Actor", *given: Any) -> Reference:
        reference = Reference(len(self._values) + len(self._calls))
        sent, self.units = travelled(given), self.units + 1

        def made() -> Any:
            if self.lost and self._random.random() < self._chance:
                self.lost -= 1
                actor.process = ray_scan.ScanActor(self.folder, 1)
                return ray.exceptions.RayActorError()
            return actor.process.scan(*sent)

        self._calls[reference] = made
        return reference


class _Actor:
    def __init__(self, owner: FakeRay):
        self.process = ray_scan.ScanActor(owner.folder, 1)
        self.scan = self
        self._owner = owner

    def remote(self, *given: Any) -> Reference:
        return self._owner.call(self, *given)


def scanning_by(
    made: list[FakeRay],
    patch: pytest.MonkeyPatch,
    actors: int,
    seed: int,
    lost: int = 0,
    chance: float = 0.3,
    verb: Any = rank,
) -> None:
    """The ``verb`` scans by a ``FakeRay``, which is appended to ``made``."""

    @contextmanager
    def scanning_of(options: Any, index: Index) -> Iterator[Any]:
        made.append(FakeRay(str(index.folder), actors, seed, lost, chance))
        patch.setattr("ray.get", made[-1].get)
        yield lambda *given: ray_scan._scan(made[-1], made[-1].actors, *given)

    patch.setattr(ray_scan, "FIRST_REST", 0.001)
    patch.setattr(ray_scan, "MOST_REST", 0.002)
    patch.setattr(verb, "scanning_of", scanning_of)
