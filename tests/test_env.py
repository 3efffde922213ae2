"""What the package asks of the process it runs in."""

import os
import platform
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

import nait_fast
from nait_fast import env
from nait_fast.env import keep_freed_memory, strict_mkl
from tests.conftest import make_rows, write_jsonl

KEPT = """
import sys
from types import SimpleNamespace
import numpy as np
from nait_fast.env import keep_freed_memory

def resident():
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) >> 10

keep_freed_memory(SimpleNamespace(type=sys.argv[1]))
before = resident()
held = np.ones(48 << 20, dtype=np.uint8)
del held
print(resident() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc" or sys.platform != "linux", reason="of glibc, and reads /proc")
@pytest.mark.parametrize(("device", "least", "most"), [("cpu", 40, 60), ("cuda", 0, 8)])
def test_freed_memory_is_kept_where_a_model_runs_on_a_cpu(device: str, least: int, most: int) -> None:
    ran = subprocess.run([sys.executable, "-c", KEPT, device], capture_output=True, text=True, check=True)
    assert least <= int(ran.stdout) <= most


def test_a_mode_of_mkl_that_the_user_has_named_stays(monkeypatch) -> None:
    monkeypatch.setenv("MKL_CBWR", "COMPATIBLE")
    strict_mkl()
    assert os.environ["MKL_CBWR"] == "COMPATIBLE"
    monkeypatch.delenv("MKL_CBWR")
    strict_mkl()
    assert os.environ["MKL_CBWR"] == "AUTO,STRICT"


@pytest.mark.parametrize(
    ("most", "threshold", "trim"), [(1 << 30, 1 << 30, 1 << 30), (1 << 25, 1 << 25, 1 << 30), (0, None, None)]
)
def test_a_glibc_that_keeps_less(monkeypatch, most: int, threshold: int | None, trim: int | None) -> None:
    """With a threshold of mmap that it refuses, the other option alone would make things worse."""
    kept: dict[int, int] = {}

    def mallopt(option: int, value: int) -> int:
        taken = option != -3 or value <= most
        kept.update({option: value} if taken else {})
        return taken

    monkeypatch.setattr(platform, "libc_ver", lambda: ("glibc", "2.31"))
    monkeypatch.setattr(env.ctypes, "CDLL", lambda name: SimpleNamespace(mallopt=mallopt))
    keep_freed_memory(torch.device("cpu"))
    assert (kept.get(-3), kept.get(-1)) == (threshold, trim)


def test_a_programs_environment_is_its_own(monkeypatch, tiny_model: str, tmp_path) -> None:
    monkeypatch.delenv("MKL_CBWR")
    pool = write_jsonl(tmp_path / "pool.jsonl", make_rows(12))
    nait_fast.build_index(dataset=pool, model=tiny_model, output=tmp_path / "index", calibration_size=8)
    assert "MKL_CBWR" not in os.environ
