"""Workers that one command starts: killed, failing, interrupted; and the command itself killed."""

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from nait_fast.index.reader import Index
from tests.conftest import make_rows, write_jsonl
from tests.index.bits import digest
from tests.workers import runs

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def context() -> Any:
    return runs.server()


@pytest.fixture(scope="module")
def arguments(tmp_path_factory, tiny_model: str) -> list[str]:
    pool = write_jsonl(tmp_path_factory.mktemp("pool") / "pool.jsonl", make_rows(600))
    return ["index", "--model", tiny_model, "--dataset", str(pool), "--shard-rows", "4", "--calibration-size", "20"]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, context, arguments) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("undisturbed")
    assert run(context, arguments, folder, "--workers", "1")[0] == 0
    return digest(folder)


def begin(context: Any, arguments: list[str], folder: Path, *more: str) -> Any:
    return runs.start(context, runs.command, [*arguments, "--output", str(folder), *more], str(folder) + ".log")


def end(process: Any, folder: Path) -> tuple[int, str]:
    process.join(90)
    return process.exitcode, Path(str(folder) + ".log").read_text()


def run(context: Any, arguments: list[str], folder: Path, *more: str) -> tuple[int, str]:
    return end(begin(context, arguments, folder, *more), folder)


def events(folder: Path) -> list[dict[str, Any]]:
    path = folder / "events.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def wait_for_units(folder: Path, number: int) -> dict[str, int]:
    """Process ids of the workers, once ``number`` units are done and all have begun."""
    for _ in range(24_000):
        told = events(folder)
        if sum(e["event"] == "unit" for e in told) >= number:
            return {e["worker"]: e["pid"] for e in told if e["event"] == "begin"}
        time.sleep(0.005)
    raise AssertionError("the workers do not get on")


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def test_a_killed_worker_costs_only_its_unit(tmp_path: Path, context, arguments, undisturbed) -> None:
    folder = tmp_path / "index"
    process = begin(context, arguments, folder, "--workers", "2")
    name, pid = next(iter(wait_for_units(folder, 3).items()))
    os.kill(pid, signal.SIGKILL)
    status, log = end(process, folder)
    assert status == 0, log
    assert f"nait-fast: {name} was killed by SIGKILL; the others go on" in log
    assert digest(folder) == undisturbed and Index(folder).verify() == []
    assert len({e["worker"] for e in events(folder) if e["event"] == "begin"}) == 2
    assert json.loads((folder / "log.json").read_text())["workers"] == 2


def test_what_libraries_print_holds_nobody_up(tmp_path: Path, context, arguments, undisturbed) -> None:
    # A file of this folder must not be taken for a module either.
    (tmp_path / "queue.py").write_text("raise SystemExit('imported from the current folder')")
    folder = tmp_path / "index"
    log = str(folder) + ".log"
    process = runs.start(context, runs.printing, [*arguments, "--output", str(folder), "--workers", "2"], log)
    status, told = end(process, folder)
    assert status == 0, told[-2000:]
    assert len(told) > 1 << 17 and "onednn_verbose" in told
    assert digest(folder) == undisturbed


def test_killing_the_command_stops_its_workers(tmp_path: Path, context, arguments, undisturbed) -> None:
    folder = tmp_path / "index"
    process = begin(context, arguments, folder, "--workers", "2")
    pids = wait_for_units(folder, 2).values()
    process.kill()
    process.join()
    for _ in range(2000):
        if all(map(gone, pids)):
            break
        time.sleep(0.01)
    assert all(map(gone, pids)) and not (folder / "manifest.json").exists()
    status, log = run(context, arguments, folder, "--workers", "1")
    assert status == 0, log
    assert digest(folder) == undisturbed


def test_the_first_failure_is_told_and_the_others_finish(tmp_path: Path, context, arguments) -> None:
    rows = [json.dumps(row) for row in make_rows(600)]
    rows[400] = '{"instruction": "no output"}'
    pool = tmp_path / "pool.jsonl"
    pool.write_text("\n".join(rows) + "\n")
    own = [*arguments[:4], str(pool), *arguments[5:7]]  # codec nag calibrates nothing
    folder = tmp_path / "index"
    status, log = run(context, own, folder, "--workers", "2", "--codec", "nag:top_k=5")
    assert status == 2
    lines = [line for line in log.splitlines() if line.startswith("nait-fast")]
    cause = f'{pool}:401: no key "output", which alpaca needs (the row has: instruction); fix the row or pass'
    assert cause in lines[0] and lines[0].endswith("; the others go on") and "failed" in lines[0]
    assert lines[-1].startswith("nait-fast: error: ") and cause in lines[-1]
    assert len(list(folder.glob("shard-*.safetensors"))) == 149  # all but the bad row's
    (failed,) = {e["unit"] for e in events(folder) if e["event"] == "failed" and e["unit"] is not None}
    assert failed == 100
    status, log = run(context, own, folder, "--workers", "1", "--codec", "nag:top_k=5", "--skip-bad-rows")
    assert status == 0, log
    index = Index(folder)
    assert index.verify() == [] and index.rows == 599
    assert sum(e["event"] == "unit" for e in events(folder)) == 150


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_batch_and_says_how_to_go_on(
    tmp_path: Path, context, arguments, undisturbed, number: signal.Signals
) -> None:
    folder = tmp_path / "index"
    process = begin(context, arguments, folder, "--workers", "1")
    wait_for_units(folder, 2)
    os.kill(process.pid, number)
    status, log = end(process, folder)
    assert status == 130
    (line,) = [line for line in log.splitlines() if line.startswith("nait-fast")]
    done = len(list(folder.glob("work/shard-*.json")))
    assert line == f"nait-fast: stopped with {done} of 150 shards written; the same command goes on from there"
    assert events(folder)[-1]["event"] == "stopped" and 2 <= done < 150
    status, log = run(context, arguments, folder, "--workers", "1")
    assert status == 0, log
    assert digest(folder) == undisturbed
    assert sum(e["event"] == "unit" for e in events(folder)) == 150  # none is done twice


def test_a_signal_to_several_workers(tmp_path: Path, context, arguments, undisturbed) -> None:
    folder = tmp_path / "index"
    process = begin(context, arguments, folder, "--workers", "2")
    pids = wait_for_units(folder, 2).values()
    os.kill(process.pid, signal.SIGINT)
    status, log = end(process, folder)
    assert status == 130 and "nait-fast: stopped, every worker after its batch" in log
    assert all(map(gone, pids))
    status, log = run(context, arguments, folder, "--workers", "1")
    assert status == 0, log
    assert digest(folder) == undisturbed
