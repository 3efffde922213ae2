"""Triton: RMSNorm of whole rows, with torch's own order of additions on a GPU.

Another order would change the last bit of some sums, and with it what a 16-bit model computes in every layer after.
torch gives each row ``WARPS`` warps whose 32 threads each keep four running sums of every fourth number; these are
added from the left, then the threads' sums in pairs (``HALVES``: thread t and t + 16 first, newer torch on CUDA; else t
and t + 1), then the warps'. Nothing may be contracted into an FMA: launch with ``enable_fp_fusion=False``.
"""

import triton
import triton.language as tl

from nait_fast.kernels.common.math import rounded


@triton.jit
def _in_pairs(x, ROWS: tl.constexpr, STEPS: tl.constexpr, HALVES: tl.constexpr):
    """Sums of x [ROWS, 2 ** STEPS] over the last axis, [ROWS]: neighbours, or the halves of the axis, first."""
    for _ in tl.static_range(STEPS):
        if HALVES:
            x = tl.sum(x.reshape(ROWS, 2, x.shape[1] // 2), axis=1)
        else:
            x = tl.sum(x.reshape(ROWS, x.shape[1] // 2, 2), axis=2)
    return x.reshape(ROWS)


@triton.jit
def norm_kernel(
    x,
    weight,
    out,
    n_rows,
    stride,
    eps,
    share,
    WIDTH: tl.constexpr,
    FORM: tl.constexpr,
    HALVES: tl.constexpr,
    WARPS: tl.constexpr,
    STEPS: tl.constexpr,
    BLOCK_N: tl.constexpr,
    INTERPRETED: tl.constexpr,
):
    """x [n, WIDTH] (rows ``stride`` apart), weight [WIDTH] -> out [n, WIDTH]; ``FORM``: see ``reference.FORMS``;
    ``share``: 1 / WIDTH as torch rounds it; WARPS = 2 ** STEPS."""
    DTYPE: tl.constexpr = x.dtype.element_ty
    LANES: tl.constexpr = 128 * WARPS
    rows = (tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)).to(tl.int64)
    lanes = tl.arange(0, LANES)
    sums = tl.zeros([BLOCK_N, LANES], tl.float32)
    for start in range(0, WIDTH, LANES):
        mask = (rows < n_rows)[:, None] & (start + lanes < WIDTH)[None, :]
        h = tl.load(x + rows[:, None] * stride + start + lanes[None, :], mask=mask, other=0.0).to(tl.float32)
        sums += h * h
    even, odd = tl.split(sums.reshape(BLOCK_N * WARPS, 32, 2, 2))
    first, third = tl.split(even)
    second, fourth = tl.split(odd)
    of_warps = _in_pairs(first + second + third + fourth, BLOCK_N * WARPS, 5, HALVES)
    total = _in_pairs(of_warps.reshape(BLOCK_N, WARPS), BLOCK_N, STEPS, True)
    scale = tl.rsqrt(total * share + eps)[:, None]
    for start in range(0, WIDTH, LANES):
        inside = start + lanes < WIDTH
        mask = (rows < n_rows)[:, None] & inside[None, :]
        h = tl.load(x + rows[:, None] * stride + start + lanes[None, :], mask=mask, other=0.0).to(tl.float32) * scale
        w = tl.load(weight + start + lanes, mask=inside, other=0.0).to(tl.float32)
        if FORM == "rounded":
            h = rounded(h, DTYPE, INTERPRETED)
        if FORM == "offset":
            w += 1.0
        h = rounded(h * w[None, :], DTYPE, INTERPRETED)
        tl.store(out + rows[:, None] * WIDTH + start + lanes[None, :], h.to(DTYPE), mask=mask)
