"""Killed at any moment, resumed: the index is byte for byte that of an undisturbed run, every row exactly once."""

import random
import time
from pathlib import Path
from typing import Any

import pytest

from nait_fast.index.reader import Index
from tests.index.bits import digest
from tests.workers import runs

pytestmark = pytest.mark.slow

KILLED = -9
seen: list[str] = []  # one entry for each kill that hit a run


@pytest.fixture(scope="module")
def context() -> Any:
    return runs.server()


@pytest.fixture(scope="module")
def options(tmp_path_factory, tiny_model: str) -> dict[str, Any]:
    pool = runs.make_pool(tmp_path_factory.mktemp("pool") / "pool.jsonl")
    return {
        "model": tiny_model,
        "dataset": str(pool),
        "shard_rows": 4,
        "calibration_size": 20,
        "batch_tokens": 200,
        "max_length": 50,
        "skip_bad_rows": True,
    }


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, context, options) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("undisturbed")
    assert finish(context, options, folder) == 0
    index = Index(folder)
    assert index.verify() == [] and index.manifest["duplicate_ids"] == 2
    assert (index.rows, index.manifest["skipped"]["rows"], index.manifest["truncated"]) == (56, 4, 8)
    return digest(folder)


def finish(context: Any, options: dict[str, Any], folder: Path) -> int | None:
    process = runs.start(context, runs.index, {**options, "output": str(folder)})
    process.join(60)
    return process.exitcode


def check(folder: Path, expected: dict[str, str]) -> None:
    assert digest(folder) == expected
    assert Index(folder).verify() == []


def test_one_worker_at_random_times(tmp_path: Path, context, options, undisturbed) -> None:
    generator = random.Random(0)
    started = time.perf_counter()
    assert finish(context, options, tmp_path / "timed") == 0
    whole = time.perf_counter() - started
    folder = tmp_path / "0"
    kills, trial = 0, 0
    while kills < 12:
        process = runs.start(context, runs.index, {**options, "output": str(folder)})
        time.sleep(generator.uniform(0.2, 1.0) * whole)
        process.kill()
        process.join()
        if process.exitcode == KILLED:
            seen.append("worker")
            kills += 1
        else:
            check(folder, undisturbed)
            trial += 1
            folder = tmp_path / str(trial)
    assert finish(context, options, folder) == 0
    check(folder, undisturbed)


@pytest.mark.parametrize("operation", runs.OPERATIONS)
def test_within_a_write(tmp_path: Path, context, options, undisturbed, operation: str) -> None:
    generator = random.Random(operation)
    given = {**options, "output": str(tmp_path)}
    for number in sorted(generator.sample(range(1, 12), 3)):  # each run goes on where the one before was killed
        process = runs.start(context, runs.dying, given, operation, number)
        process.join(60)
        assert process.exitcode == KILLED
        seen.append(operation)
        assert not (tmp_path / "manifest.json").exists()
    assert finish(context, options, tmp_path) == 0
    check(tmp_path, undisturbed)


@pytest.mark.parametrize("operation", runs.OPERATIONS)
def test_within_the_last_write(tmp_path: Path, context, options, undisturbed, operation: str) -> None:
    """The manifest's: the index is complete after it, and not before."""
    process = runs.start(context, runs.dying, {**options, "output": str(tmp_path)}, operation, "manifest.json")
    process.join(60)
    assert process.exitcode == KILLED
    seen.append(operation)
    if operation == "after rename":
        assert Index(tmp_path).verify() == []
    else:
        assert not (tmp_path / "manifest.json").exists()
    assert finish(context, options, tmp_path) == 0
    check(tmp_path, undisturbed)


def test_two_workers_one_or_both_killed(tmp_path: Path, context, options, undisturbed) -> None:
    generator = random.Random(1)
    for trial in range(5):
        folder = tmp_path / str(trial)
        given = {**options, "output": str(folder)}
        workers = [runs.start(context, runs.index, given, rank, 2) for rank in range(2)]
        time.sleep(generator.uniform(0.05, 0.3))
        for worker in workers if trial % 2 else workers[trial // 2 % 2 :][:1]:
            worker.kill()
        for worker in workers:
            worker.join(60)
        codes = [worker.exitcode for worker in workers]
        seen.extend("one of two" for code in codes if code == KILLED)
        assert set(codes) <= {0, KILLED}
        if 0 not in codes:
            assert finish(context, options, folder) == 0
        check(folder, undisturbed)  # a worker that lives does the dead one's units


@pytest.mark.parametrize("world", [2, 3])
def test_any_number_of_workers_gives_the_same_bytes(tmp_path: Path, context, options, undisturbed, world: int) -> None:
    workers = [runs.start(context, runs.index, {**options, "output": str(tmp_path)}, r, world) for r in range(world)]
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0] * world
    check(tmp_path, undisturbed)


def test_enough_kills() -> None:
    assert len(seen) >= 30, seen
