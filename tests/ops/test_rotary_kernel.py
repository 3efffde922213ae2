"""The rotary embedding: bit-equal to transformers' operations, whatever the layout of its input."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from nait_fast.kernels import apply_rotary
from nait_fast.kernels.rotary import launch
from tests.ops.device import DEVICE, poisoned

pytestmark = pytest.mark.usefixtures("triton_backend")
DTYPES = [torch.bfloat16, torch.float16]


def draw(n_tokens, heads, width, dtype, seed=0):
    """x as a projection leaves it, [1, T, heads, D] in memory, and angles."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(1, n_tokens, heads, width, generator=generator).to(dtype).to(DEVICE).transpose(1, 2)
    angle = torch.rand(1, n_tokens, width, generator=generator) * 6.3
    return x, angle.cos().to(dtype).to(DEVICE), angle.sin().to(dtype).to(DEVICE)


def check(x, cos, sin):
    got = apply_rotary(x, cos, sin)
    assert got.shape == x.shape and got.dtype == x.dtype
    assert torch.equal(got, apply_rotary_pos_emb(x, x, cos, sin)[0])
    return got


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("n_tokens", "heads", "width"), [(1, 1, 2), (1, 3, 64), (33, 9, 64), (31, 1, 128), (7, 2, 96)])
def test_bit_equal_to_transformers(n_tokens, heads, width, dtype):
    got = check(*draw(n_tokens, heads, width, dtype))
    assert got.transpose(1, 2).is_contiguous()  # as varlen attention wants it


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 40), st.integers(1, 5), st.integers(1, 40), st.sampled_from(DTYPES))
def test_any_shape(n_tokens, heads, half, dtype):
    check(*draw(n_tokens, heads, 2 * half, dtype, seed=n_tokens))


def test_other_layouts():
    x, cos, sin = draw(12, 4, 16, torch.bfloat16)
    check(x.contiguous(), cos, sin)
    check(x[:, 1:3], cos, sin)
    check(torch.cat([x, x], dim=-1)[..., 8:24], cos, sin)
    check(x.transpose(2, 3).contiguous().transpose(2, 3), cos, sin)


def test_every_output_is_written():
    arguments = draw(33, 3, 18, torch.float16)
    plain = apply_rotary(*arguments)
    with poisoned():
        assert torch.equal(apply_rotary(*arguments), plain)


def test_what_the_kernel_does_not_take(monkeypatch):
    x, cos, sin = draw(5, 2, 8, torch.bfloat16)
    monkeypatch.setattr(launch, "ROWS", 0)  # a launch would fail
    two = [torch.cat([y, y]) for y in (x, cos, sin)]
    assert torch.equal(apply_rotary(*two), apply_rotary_pos_emb(two[0], two[0], *two[1:])[0])
    full = [y.float() for y in (x, cos, sin)]
    assert torch.equal(apply_rotary(*full), apply_rotary_pos_emb(full[0], full[0], *full[1:])[0])
    with pytest.raises(ValueError, match="do not fit"):
        apply_rotary(x, cos[:, :, :4], sin[:, :, :4])
