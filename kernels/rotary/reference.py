"""Pure-torch reference of the rotary position embedding (RoFormer, arXiv 2104.09864), halves rotated as in Llama."""

import torch


def apply_rotary(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """``x`` [B, heads, T, D] · cos + rotate_half(x) · sin, rounded after each operation; cos and sin [B, T, D]."""
    left, right = x.chunk(2, dim=-1)
    return x * cos.unsqueeze(1) + torch.cat((-right, left), dim=-1) * sin.unsqueeze(1)
