"""The work units on a Ray cluster: Ray Data hands their numbers to actors, which write the shards of local workers.

Nothing but numbers and counts travels through Ray: an actor reads its unit from the pool and writes its shard into the
index's folder, which all nodes must share. So a lost actor costs its unit, which Ray gives to another one, and a lost
driver nothing: the same command, with this engine or another, goes on from the shards that are there.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from nait_fast.data.loader import Window, load_unit, tokenizer_threads
from nait_fast.env import keep_freed_memory, strict_mkl
from nait_fast.errors import NaitError, missing_extra, one_line
from nait_fast.extract.index_folder import MOST_TRIES
from nait_fast.storage.names import WORK
from nait_fast.terminal import printable
from nait_fast.workers.claims import TOUCH_SECONDS, Claims
from nait_fast.workers.events import Events
from nait_fast.workers.function_names import name_of, named
from nait_fast.workers.ray_cluster import cause_of, cluster, cpus_each, gpus_of, number_of
from nait_fast.workers.stop_switch import Stopped
from nait_fast.workers.worker import Worker, finish_index, reason_of, silence_libraries

FINISH = -1  # in place of a unit's number: write the manifest once all units are done
MOST_BLOCKS = 10_000  # of units that Ray keeps account of; beyond that a block is several units, done one by one
_CALLS = 3  # at once in an actor: one unit is loaded and one written while the model runs over another
_POLL_SECONDS = 0.1


class UnitActor:
    """One actor: the model, loaded once. Called with numbers of units by Ray Data, in ``_CALLS`` threads.

    ``opens``: the name (``name_of``) of what makes the build: ``open_build(options, worker, quiet, stack)``.
    """

    def __init__(self, opens: str, options: dict[str, Any], world: int, started: float):
        self._refused = ""
        try:
            self._open(opens, options, world, started)
        except NaitError as error:  # handed out with the first unit: of what an actor raises here, Ray keeps text only
            self._refused = one_line(error)

    def _open(self, opens: str, options: dict[str, Any], world: int, started: float) -> None:
        import ray

        strict_mkl()
        silence_libraries()
        name = f"actor {str(ray.get_runtime_context().get_actor_id())[:8]}"
        with ExitStack() as stack:  # the driver has the folder for as long as its actors live
            build, directions = named(opens)(options, Worker(0, world), True, stack)
        build.prepare(directions)
        keep_freed_memory(build.session.model.device)
        self._build, self._folder = build, build.folder
        self._events = Events(self._folder.path, name)
        done = self._folder.is_settled
        self._claims = Claims(self._folder.path / WORK, self._folder.todo, done, name, since=started)
        self._reader = build.pool.reader()
        self._tokenizer = tokenizer_threads()
        self._loading, self._running = threading.Lock(), threading.Lock()
        self._touched = 0.0
        device = str(build.session.model.device)
        self._events.add("begin", rows=build.pool.plan().rows, units=len(self._folder.todo), device=device)

    def __call__(self, batch: Mapping[str, Sequence[int]]) -> dict[str, list[Any]]:
        """``batch["unit"]``: numbers within the pool; returns them with what went wrong ('' if nothing did), whether
        the index is complete, and why this actor can do nothing at all ('' if it can)."""
        units = [int(unit) for unit in batch["unit"]]
        if self._refused:
            n = len(units)
            return {"unit": units, "error": [""] * n, "complete": [False] * n, "refused": [self._refused] * n}
        done = [
            self._end() if unit == FINISH else (self._unit(self._folder.first_unit + unit), False) for unit in units
        ]
        return {
            "unit": units,
            "error": [error for error, _ in done],
            "complete": [complete for _, complete in done],
            "refused": [""] * len(units),
        }

    def _end(self) -> tuple[str, bool]:
        """(what went wrong, whether the index is complete)."""
        try:
            return "", self._finish()
        except NaitError as error:
            return f"{self._claims.worker}: {one_line(error)}", False

    def _unit(self, number: int) -> str:
        try:
            # Of a repair, only the damaged ones are to do.
            if number in self._folder.todo and not self._folder.is_settled(number):
                with self._loading:
                    window = self._load(number)
                self._run_and_write(number, window)
        except Exception as error:
            if self._folder.is_swept:
                return ""  # what failed was only to tell it to others
            why = reason_of(error)
            self._claims.fail(number, why)  # for the one that waits in _finish
            self._events.add("failed", unit=number, error=why)
            return f"{self._claims.worker}: {' '.join(why.splitlines())}"
        return ""

    def _load(self, number: int) -> Window:
        build, unit = self._build, self._build.unit(number)
        return load_unit(
            build.pool, self._reader.unit(unit), unit, build.format, build.session.encoder, self._tokenizer
        )

    def _run_and_write(self, number: int, window: Window) -> None:
        def on_batch(samples: int, tokens: int) -> None:
            if time.monotonic() - self._touched > TOUCH_SECONDS:
                self._touched = time.monotonic()
                self._claims.touch(number)

        try:
            with self._running:
                started = time.perf_counter()
                self._claims.hold(number)
                unit = self._build.run_unit(window, on_batch)
                ran, padding = time.perf_counter(), self._build.session.padding
            self._claims.touch(number)
            counts = self._build.write_unit(unit)
        finally:
            self._claims.leave(number)
        self._events.add(
            "unit",
            unit=number,
            **counts,
            padding=round(padding, 4),
            seconds=round(ran - started, 3),
            write_seconds=round(time.perf_counter() - ran, 3),
        )

    def _finish(self) -> bool:
        """Wait for all units, wherever they are done, and write the manifest; whether it is there."""
        waiting = list(self._folder.todo)
        while waiting := [number for number in waiting if not self._folder.is_settled(number)]:
            if any(self._claims.failure(number) is not None for number in waiting):
                return False  # the unit's own result says why
            time.sleep(_POLL_SECONDS)
        with self._running:
            return finish_index(self._build, self._events) is not None


def run_on_ray(
    open_build: Callable[..., Any],
    options: dict[str, Any],
    units: int,
    *,
    device: str,
    where: str,
    workers: int | None = None,
    address: str | None = None,
    watch: Callable[[], None] = lambda: None,
) -> int:
    """Do ``units`` units of what ``open_build`` makes of ``options`` by ``workers`` actors; returns their number.
    ``device``: of the model; ``where``: the flag of the index's folder.

    ``workers``: by default one for each GPU of the cluster, without any one for each node. ``address``: of a running
    cluster; without one that of RAY_ADDRESS, else a Ray of this machine's own. The first failure is told on stderr at
    once, while the others go on. Raises NaitError, and Stopped at Ctrl-C.
    """
    with cluster(address) as ray, _without_bars():
        number = number_of(workers, ray.nodes(), device)
        failures: list[str] = []
        complete = False
        try:
            for _ in range(1 + MOST_TRIES):  # once, unless shards of an earlier run prove damaged at the end
                if failures:
                    break
                for row in _results(ray, name_of(open_build), options, units, number, device):
                    watch()
                    if row["refused"]:
                        failures.append(row["refused"])
                        break
                    complete |= row["complete"]
                    if row["error"]:
                        failures.append(row["error"])
                        print(printable(f"nait-fast: {failures[-1]}; the others go on"), file=sys.stderr)
                if complete:
                    return number
        except ray.exceptions.RayError as error:
            failures.append(cause_of(error))
        except KeyboardInterrupt:
            raise Stopped("stopped; units under way are lost, the same command goes on from there") from None
    if not failures:
        failures.append(f"{where}: shards prove missing or damaged each time they are made; check the disk")
    raise NaitError(failures[0], remedy="the same command goes on where it stopped")


@contextmanager
def _without_bars() -> Iterator[None]:
    """Ray Data's own bars are off inside the block."""
    try:
        from ray.data import DataContext
    except ImportError:
        raise missing_extra("ray", "ray", "needs Ray Data", "--engine ray") from None
    context = DataContext.get_current()
    before, context.enable_progress_bars = context.enable_progress_bars, False
    try:
        yield
    finally:
        context.enable_progress_bars = before


def _results(
    ray: Any, opens: str, options: dict[str, Any], units: int, number: int, device: str
) -> Iterator[dict[str, Any]]:
    gpus, cpus = 1 if gpus_of(ray.nodes(), device) else 0, cpus_each(ray.nodes(), number)
    items = [{"unit": unit} for unit in [*range(units), FINISH]]
    pool = ray.data.ActorPoolStrategy(
        size=number,
        max_tasks_in_flight_per_actor=_CALLS + 1,
        max_concurrent_calls_per_actor=_CALLS,
        enable_true_multi_threading=True,
    )
    done = ray.data.from_items(items, override_num_blocks=min(len(items), MOST_BLOCKS)).map_batches(
        UnitActor,
        batch_size=1,
        compute=pool,
        num_cpus=cpus,
        num_gpus=gpus,
        fn_constructor_args=(opens, options, number, time.time()),
    )
    yield from done.iter_rows()
