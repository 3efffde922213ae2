"""Triton: threshold and pack; bitset of the k largest (see docs/kernels.md)."""

import triton
import triton.language as tl

from nait_fast.kernels.common.math import lowest_bits, packed_words, popcount32


@triton.jit
def pack_kernel(
    values, threshold, codes, n_rows, n_neurons, stride, n_words, BLOCK_B: tl.constexpr, BLOCK_J: tl.constexpr
):
    """values float [B, J] (rows ``stride`` apart), threshold fp32 [J] -> codes int32 [B, n_words]."""
    blocks = tl.cdiv(n_neurons, BLOCK_J)
    rows = (tl.program_id(0) // blocks * BLOCK_B + tl.arange(0, BLOCK_B)).to(tl.int64)
    neurons = tl.program_id(0) % blocks * BLOCK_J + tl.arange(0, BLOCK_J)
    inside = neurons < n_neurons
    mask = (rows < n_rows)[:, None] & inside[None, :]
    x = tl.load(values + rows[:, None] * stride + neurons[None, :], mask=mask, other=0.0).to(tl.float32)
    limit = tl.load(threshold + neurons, mask=inside, other=float("inf"))
    words = packed_words((x > limit[None, :]).to(tl.int32), BLOCK_B, BLOCK_J // 32)
    place = tl.program_id(0) % blocks * (BLOCK_J // 32) + tl.arange(0, BLOCK_J // 32)
    here = (rows < n_rows)[:, None] & (place < n_words)[None, :]
    tl.store(codes + rows[:, None] * n_words + place[None, :], words, mask=here)


@triton.jit
def topk_kernel(values, codes, n_neurons, stride, n_words, k, BLOCK_J: tl.constexpr):
    """values float [B, J] -> codes int32 [B, n_words]: a row's ``k`` ≤ J largest, the lower index first, NaN largest.

    One program a row, all of it in registers. The k-th largest value is found bit by bit on keys that order as the
    floats do, so the time does not depend on k; equals of it are taken in order, word by word, until k are set.
    """
    row = tl.program_id(0).to(tl.int64)
    neurons = tl.arange(0, BLOCK_J)
    inside = neurons < n_neurons
    x = tl.load(values + row * stride + neurons, mask=inside, other=0.0).to(tl.float32)
    x = tl.where(x == 0, 0.0, x)  # -0 equals 0
    signed = x.to(tl.int32, bitcast=True)
    key = tl.where(x != x, 0x7FFFFFFF, signed ^ ((signed >> 31) & 0x7FFFFFFF)).to(tl.uint32, bitcast=True) ^ 0x80000000
    key = tl.where(inside, key, 0)  # a number's key is above 0: 32 bits will do
    limit = tl.zeros([1], tl.uint32)
    for i in tl.static_range(32):
        candidate = limit | (1 << (31 - i))
        enough = tl.sum((key >= candidate).to(tl.int32), axis=0) >= k
        limit = tl.where(enough, candidate, limit)
    # Packing moves neurons between threads. One byte with both bits of a neuron moves, so no key has to stay meanwhile.
    side = tl.where(key > limit, 2, (key == limit).to(tl.int32)).to(tl.int8)[None, :]
    above = packed_words((side >> 1).to(tl.int32), 1, BLOCK_J // 32).to(tl.uint32, bitcast=True)
    equal = packed_words((side & 1).to(tl.int32), 1, BLOCK_J // 32).to(tl.uint32, bitcast=True)
    count = popcount32(equal).to(tl.int32)
    missing = k - tl.sum(popcount32(above).to(tl.int32), axis=1)[:, None]
    words = above | lowest_bits(equal, missing - (tl.cumsum(count, axis=1) - count))
    place = tl.arange(0, BLOCK_J // 32)
    tl.store(codes + row * n_words + place[None, :], words.to(tl.int32, bitcast=True), mask=(place < n_words)[None, :])
