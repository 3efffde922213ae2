"""Triton: a row's largest magnitude and its e4m3 numbers from one read of it."""

import triton
import triton.language as tl


@triton.jit
def _e4m3(x, INTERPRETED: tl.constexpr):
    """fp32 ``x``, at most 448 in magnitude or NaN, as the byte of its e4m3 number (nearest, ties to even)."""
    if INTERPRETED:  # whose own cast truncates
        bits = x.to(tl.int32, bitcast=True)
        size = bits & 0x7FFFFFFF
        normal = ((size + 0x7FFFF + ((size >> 20) & 1)) >> 20) - 960  # 3 bits of mantissa, a bias of 7 instead of 127
        small = (tl.abs(x) * 512.0 + 8388608.0).to(tl.int32, bitcast=True) & 0xF  # steps of 2**-9 below 2**-6
        code = tl.where(size < 0x3C800000, small, normal)
        code = tl.where(size > 0x7F800000, 0x7F, code)
        y = (code | ((bits >> 24) & 0x80)).to(tl.uint8)
    else:
        y = x.to(tl.float8e4nv).to(tl.uint8, bitcast=True)
    return y


@triton.jit
def quantise_kernel(
    x,
    out,
    scale,
    n_rows,
    stride,
    WIDTH: tl.constexpr,
    LARGEST: tl.constexpr,
    FAINTEST: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    INTERPRETED: tl.constexpr,
):
    """x [n, WIDTH] (rows ``stride`` apart) -> out uint8 [n, WIDTH], bytes of e4m3 numbers, and scale fp32 [n]."""
    rows = (tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)).to(tl.int64)
    places = tl.arange(0, BLOCK_K)
    mask = (rows < n_rows)[:, None] & (places < WIDTH)[None, :]
    h = tl.load(x + rows[:, None] * stride + places[None, :], mask=mask, other=0.0).to(tl.float32)
    largest = tl.maximum(tl.max(tl.abs(h), axis=1), FAINTEST)  # a NaN may be passed over here: it is one below
    inverse = tl.div_rn(tl.full([BLOCK_N], LARGEST, tl.float32), largest)
    tl.store(out + rows[:, None] * WIDTH + places[None, :], _e4m3(h * inverse[:, None], INTERPRETED), mask=mask)
    tl.store(scale + rows, tl.div_rn(largest, tl.full([BLOCK_N], LARGEST, tl.float32)), mask=rows < n_rows)
