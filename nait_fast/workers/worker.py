"""One worker: takes units of the pool as long as there are any, and finishes the index if it is the last."""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from nait_fast.data.loader import Loader, Window
from nait_fast.data.plan import Unit
from nait_fast.env import WORKERS
from nait_fast.errors import BadInput, NaitError
from nait_fast.extract.indexing import Directions, IndexBuild, RunUnit
from nait_fast.progress import Progress
from nait_fast.stages import stage
from nait_fast.storage.names import WORK
from nait_fast.workers.background_writer import BackgroundWriter
from nait_fast.workers.claims import TOUCH_SECONDS, Claims
from nait_fast.workers.events import Events
from nait_fast.workers.stop_switch import Stopped, StopSwitch


@dataclass(frozen=True)
class Worker:
    """rank of world workers; local_rank: which GPU of its machine it takes; parent: the process that started it;
    started: when the run began, in seconds since 1970 (what failed before may be tried again)."""

    rank: int = 0
    world: int = 1
    local_rank: int = 0
    parent: int | None = None
    started: float = field(default_factory=time.time, compare=False)

    @property
    def name(self) -> str:
        return f"worker {self.rank}"


def worker_of(environment: Mapping[str, str] = os.environ) -> Worker:
    """The worker that this process is by RANK and WORLD_SIZE (torchrun) or Slurm's variables; else the only one.

    They need not talk to each other, nor all be there: the units of one that is missing are done by the others.
    """
    for rank, world, local in WORKERS:
        if environment.get(world, "1") == "1" or rank not in environment:
            continue
        try:
            number, count = int(environment[rank]), int(environment[world])
            place = int(environment.get(local, 0)) if local else 0
            if number < 0 or place < 0 or (rank == "RANK" and number >= count):  # an array's numbers may begin anywhere
                raise ValueError
        except ValueError:
            variables = ", ".join(f"{name}={environment[name]}" for name in (rank, world, local) if name in environment)
            raise BadInput("must be whole numbers, a rank below the number of workers", where=variables) from None
        return Worker(number, count, place)
    return Worker()


def device_of(device: str, worker: Worker) -> str:
    """`auto` and `cuda` become the worker's own GPU, where there is one."""
    if device not in ("auto", "cuda") or worker.world == 1:
        return device
    import torch

    return f"cuda:{worker.local_rank % torch.cuda.device_count()}" if torch.cuda.is_available() else device


def silence_libraries() -> None:
    """Bars and warnings of libraries, of several processes at once, would hide what is said of the run."""
    os.environ.setdefault("TQDM_DISABLE", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")


def index_pool(build: IndexBuild, directions: Directions | None = None, worker: Worker | None = None) -> dict[str, Any]:
    """Index the pool of `build`, together with whatever other workers are at it; returns the manifest.

    Raises NaitError at the first failure of this worker, or, with its own work done, for that of another one; Stopped
    after a SIGINT or SIGTERM.
    """
    worker = worker or Worker()
    with StopSwitch(worker.parent) as stop:
        run = _Run(build, worker, stop)
        with stage("calibrate"):
            build.prepare(directions, lambda samples, tokens: run.check_stop())
        with _model_out_of_gc(), stage("pass"):
            return run.run()


@stage("finish")
def finish_index(build: IndexBuild, events: Events) -> dict[str, Any] | None:
    """The manifest, as ``IndexBuild.finish`` gives it, with the event of it."""
    manifest = build.finish()
    if manifest is None:
        events.add("damaged", reason="shards of an earlier run have changed; they are done again")
    else:
        events.add("end", rows=manifest["rows"], skipped=manifest["skipped"]["rows"], tokens=manifest["tokens"])
    return manifest


def reason_of(error: Exception) -> str:
    """What is noted of a unit that failed."""
    return str(error) if isinstance(error, NaitError) else f"{type(error).__name__}: {error}"


@contextmanager
def _model_out_of_gc() -> Iterator[None]:
    """A full garbage collection walks all of torch, transformers and the vocabulary, 0.2 s with the GIL held, and the
    loader's objects bring one about every few thousand rows: what is there now is left out of it."""
    if gc.get_freeze_count():  # whoever has done it already shall keep it
        yield
        return
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


class _Run:
    def __init__(self, build: IndexBuild, worker: Worker, stop: StopSwitch):
        self.build, self.worker, self.stop = build, worker, stop
        self.folder = build.folder
        self.events = Events(self.folder.path, worker.name)
        self._touched = 0.0
        self._writer = BackgroundWriter()

    def run(self) -> dict[str, Any]:
        build, folder = self.build, self.folder
        if folder.complete and not folder.todo:
            manifest = folder.finish({})
            assert manifest is not None
            return manifest
        plan = build.pool.plan()
        self.events.add("begin", rows=plan.rows, units=len(folder.todo), device=str(build.session.model.device))
        rows = sum(build.unit(n).rows for n in folder.todo if not folder.is_settled(n))
        # What calibration has run is not run again.
        expected = max(0.0, build.mean_tokens * rows - build.tokens)
        self.progress = Progress(rows, "index", build.session.quiet, expected)
        try:
            while True:
                self.check_stop()
                self._units()
                if not all(map(folder.is_settled, folder.todo)):
                    continue  # one that another worker had taken from this one, and then left
                if (manifest := finish_index(build, self.events)) is not None:
                    return manifest
        finally:
            build.count(self.progress)

    def _units(self) -> None:
        """Do units until there are none left."""
        build, todo = self.build, self.folder.todo
        first = self.worker.rank * len(todo) // max(1, self.worker.world)
        done = self.folder.is_settled
        claims = Claims(self.folder.path / WORK, todo, done, self.worker.name, first, self.worker.started)

        def next_unit() -> Unit | None:
            number = claims.next()
            return None if number is None else build.unit(number)

        loader, writer = Loader(build.pool, build.format, build.session.encoder, next_unit), self._writer
        number: int | None = None
        try:
            for window in loader:
                writer.check()
                number = self.folder.first_unit + window.unit.number
                if claims.begin(number):
                    self._unit(claims, number, window)
                self.check_stop()
            writer.wait()
        except Exception as error:
            if loader.failed and loader.loading:
                number = self.folder.first_unit + loader.loading.number
            elif writer.failed is not None:
                number = writer.failed
            if not loader.failed and self.folder.is_swept:
                return  # by another worker
            why = reason_of(error)
            if number is not None:
                claims.fail(number, why)
            self.events.add("failed", unit=number, error=why)
            raise
        finally:
            claims.stop()
            loader.close()
            writer.close()
            claims.close()
        if (failure := claims.first_failure()) is not None:
            raise NaitError(
                f"not finished: {failure}",
                where=self.folder.path,
                remedy="all other shards are there, the same command goes on",
            )

    def _unit(self, claims: Claims, number: int, window: Window) -> None:
        started = time.perf_counter()

        def on_batch(samples: int, tokens: int) -> None:
            self.progress.padding = self.build.session.padding
            self.progress.add(samples, tokens)
            if time.monotonic() - self._touched > TOUCH_SECONDS:
                self._touched = time.monotonic()
                claims.touch(number)
            self._writer.check()
            self.check_stop()

        unit = self.build.run_unit(window, on_batch)
        seconds, padding = time.perf_counter() - started, self.build.session.padding
        self._writer.put(number, lambda: self._write(claims, number, unit, seconds, padding))

    def _write(self, claims: Claims, number: int, unit: RunUnit, seconds: float, padding: float) -> None:
        """In the writer's thread: only once the shard and its note are on disk the unit is done, and ours no more."""
        started = time.perf_counter()
        claims.touch(number)
        try:
            counts = self.build.write_unit(unit)
        except BaseException:
            claims.stop()  # the loader may wait for another worker's units, and that one for this
            raise
        self.progress.add(counts["skipped"], 0, skipped=counts["skipped"])
        self.events.add(
            "unit",
            unit=number,
            **counts,
            padding=round(padding, 4),
            seconds=round(seconds, 3),
            write_seconds=round(time.perf_counter() - started, 3),
        )
        claims.leave(number)

    def check_stop(self) -> None:
        if self.stop.asked:
            self._writer.wait()
            done = sum(map(self.folder.is_settled, self.folder.todo))
            self.events.add("stopped", units_done=done)
            raise Stopped(
                f"stopped with {done} of {len(self.folder.todo)} shards written; the same command goes on from there"
            )
