"""An output folder is one command's at a time, and nothing in it that nait_fast did not write is touched."""

import multiprocessing
import os
import time
from pathlib import Path

import pytest

from nait_fast.errors import NaitError
from nait_fast.index.lock import FOLDER_LOCK, OutputLock


def holding(folder: Path, run: str | None = None) -> OutputLock:
    folder.mkdir(exist_ok=True)
    lock = OutputLock(folder / FOLDER_LOCK, f"--output {folder}", run)
    lock.acquire()
    return lock


def test_one_command_at_a_time_and_who_it_is(tmp_path: Path) -> None:
    first = holding(tmp_path)
    started = time.monotonic()
    for run in (None, "a"):
        with pytest.raises(NaitError) as error:
            holding(tmp_path, run)
        told = str(error.value)
        assert told.startswith(f"--output {tmp_path}: in use by pid {os.getpid()} on ") and "\n" not in told
        assert "(nait-fast " in told and time.strftime(" since %Y-") in told
    assert time.monotonic() - started < 2
    first.release()
    assert (tmp_path / FOLDER_LOCK).read_bytes() == b""
    holding(tmp_path).release()


def test_workers_of_one_run_hold_it_together(tmp_path: Path) -> None:
    a, b = holding(tmp_path, "run"), holding(tmp_path, "run")
    assert a.first and not b.first
    for other in (None, "another"):
        with pytest.raises(NaitError, match="in use by pid"):
            holding(tmp_path, other)
    a.release()
    with pytest.raises(NaitError, match="in use by pid"):
        holding(tmp_path, "another")
    holding(tmp_path, "run").release()
    b.release()
    holding(tmp_path, "another").release()


def _hold(folder: str) -> None:
    lock = holding(Path(folder))
    (Path(folder) / "held").touch()
    time.sleep(60)
    lock.release()


def test_a_killed_command_holds_nothing(tmp_path: Path) -> None:
    process = multiprocessing.get_context("fork").Process(target=_hold, args=(str(tmp_path),))
    process.start()
    while not (tmp_path / "held").exists():
        time.sleep(0.01)
    with pytest.raises(NaitError, match=f"in use by pid {process.pid} on"):
        holding(tmp_path)
    process.kill()
    process.join()
    assert b"pid" in (tmp_path / FOLDER_LOCK).read_bytes()
    holding(tmp_path).release()


def test_a_lock_follows_the_umask_and_no_link(tmp_path: Path) -> None:
    before = os.umask(0o007)
    try:
        holding(tmp_path / "a").release()
    finally:
        os.umask(before)
    assert (tmp_path / "a" / FOLDER_LOCK).stat().st_mode & 0o777 == 0o660
    (tmp_path / "b").mkdir()
    (tmp_path / "mine").write_text("mine")
    (tmp_path / "b" / FOLDER_LOCK).symlink_to(tmp_path / "mine")
    with pytest.raises(NaitError, match="cannot be opened"):
        holding(tmp_path / "b")
    assert (tmp_path / "mine").read_text() == "mine"
