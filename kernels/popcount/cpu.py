"""Popcount scan on the CPU: Numba, rows in parallel, LLVM's ctpop (VPOPCNT where the processor has it)."""

from functools import cache
from typing import Any

import numpy as np

from nait_fast.kernels.common.numba_cpu import load_numba, make_ctpop, one_at_a_time

# Up to this row size four planes at a time are faster, their sums spread over more of the pipeline; beyond it one at a
# time is, each plane staying in the first cache.
NARROW_BYTES = 2048
REST_PLANES = 16  # from here on a second pass over the codes, for the one to three planes left over, pays


@cache
def _compiled():
    numba = load_numba()
    from llvmlite import ir
    from numba import types
    from numba.core import cgutils
    from numba.extending import intrinsic
    from numba.np.arrayobj import make_array

    # Numba adds the first argument of an intrinsic itself: for a type checker it is Any.
    def prefetch_of(typing_context, words, row, word):
        def codegen(context, builder, signature, args):
            array = make_array(signature.args[0])(context, builder, args[0])
            pointer = cgutils.get_item_pointer(context, builder, signature.args[0], array, list(args[1:]))
            pointer = builder.bitcast(pointer, ir.IntType(8).as_pointer())
            i32 = ir.IntType(32)
            signature_of_llvm = ir.FunctionType(ir.VoidType(), [pointer.type, i32, i32, i32])
            function = builder.module.declare_intrinsic("llvm.prefetch", [pointer.type], signature_of_llvm)
            builder.call(function, [pointer, i32(0), i32(3), i32(1)])  # for reading, into the nearest cache, data
            return context.get_dummy_value()

        return types.void(words, row, word), codegen

    ctpop = make_ctpop()
    prefetch: Any = intrinsic(prefetch_of)

    @numba.njit(parallel=True, nogil=True)
    def scan(words, planes, weights, owners, out):
        n_rows, n_words, n_planes = words.shape[0], words.shape[1], planes.shape[0]
        for i in numba.prange(n_rows):
            following = min(i + 1, n_rows - 1)
            for q in range(n_planes):
                # Only the first plane's pass waits for memory, the others find the row in cache: fetch a share of the
                # next row before each, or memory idles meanwhile (4 planes: 1.3 times as fast).
                if n_planes > 1:
                    for w in range(q * n_words // n_planes // 8 * 8, (q + 1) * n_words // n_planes, 8):
                        prefetch(words, following, w)
                count = np.uint64(0)
                for w in range(n_words):
                    count += ctpop(words[i, w] & planes[q, w])
                out[i, owners[q]] += weights[q] * np.int64(count)

    @numba.njit(parallel=True, nogil=True)
    def scan_narrow(words, planes, weights, owners, out):
        n_rows, n_words, n_groups = words.shape[0], words.shape[1], planes.shape[0] // 4
        for i in numba.prange(n_rows):
            following = min(i + 1, n_rows - 1)
            for g in range(n_groups):
                q = 4 * g
                for w in range(g * n_words // n_groups // 8 * 8, (g + 1) * n_words // n_groups, 8):
                    prefetch(words, following, w)
                a, b, c, d = np.uint64(0), np.uint64(0), np.uint64(0), np.uint64(0)
                for w in range(n_words):
                    x = words[i, w]
                    a += ctpop(x & planes[q, w])
                    b += ctpop(x & planes[q + 1, w])
                    c += ctpop(x & planes[q + 2, w])
                    d += ctpop(x & planes[q + 3, w])
                out[i, owners[q]] += weights[q] * np.int64(a)
                out[i, owners[q + 1]] += weights[q + 1] * np.int64(b)
                out[i, owners[q + 2]] += weights[q + 2] * np.int64(c)
                out[i, owners[q + 3]] += weights[q + 3] * np.int64(d)

    @numba.njit(parallel=True, nogil=True)
    def scan_scaled(words, planes, weights, owners, scales, ends, out):
        n_layers, n_planes = len(ends) - 1, planes.shape[0]
        for i in numba.prange(words.shape[0]):
            for layer in range(n_layers):
                for q in range(n_planes):
                    count = np.uint64(0)
                    for w in range(ends[layer], ends[layer + 1]):
                        count += ctpop(words[i, w] & planes[q, w])
                    out[i, owners[q]] += scales[i, layer] * (weights[q, layer] * np.int64(count))

    return scan, scan_narrow, scan_scaled


def popcount_scan(
    codes: np.ndarray, planes: np.ndarray, weights: np.ndarray, owners: np.ndarray, n_scores: int
) -> np.ndarray:
    """Same contract as ``reference.popcount_scan``."""
    out = np.zeros((len(codes), n_scores), dtype=np.int64)
    if not len(codes):
        return out
    scan, scan_narrow, _ = _compiled()
    words, masks = codes.view(np.uint64), planes.view(np.uint64)
    narrow = codes.shape[1] <= NARROW_BYTES and (len(planes) % 4 == 0 or len(planes) >= REST_PLANES)
    fours = len(planes) // 4 * 4 if narrow else 0
    with one_at_a_time():
        if fours:
            scan_narrow(words, masks[:fours], weights[:fours], owners[:fours], out)
        if fours < len(planes):
            scan(words, masks[fours:], weights[fours:], owners[fours:], out)
    return out


def scaled_scan(
    codes: np.ndarray,
    planes: np.ndarray,
    weights: np.ndarray,
    owners: np.ndarray,
    n_scores: int,
    scales: np.ndarray,
    ends: np.ndarray,
) -> np.ndarray:
    """Same contract as ``reference.scaled_scan``; layers of whole 64-bit words."""
    out = np.zeros((len(codes), n_scores))
    if not len(codes):
        return out
    scan = _compiled()[2]
    words, masks = codes.view(np.uint64), planes.view(np.uint64)
    with one_at_a_time():
        scan(words, masks, weights, owners, scales.astype(np.float64), ends // 8, out)
    return out
