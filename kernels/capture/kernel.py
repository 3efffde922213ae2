"""Triton: one pass over gate and up yields the hidden state and every statistic of a sequence (see docs/kernels.md).

A program owns one *chunk* (at most ``CHUNK`` tokens of one sequence) of one block of neurons. Chunks are cut from each
sequence's own start, so a sum does not depend on what else is in the batch; sums of a sequence of several chunks meet
in ``join_kernel``. No atomics: the same input gives the same bits.

Chunk table, int32 [C, 8]: begin, end (tokens), sequence (-1: padding, only the hidden state is wanted), the tokens
where its ``first`` and ``last`` are read (-1: none), first token of the sum, row of the partial sums (-1: the sequence
is this chunk), tokens in its mean.
"""

import triton
import triton.language as tl

from nait_fast.kernels.common.math import activation, packed_words, rounded


@triton.jit
def _store_codes(
    total,
    prefix,
    count,
    threshold,
    codes,
    sequence,
    n_words,
    neurons,
    inside,
    PREFIX: tl.constexpr,
    BLOCK_J: tl.constexpr,
):
    if PREFIX:
        total += tl.load(prefix + neurons, mask=inside, other=0.0)
    mean = tl.div_rn(total, tl.zeros_like(total) + count.to(tl.float32))
    bits = (mean > tl.load(threshold + neurons, mask=inside, other=float("inf"))).to(tl.int32)
    words = packed_words(bits[None, :], 1, BLOCK_J // 32)
    place = tl.program_id(0) % tl.cdiv(n_words, BLOCK_J // 32) * (BLOCK_J // 32) + tl.arange(0, BLOCK_J // 32)
    tl.store(codes + sequence * n_words + place[None, :], words, mask=(place < n_words)[None, :])


@triton.jit
def _hidden(g, u, ACT: tl.constexpr, DTYPE: tl.constexpr, INTERPRETED: tl.constexpr):
    return rounded(activation(g, ACT, DTYPE, INTERPRETED) * u, DTYPE, INTERPRETED)


@triton.jit
def _row(
    gate,
    up,
    token,
    gate_stride,
    up_stride,
    neurons,
    inside,
    ACT: tl.constexpr,
    HAS_GATE: tl.constexpr,
    INTERPRETED: tl.constexpr,
):
    """The hidden state of one token, fp32 [BLOCK_J]."""
    DTYPE: tl.constexpr = up.dtype.element_ty
    wide = token.to(tl.int64)
    u = tl.load(up + wide * up_stride + neurons, mask=inside, other=0.0).to(tl.float32)
    if HAS_GATE:
        g = tl.load(gate + wide * gate_stride + neurons, mask=inside, other=0.0).to(tl.float32)
        h = _hidden(g, u, ACT, DTYPE, INTERPRETED)
    else:
        h = activation(u, ACT, DTYPE, INTERPRETED)
    return h


@triton.jit
def capture_kernel(
    gate,
    up,
    hidden,
    chunks,
    weights,
    first,
    last,
    total,
    partial,
    up_total,
    up_partial,
    threshold,
    prefix,
    codes,
    n_neurons,
    gate_stride,
    up_stride,
    n_words,
    ACT: tl.constexpr,
    HAS_GATE: tl.constexpr,
    WRITE: tl.constexpr,
    FIRST: tl.constexpr,
    LAST: tl.constexpr,
    SUM: tl.constexpr,
    UP: tl.constexpr,
    PACK: tl.constexpr,
    PREFIX: tl.constexpr,
    WEIGHTED: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_J: tl.constexpr,
    INTERPRETED: tl.constexpr,
):
    """gate, up [T, J] (rows ``*_stride`` apart) -> hidden [T, J]; first, last, total, up_total fp32 [B, J]; partial,
    up_partial fp32 [P, J]; codes int32 [B, n_words] of mean > threshold, mean = (total + prefix) / count.

    With WEIGHTED a token counts ``weights`` fp32 [T] times in total and up_total; not at all where that is 0, even if
    it is NaN or infinite."""
    DTYPE: tl.constexpr = up.dtype.element_ty
    blocks = tl.cdiv(n_neurons, BLOCK_J)
    entry = chunks + (tl.program_id(0) // blocks) * 8
    neurons = tl.program_id(0) % blocks * BLOCK_J + tl.arange(0, BLOCK_J)
    inside = neurons < n_neurons
    begin, end, sequence = tl.load(entry), tl.load(entry + 1), tl.load(entry + 2).to(tl.int64)
    first_token, last_token, sum_from = tl.load(entry + 3), tl.load(entry + 4), tl.load(entry + 5)
    acc = tl.zeros([BLOCK_T, BLOCK_J], tl.float32)
    up_acc = tl.zeros([BLOCK_T, BLOCK_J], tl.float32)
    token = begin
    while token < end:
        tokens = token + tl.arange(0, BLOCK_T)
        mask = (tokens < end)[:, None] & inside[None, :]
        wide = tokens.to(tl.int64)[:, None]
        u = tl.load(up + wide * up_stride + neurons[None, :], mask=mask, other=0.0).to(tl.float32)
        counted = mask
        if WEIGHTED and (SUM or UP):
            weight = tl.load(weights + tokens, mask=tokens < end, other=0.0)[:, None]
            counted = mask & (weight != 0.0)
        if WRITE or SUM:
            if HAS_GATE:
                g = tl.load(gate + wide * gate_stride + neurons[None, :], mask=mask, other=0.0).to(tl.float32)
                h = _hidden(g, u, ACT, DTYPE, INTERPRETED)
            else:
                h = activation(u, ACT, DTYPE, INTERPRETED)
            if WRITE:
                tl.store(hidden + wide * n_neurons + neurons[None, :], h.to(DTYPE), mask=mask)
            if SUM:
                h = tl.where(counted & (tokens >= sum_from)[:, None], h, 0.0)
                if WEIGHTED:
                    h *= weight
                acc += h
        if UP:
            size = tl.where(counted, tl.abs(u), 0.0)
            if WEIGHTED:
                size *= weight
            up_acc += size
        token += BLOCK_T

    # A chunk holds its sequence's first or last token at most once: that row is computed again rather than looked for
    # in every step.
    if FIRST:
        here = inside & (begin <= first_token) & (first_token < end)
        h = _row(gate, up, first_token, gate_stride, up_stride, neurons, here, ACT, HAS_GATE, INTERPRETED)
        tl.store(first + sequence * n_neurons + neurons, h, mask=here)
    if LAST:
        here = inside & (begin <= last_token) & (last_token < end)
        h = _row(gate, up, last_token, gate_stride, up_stride, neurons, here, ACT, HAS_GATE, INTERPRETED)
        tl.store(last + sequence * n_neurons + neurons, h, mask=here)

    if SUM or UP:
        row = tl.load(entry + 6).to(tl.int64)
        whole = (row < 0) & (sequence >= 0)
        row_out = row * n_neurons + neurons
        if SUM:
            sums = tl.sum(acc, axis=0)
            tl.store(total + sequence * n_neurons + neurons, sums, mask=inside & whole)
            tl.store(partial + row_out, sums, mask=inside & (row >= 0))
            if PACK:  # noqa: SIM102 (known when compiled, the other at run time)
                if whole:
                    _store_codes(
                        sums,
                        prefix,
                        tl.load(entry + 7),
                        threshold,
                        codes,
                        sequence,
                        n_words,
                        neurons,
                        inside,
                        PREFIX,
                        BLOCK_J,
                    )
        if UP:
            ups = tl.sum(up_acc, axis=0)
            tl.store(up_total + sequence * n_neurons + neurons, ups, mask=inside & whole)
            tl.store(up_partial + row_out, ups, mask=inside & (row >= 0))


@triton.jit
def join_kernel(
    joins,
    partial,
    total,
    threshold,
    prefix,
    codes,
    n_neurons,
    n_words,
    PACK: tl.constexpr,
    PREFIX: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_J: tl.constexpr,
):
    """Second pass, for sequences of several chunks: total[sequence] = sum of its rows of ``partial``, in a fixed order.

    joins int32 [S, 4]: sequence, first and past-the-end row of ``partial``, tokens in its mean.
    """
    blocks = tl.cdiv(n_neurons, BLOCK_J)
    entry = joins + (tl.program_id(0) // blocks) * 4
    neurons = tl.program_id(0) % blocks * BLOCK_J + tl.arange(0, BLOCK_J)
    inside = neurons < n_neurons
    sequence, row, end = tl.load(entry).to(tl.int64), tl.load(entry + 1), tl.load(entry + 2)
    acc = tl.zeros([BLOCK_P, BLOCK_J], tl.float32)
    while row < end:
        rows = row + tl.arange(0, BLOCK_P)
        mask = (rows < end)[:, None] & inside[None, :]
        acc += tl.load(partial + rows.to(tl.int64)[:, None] * n_neurons + neurons[None, :], mask=mask, other=0.0)
        row += BLOCK_P
    sums = tl.sum(acc, axis=0)
    tl.store(total + sequence * n_neurons + neurons, sums, mask=inside)
    if PACK:
        _store_codes(
            sums, prefix, tl.load(entry + 3), threshold, codes, sequence, n_words, neurons, inside, PREFIX, BLOCK_J
        )
