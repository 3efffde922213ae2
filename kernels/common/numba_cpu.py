"""What all that is compiled by Numba shares: the processor's threads, and what LLVM has and Numba has not."""

import os
import sys
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from threading import Lock
from typing import Any

_turn = Lock()


def load_numba() -> Any:
    """Numba, imported; it must not be before something compiles: half a second, and one to compile."""
    # Numba sizes OpenMP's pool, which is torch's too, by the cores: OMP_NUM_THREADS must hold for both.
    threads = os.environ.get("OMP_NUM_THREADS", "")
    if threads.isdigit() and "numba" not in sys.modules:
        os.environ.setdefault("NUMBA_NUM_THREADS", threads)
    import numba

    return numba


def one_at_a_time() -> AbstractContextManager:
    """Numba's own pool ('workqueue', taken where OpenMP is missing) crashes when two threads use it at once."""
    try:
        return _turn if load_numba().threading_layer() == "workqueue" else nullcontext()
    except ValueError:  # nothing has run in parallel yet: which pool it will be is not known
        return _turn


@cache
def make_ctpop() -> Any:
    """Numba's intrinsic of LLVM's ctpop, uint64 -> uint64 (VPOPCNT where the processor has it)."""
    load_numba()
    from numba import types
    from numba.extending import intrinsic

    # Numba adds the first argument of an intrinsic itself: for a type checker it is Any.
    def ctpop_of(typing_context, x):
        def codegen(context, builder, signature, args):
            return builder.ctpop(args[0])

        return types.uint64(types.uint64), codegen

    return intrinsic(ctpop_of)


@cache
def make_word() -> Any:
    """Numba's intrinsic (address uint64 of a row, number int64) -> uint64, a word of the row: for rows that lie in any
    number of mapped files, which must stay mapped meanwhile."""
    load_numba()
    from llvmlite import ir
    from numba import types
    from numba.extending import intrinsic

    def word_of(typing_context, address, number):
        def codegen(context, builder, signature, args):
            start = builder.inttoptr(args[0], ir.IntType(64).as_pointer())
            return builder.load(builder.gep(start, [args[1]]), align=1)

        return types.uint64(types.uint64, types.int64), codegen

    return intrinsic(word_of)
