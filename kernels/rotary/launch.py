"""Checks and backend choice of the rotary position embedding."""

import torch

from nait_fast.kernels.common.dispatch import current, interpreted, pick
from nait_fast.kernels.rotary import reference

# Without a rounding between product and sum the compiler would merge them: fp32 takes the reference.
DTYPES = (torch.bfloat16, torch.float16)
ROWS = 32  # of a program: a head of one token each


def apply_rotary(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Query or key ``x`` [1, heads, T, D] turned by ``cos`` and ``sin`` [1, T, D], with transformers' own bits.

    Of the kernel, the result lies in memory as [1, T, heads, D]. Raises ValueError on shapes that do not fit.
    """
    batch, heads, n_tokens, width = x.shape
    if cos.shape != (batch, n_tokens, width) or sin.shape != cos.shape or width % 2:
        raise ValueError(f"x {tuple(x.shape)}, cos {tuple(cos.shape)}, sin {tuple(sin.shape)} do not fit")
    taken = batch == 1 and x.dtype in DTYPES and cos.dtype == sin.dtype == x.dtype
    if not taken or pick(x.device.type, ("triton", "reference")) == "reference":
        return reference.apply_rotary(x, cos, sin)
    from nait_fast.kernels.rotary.kernel import rotary_kernel

    rows = x[0].transpose(0, 1)  # [T, heads, D]
    rows = rows if rows.stride(2) == 1 else rows.contiguous()
    out = torch.empty(n_tokens, heads, width, dtype=x.dtype, device=x.device)
    if out.numel():
        with current(x.device):
            rotary_kernel[(-(-n_tokens * heads // ROWS),)](
                rows,
                cos.contiguous(),
                sin.contiguous(),
                out,
                n_tokens * heads,
                heads,
                rows.stride(0),
                rows.stride(1),
                HALF=width // 2,
                BLOCK_N=ROWS,
                BLOCK_D=1 << (width // 2 - 1).bit_length(),
                INTERPRETED=interpreted(),
                num_warps=4,
                enable_fp_fusion=False,
            )
    return out.transpose(0, 1)[None]
