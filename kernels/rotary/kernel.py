"""Triton: rotary position embedding of query or key, with every rounding of the operations that it replaces.

Product and sum in bf16 would become one FMA with one rounding: launch with ``enable_fp_fusion=False``.
"""

import triton
import triton.language as tl

from nait_fast.kernels.common.math import rounded


@triton.jit
def _turned(a, b, cos, sin, DTYPE: tl.constexpr, INTERPRETED: tl.constexpr):
    return rounded(rounded(a * cos, DTYPE, INTERPRETED) + rounded(b * sin, DTYPE, INTERPRETED), DTYPE, INTERPRETED)


@triton.jit
def rotary_kernel(
    x,
    cos,
    sin,
    out,
    n_rows,
    n_heads,
    token_stride,
    head_stride,
    HALF: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
    INTERPRETED: tl.constexpr,
):
    """x [T, heads, 2 · HALF] (``*_stride`` apart), cos and sin [T, 2 · HALF] -> out [T, heads, 2 · HALF].

    n_rows = T · heads.
    """
    DTYPE: tl.constexpr = x.dtype.element_ty
    rows = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    columns = tl.arange(0, BLOCK_D)
    mask = (rows < n_rows)[:, None] & (columns < HALF)[None, :]
    token, head = (rows // n_heads).to(tl.int64), (rows % n_heads).to(tl.int64)
    left = (token * token_stride + head * head_stride)[:, None] + columns[None, :]
    angle = token[:, None] * (2 * HALF) + columns[None, :]
    a = tl.load(x + left, mask=mask, other=0.0).to(tl.float32)
    b = tl.load(x + left + HALF, mask=mask, other=0.0).to(tl.float32)
    cos_a = tl.load(cos + angle, mask=mask, other=0.0).to(tl.float32)
    cos_b = tl.load(cos + angle + HALF, mask=mask, other=0.0).to(tl.float32)
    sin_a = tl.load(sin + angle, mask=mask, other=0.0).to(tl.float32)
    sin_b = tl.load(sin + angle + HALF, mask=mask, other=0.0).to(tl.float32)
    place = rows.to(tl.int64)[:, None] * (2 * HALF) + columns[None, :]
    tl.store(out + place, _turned(a, -b, cos_a, sin_a, DTYPE, INTERPRETED).to(DTYPE), mask=mask)
    tl.store(out + place + HALF, _turned(b, a, cos_b, sin_b, DTYPE, INTERPRETED).to(DTYPE), mask=mask)
