"""Popcount scan on the CPU: Numba, rows in parallel, LLVM's ctpop (VPOPCNT where the processor has it)."""

import os
import sys
from functools import cache

import numpy as np


@cache
def _compiled():
    # Compiled at first use, not at import: Numba costs half a second to import and one to compile.
    # Numba sizes OpenMP's pool, which is torch's too, by the cores: OMP_NUM_THREADS must hold for both.
    threads = os.environ.get("OMP_NUM_THREADS", "")
    if threads.isdigit() and "numba" not in sys.modules:
        os.environ.setdefault("NUMBA_NUM_THREADS", threads)
    import numba
    from numba import types
    from numba.extending import intrinsic

    @intrinsic
    def ctpop(typing_context, x):
        def codegen(context, builder, signature, args):
            return builder.ctpop(args[0])

        return types.uint64(types.uint64), codegen

    @numba.njit(parallel=True, nogil=True)
    def scan(words, planes, weights, owners, out):
        for i in numba.prange(words.shape[0]):
            for q in range(planes.shape[0]):
                count = np.uint64(0)
                for w in range(words.shape[1]):
                    count += ctpop(words[i, w] & planes[q, w])  # type: ignore[call-arg]
                out[i, owners[q]] += weights[q] * np.int64(count)

    return scan


def popcount_scan(
    codes: np.ndarray, planes: np.ndarray, weights: np.ndarray, owners: np.ndarray, n_scores: int
) -> np.ndarray:
    """Same contract as ``reference.popcount_scan``."""
    out = np.zeros((len(codes), n_scores), dtype=np.int64)
    if len(codes):
        _compiled()(codes.view(np.uint64), planes.view(np.uint64), weights, owners, out)
    return out
