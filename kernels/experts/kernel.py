"""Triton: one program for each (expert, sequence) and block of neurons; its rows are adjacent, so nothing is atomic."""

import triton
import triton.language as tl


@triton.jit
def sums_kernel(
    hidden, weight, offsets, sums, n_sequences, n_experts, width, stride, BLOCK_R: tl.constexpr, BLOCK_J: tl.constexpr
):
    """hidden [R, width] (rows ``stride`` apart), weight fp32 [R]; rows ``offsets[s] <= r < offsets[s + 1]`` are those
    of expert s // n_sequences and sequence s % n_sequences -> sums fp32 [n_sequences, n_experts, width].
    A row of weight 0 is left out, whatever it holds."""
    blocks = tl.cdiv(width, BLOCK_J)
    segment, block = tl.program_id(0) // blocks, tl.program_id(0) % blocks
    row, end = tl.load(offsets + segment), tl.load(offsets + segment + 1)
    neurons = block * BLOCK_J + tl.arange(0, BLOCK_J)
    total = tl.zeros([BLOCK_R, BLOCK_J], tl.float32)
    while row < end:
        rows = row + tl.arange(0, BLOCK_R)
        w = tl.load(weight + rows, mask=rows < end, other=0.0)
        mask = (rows < end)[:, None] & (neurons < width)[None, :]
        h = tl.load(hidden + rows[:, None].to(tl.int64) * stride + neurons[None, :], mask=mask, other=0.0)
        total += tl.where((w != 0.0)[:, None], h.to(tl.float32), 0.0) * w[:, None]
        row += BLOCK_R
    out = (segment % n_sequences).to(tl.int64) * n_experts + segment // n_sequences
    tl.store(sums + out * width + neurons, tl.sum(total, axis=0), mask=neurons < width)
