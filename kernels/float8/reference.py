"""Pure-torch reference of quantised rows, and of the product of two such matrices."""

import torch

DTYPE = torch.float8_e4m3fn
LARGEST = 448.0  # of e4m3
FAINTEST = 1e-30  # the largest number of a row below which its scale no longer falls: 448 over it is finite


def quantise_rows(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """``x`` [..., K] as e4m3 [n, K] and fp32 scales [n, 1] of its n rows: x ≈ e4m3 · scale, the largest 448 · scale.

    A row with an infinite or NaN number has a NaN there, and so in all its products.
    """
    rows = x.reshape(-1, x.shape[-1]).to(torch.float32)
    largest = rows.abs().amax(dim=1, keepdim=True).clamp(min=FAINTEST)
    end = torch.full_like(largest, LARGEST)  # torch multiplies by a reciprocal where one of two is no tensor
    return (rows * (end / largest)).to(DTYPE), largest / end


def product(x: torch.Tensor, x_scale: torch.Tensor, weight: torch.Tensor, weight_scale: torch.Tensor) -> torch.Tensor:
    """``x`` [M, K] · ``weight`` [N, K]ᵀ of e4m3 numbers with their scales [M, 1] and [N, 1]: fp32 [M, N]."""
    return (x.to(torch.float32) @ weight.to(torch.float32).T) * x_scale * weight_scale.T
