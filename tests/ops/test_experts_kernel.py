"""The experts' segmented weighted sum: the reference against a loop, the Triton kernel against the reference."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nait_fast.kernels import expert_sums
from nait_fast.kernels.experts import reference
from tests.ops.device import DEVICE, poisoned

pytest.importorskip("triton")
pytestmark = pytest.mark.usefixtures("triton_backend")
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def draw(counts, n_experts, width, dtype=torch.float32, seed=0, beyond=0):
    """Rows of each (expert, sequence) in ``counts``, and ``beyond`` of nobody, which hold NaN."""
    generator = torch.Generator().manual_seed(seed)
    rows = sum(counts)
    hidden = torch.randn(rows + beyond, width, generator=generator)
    hidden[rows:] = torch.nan
    weight = torch.rand(rows + beyond, generator=generator)
    offsets = torch.tensor([0, *np.cumsum(counts).tolist()])
    return hidden.to(dtype).to(DEVICE), weight.to(dtype).to(DEVICE), offsets.to(DEVICE), n_experts


def check(hidden, weight, offsets, n_experts):
    """As near to fp64 as torch's own additions, twice at most; and its reference likewise."""
    edges = offsets.tolist()
    n = (len(edges) - 1) // n_experts
    exact = torch.zeros(n, n_experts, hidden.shape[1], dtype=torch.float64)
    of_torch = torch.zeros(n, n_experts, hidden.shape[1])
    for segment, (a, b) in enumerate(pairwise(edges)):
        rows = hidden[a:b].float() * weight[a:b].float()[:, None]
        place = segment % n, segment // n
        exact[place] = (hidden[a:b].double() * weight[a:b].double()[:, None]).sum(dim=0).cpu()
        of_torch[place] = rows.sum(dim=0).cpu()
    longest = max(np.diff(edges).max(initial=0), 1)
    unit = torch.finfo(torch.float32).eps * longest**0.5 * exact.abs().amax(dim=-1, keepdim=True).clamp_min(1)
    for op in (expert_sums, reference.expert_sums):
        sums = op(hidden, weight, offsets, n_experts)
        assert sums.shape == exact.shape and sums.dtype == torch.float32
        assert ((sums.cpu() - exact).abs() <= 2 * (of_torch - exact).abs() + unit).all()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    ("counts", "n_experts", "width"),
    [
        ([1], 1, 1),
        ([0], 1, 31),
        ([3, 0, 1, 33, 0, 2], 2, 33),
        ([3, 0, 1, 33, 0, 2], 3, 128),
        ([0, 0, 700, 1], 4, 129),
        ([5] * 40, 8, 768),
    ],
)
def test_as_good_as_torchs_own(counts, n_experts, width, dtype):
    check(*draw(counts, n_experts, width, dtype))


@settings(deadline=None, max_examples=20)
@given(
    st.lists(st.integers(0, 9), min_size=1, max_size=6), st.integers(1, 3), st.integers(1, 150), st.sampled_from(DTYPES)
)
def test_any_shape(counts, n_experts, width, dtype):
    check(*draw(counts * n_experts, n_experts, width, dtype, seed=width))


def test_rows_of_nobody_are_not_read():
    arguments = draw([2, 0, 3], 3, 40, beyond=4)
    check(*arguments)
    assert torch.isfinite(expert_sums(*arguments)).all()


@pytest.mark.parametrize("op", [expert_sums, reference.expert_sums])
def test_a_row_of_weight_0_may_be_anything(op):
    hidden, weight, offsets, n_experts = draw([3, 33, 0, 2], 2, 40)
    weight[[1, 20, 37]] = 0
    expected = op(hidden, weight, offsets, n_experts)
    hidden[[1, 20]], hidden[37] = torch.nan, torch.inf
    assert torch.equal(op(hidden, weight, offsets, n_experts), expected)


def test_rows_of_a_wider_tensor():
    hidden, weight, offsets, n_experts = draw([4, 6], 2, 96)
    part = hidden[:, 32:64]
    got, expected = (expert_sums(x, weight, offsets, n_experts) for x in (part, part.contiguous()))
    assert torch.equal(got, expected)


def test_every_output_is_written():
    arguments = draw([0, 9, 0, 1, 0, 0], 3, 70)
    plain = expert_sums(*arguments)
    with poisoned():
        assert torch.equal(expert_sums(*arguments), plain)


def test_no_sequence():
    assert expert_sums(*draw([], 2, 8)).shape == (0, 2, 8)


def test_shapes_that_do_not_fit():
    hidden, weight, offsets, _ = draw([2, 3], 2, 8)
    for wrong in ((hidden, weight[1:], offsets, 2), (hidden, weight, offsets, 3), (hidden[0], weight, offsets, 2)):
        with pytest.raises(ValueError, match="do not fit"):
            expert_sums(*wrong)
