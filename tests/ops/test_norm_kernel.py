"""RMSNorm: the reference against transformers' modules, the Triton kernel against the reference."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nait_fast.kernels import rms_norm
from nait_fast.kernels.norm import launch, reference
from tests.ops.device import DEVICE, poisoned

pytestmark = pytest.mark.usefixtures("triton_backend")
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
EPS = 1e-5


def draw(rows, width, dtype, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, width, generator=generator) * torch.rand(rows, 1, generator=generator).mul(9).exp2()
    return x.to(dtype).to(DEVICE), torch.randn(width, generator=generator).to(dtype).to(DEVICE)


def check(x, weight, form, eps=EPS):
    """As near to fp64 as torch's own operations, twice at most; in 16 bits nearly always their bits."""
    got = rms_norm(x, weight, eps, form)
    assert got.shape == x.shape and got.dtype == x.dtype
    expected = reference.rms_norm(x, weight, eps, form)
    h = x.double()
    h = h * torch.rsqrt(h.pow(2).mean(-1, keepdim=True) + eps)
    if form == "rounded":
        h = h.to(x.dtype).double()
    exact = h * (weight.double() + (form == "offset"))
    unit = torch.finfo(x.dtype).eps * exact.abs().amax(-1, keepdim=True).clamp_min(1e-6)
    error, of_torch = (
        ((y.double() - exact) / unit).abs().amax(-1) if x.numel() else x.double() for y in (got, expected)
    )
    assert (error <= 2 * of_torch + 1).all()
    if x.dtype != torch.float32 and x.numel():
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


@pytest.mark.parametrize("halves", [True, False])
@pytest.mark.parametrize("width", [128, 8192])
def test_the_order_of_additions(width, halves):
    """By hand, in fp32: threads' four sums, threads, warps."""
    x, weight = draw(3, width, torch.float32)
    square = x.cpu() * x.cpu()
    warps = 16 if width >= launch.SPLIT else 1
    sums = torch.zeros(3, warps, 32, 4)
    for part in square.reshape(3, -1, warps, 32, 4).unbind(1):
        sums += part
    of_threads = sums[..., 0] + sums[..., 1] + sums[..., 2] + sums[..., 3]
    while of_threads.shape[-1] > 1:
        half = of_threads.shape[-1] // 2
        of_threads = (
            of_threads[..., :half] + of_threads[..., half:] if halves else of_threads[..., ::2] + of_threads[..., 1::2]
        )
    total = of_threads[..., 0]
    while total.shape[-1] > 1:
        total = total[..., : total.shape[-1] // 2] + total[..., total.shape[-1] // 2 :]
    expected = x.cpu() * torch.rsqrt(total * (1.0 / width) + EPS) * weight.cpu()
    error = (rms_norm(x, weight, EPS, "rounded", halves).cpu() - expected).abs()
    assert (error <= 3 * torch.finfo(torch.float32).eps * expected.abs()).all()  # rsqrt's own rounding


def test_what_the_kernel_does_not_take_goes_to_the_reference():
    x, weight = draw(3, 40, torch.float32)
    assert rms_norm(x.double(), weight.double(), EPS).dtype == torch.float64
    mixed = rms_norm(x.bfloat16(), weight, EPS)
    assert torch.equal(mixed, reference.rms_norm(x.bfloat16(), weight, EPS, "rounded"))
    with pytest.raises(ValueError, match="do not fit"):
        rms_norm(x, weight[:3], EPS)
    with pytest.raises(ValueError, match="form 'other'"):
        rms_norm(x, weight, EPS, "other")
