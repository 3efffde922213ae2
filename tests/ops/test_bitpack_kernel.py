"""The bit-pack ops' Triton kernels against the reference: on a GPU, or in Triton's interpreter."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nait_fast.kernels import layer_bytes, pack_bits, topk_bits, unpack
from nait_fast.kernels.bitpack import launch, reference
from tests.ops.device import DEVICE, poisoned

pytestmark = pytest.mark.usefixtures("triton_backend")

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
SHAPES = [(0, torch.float32), (1, torch.bfloat16), (3, torch.float16), (5, torch.float32)]
WIDTHS = (1, 31, 32, 33, 77, 511, 512, 513, 1536)
SPECIAL = [math.nan, math.inf, -math.inf, 0.0, -0.0, 1.0, -1.0, 2e-38, -2e-38, 1e-45, -1e-45]


def draw(n, width, dtype, seed, ties=False) -> torch.Tensor:
    """[n, J]: a quarter of it special values, the rest normal (or, with ``ties``, one of a few numbers)."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(n, width, generator=generator)
    values = values.round() if ties else values
    special = torch.tensor(SPECIAL)[torch.randint(len(SPECIAL), (n, width), generator=generator)]
    chosen = torch.rand(n, width, generator=generator) < 0.25
    return torch.where(chosen, special, values).to(dtype).to(DEVICE)


def check_pack(values, threshold) -> None:
    expected = reference.pack_bits(values.cpu(), threshold.cpu())
    codes = pack_bits(values, threshold)
    assert codes.dtype == torch.uint8 and codes.shape == expected.shape
    assert torch.equal(codes.cpu(), expected)


def check_topk(values, k) -> None:
    expected = reference.topk_bits(values.cpu(), k)
    codes = topk_bits(values, k)
    assert codes.dtype == torch.uint8 and codes.shape == expected.shape
    assert torch.equal(codes.cpu(), expected)
    assert (unpack(codes, values.shape[1]).sum(1) == min(k, values.shape[1])).all()


@pytest.mark.parametrize("n, dtype", SHAPES, ids=str)
@pytest.mark.parametrize("width", WIDTHS)
def test_pack_bits(width, n, dtype):
    values, threshold = draw(n, width, dtype, seed=width), draw(1, width, torch.float32, seed=n)[0]
    if n:
        threshold[::3] = values[0, ::3].float()  # a value at its threshold gives 0
    check_pack(values, threshold)


@pytest.mark.parametrize("n, dtype", SHAPES, ids=str)
@pytest.mark.parametrize("width", WIDTHS)
def test_topk_bits(width, n, dtype):
    for k in (1, 20, width):
        check_topk(draw(n, width, dtype, seed=width + k, ties=k == 20), k)


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 300), st.integers(0, 9), st.sampled_from(DTYPES), st.integers(0, 2**32 - 1), st.data())
def test_any_rows(width, n, dtype, seed, data):
    values = draw(n, width, dtype, seed, ties=data.draw(st.booleans()))
    check_pack(values, draw(1, width, torch.float32, seed + 1)[0])
    check_topk(values, data.draw(st.integers(0, width + 1)))


@settings(deadline=None, max_examples=40)
@given(st.lists(st.floats(width=32), min_size=1, max_size=40), st.data())
def test_topk_of_any_floats(row, data):
    check_topk(torch.tensor([row], device=DEVICE), data.draw(st.integers(1, len(row))))


def test_topk_of_equal_values_takes_the_first():
    for value in (3.0, 0.0, math.nan, math.inf, -math.inf):
        assert (
            unpack(topk_bits(torch.full((2, 65), value, device=DEVICE), 20), 65).sum(0).tolist() == [2] * 20 + [0] * 45
        )
    zeros = torch.tensor([[-0.0, 0.0, -0.0, 0.0]], device=DEVICE)
    assert unpack(topk_bits(zeros, 2), 4).tolist() == [[True, True, False, False]]


def test_nan_is_the_largest_whatever_its_bits():
    bits = torch.tensor([[0x7F800000, 0x7FC00000, -0x400000, 0x7F800001, 0x3F800000]], dtype=torch.int32, device=DEVICE)
    values = bits.view(torch.float32)
    assert values.isnan().tolist() == [[False, True, True, True, False]]
    for k in range(1, 6):
        check_topk(values, k)


@pytest.mark.parametrize("n", [1, 5])
def test_rows_that_do_not_lie_one_after_another(n):
    wide = draw(2 * n, 100, torch.float32, seed=n)
    threshold = draw(1, 41, torch.float32, seed=9)[0]
    for values in (
        wide[:n, 3:44],
        wide[::2, 3:44],
        wide[:n, :82:2],
        wide[:1, :41].expand(n, 41),
        wide.t()[:n, : 2 * n],
    ):
        check_pack(values, threshold[: values.shape[1]])
        check_topk(values, min(7, values.shape[1]))
    check_pack(wide[:n, :41], draw(1, 82, torch.float32, seed=9)[0, ::2])


def test_low_precision_values_meet_an_fp32_threshold():
    threshold = torch.tensor([1.0, 1.0001, 0.9999], device=DEVICE)  # all of them 1.0 once rounded to bf16 or fp16
    for dtype in (torch.bfloat16, torch.float16):
        codes = pack_bits(torch.ones(1, 3, dtype=dtype, device=DEVICE), threshold)
        assert unpack(codes, 3).tolist() == [[False, False, True]]


def test_fp64_is_not_rounded():
    values = torch.tensor([[1.0, 1.0 + 1e-12, 1.0 - 1e-12]], dtype=torch.float64, device=DEVICE)
    check_pack(values, torch.ones(3, device=DEVICE))
    check_pack(torch.ones(1, 3, device=DEVICE), values[0])
    check_topk(values, 1)


def test_every_output_is_written():
    values = draw(5, 513, torch.float32, seed=1)
    with poisoned():
        check_pack(values, values[0])
        check_topk(values, 20)


def test_what_does_not_fit_is_refused():
    values = torch.zeros(2, 5, device=DEVICE)
    with pytest.raises(ValueError, match="k must not be negative"):
        topk_bits(values, -1)
    for wrong in (torch.zeros(4), torch.zeros(1, 5)):
        with pytest.raises(ValueError, match="values must be"):
            pack_bits(values, wrong.to(DEVICE))


def test_rows_too_wide_for_one_program_go_to_the_reference(monkeypatch):
    values = draw(2, 100, torch.float32, seed=3)
    monkeypatch.setattr(launch, "TOPK_MAX", 64)
    check_topk(values, 20)


@pytest.mark.parametrize("width, block", [(1, 32), (32, 32), (33, 64), (1536, 2048), (65536, 65536), (65537, 131072)])
def test_a_row_fits_its_block(width, block):
    assert launch.topk_block(width) == block and layer_bytes(width) <= block // 8
