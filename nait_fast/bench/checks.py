"""What an op's result must satisfy before it is timed: comparisons with the reference on the same device."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from nait_fast import kernels
from nait_fast.errors import NaitError, is_out_of_memory
from nait_fast.kernels.capture.reference import pool
from nait_fast.kernels.capture.types import Segments
from nait_fast.kernels.common.dispatch import VARIABLE

# Units in the last place that hidden may be away: an activation rounded 1 apart can make the product 2 apart.
ULPS = {torch.bfloat16: 2, torch.float16: 2, torch.float32: 4}
ULP_SHARE = 1e-3  # of the elements of a half-precision hidden state that may differ at all
SUM_TOLERANCE, BIT_TOLERANCE = 1e-5, 1e-6  # of Σ|h|, of mean |h|


class Wrong(Exception):
    """An op's result is not what the reference gives."""


def failure(error: Exception) -> str:
    """The ``check`` of a row whose measurement ``error`` has ended."""
    if is_out_of_memory(error):
        return "skipped: no memory for it"
    if isinstance(error, (Wrong, NaitError)):
        return f"failed: {error}"
    return f"failed: {type(error).__name__}: {' '.join(str(error).split())[:200]}"


@contextmanager
def backend(name: str) -> Iterator[None]:
    """Force a backend of the ops inside the block ('': the choice by device)."""
    before = os.environ.get(VARIABLE)
    os.environ[VARIABLE] = name
    try:
        yield
    finally:
        if before is None:
            del os.environ[VARIABLE]
        else:
            os.environ[VARIABLE] = before


def _ordered(x: torch.Tensor) -> torch.Tensor:
    """Integers that order as the floats do, one apart where the floats are neighbours."""
    bits = x.view(torch.int32 if x.dtype == torch.float32 else torch.int16).long()
    top = 31 if x.dtype == torch.float32 else 15
    return torch.where(bits < 0, -(bits & ((1 << top) - 1)), bits)


def check_hidden(got: torch.Tensor, expected: torch.Tensor) -> str:
    """Words on [T, J] ``got`` against ``expected``, counting elements a few units in the last place apart."""
    differing = worst = 0
    for a, b in zip(got.split(2048), expected.split(2048), strict=True):  # in pieces: the integers take 8 bytes each
        if not torch.isfinite(a).all():
            raise Wrong("hidden is not finite")
        apart = (_ordered(a) - _ordered(b)).abs()
        differing += int((apart > 0).sum())
        worst = max(worst, int(apart.max()))
    words = f"hidden {differing:,} of {got.numel():,} differ" + (f" by up to {worst} ulp" if worst else "")
    half = got.dtype != torch.float32
    if worst > ULPS[got.dtype] or (half and differing > ULP_SHARE * got.numel()):
        raise Wrong(words)
    return words


def check_sum(name: str, got: torch.Tensor | None, x: torch.Tensor, segments: Segments, up: bool = False) -> str:
    """``got`` against the reference's sums of ``x``, the op's own hidden state (or |up|), relative to Σ|x|."""
    assert got is not None
    kind = frozenset({"up_abs_sum" if up else "sum"})
    stats, sizes = pool(x, segments, kind, x), pool(x.abs(), segments, kind, x)
    expected, size = (stats.up_abs_sum, sizes.up_abs_sum) if up else (stats.sum, sizes.sum)
    assert expected is not None and size is not None
    worst = float(((got - expected).abs() / size.clamp(min=1e-30)).max())
    if not worst <= SUM_TOLERANCE:
        raise Wrong(f"{name} off by {worst:.1e} of Σ|x|")
    return f"{name} within {worst:.0e}"


def check_codes(got: torch.Tensor, values: torch.Tensor, threshold: torch.Tensor, scale: torch.Tensor | None) -> str:
    """Codes [B, layer_bytes(J)] against ``values`` [B, J] > ``threshold``; a bit may differ within ``BIT_TOLERANCE`` ·
    ``scale`` of its threshold (None: nowhere)."""
    width = values.shape[1]
    bits = kernels.unpack(got, width)
    if not torch.equal(kernels.pack_bool(bits), got):
        raise Wrong("codes have bits set past the last neuron")
    differ = bits != (values > threshold)
    count = int(differ.sum())
    if count and scale is None:
        raise Wrong(f"{count:,} of {differ.numel():,} bits differ")
    if count and scale is not None:
        far = ((values - threshold).abs() > BIT_TOLERANCE * scale) & differ
        if far.any():
            raise Wrong(f"{int(far.sum()):,} of {differ.numel():,} bits differ away from their threshold")
    return f"codes {count:,} of {differ.numel():,} differ"
