"""Triton: popcounts of codes against bit planes, and products of bits with int8 columns on tensor cores.

docs/kernels.md says which one pays where.
"""

import triton
import triton.language as tl

from nait_fast.kernels.common.math import popcount32


@triton.jit
def _counted(counts, code, planes, row_words, words, inside, N_PLANES: tl.constexpr, PLANES: tl.constexpr):
    """``counts`` int32 [BLOCK_N, PLANES] and popcount(code & plane), ``words`` being where ``code`` lies in a row.

    A warp has whole rows, so a sum over words is one instruction, and a tile of codes meets every plane in registers.
    """
    for q in tl.static_range(N_PLANES):
        query = tl.load(planes + q * row_words + words, mask=inside, other=0)
        found = tl.sum(popcount32(code & query[None, :]).to(tl.int32), axis=1)
        counts += tl.where((tl.arange(0, PLANES) == q)[None, :], found[:, None], 0)
    return counts


@triton.jit(do_not_specialize=["n_scores", "row_scores"])
def count_kernel(
    codes,
    planes,
    weights,
    scores,
    n_rows,
    n_words,
    n_scores,
    row_scores,
    N_PLANES: tl.constexpr,
    PLANES: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_W: tl.constexpr,
):
    """scores int64 [n, n_scores] (rows ``row_scores`` apart) += popcount(code & plane) @ weights.

    codes uint32 [n, n_words], planes uint32 [N_PLANES, n_words], weights int64 [N_PLANES, n_scores]. ``PLANES``: the
    next power of two of N_PLANES.
    """
    rows = (tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)).to(tl.int64)
    counts = tl.zeros([BLOCK_N, PLANES], tl.int32)
    word = tl.zeros([], tl.int32)
    while word < n_words:
        words = word + tl.arange(0, BLOCK_W)
        inside = words < n_words
        mask = (rows < n_rows)[:, None] & inside[None, :]
        code = tl.load(codes + rows[:, None] * n_words + words[None, :], mask=mask, other=0)
        counts = _counted(counts, code, planes, n_words, words, inside, N_PLANES, PLANES)
        word += BLOCK_W
    plane = tl.arange(0, PLANES)
    score = tl.zeros([], tl.int32)
    while score < n_scores:
        weight = tl.load(weights + plane * n_scores + score, mask=plane < N_PLANES, other=0)
        place = scores + rows * row_scores + score
        value = tl.sum(counts.to(tl.int64) * weight[None, :], axis=1)
        tl.store(place, tl.load(place, mask=rows < n_rows, other=0) + value, mask=rows < n_rows)
        score += 1


@triton.jit
def scaled_kernel(
    codes,
    planes,
    weights,
    scales,
    scores,
    n_rows,
    n_layers,
    row_words,
    N_PLANES: tl.constexpr,
    PLANES: tl.constexpr,
    WORDS: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_W: tl.constexpr,
):
    """scores fp32 [n] = Σ_l scales[i, l] · Σ_q weights[q, l] · popcount(code_l & plane_ql), ``WORDS`` words a layer.

    codes uint32 [n, row_words] and planes uint32 [N_PLANES, row_words], the first L · WORDS of each counting, weights
    fp32 [N_PLANES, L], scales fp16/fp32 [n, L].
    """
    rows = (tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)).to(tl.int64)
    plane = tl.arange(0, PLANES)
    total = tl.zeros([BLOCK_N], tl.float32)
    layer = tl.zeros([], tl.int32)
    while layer < n_layers:
        counts = tl.zeros([BLOCK_N, PLANES], tl.int32)
        for start in tl.static_range(0, WORDS, BLOCK_W):
            offset = start + tl.arange(0, BLOCK_W)
            words, inside = layer * WORDS + offset, offset < WORDS
            mask = (rows < n_rows)[:, None] & inside[None, :]
            code = tl.load(codes + rows[:, None] * row_words + words[None, :], mask=mask, other=0)
            counts = _counted(counts, code, planes, row_words, words, inside, N_PLANES, PLANES)
        weight = tl.load(weights + plane * n_layers + layer, mask=plane < N_PLANES, other=0.0)
        scale = tl.load(scales + rows * n_layers + layer, mask=rows < n_rows, other=0.0).to(tl.float32)
        total += scale * tl.sum(counts.to(tl.float32) * weight[None, :], axis=1)
        layer += 1
    tl.store(scores + rows, total, mask=rows < n_rows)


@triton.jit
def bit_of_bytes(x, SHIFT: tl.constexpr, PACKED: tl.constexpr):
    """Bit SHIFT of each byte, int8 0 or 1. ``PACKED``: four bytes of a register at once (CUDA only)."""
    if PACKED:
        bit = tl.inline_asm_elementwise(
            f"{{ .reg .b32 t; shr.u32 t, $1, {SHIFT}; and.b32 $0, t, 0x01010101; }}",
            "=r,r",
            [x],
            dtype=tl.int8,
            is_pure=True,
            pack=4,
        )
    else:
        bit = ((x >> SHIFT) & 1).to(tl.int8)
    return bit


@triton.jit
def dot_kernel(
    codes,
    columns,
    out,
    n_rows,
    n_columns,
    N_BYTES: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_K: tl.constexpr,
    PACKED: tl.constexpr,
):
    """codes uint8 [n, N_BYTES], columns int8 [8, M, N_BYTES] -> out integer [n, M] = Σ_s bit_s(codes) · columns[s]ᵀ.

    Bits are unpacked in registers, one of the eight bit positions a product, so a byte is loaded once and no reshuffle
    is needed: columns[s] holds the weights of neurons s, 8 + s, 16 + s … of the packed order. Both operands lie along
    the bytes, as 8-bit tensor-core products want them. The width is a constant so that the loop over it is one that
    the compiler can overlap with its loads.
    """
    groups = tl.cdiv(n_columns, BLOCK_M)
    rows = (tl.program_id(0) // groups * BLOCK_N + tl.arange(0, BLOCK_N)).to(tl.int64)
    column = tl.program_id(0) % groups * BLOCK_M + tl.arange(0, BLOCK_M)
    acc = tl.zeros([BLOCK_N, BLOCK_M], tl.int32)
    for byte in tl.range(0, N_BYTES, BLOCK_K):
        place = byte + tl.arange(0, BLOCK_K)
        mask = (rows < n_rows)[:, None] & (place < N_BYTES)[None, :]
        code = tl.load(codes + rows[:, None] * N_BYTES + place[None, :], mask=mask, other=0)
        mask = (column < n_columns)[:, None] & (place < N_BYTES)[None, :]
        for shift in tl.static_range(8):
            offset = (shift * n_columns + column).to(tl.int64)[:, None] * N_BYTES + place[None, :]
            weight = tl.load(columns + offset, mask=mask, other=0)
            acc = tl.dot(bit_of_bytes(code, shift, PACKED), tl.trans(weight), acc, out_dtype=tl.int32)
    mask = (rows < n_rows)[:, None] & (column < n_columns)[None, :]
    tl.store(out + rows[:, None] * n_columns + column[None, :], acc.to(out.dtype.element_ty), mask=mask)
