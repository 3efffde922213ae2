"""Triton: rounding and activations as torch computes them, op by op.

``INTERPRETED`` is for Triton's interpreter, which knows no libdevice and truncates when it casts to bf16.
"""

import triton
import triton.language as tl
from triton.language.extra import libdevice


@triton.jit
def rounded(x, DTYPE: tl.constexpr, INTERPRETED: tl.constexpr):
    """fp32 ``x`` rounded to DTYPE (nearest even), as fp32."""
    if DTYPE == tl.float32:  # noqa: SIM300
        y = x
    elif DTYPE == tl.bfloat16 and INTERPRETED:  # noqa: SIM300
        bits = x.to(tl.int32, bitcast=True)
        y = ((bits + 0x7FFF + ((bits >> 16) & 1)) & -65536).to(tl.float32, bitcast=True)
        y = tl.where(x != x, x, y)
    else:
        y = x.to(DTYPE).to(tl.float32)
    return y


@triton.jit
def exp(x, INTERPRETED: tl.constexpr):
    if INTERPRETED:
        y = tl.exp(x)
    else:
        y = libdevice.exp(x)
    return y


@triton.jit
def tanh(x, INTERPRETED: tl.constexpr):
    if INTERPRETED:
        y = 2 / (1 + tl.exp(-2 * x)) - 1
    else:
        y = libdevice.tanh(x)
    return y


@triton.jit
def erf(x, INTERPRETED: tl.constexpr):
    if INTERPRETED:
        y = tl.erf(x)
    else:
        y = libdevice.erf(x)
    return y


@triton.jit
def activation(x, ACT: tl.constexpr, DTYPE: tl.constexpr, INTERPRETED: tl.constexpr):
    """act(x) for fp32 ``x``, rounded to DTYPE wherever torch would round; a name of ``reference.ACTIVATIONS``."""
    if ACT == "silu":
        y = tl.div_rn(x, 1 + exp(-x, INTERPRETED))
    elif ACT == "gelu":
        y = x * 0.5 * (1 + erf(x * 0.7071067811865476, INTERPRETED))
    elif ACT == "gelu_tanh":
        y = 0.5 * x * (1 + tanh(0.7978845608028654 * (x + 0.044715 * (x * x * x)), INTERPRETED))
    elif ACT == "gelu_new":  # transformers composes it of tensor operations: each one rounds
        cube = rounded(rounded(x * x, DTYPE, INTERPRETED) * x, DTYPE, INTERPRETED)
        inner = rounded(x + rounded(0.044715 * cube, DTYPE, INTERPRETED), DTYPE, INTERPRETED)
        t = rounded(tanh(rounded(0.7978845608028654 * inner, DTYPE, INTERPRETED), INTERPRETED), DTYPE, INTERPRETED)
        y = rounded(0.5 * x, DTYPE, INTERPRETED) * rounded(1 + t, DTYPE, INTERPRETED)
    elif ACT == "relu":
        y = tl.where(x < 0, 0.0, x)  # NaN stays
    elif ACT == "relu2":
        y = tl.where(x < 0, 0.0, x)
        y = y * y
    else:
        tl.static_assert(ACT == "identity", "unknown activation")
        y = x
    return rounded(y, DTYPE, INTERPRETED)


@triton.jit
def packed_words(bits, ROWS: tl.constexpr, WORDS: tl.constexpr):
    """Bits (0 or 1) int32 [ROWS, 32 · WORDS] -> int32 [ROWS, WORDS], bit j of a word being its neuron j (LSB first)."""
    weights = (bits << (tl.arange(0, 32 * WORDS) % 32)[None, :]).reshape(ROWS, WORDS, 32)
    return tl.sum(weights, axis=2)  # no two terms share a bit, so the sum is an OR


@triton.jit
def popcount32(x):
    """Set bits of uint32 ``x``. This form, and no other tried, becomes one POPC on CUDA and one v_bcnt on AMD, and runs
    in Triton's interpreter."""
    x = x - ((x >> 1) & 0x55555555)
    x = (x & 0x33333333) + ((x >> 2) & 0x33333333)
    return (((x + (x >> 4)) & 0x0F0F0F0F) * 0x01010101) >> 24


@triton.jit
def lowest_bits(x, n):
    """uint32 ``x`` with only its ``n`` lowest set bits left (int32 ``n``; none for n < 1)."""
    width = tl.zeros_like(n)  # the most bits that hold no more than n set ones
    for i in tl.static_range(5):
        wider = width + (16 >> i)
        width = tl.where(popcount32(x & ((1 << wider) - 1).to(tl.uint32)).to(tl.int32) <= n, wider, width)
    kept = tl.where(popcount32(x).to(tl.int32) <= n, x, x & ((1 << width) - 1).to(tl.uint32))
    return tl.where(n > 0, kept, 0)
