"""Triton: one round of the rotation, the last one with bits and norms in place of the rotated numbers."""

import triton
import triton.language as tl

from nait_fast.kernels.common.math import packed_words


@triton.jit
def mixed(x, ROWS: tl.constexpr, BLOCK: tl.constexpr, STAGES: tl.constexpr):
    """fp32 [ROWS, BLOCK] times the orthonormal Hadamard matrix, by butterflies: BLOCK is 2 ** STAGES.

    A stage adds and subtracts neighbours and moves their bit of the index to the front: after all of them each bit is
    back in its place, and every stage reads the last one.
    """
    for _ in tl.static_range(STAGES):
        a, b = tl.split(x.reshape(ROWS, BLOCK // 2, 2))
        x = tl.join(a + b, a - b).permute(0, 2, 1).reshape(ROWS, BLOCK)
    return x * (1 / tl.sqrt(BLOCK * 1.0))


@triton.jit
def round_kernel(
    source,
    permutation,
    signs,
    target,
    codes,
    squares,
    magnitudes,
    n_rows,
    n_neurons,
    stride,
    width,
    PACK: tl.constexpr,
    BLOCK_B: tl.constexpr,
    BLOCK: tl.constexpr,
    STAGES: tl.constexpr,
):
    """source float [B, n_neurons] (rows ``stride`` apart; zeros beyond) -> one block of a round.

    permutation int32 [width], signs fp32 [width]. Without PACK target fp32 [B, width]; with it codes int32
    [B, width / 32], and squares and magnitudes fp32 [B, width / BLOCK]: Σ z², Σ |z| of the block.
    """
    blocks = width // BLOCK
    rows = (tl.program_id(0) // blocks * BLOCK_B + tl.arange(0, BLOCK_B)).to(tl.int64)
    block = tl.program_id(0) % blocks
    place = block * BLOCK + tl.arange(0, BLOCK)
    neuron = tl.load(permutation + place)
    sign = tl.load(signs + place)
    here = rows < n_rows
    mask = here[:, None] & (neuron < n_neurons)[None, :]
    x = tl.load(source + rows[:, None] * stride + neuron[None, :], mask=mask, other=0.0).to(tl.float32)
    z = mixed(x * sign[None, :], BLOCK_B, BLOCK, STAGES)
    if PACK:
        words = packed_words((z > 0).to(tl.int32), BLOCK_B, BLOCK // 32)
        word = block * (BLOCK // 32) + tl.arange(0, BLOCK // 32)
        tl.store(codes + rows[:, None] * (width // 32) + word[None, :], words, mask=here[:, None])
        tl.store(squares + rows * blocks + block, tl.sum(z * z, axis=1), mask=here)
        tl.store(magnitudes + rows * blocks + block, tl.sum(tl.abs(z), axis=1), mask=here)
    else:
        tl.store(target + rows[:, None] * width + place[None, :], z, mask=here[:, None])
