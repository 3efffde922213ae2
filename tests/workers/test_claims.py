"""Units and their locks: each goes to one worker, a dead one's is free, nobody waits for a slow one."""

import gc
import json
import os
import signal
import threading
import time
from pathlib import Path

import pytest

from nait_fast.data.pool import Pool
from nait_fast.errors import NaitError
from nait_fast.storage.lock import Lock
from nait_fast.storage.names import LOCK
from nait_fast.workers import claims as module
from nait_fast.workers.claims import Claims
from nait_fast.workers.local import default_workers
from nait_fast.workers.stop_switch import StopSwitch
from nait_fast.workers.watch import Watch
from nait_fast.workers.worker import Worker, _model_out_of_gc, device_of, worker_of
from tests.workers import runs


class Work:
    """Workers on one folder; a unit's note is a file."""

    def __init__(self, folder: Path, units: int):
        self.folder, self.units = folder, range(units)

    def worker(self, name: str, first: int = 0) -> Claims:
        return Claims(self.folder, self.units, self.is_done, name, first)

    def is_done(self, unit: int) -> bool:
        return (self.folder / f"{unit}.done").exists()

    def do(self, claims: Claims, unit: int) -> None:
        assert claims.begin(unit)
        (self.folder / f"{unit}.done").touch()
        claims.leave(unit)


@pytest.fixture
def work(tmp_path: Path) -> Work:
    return Work(tmp_path, 5)


def test_one_worker_takes_all_in_order(work: Work) -> None:
    claims = work.worker("a")
    for expected in range(5):
        assert claims.next() == expected
        work.do(claims, expected)
    assert claims.next() is None


def test_two_workers_share_and_begin_apart(work: Work) -> None:
    a, b = work.worker("a"), work.worker("b", first=3)
    assert (a.next(), b.next()) == (0, 3)
    assert (a.next(), b.next()) == (1, 4)
    for claims, unit in ((a, 0), (b, 3), (a, 1), (b, 4)):
        work.do(claims, unit)
    assert b.next() == 2
    work.do(b, 2)
    assert a.next() is None and b.next() is None


def test_units_done_before_are_not_taken(work: Work) -> None:
    for unit in (0, 2, 4):
        (work.folder / f"{unit}.done").touch()
    claims = work.worker("a", first=2)
    assert (claims.next(), claims.next(), claims.next()) == (3, 1, None)


def test_a_unit_not_begun_is_done_by_who_has_nothing_else(work: Work) -> None:
    a, b = work.worker("a"), work.worker("b")
    assert [a.next(), a.next()] == [0, 1]
    assert a.begin(0)
    assert [b.next() for _ in range(4)] == [2, 3, 4, 1]  # 1 waits in a's queue; 0 runs there
    assert not a.begin(1)  # b is at it
    for unit in (2, 3, 4, 1):
        work.do(b, unit)
    work.do(a, 0)
    assert a.next() is None and b.next() is None


def at_the_last(work: Work) -> tuple[Claims, Claims, list[int | None], threading.Thread]:
    """Worker a does the last unit, worker b waits for one in a thread, which notes what b gets."""
    a, b = work.worker("a"), work.worker("b")
    for unit in range(4):
        (work.folder / f"{unit}.done").touch()
    assert a.next() == 4 and a.begin(4)
    taken: list[int | None] = []
    thread = threading.Thread(target=lambda: taken.append(b.next()))
    thread.start()
    return a, b, taken, thread


def test_a_worker_that_stands_still_is_overtaken(work: Work) -> None:
    a, b, taken, thread = at_the_last(work)
    time.sleep(0.3)
    assert not taken  # a is at work
    path = work.folder / "unit-00004.lock"
    os.utime(path, (0, time.time() - module.LEASE_SECONDS - 1))
    thread.join(5)
    assert taken == [4]
    work.do(b, 4)
    a.touch(4)
    a.leave(4)
    assert a.next() is None


def test_progress_keeps_a_unit(work: Work, monkeypatch) -> None:
    monkeypatch.setattr(module, "LEASE_SECONDS", 1.5)
    a, _, taken, thread = at_the_last(work)
    for _ in range(25):
        a.touch(4)
        time.sleep(0.1)
    assert not taken
    work.do(a, 4)
    thread.join(5)
    assert taken == [None]


def test_what_is_there_is_out_of_garbage_collection_for_a_pass() -> None:
    frozen = gc.get_freeze_count()  # by conftest.py: left as it is
    with _model_out_of_gc():
        assert gc.get_freeze_count() == frozen > 0
    gc.unfreeze()
    try:
        with pytest.raises(ZeroDivisionError), _model_out_of_gc():
            assert gc.get_freeze_count() > 0
            _ = 1 / 0
        assert gc.get_freeze_count() == 0
    finally:
        gc.freeze()


def test_a_file_that_cannot_be_touched_ends_nothing(work: Work, monkeypatch) -> None:
    def stale(*arguments: object) -> None:
        raise OSError(116, "Stale file handle")

    claims = work.worker("a")
    assert claims.next() == 0
    monkeypatch.setattr(os, "utime", stale)
    claims.touch(0)
    claims.leave(0)


def test_a_dead_process_gives_its_units_back(work: Work) -> None:
    context = runs.server()
    process = context.Process(target=_hold, args=(str(work.folder),))
    process.start()
    while not (work.folder / "held").exists():
        time.sleep(0.01)
    lock = Lock(work.folder / "unit-00000.lock")
    assert not lock.acquire()
    process.kill()
    process.join()
    assert lock.acquire()
    lock.release()
    assert work.worker("b").next() == 0


def _hold(folder: str) -> None:
    work = Work(Path(folder), 5)
    assert work.worker("dead").next() == 0
    (work.folder / "held").touch()
    time.sleep(60)


def test_a_failed_unit_is_left_alone_in_this_run_only(work: Work) -> None:
    a, b = work.worker("a"), work.worker("b", first=1)
    unit = a.next()
    assert unit == 0
    a.fail(0, "row 3: bad")
    a.close()
    for _ in range(4):
        taken = b.next()
        assert taken is not None and taken != 0
        work.do(b, taken)
    assert b.next() is None and b.first_failure() == "a: row 3: bad"
    time.sleep(0.01)
    again = work.worker("c")
    assert again.next() == 0 and again.first_failure() is None
    (work.folder / "unit-00000.failed").write_text("[")
    assert again.first_failure() is None


def test_a_failure_of_this_run_holds_for_a_worker_that_starts_late(work: Work) -> None:
    began = time.time()
    a = work.worker("a")
    assert a.next() == 0
    a.fail(0, "row 3: bad")
    a.close()
    time.sleep(0.01)
    late = Claims(work.folder, work.units, work.is_done, "late", since=began)
    assert [late.next() for _ in range(4)] == [1, 2, 3, 4]
    late.close()
    assert late.first_failure() == "a: row 3: bad"


def test_a_unit_that_is_done_again_is_not_handed_out(work: Work) -> None:
    for unit in range(4):
        (work.folder / f"{unit}.done").touch()
    again = Lock(work.folder / "unit-00004.again")
    assert again.acquire()
    a = work.worker("a")
    taken: list[int | None] = []
    thread = threading.Thread(target=lambda: taken.append(a.next()))
    thread.start()
    time.sleep(0.3)
    assert not taken
    again.release()
    thread.join(5)
    assert taken == [4]


def test_a_lock_that_cannot_be_opened_is_told(work: Work) -> None:
    (work.folder / "unit-00000.lock").symlink_to(work.folder / "unit-00000.lock")
    with pytest.raises(NaitError, match=r"unit-00000\.lock: cannot be opened"):
        work.worker("a").next()


def test_waiting_for_a_lock_can_be_given_up(work: Work) -> None:
    held = Lock(work.folder / LOCK)
    assert held.acquire()
    asked: list[int] = []

    def on_wait() -> None:
        asked.append(1)
        if len(asked) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), Lock(work.folder / LOCK, on_wait):
        pass
    held.release()
    with Lock(work.folder / LOCK, on_wait):
        assert len(asked) == 3
    with pytest.raises(NaitError, match="gone: the folder is gone"), Lock(work.folder / "gone" / LOCK, on_wait):
        pass


def test_a_broken_line_of_events_stops_nobody(work: Work) -> None:
    pool = Pool(runs.make_pool(work.folder / "pool.jsonl", 20), unit_rows=4)
    with Watch(work.folder, pool.plan(), True) as watch:
        events = work.folder / "events.jsonl"
        events.write_text('{"event": "unit", "rows": 4, "skipped": 0, "tokens": 9}\n{"event": "unit", "ro\n[1]\n{}\n')
        watch.look()
        with open(events, "a") as file:
            file.write('{"event": "unit", "rows": 2, "skipped": 2, "tokens": 5}\n{"event"')
    assert watch.summary()["tokens_served"] == 14


def test_a_signal_that_is_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with StopSwitch() as stop:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.05)
            assert not stop.asked
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_closing_ends_a_wait(work: Work) -> None:
    _, b, _, thread = at_the_last(work)
    b.close()
    thread.join(5)
    assert not thread.is_alive()


def test_many_workers_do_each_unit_once(tmp_path: Path) -> None:
    work, done = Work(tmp_path, 200), []

    def run(rank: int) -> None:
        claims = work.worker(str(rank), first=rank * 25)
        while (unit := claims.next()) is not None:
            if claims.begin(unit):
                done.append(unit)
                (work.folder / f"{unit}.done").touch()
                claims.leave(unit)

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(set(done)) == list(range(200))
    assert len(done) < 210  # a unit not yet begun may be taken twice


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, Worker()),
        ({"RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "1"}, Worker(3, 8, 1)),
        ({"RANK": "0", "WORLD_SIZE": "1"}, Worker()),
        ({"SLURM_ARRAY_TASK_ID": "17", "SLURM_ARRAY_TASK_COUNT": "4"}, Worker(17, 4, 0)),
        (
            {"SLURM_ARRAY_TASK_ID": "2", "SLURM_ARRAY_TASK_COUNT": "4", "SLURM_PROCID": "0", "SLURM_NTASKS": "8"},
            Worker(2, 4, 0),
        ),
        ({"SLURM_PROCID": "5", "SLURM_STEP_NUM_TASKS": "8", "SLURM_LOCALID": "1"}, Worker(5, 8, 1)),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "8"}, Worker()),  # the batch script itself
    ],
)
def test_the_worker_that_a_launcher_tells(environment: dict[str, str], expected: Worker) -> None:
    assert worker_of(environment) == expected


@pytest.mark.parametrize("given", [{"RANK": "x"}, {"RANK": "7"}, {"RANK": "-1"}, {"RANK": "0", "LOCAL_RANK": "x"}])
def test_a_launcher_that_tells_nonsense(given: dict[str, str]) -> None:
    told = ", ".join(f"{k}={v}" for k, v in {"RANK": given["RANK"], "WORLD_SIZE": "2", **given}.items())
    with pytest.raises(NaitError, match=f"^{told}: must be whole numbers, a rank below"):
        worker_of({"WORLD_SIZE": "2", **given})


def test_each_worker_has_a_gpu_of_its_own(monkeypatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert [device_of("auto", Worker(r, 6, r)) for r in range(6)] == [f"cuda:{r}" for r in (0, 1, 2, 3, 0, 1)]
    assert device_of("cpu", Worker(1, 6, 1)) == "cpu" and device_of("auto", Worker()) == "auto"
    assert (default_workers("auto"), default_workers("cpu"), default_workers("cuda:1")) == (4, 1, 1)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert default_workers("auto") == 1


def test_notes_of_a_lock_are_json(work: Work) -> None:
    claims = work.worker("a")
    assert claims.next() == 0
    path = work.folder / "unit-00000.lock"
    assert json.loads(path.read_text()) == {"worker": "a", "pid": os.getpid(), "state": "waiting"}
    claims.begin(0)
    assert json.loads(path.read_text())["state"] == "running"
