"""Checks and backend choice of the experts' segmented weighted sum."""

import torch

from nait_fast.kernels.common.dispatch import current, interpreted, pick
from nait_fast.kernels.experts import reference

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
BLOCK = (8, 128)  # rows, neurons of a tile
INTERPRETED_ROWS = 32  # of a tile in Triton's interpreter, which pays for each step and not for its size


def expert_sums(hidden: torch.Tensor, weight: torch.Tensor, offsets: torch.Tensor, n_experts: int) -> torch.Tensor:
    """Sums of weight · activation over the tokens of each sequence that went to each expert.

    ``hidden`` [R, J] and ``weight`` [R]: one row a (token, expert), sorted by expert, then sequence; ``offsets`` int64
    [E · B + 1], on the same device: rows ``offsets[e · B + b]`` to ``offsets[e · B + b + 1]`` are those of expert e and
    sequence b, and rows from ``offsets[-1]`` on are nobody's. A row of weight 0 is left out, whatever it holds. Returns
    fp32 [B, E, J], 0 where there are no rows. Raises ValueError on shapes that do not fit.
    """
    if hidden.dim() != 2 or weight.shape != hidden.shape[:1] or n_experts < 1 or (len(offsets) - 1) % n_experts:
        raise ValueError(
            f"hidden {tuple(hidden.shape)}, weight {tuple(weight.shape)}, offsets {tuple(offsets.shape)} of "
            f"{n_experts} experts do not fit"
        )
    if hidden.dtype not in DTYPES or pick(hidden.device.type, ("triton", "reference")) == "reference":
        return reference.expert_sums(hidden, weight, offsets, n_experts)
    from nait_fast.kernels.experts.kernel import sums_kernel

    width, n = hidden.shape[1], (len(offsets) - 1) // n_experts
    rows = hidden if hidden.stride(1) == 1 or width == 1 else hidden.contiguous()
    sums = torch.empty(n, n_experts, width, dtype=torch.float32, device=hidden.device)
    tile, neurons = BLOCK
    if sums.numel():
        with current(hidden.device):
            sums_kernel[(n * n_experts * -(-width // neurons),)](
                rows,
                weight.float().contiguous(),
                offsets,
                sums,
                n,
                n_experts,
                width,
                rows.stride(0),
                BLOCK_R=INTERPRETED_ROWS if interpreted() else tile,
                BLOCK_J=neurons,
                num_warps=2,
            )
    return sums
