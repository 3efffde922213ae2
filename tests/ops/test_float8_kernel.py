"""Quantised rows: the reference against its definition, the Triton kernel against the reference, byte for byte."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nait_fast.kernels import quantise_rows
from nait_fast.kernels.float8 import reference
from tests.ops.device import DEVICE, poisoned

pytest.importorskip("triton")
pytestmark = pytest.mark.usefixtures("triton_backend")
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def draw(rows, width, dtype=torch.bfloat16, seed=0):
    generator = torch.Generator().manual_seed(seed)
    spread = torch.rand(rows, 1, generator=generator).mul(9).exp2()
    return (torch.randn(rows, width, generator=generator) * spread).to(dtype).to(DEVICE)


def check(x):
    (numbers, scale), (expected, its_scale) = quantise_rows(x), reference.quantise_rows(x)
    assert numbers.dtype == torch.float8_e4m3fn and numbers.shape == expected.shape and scale.shape == its_scale.shape
    finite = torch.isfinite(x.reshape(-1, x.shape[-1]).float()).all(dim=1)
    assert torch.equal(numbers[finite].view(torch.uint8), expected[finite].view(torch.uint8))
    assert torch.equal(scale[finite], its_scale[finite])
    assert numbers[~finite].float().isnan().any(dim=1).all() and expected[~finite].float().isnan().any(dim=1).all()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("rows", "width"), [(1, 1), (1, 31), (33, 33), (31, 576), (9, 1000), (2, 11008)])
def test_the_references_bytes(rows, width, dtype):
    check(draw(rows, width, dtype))


def test_a_rows_numbers_over_its_scale():
    x = draw(33, 96, torch.float32)
    numbers, scale = quantise_rows(x)
    assert torch.equal(numbers.float().abs().amax(dim=1), torch.full((33,), 448.0, device=DEVICE))
    error = (numbers.float() * scale - x).abs()
    assert (error <= torch.maximum(x.abs() / 16, scale * 2**-10) * 1.00001).all()  # half a step of 3 bits, of 2**-9


def test_every_number_between_two_steps_and_at_a_tie():
    """All e4m3 numbers, what lies in the middle of two, and just beside that: nearest, ties to even."""
    codes = torch.arange(127, dtype=torch.uint8)  # 127 is NaN
    numbers = codes.view(torch.float8_e4m3fn).float()
    middles = (numbers[1:] + numbers[:-1]) / 2
    beside = [torch.nextafter(middles, torch.full_like(middles, end)) for end in (0.0, 1e9)]
    row = torch.cat([numbers, middles, *beside])
    row = torch.cat([row, -row])[None].to(DEVICE)  # its largest is 448, so the scale is 1
    got, scale = quantise_rows(row)
    assert scale.item() == 1.0
    expected = row.to(torch.float8_e4m3fn)
    assert torch.equal(got.view(torch.uint8), expected.view(torch.uint8))


def test_zeros_and_faint_rows():
    x = torch.zeros(3, 40, device=DEVICE)
    x[1, 3], x[2] = 1e-38, 1e-31
    numbers, scale = quantise_rows(x)
    assert not numbers[0].float().any() and torch.isfinite(scale).all() and (scale > 0).all()
    check(x)


@pytest.mark.filterwarnings("ignore:invalid value")  # the interpreter's NumPy
@pytest.mark.parametrize("bad", [torch.inf, -torch.inf, torch.nan])
def test_what_is_not_finite_stays_so(bad):
    x = draw(5, 48)
    x[1, 7], x[4, 0] = bad, bad
    x[3] = bad
    check(x)


def test_rows_of_a_wider_tensor_leading_axes_and_none():
    x = draw(10, 96)
    part = x[:, 32:64]
    assert torch.equal(quantise_rows(part)[0].float(), quantise_rows(part.contiguous())[0].float())
    check(x.view(2, 5, 3, 32).transpose(1, 2))
    numbers, scale = quantise_rows(x[:0])
    assert numbers.shape == (0, 96) and scale.shape == (0, 1)
    with pytest.raises(ValueError, match="empty"):
        quantise_rows(x[:, :0])


def test_every_output_is_written():
    x = draw(33, 70)
    plain = quantise_rows(x)
    with poisoned():
        again = quantise_rows(x)
    assert all(torch.equal(a.float(), b.float()) for a, b in zip(plain, again, strict=True))


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 40), st.integers(1, 300), st.sampled_from(DTYPES))
def test_any_shape(rows, width, dtype):
    check(draw(rows, width, dtype, seed=rows))


def test_the_product_of_two():
    x, weight = draw(7, 64), draw(32, 64, seed=1)
    (a, a_scale), (b, b_scale) = quantise_rows(x), quantise_rows(weight)
    exact = (a.double() * a_scale) @ (b.double() * b_scale).T
    assert torch.allclose(reference.product(a, a_scale, b, b_scale).double(), exact, rtol=1e-5, atol=1e-4)
