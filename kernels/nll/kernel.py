"""Triton: losses of tokens, online over blocks of the vocabulary; logits never leave a program."""

import triton
import triton.language as tl

from nait_fast.kernels.common.math import tanh

LOWEST = tl.constexpr(-3.0e38)  # where a maximum begins: of two infinities the difference is no number


@triton.jit
def losses_kernel(
    x,
    weight,
    bias,
    labels,
    highest,
    sums,
    at_label,
    n_rows,
    n_words,
    x_stride,
    weight_stride,
    scale,
    softcap,
    WIDTH: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    HAS_CAP: tl.constexpr,
    BLOCKS: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_V: tl.constexpr,
    BLOCK_K: tl.constexpr,
    GROUP: tl.constexpr,
    PRECISION: tl.constexpr,
    INTERPRETED: tl.constexpr,
):
    """x [n, WIDTH], weight [V, WIDTH] (rows ``x_stride`` and ``weight_stride`` apart), labels int64 [n] -> of part c of
    the vocabulary, BLOCKS blocks of BLOCK_V, fp32 highest[c, r], the largest logit, and sums[c, r], Σ exp(logit −
    largest); fp32 at_label[r], written by the part that holds the label.

    One program: BLOCK_N rows and one part. Programs that run side by side have GROUP blocks of rows, so that what they
    read of x and weight is shared in cache.
    """
    parts = tl.cdiv(n_words, BLOCKS * BLOCK_V)
    row_blocks = tl.cdiv(n_rows, BLOCK_N)
    first = tl.program_id(0) // (GROUP * parts) * GROUP
    of_group = tl.minimum(row_blocks - first, GROUP)
    place = tl.program_id(0) % (GROUP * parts)
    part = place // of_group
    row = (first + place % of_group) * BLOCK_N
    rows, words, lanes = tl.arange(0, BLOCK_N), tl.arange(0, BLOCK_V), tl.arange(0, BLOCK_K)
    here = row + rows < n_rows
    label = tl.load(labels + row + rows, mask=here, other=-1).to(
        tl.int32
    )  # a vocabulary has fewer than 2 ** 31 entries
    own_x = x + row.to(tl.int64) * x_stride  # offsets within a tile are 32 bits: 64 would spill
    most = tl.full([BLOCK_N], LOWEST, tl.float32)
    total = tl.zeros([BLOCK_N], tl.float32)
    for block in range(BLOCKS):
        word = (part * BLOCKS + block) * BLOCK_V
        inside = word + words < n_words
        own_weight = weight + word.to(tl.int64) * weight_stride
        logits = tl.zeros([BLOCK_N, BLOCK_V], tl.float32)
        for k in range(0, WIDTH, BLOCK_K):
            within = k + lanes < WIDTH
            a = tl.load(
                own_x + k + rows[:, None] * x_stride + lanes[None, :], mask=here[:, None] & within[None, :], other=0.0
            )
            b = tl.load(
                own_weight + k + words[None, :] * weight_stride + lanes[:, None],
                mask=inside[None, :] & within[:, None],
                other=0.0,
            )
            if INTERPRETED:  # which holds bf16 as integers
                a, b = a.to(tl.float32), b.to(tl.float32)
            logits = tl.dot(a, b, logits, input_precision=PRECISION)
        if HAS_BIAS:
            logits += tl.load(bias + word + words, mask=inside, other=0.0).to(tl.float32)[None, :]
        logits *= scale
        if HAS_CAP:
            logits = softcap * tanh(logits / softcap, INTERPRETED)
        hit = words[None, :] == (label - word)[:, None]
        found = here & (label >= word) & (label < word + BLOCK_V) & (label < n_words)
        tl.store(at_label + row + rows, tl.sum(tl.where(hit, logits, 0.0), axis=1), mask=found)
        logits = tl.where(inside[None, :], logits, -float("inf"))
        before = most
        most = tl.maximum(most, tl.max(logits, axis=1))
        total = total * tl.exp(before - most) + tl.sum(tl.exp(logits - most[:, None]), axis=1)
    out = part.to(tl.int64) * n_rows + row + rows
    tl.store(highest + out, most, mask=here)
    tl.store(sums + out, total, mask=here)
