"""Checks and backend choice of RMSNorm."""

import numpy as np
import torch

from nait_fast.kernels.common.dispatch import current, interpreted, pick
from nait_fast.kernels.norm import reference

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
ROWS = 8  # of a program: 8 x 128 numbers are 8 a thread
SPLIT = 8192  # width from which torch gives a row 16 warps instead of one


def rms_norm(
    x: torch.Tensor, weight: torch.Tensor, eps: float, form: str = "rounded", halves: bool = True
) -> torch.Tensor:
    """RMSNorm of ``x`` [..., H] with ``weight`` [H], in ``x``'s dtype; ``form``: one of ``reference.FORMS``.

    On a GPU bit-equal to the reference where torch vectorises its sum: from 16 rows on, H at least 128 and a multiple
    of 4; ``halves``: its order of additions (see kernel.py). Raises ValueError on shapes that do not fit and on unknown
    forms.
    """
    width = x.shape[-1]
    if form not in reference.FORMS or weight.shape != (width,):
        raise ValueError(f"form {form!r}, x {tuple(x.shape)}, weight {tuple(weight.shape)} do not fit")
    taken = x.dtype in DTYPES and weight.dtype == x.dtype and width
    if not taken or pick(x.device.type, ("triton", "reference")) == "reference":
        return reference.rms_norm(x, weight, eps, form)
    from nait_fast.kernels.norm.kernel import norm_kernel

    rows = x.reshape(-1, width)
    rows = rows if rows.stride(1) == 1 or width == 1 else rows.contiguous()
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    warps = 16 if width >= SPLIT else 1
    several = max(1, ROWS // warps)
    if len(rows):
        share = float(np.float32(len(rows)) / np.float32(len(rows) * width))
        with current(x.device):
            norm_kernel[(-(-len(rows) // several),)](
                rows,
                weight.contiguous(),
                out,
                len(rows),
                rows.stride(0),
                eps,
                share,
                WIDTH=width,
                FORM=form,
                HALVES=halves,
                WARPS=warps,
                STEPS=warps.bit_length() - 1,
                BLOCK_N=several,
                INTERPRETED=interpreted(),
                num_warps=4,
                enable_fp_fusion=False,
            )
    return out
