"""Checks and backend choice of the rotation."""

import torch

from nait_fast.kernels.common.dispatch import current, pick
from nait_fast.kernels.rotate import BLOCK, ROUNDS, reference, rotated_width

ROWS = 8  # of a program: 8 x 128 numbers are 8 a thread


def check(values: torch.Tensor, permutations: torch.Tensor, signs: torch.Tensor) -> None:
    """Raises ValueError on shapes that do not fit."""
    if values.ndim != 2 or not values.shape[1]:
        raise ValueError(f"values must be [B, J], J at least 1: {tuple(values.shape)}")
    expected = (ROUNDS, rotated_width(values.shape[1]))
    if permutations.shape != expected or signs.shape != expected:
        raise ValueError(
            f"permutations and signs must be {expected} for {values.shape[1]} neurons: "
            f"{tuple(permutations.shape)}, {tuple(signs.shape)}"
        )


def rotate_bits(
    values: torch.Tensor, permutations: torch.Tensor, signs: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """1-bit code of each row of ``values`` float [B, J] after a random rotation, and the factor that undoes its scale.

    ``permutations`` int32 [2, J'] and ``signs`` ±1 fp32 [2, J'], J' = ``rotated_width(J)``. Returns codes uint8
    [B, J' / 8] (bit of z > 0, LSB first) and fp32 [B], ‖z‖₂² / ‖z‖₁. Raises ValueError on shapes that do not fit.
    """
    check(values, permutations, signs)
    double = values.dtype == torch.float64  # the kernel adds in fp32
    if double or pick(values.device.type, ("triton", "reference")) == "reference":
        return reference.rotate_bits(values, permutations, signs)
    from nait_fast.kernels.rotate.kernel import round_kernel

    n, width = len(values), permutations.shape[1]
    source = values if values.stride(1) == 1 or values.shape[1] == 1 else values.contiguous()
    between = torch.empty(n, width, dtype=torch.float32, device=values.device)
    codes = torch.empty(n, width // 32, dtype=torch.int32, device=values.device)
    squares, magnitudes = (torch.empty(n, width // BLOCK, dtype=torch.float32, device=values.device) for _ in range(2))
    if n:
        grid = (-(-n // ROWS) * (width // BLOCK),)
        orders, flips = permutations.to(torch.int32).contiguous(), signs.float().contiguous()
        with current(values.device):
            for number in range(ROUNDS):
                round_kernel[grid](
                    source,
                    orders[number],
                    flips[number],
                    between,
                    codes,
                    squares,
                    magnitudes,
                    n,
                    source.shape[1],
                    source.stride(0),
                    width,
                    PACK=number == ROUNDS - 1,
                    BLOCK_B=ROWS,
                    BLOCK=BLOCK,
                    STAGES=BLOCK.bit_length() - 1,
                    num_warps=4,
                )
                source = between
    return codes.view(torch.uint8), reference.factor(squares.sum(1), magnitudes.sum(1))
