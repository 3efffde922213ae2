"""torchrun and Slurm: processes that somebody else starts make the local engine's bytes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from nait_fast.index.reader import Index
from tests.conftest import make_rows, write_jsonl
from tests.index.bits import digest
from tests.workers.runs import ROOT
from tests.workers.test_workers import events

pytestmark = pytest.mark.slow

# What srun sets, per process (an array's variables: tests/workers/test_claims.py); (RANK, WORLD_SIZE) are torchrun's.
SRUN = [{"SLURM_PROCID": str(i), "SLURM_STEP_NUM_TASKS": "2", "SLURM_LOCALID": str(i)} for i in range(2)]


@pytest.fixture(scope="module")
def arguments(tmp_path_factory, tiny_model: str) -> list[str]:
    pool = write_jsonl(tmp_path_factory.mktemp("pool") / "pool.jsonl", make_rows(120))
    return ["index", "--model", tiny_model, "--dataset", str(pool), "--shard-rows", "4", "--calibration-size", "20"]


@pytest.fixture(scope="module")
def local(tmp_path_factory, arguments: list[str]) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("local")
    start([sys.executable, "-m", "nait_fast", *arguments, "--output", str(folder)], {}).wait(90)
    return digest(folder)


def start(command: list[str], environment: dict[str, str]) -> "subprocess.Popen[bytes]":
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    threads = {"OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    return subprocess.Popen(command, env={**os.environ, **threads, **environment}, stdout=subprocess.DEVNULL)


def check(folder: Path, local: dict[str, str]) -> None:
    assert digest(folder) == local and Index(folder).verify() == []
    told = events(folder)
    numbers = {path.stem.removeprefix("log-") for path in folder.glob("log-*.json")}
    assert numbers == {"0", "1"}  # both were there; units may be all of one, where the other came late
    assert {e["worker"] for e in told if e["event"] == "begin"} <= {f"worker {number}" for number in numbers}
    assert {e["unit"] for e in told if e["event"] == "unit"} == set(range(30))


def test_torchrun(tmp_path: Path, arguments: list[str], local: dict[str, str]) -> None:
    folder = tmp_path / "index"
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    assert start([*launcher, "-m", "nait_fast", *arguments, "--output", str(folder)], {}).wait(120) == 0
    check(folder, local)
    assert json.loads((folder / "log-0.json").read_text())["rows_indexed"] == 120


def test_slurm(tmp_path: Path, arguments: list[str], local: dict[str, str]) -> None:
    folder = tmp_path / "index"
    command = [sys.executable, "-m", "nait_fast", *arguments, "--output", str(folder)]
    processes = [start(command, environment) for environment in SRUN]
    assert [process.wait(120) for process in processes] == [0, 0]
    check(folder, local)
