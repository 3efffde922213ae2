"""The capture op: its activations against transformers' own modules, its statistics against float64 loops."""

import math

import pytest
import torch
from transformers.activations import ACT2FN

from nait_fast.kernels import mlp_capture
from nait_fast.kernels.capture.reference import ACTIVATIONS, STATISTICS
from nait_fast.kernels.capture.types import Segments
from nait_fast.models.families import ACTIVATION_NAMES
from tests.ops.sums import check_sums, segments_of

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
EVERYTHING = frozenset(STATISTICS)
LENGTHS = (1, 2, 9, 1, 33, 60)


def inputs(n_tokens, width, dtype, seed=0):
    generator = torch.Generator().manual_seed(seed)
    gate, up = (torch.randn(n_tokens, width, generator=generator).mul(2).to(dtype) for _ in range(2))
    return gate, up


# -------------------------------------------------------------------------------------------------- activations


def test_every_name_of_an_activation_is_known():
    assert set(ACTIVATION_NAMES.values()) == set(ACTIVATIONS)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("gated", [True, False], ids=["gated", "plain"])
@pytest.mark.parametrize("name", sorted(ACTIVATION_NAMES))
def test_hidden_is_bit_equal_to_transformers(name, gated, dtype):
    act = ACT2FN[name]
    gate, up = inputs(200, 33, dtype)
    special = torch.tensor([0.0, -0.0, math.inf, -math.inf, 1e-30, -1e-30, 50.0, -50.0]).to(dtype)
    gate[0, :8], up[1, :8] = special, special
    expected = act(gate) * up if gated else act(up)
    segments = segments_of([200])
    for given in (ACTIVATION_NAMES[name], act):  # an op's own name, or the module for what the op has no name for
        hidden, _ = mlp_capture(gate if gated else None, up, given, segments, frozenset())
        assert hidden.dtype == dtype
        torch.testing.assert_close(hidden, expected, rtol=0, atol=0, equal_nan=True)


def test_leading_axes_are_kept_and_flattened():
    gate, up = inputs(12, 5, torch.float32)
    flat, expected = mlp_capture(gate, up, "silu", segments_of([5, 7]), EVERYTHING)
    hidden, stats = mlp_capture(gate.view(2, 6, 5), up.view(2, 6, 5), "silu", segments_of([5, 7]), EVERYTHING)
    assert hidden.shape == (2, 6, 5) and torch.equal(hidden.view(12, 5), flat)
    for name in STATISTICS:
        assert torch.equal(getattr(stats, name), getattr(expected, name))


# --------------------------------------------------------------------------------------------------- statistics


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("gated", [True, False], ids=["gated", "plain"])
@pytest.mark.parametrize("width", [1, 31, 33])
@pytest.mark.parametrize("skip_first", [True, False])
def test_statistics_against_float64(skip_first, width, gated, dtype):
    gate, up = inputs(sum(LENGTHS), width, dtype)
    gate = gate if gated else None
    hidden, stats = mlp_capture(gate, up, "silu", segments_of(LENGTHS, skip_first=skip_first), EVERYTHING)
    parts, ups = hidden.split(LENGTHS), up.split(LENGTHS)
    assert torch.equal(stats.first, torch.stack([p[0] for p in parts]).float())
    assert torch.equal(stats.last, torch.stack([p[-1] for p in parts]).float())
    # The first token stays out of the sum, unless it is the only one; |up| counts every token.
    check_sums(stats.sum, [p[1:] if skip_first and len(p) > 1 else p for p in parts])
    check_sums(stats.up_abs_sum, [u.abs() for u in ups])


def test_skip_first_is_told_for_each_sequence():
    _, up = inputs(9, 4, torch.float32)
    segments = Segments(torch.tensor([0, 3, 6, 7]), torch.tensor([3, 6, 7, 9]), torch.tensor([True, False, True, True]))
    hidden, stats = mlp_capture(None, up, "relu", segments, frozenset({"sum"}))
    check_sums(stats.sum, [hidden[1:3], hidden[3:6], hidden[6:7], hidden[8:9]])


def test_one_token_sequences():
    lengths = [1] * 7
    gate, up = inputs(7, 31, torch.float32)
    for skip_first in (True, False):
        segments = segments_of(lengths, skip_first=skip_first)
        hidden, stats = mlp_capture(gate, up, "gelu", segments, EVERYTHING)
        for name in ("first", "last", "sum"):
            assert torch.equal(getattr(stats, name), hidden)
        assert torch.equal(stats.up_abs_sum, up.abs())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("gap", [1, 5, 40])
def test_padding_never_leaks(gap, dtype):
    """NaN in every token that no sequence owns: before, between and behind."""
    n = sum(LENGTHS) + gap * (len(LENGTHS) + 1)
    gate, up = inputs(n, 33, dtype)
    segments = segments_of(LENGTHS, gap=gap)
    owned = torch.zeros(n, dtype=torch.bool)
    for start, end in zip(segments.starts, segments.ends, strict=True):
        owned[start:end] = True
    assert int(owned.sum()) == sum(LENGTHS) and not owned[0] and not owned[-1]
    gate[~owned], up[~owned] = math.nan, math.nan
    hidden, stats = mlp_capture(gate, up, "silu", segments, EVERYTHING)
    parts = hidden[owned].split(LENGTHS)
    assert torch.equal(stats.first, torch.stack([p[0] for p in parts]).float())
    assert torch.equal(stats.last, torch.stack([p[-1] for p in parts]).float())
    check_sums(stats.sum, [p[1:] if len(p) > 1 else p for p in parts])
    check_sums(stats.up_abs_sum, [u.abs() for u in up[owned].split(LENGTHS)])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("width", [1, 33])
def test_long_sequence(width, dtype):
    """20,000 activations of one sign, behind a short sequence: where a careless sum loses digits or overflows."""
    lengths = (20_000, 3)
    _, up = inputs(sum(lengths), width, dtype)
    up = up.abs() + 10
    hidden, stats = mlp_capture(None, up, "relu", segments_of(lengths), EVERYTHING)
    assert stats.sum.min() > 0 and torch.isfinite(stats.sum).all()
    check_sums(stats.sum, [p[1:] for p in hidden.split(lengths)])
    check_sums(stats.up_abs_sum, list(up.split(lengths)))


@pytest.mark.parametrize("names", [(), ("sum",), ("first", "last"), ("up_abs_sum",), STATISTICS], ids=str)
def test_only_what_is_asked_for_is_set(names):
    gate, up = inputs(6, 3, torch.float32)
    _, stats = mlp_capture(gate, up, "silu", segments_of([2, 4]), frozenset(names))
    assert {name for name in STATISTICS if getattr(stats, name) is not None} == set(names)


def test_statistics_do_not_change_the_hidden_state():
    gate, up = inputs(20, 7, torch.bfloat16)
    plain, _ = mlp_capture(gate, up, "silu", segments_of([20]), frozenset())
    with_statistics, _ = mlp_capture(gate, up, "silu", segments_of([20]), EVERYTHING)
    assert torch.equal(plain, with_statistics)
