"""The fp32 products through oneDNN: a row's result depends on no other row, and memory does not grow with shapes."""

import platform
import subprocess
import sys

import pytest
import torch
from torch import nn

from nait_fast.models import linear
from nait_fast.models.linear import SIZES, blocked_linear, usable

pytestmark = pytest.mark.skipif(not usable(nn.Linear(2, 2)), reason="no oneDNN linear on this machine")


def test_a_row_depends_on_no_other_row():
    generator = torch.Generator().manual_seed(0)
    x, weight = torch.randn(1100, 400, generator=generator), torch.randn(72, 400, generator=generator)
    bias = torch.randn(72, generator=generator)
    with torch.inference_mode():
        whole = blocked_linear(x, weight, bias)
        for rows in (1, 7, 8, 9, 63, 65, 255, 511, 512, 513, 1024, 1025):
            assert torch.equal(blocked_linear(x[:rows], weight, bias), whole[:rows]), rows
            assert torch.equal(blocked_linear(x[None, -rows:], weight, bias)[0], whole[-rows:]), rows
        wild = torch.cat([x[:9], torch.full((3, 400), float("nan")), torch.full((3, 400), float("inf")), x[9:20]])
        got = blocked_linear(wild, weight, bias)
        assert torch.equal(got[:9], whole[:9]) and torch.equal(got[15:], whole[9:20])
        assert blocked_linear(x[:0], weight, bias).shape == (0, 72)
        assert blocked_linear(x[:6].view(2, 3, 400), weight, None).shape == (2, 3, 72)


def test_few_shapes_whatever_the_rows(monkeypatch):
    seen = set()

    def product(x, weight):
        seen.add((*x.shape, *weight.shape))
        return x @ weight.T

    monkeypatch.setattr(linear, "_product", product)
    weight = torch.randn(16, 200)
    for rows in (*range(1, 600), *range(600, 2100, 31), 2047, 6099):
        x = torch.randn(rows, 200)
        assert torch.allclose(blocked_linear(x, weight, None), x @ weight.T, atol=1e-4)
    assert {shape[0] for shape in seen} == set(SIZES) and len(seen) == 2 * len(SIZES)  # 192 and 8 features


GROWTH = """
import torch
from nait_fast.models.linear import SIZES, blocked_linear

def used():
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024

weight = torch.randn(256, 192)
with torch.inference_mode():
    for rows in SIZES:
        blocked_linear(torch.randn(rows, 192), weight, None)
    before = used()
    for rows in range(1, 513):
        blocked_linear(torch.randn(rows, 192), weight, None)
print(used() - before)
"""


@pytest.mark.skipif(platform.system() != "Linux", reason="reads /proc")
def test_memory_does_not_grow_with_the_number_of_shapes():
    """512 shapes took some 100 MB."""
    ran = subprocess.run([sys.executable, "-c", GROWTH], capture_output=True, text=True, check=True)
    assert float(ran.stdout) < 20
