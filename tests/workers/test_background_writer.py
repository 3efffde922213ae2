"""A unit is written while the next one runs; it is done once it is on disk, and a kill, a stop or a failure meanwhile
loses nothing."""

import json
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest

import nait_fast
from nait_fast.errors import NaitError
from nait_fast.extract import indexing, sinks
from nait_fast.index.writer import IndexWriter
from nait_fast.stages import counted_stages
from nait_fast.storage.lock import Lock, is_held
from nait_fast.workers.background_writer import BackgroundWriter
from tests.conftest import make_rows, write_jsonl
from tests.index.bits import digest
from tests.workers import runs
from tests.workers.test_workers import events

SECONDS = 60  # until a test that hangs gives up


@pytest.fixture(scope="module")
def options(tmp_path_factory, tiny_model: str) -> dict[str, Any]:
    pool = write_jsonl(tmp_path_factory.mktemp("pool") / "pool.jsonl", make_rows(24))
    return {"model": tiny_model, "dataset": str(pool), "shard_rows": 4, "calibration_size": 8, "device": "cpu"}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, options) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("undisturbed")
    nait_fast.build_index(output=folder, **options)
    return digest(folder)


def units(folder: Path) -> list[int]:
    """Those that an event calls done."""
    return [e["unit"] for e in events(folder) if e["event"] == "unit"]


def notes(folder: Path) -> int:
    return len(list((folder / "work").glob("shard-*.json")))


def test_one_thing_at_a_time_and_each_failure_once() -> None:
    writer, may_end, written = BackgroundWriter(), threading.Event(), []

    def slow() -> None:
        assert may_end.wait(SECONDS)
        written.append(0)

    writer.put(0, slow)
    writer.check()
    assert not written
    threading.Timer(0.05, may_end.set).start()
    with counted_stages() as seconds:
        writer.put(1, lambda: written.append(1))  # waits for the one before
    assert written[:1] == [0] and seconds["write_wait"] > 0.02
    writer.wait()
    assert written == [0, 1] and writer.failed is None
    for ask in (writer.check, writer.wait, lambda: writer.put(3, lambda: None)):
        writer.put(2, lambda: 1 / 0)
        time.sleep(0.05)
        with pytest.raises(ZeroDivisionError):
            ask()
        assert writer.failed == 2
        writer.check()
    writer.put(4, lambda: (time.sleep(0.05), written.append(4)))
    writer.close()
    assert written[-1] == 4
    writer.put(5, lambda: 1 / 0)
    writer.close()  # whoever closes has been told something else


def test_the_next_unit_runs_while_one_is_written(tmp_path: Path, options, undisturbed, monkeypatch) -> None:
    run, write, next_runs = indexing.IndexBuild.run_unit, IndexWriter.write_shard, threading.Event()
    at_once: list[int] = []
    threads = set()

    def running(self, window, on_batch=None):
        if window.unit.number == 1:
            assert units(tmp_path) == [] and notes(tmp_path) == 0
            assert is_held(tmp_path / "work" / "unit-00000.lock")
            next_runs.set()
        at_once.append(window.unit.number - notes(tmp_path))
        return run(self, window, on_batch)

    def writing(self, number, *arguments):
        threads.add(threading.current_thread())
        assert number or next_runs.wait(SECONDS)  # else it would wait here for ever
        write(self, number, *arguments)

    monkeypatch.setattr(indexing.IndexBuild, "run_unit", running)
    monkeypatch.setattr(IndexWriter, "write_shard", writing)
    nait_fast.build_index(output=tmp_path, **options)
    assert next_runs.is_set() and threading.main_thread() not in threads and len(threads) == 1
    assert units(tmp_path) == [0, 1, 2, 3, 4, 5] and max(at_once) <= 1  # no more than one waits to be written
    assert digest(tmp_path) == undisturbed


class LateOutbox:
    """As of a device whose results are not home before they are waited for."""

    threads: list[threading.Thread]

    def __init__(self, depth: int = 2):
        self._pending: list[Any] = []

    def send(self, tensors, receive) -> None:
        self._pending.append((receive, [x.clone().numpy() for x in tensors]))

    def flush(self) -> None:
        for receive, arrays in self._pending:
            self.threads.append(threading.current_thread())
            receive(arrays)
        self._pending = []


@pytest.mark.parametrize("more", [{}, {"embed": "last,rds", "nll": "ifd"}])
def test_nobody_waits_for_the_device_but_the_writer(tmp_path: Path, options, monkeypatch, more) -> None:
    nait_fast.build_index(output=tmp_path / "whole", **options, **more)
    LateOutbox.threads = []
    monkeypatch.setattr(sinks, "Outbox", LateOutbox)
    run = indexing.IndexBuild.run_unit

    def running(self, window, on_batch=None):
        before = LateOutbox.threads.count(threading.main_thread())
        unit = run(self, window, on_batch)
        assert LateOutbox.threads.count(threading.main_thread()) == before
        assert not unit.sink.finite.any()  # nothing is home yet
        return unit

    monkeypatch.setattr(indexing.IndexBuild, "run_unit", running)
    nait_fast.build_index(output=tmp_path / "late", **options, **more)
    assert digest(tmp_path / "late") == digest(tmp_path / "whole")


@pytest.mark.parametrize("unit", [1, 5])
def test_a_failure_is_told_though_others_hold_the_rest(
    tmp_path: Path, options, undisturbed, monkeypatch, unit: int
) -> None:
    """Another worker holds unit 3, and may itself wait for the one whose writing fails here."""
    write = IndexWriter.write_shard

    def failing(self, number, *arguments):
        if number == unit:
            raise NaitError("no room", where=self.folder)
        write(self, number, *arguments)

    prepare = indexing.IndexBuild.prepare
    other = Lock(tmp_path / "work" / "unit-00003.lock")

    def preparing(self, *arguments):
        prepare(self, *arguments)
        assert other.acquire(json.dumps({"worker": "other", "pid": 1, "state": "running"}))

    with monkeypatch.context() as patch:
        patch.setattr(IndexWriter, "write_shard", failing)
        patch.setattr(indexing.IndexBuild, "prepare", preparing)
        started = time.monotonic()
        with pytest.raises(NaitError, match="no room"):
            nait_fast.build_index(output=tmp_path, **options)
        assert time.monotonic() - started < SECONDS
    other.release()
    (failed,) = [e for e in events(tmp_path) if e["event"] == "failed"]
    assert failed["unit"] == unit and unit not in units(tmp_path)
    assert json.loads((tmp_path / "work" / f"unit-{unit:05d}.failed").read_text())["error"].endswith("no room")
    assert not is_held(tmp_path / "work" / f"unit-{unit:05d}.lock")
    nait_fast.build_index(output=tmp_path, **options)
    assert digest(tmp_path) == undisturbed


def test_a_failing_run_waits_for_the_writing_before(tmp_path: Path, options, undisturbed, monkeypatch) -> None:
    run, write = indexing.IndexBuild.run_unit, IndexWriter.write_shard
    ran = threading.Event()

    def running(self, window, on_batch=None):
        if window.unit.number == 2:
            ran.set()
            raise ZeroDivisionError
        return run(self, window, on_batch)

    def writing(self, number, *arguments):
        if number == 1:
            assert ran.wait(SECONDS)
            time.sleep(0.1)
        write(self, number, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(indexing.IndexBuild, "run_unit", running)
        patch.setattr(IndexWriter, "write_shard", writing)
        with pytest.raises(ZeroDivisionError):
            nait_fast.build_index(output=tmp_path, **options)
    assert notes(tmp_path) == 2 and units(tmp_path) == [0, 1]
    assert [e["unit"] for e in events(tmp_path) if e["event"] == "failed"] == [2]
    nait_fast.build_index(output=tmp_path, **options)
    assert digest(tmp_path) == undisturbed


@pytest.fixture(scope="module")
def context() -> Any:
    return runs.server()


def wait_for(path: Path) -> None:
    for _ in range(100 * SECONDS):
        if path.exists():
            return
        time.sleep(0.01)
    raise AssertionError(f"{path} does not come")


@pytest.mark.slow
@pytest.mark.parametrize("where", runs.PAUSES)
def test_killed_within_a_writing_in_the_background(tmp_path: Path, context, options, undisturbed, where: str) -> None:
    """The next unit has run by then; both are done again, those before are not."""
    folder = tmp_path / "index"
    process = runs.start(context, runs.paused, {**options, "output": str(folder)}, where, str(tmp_path), SECONDS)
    wait_for(tmp_path / "paused")
    wait_for(tmp_path / "ran")
    assert units(folder) == [0, 1] and is_held(folder / "work" / "unit-00002.lock")
    process.kill()
    process.join()
    assert notes(folder) == 2 + (where == "behind the note") and not (folder / "manifest.json").exists()
    nait_fast.build_index(output=folder, **options)
    assert digest(folder) == undisturbed


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_waits_for_the_writing_in_hand(
    tmp_path: Path, context, options, undisturbed, number: signal.Signals
) -> None:
    folder = tmp_path / "index"
    given = {**options, "output": str(folder)}
    process = runs.start(context, runs.paused, given, "in the shard", str(tmp_path), 1.0)
    wait_for(tmp_path / "paused")
    assert process.pid is not None
    os.kill(process.pid, number)
    process.join(SECONDS)
    done = notes(folder)
    assert done in (3, 4)  # the next unit's shard, too, where that had run by then
    assert (tmp_path / "stopped").read_text().startswith(f"stopped with {done} of 6 shards written")
    assert units(folder) == list(range(done)) and events(folder)[-1]["event"] == "stopped"
    nait_fast.build_index(output=folder, **options)
    assert digest(folder) == undisturbed and sorted(units(folder)) == [0, 1, 2, 3, 4, 5]
