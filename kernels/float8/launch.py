"""Checks and backend choice of quantised rows."""

import torch

from nait_fast.kernels.common.dispatch import current, interpreted, pick
from nait_fast.kernels.float8 import reference

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
TILE = 8192  # numbers of a program, where several rows fit in
WIDEST = 65536  # of a row that one program holds


def quantise_rows(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """``x`` [..., K] as e4m3 [n, K] and fp32 scales [n, 1] of its n rows (see the reference, whose bits these are).

    Raises ValueError for rows of no numbers.
    """
    width = x.shape[-1]
    if not width:
        raise ValueError(f"x {tuple(x.shape)}: its rows are empty")
    taken = x.dtype in DTYPES and width <= WIDEST
    if not taken or pick(x.device.type, ("triton", "reference")) == "reference":
        return reference.quantise_rows(x)
    from nait_fast.kernels.float8.kernel import quantise_kernel

    rows = x.reshape(-1, width)
    rows = rows if rows.stride(1) == 1 or width == 1 else rows.contiguous()
    out = torch.empty(rows.shape, dtype=reference.DTYPE, device=x.device)
    scale = torch.empty(len(rows), 1, dtype=torch.float32, device=x.device)
    block = 1 << (width - 1).bit_length()
    several = max(1, TILE // block)
    if len(rows):
        with current(x.device):
            quantise_kernel[(-(-len(rows) // several),)](
                rows,
                out.view(torch.uint8),
                scale,
                len(rows),
                rows.stride(0),
                WIDTH=width,
                LARGEST=reference.LARGEST,
                FAINTEST=reference.FAINTEST,
                BLOCK_N=several,
                BLOCK_K=block,
                INTERPRETED=interpreted(),
                num_warps=min(32, max(8, block // 1024)),
            )
    return out, scale
