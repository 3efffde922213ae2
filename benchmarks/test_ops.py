"""The ops on this machine's CPU: ``python -m pytest benchmarks/test_ops.py`` (``make bench``).

Each result is checked against the reference after timing; a row goes to ``test_ops.jsonl`` under
``benchmarks/results/<hardware>/``.
"""

import numpy as np
import pytest
import torch

from benchmarks.record import record
from nait_fast.kernels import layer_bytes, mlp_capture, pack_bits, topk_bits
from nait_fast.kernels.capture.types import Segments
from nait_fast.kernels.popcount import cpu, reference

TOKENS, NEURONS, SAMPLES = 2048, 1536, 16  # one layer of SmolLM2-135M at the default batch


def keep(benchmark, op: str, bytes_moved: int, **shape) -> None:
    stats = benchmark.stats.stats
    record(
        "test_ops",
        [
            {
                "op": op,
                **shape,
                "median_s": stats.median,
                "q1_s": stats.q1,
                "q3_s": stats.q3,
                "rounds": stats.rounds,
                "gb_per_s": bytes_moved / stats.median / 1e9,
            }
        ],
    )


@pytest.fixture
def activations():
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(TOKENS, NEURONS, generator=generator) for _ in range(2)]


@pytest.mark.parametrize("statistics", [("sum",), ("first", "last"), ("up_abs_sum",)], ids="+".join)
def test_capture(benchmark, activations, statistics):
    gate, up = activations
    starts = torch.arange(SAMPLES) * (TOKENS // SAMPLES)
    segments = Segments(starts, starts + TOKENS // SAMPLES, torch.ones(SAMPLES, dtype=torch.bool))
    wanted = frozenset(statistics)
    hidden, stats = benchmark(lambda: mlp_capture(gate, up, "silu", segments, wanted))
    exact = (gate.double() * torch.sigmoid(gate.double()) * up.double()).view(SAMPLES, -1, NEURONS)
    assert torch.allclose(hidden.double().view_as(exact), exact, rtol=1e-5, atol=1e-6)
    if stats.sum is not None:
        assert (stats.sum.double() - exact[:, 1:].sum(1)).abs().max() < 1e-3
    keep(benchmark, f"capture ({'+'.join(statistics)})", 12 * TOKENS * NEURONS, tokens=TOKENS, neurons=NEURONS)


def test_pack_bits(benchmark):
    values = torch.randn(512, NEURONS, generator=torch.Generator().manual_seed(0))
    threshold = torch.zeros(NEURONS)
    codes = benchmark(lambda: pack_bits(values, threshold))
    assert np.array_equal(codes.numpy(), np.packbits((values > 0).numpy(), axis=1, bitorder="little"))
    keep(benchmark, "pack_bits", 512 * (4 * NEURONS + layer_bytes(NEURONS)), rows=512, neurons=NEURONS)


def test_topk_bits(benchmark):
    values = torch.rand(512, NEURONS, generator=torch.Generator().manual_seed(0))
    codes = benchmark(lambda: topk_bits(values, 20))
    assert (np.bitwise_count(codes.numpy()).sum(axis=1) == 20).all()
    keep(benchmark, "topk_bits", 512 * (4 * NEURONS + layer_bytes(NEURONS)), rows=512, neurons=NEURONS)


@pytest.mark.parametrize("n_planes", [1, 4, 16])
def test_scan(benchmark, n_planes):
    generator = np.random.default_rng(0)
    codes = generator.integers(0, 256, (50_000, 5760), dtype=np.uint8)
    planes = generator.integers(0, 256, (n_planes, 5760), dtype=np.uint8)
    weights, owners = np.arange(1, n_planes + 1), np.zeros(n_planes, dtype=np.int64)
    cpu.popcount_scan(codes[:8], planes, weights, owners, 1)  # compile
    scores = benchmark(lambda: cpu.popcount_scan(codes, planes, weights, owners, 1))
    assert np.array_equal(scores[:500], reference.popcount_scan(codes[:500], planes, weights, owners, 1))
    keep(benchmark, "popcount_scan", codes.size, rows=len(codes), row_bytes=5760, planes=n_planes)
