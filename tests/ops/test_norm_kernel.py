"""RMSNorm: the reference against transformers' modules, the Triton kernel against the reference."""

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from nait_fast.kernels import rms_norm
from nait_fast.kernels.norm import reference
from tests.ops.device import DEVICE, poisoned

triton = pytest.importorskip("triton")
tl = triton.language
from nait_fast.kernels.norm.kernel import _in_pairs  # noqa: E402 - needs Triton

pytestmark = pytest.mark.usefixtures("triton_backend")
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
EPS = 1e-5


def draw(rows, width, dtype, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, width, generator=generator) * torch.rand(rows, 1, generator=generator).mul(9).exp2()
    return x.to(dtype).to(DEVICE), torch.randn(width, generator=generator).to(dtype).to(DEVICE)


def check(x, weight, form, eps=EPS):
    """As near to fp64 as torch's own operations, twice at most, the worst row with the worst (of one row torch may be
    right by luck); in 16 bits nearly always their bits."""
    got = rms_norm(x, weight, eps, form)
    assert got.shape == x.shape and got.dtype == x.dtype
    expected = reference.rms_norm(x, weight, eps, form)
    h = x.double()
    h = h * torch.rsqrt(h.pow(2).mean(-1, keepdim=True) + eps)
    if form == "rounded":
        h = h.to(x.dtype).double()
    exact = h * (weight.double() + (form == "offset"))
    unit = torch.finfo(x.dtype).eps * exact.abs().amax(-1, keepdim=True).clamp_min(1e-6)
    if not x.numel():
        return
    error, of_torch = (((y.double() - exact) / unit).abs().amax(-1) for y in (got, expected))
    assert error.max() <= 2 * of_torch.max().clamp_min(1)  # units in the last place
    if len(error.ravel()) > 8:
        assert error.mean() <= 2 * of_torch.mean()
    if x.dtype != torch.float32:
        assert (got != expected).sum() <= 2 + x.numel() / 1000


@pytest.mark.parametrize("form", reference.FORMS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("rows", "width"), [(1, 1), (1, 31), (33, 33), (7, 128), (129, 576), (5, 2304), (3, 4096)])
def test_as_good_as_torchs_own(rows, width, dtype, form):
    check(*draw(rows, width, dtype), form)


def test_rows_of_several_warps():
    check(*draw(2, 8192, torch.bfloat16), "rounded")
    check(*draw(3, 9001, torch.float16), "offset")


@settings(deadline=None, max_examples=20)
@example(27, 7, torch.float32, "rounded")  # torch is off by .2 of a unit in a row that is off by 1.4 here
@given(st.integers(0, 40), st.integers(1, 300), st.sampled_from(DTYPES), st.sampled_from(reference.FORMS))
def test_any_shape(rows, width, dtype, form):
    check(*draw(rows, width, dtype, seed=rows), form)


def test_rows_of_a_wider_tensor_and_leading_axes():
    x, weight = draw(10, 96, torch.bfloat16)
    part = x[:, 32:64]
    assert torch.equal(rms_norm(part, weight[:32], EPS), rms_norm(part.contiguous(), weight[:32], EPS))
    shaped = x.view(2, 5, 3, 32).transpose(1, 2)
    assert torch.equal(rms_norm(shaped, weight[:32], EPS), rms_norm(shaped.contiguous(), weight[:32], EPS))


def test_every_output_is_written():
    x, weight = draw(33, 70, torch.float32)
    plain = rms_norm(x, weight, EPS)
    with poisoned():
        assert torch.equal(rms_norm(x, weight, EPS), plain)


@pytest.mark.skipif(DEVICE == "cpu", reason="a CPU's torch adds in an order of its own")
@pytest.mark.parametrize("form", reference.FORMS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("rows", "width"), [(16, 128), (33, 576), (4099, 2304), (70000, 576), (430, 4096), (77, 8192)])
def test_the_bits_of_torchs_own_operations(rows, width, dtype, form):
    x, weight = draw(rows, width, dtype)
    expected = reference.rms_norm(x, weight, EPS, form)
    assert any(torch.equal(rms_norm(x, weight, EPS, form, halves), expected) for halves in (True, False))


@triton.jit
def pairs_kernel(x, out, STEPS: tl.constexpr, HALVES: tl.constexpr):
    places = tl.arange(0, 2**STEPS)
    tl.store(out + tl.arange(0, 1), _in_pairs(tl.load(x + places)[None, :], 1, STEPS, HALVES))


@pytest.mark.parametrize("halves", [True, False])
def test_the_order_of_additions(halves):
    """1e8 swallows a 1 that it meets before −1e8: with halves first it meets −1e8 first, with neighbours first a 1."""
    x = torch.tensor([1e8, 1, 1, 1, -1e8, 1, 1, 1], device=DEVICE)
    out = torch.full((1,), torch.nan, device=DEVICE)
    pairs_kernel[(1,)](x, out, STEPS=3, HALVES=halves)
    assert out.item() == by_hand(x.tolist(), halves)
    assert by_hand(x.tolist(), True) != by_hand(x.tolist(), False)


def by_hand(x: list[float], halves: bool) -> float:
    while len(x) > 1:
        middle = len(x) // 2
        pairs = zip(x[:middle], x[middle:], strict=True) if halves else zip(x[::2], x[1::2], strict=True)
        x = [float(np.float32(a) + np.float32(b)) for a, b in pairs]
    return x[0]


def test_what_the_kernel_does_not_take_goes_to_the_reference():
    x, weight = draw(3, 40, torch.float32)
    assert rms_norm(x.double(), weight.double(), EPS).dtype == torch.float64
    mixed = rms_norm(x.bfloat16(), weight, EPS)
    assert torch.equal(mixed, reference.rms_norm(x.bfloat16(), weight, EPS, "rounded"))
    with pytest.raises(ValueError, match="do not fit"):
        rms_norm(x, weight[:3], EPS)
    with pytest.raises(ValueError, match="form 'other'"):
        rms_norm(x, weight, EPS, "other")
