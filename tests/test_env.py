"""What the package asks of the process it runs in."""

import os
import platform
import subprocess
import sys

import pytest

from nait_fast.env import strict_mkl

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
