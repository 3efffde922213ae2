"""Sequences for the capture op's tests, and how good its sums must be."""

import math

import numpy as np
import torch

from nait_fast.kernels.capture.types import Segments

EPSILON = 2.0**-23


def segments_of(lengths, gap=0, skip_first=True) -> Segments:
    """One sequence after another, ``gap`` tokens of padding before each."""
    lengths = torch.tensor(lengths, dtype=torch.int64)
    starts = (lengths + gap).cumsum(0) - lengths
    return Segments(starts, starts + lengths, torch.full((len(lengths),), skip_first))


def exact_sum(x: torch.Tensor) -> np.ndarray:
    """Column sums of [n, J], each one correctly rounded."""
    return np.array([math.fsum(column) for column in x.double().T.tolist()])


def check_sums(got: torch.Tensor, parts: list[torch.Tensor], beside_torch: bool = True) -> None:
    """``got`` [B, J] are the column sums of ``parts``, as good as torch's own fp32 sums.

    Two bounds: pairwise summation's, eps · ⌈log2 n⌉ · Σ|x|, and with ``beside_torch`` twice the largest error of
    torch's own fp32 sum (plus the rounding of the result to fp32): for columns enough that this error is no accident.
    """
    assert got.dtype == torch.float32 and got.shape == (len(parts), parts[0].shape[1])
    for row, part in zip(got.double().cpu().numpy(), parts, strict=True):
        expected = exact_sum(part)
        error = np.abs(row - expected)
        of_torch = np.abs(part.float().sum(0).double().cpu().numpy() - expected).max()
        rounding = EPSILON * np.abs(expected).max()
        assert not beside_torch or error.max() <= 2 * of_torch + rounding
        depth = max(1, math.ceil(math.log2(len(part))))
        assert (error <= EPSILON * depth * exact_sum(part.abs())).all()
