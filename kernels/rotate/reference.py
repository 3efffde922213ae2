"""Pure-torch reference of the rotation: the definition that the other backends are tested against.

A round permutes the neurons, flips signs and mixes blocks of ``BLOCK`` of them with a Hadamard matrix; two rounds
spread every neuron over ``BLOCK``² others. Every round is orthogonal, so inner products stay as they are (RaBitQ,
arXiv 2405.12497, uses a dense random rotation in its place).
"""

from functools import lru_cache

import torch

from nait_fast.kernels.bitpack.reference import pack_bool
from nait_fast.kernels.rotate import BLOCK


@lru_cache(maxsize=8)
def hadamard(device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    """The orthonormal Hadamard matrix [BLOCK, BLOCK] of Sylvester's order; symmetric."""
    h = torch.ones(1, 1, dtype=torch.float64)
    while len(h) < BLOCK:
        h = torch.cat([torch.cat([h, h], 1), torch.cat([h, -h], 1)])
    return (h / BLOCK**0.5).to(device, dtype)


def rotate(values: torch.Tensor, permutations: torch.Tensor, signs: torch.Tensor) -> torch.Tensor:
    """``values`` float [B, J] rotated: fp32 [B, J'] (fp64 for fp64).

    ``permutations`` int [ROUNDS, J'], ``signs`` ±1 [ROUNDS, J']: output i of a round's shuffle is input
    ``permutations[i]`` times ``signs[i]``.
    """
    x = values if values.dtype == torch.float64 else values.float()
    x = torch.nn.functional.pad(x, (0, permutations.shape[1] - x.shape[1]))
    mix = hadamard(x.device, x.dtype)
    for order, sign in zip(permutations, signs, strict=True):
        x = ((x[:, order.long()] * sign).view(len(x), len(order) // BLOCK, BLOCK) @ mix).flatten(1)
    return x


def rotate_bits(
    values: torch.Tensor, permutations: torch.Tensor, signs: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """(codes uint8 [B, J' / 8], factor fp32 [B]) of z = ``rotate(values)``: bits [z > 0], and f = ‖z‖₂² / ‖z‖₁.

    f · (2 · bit − 1) is the multiple of the sign vector whose inner product with z is ‖z‖₂²: RaBitQ's unbiased
    estimate of ⟨z, u⟩ is f · ⟨2 · bit − 1, u⟩ (arXiv 2405.12497, equation 12). f is 0 where z is.
    """
    z = rotate(values, permutations, signs)
    return pack_bool(z > 0), factor(z.square().sum(1), z.abs().sum(1))


def factor(squares: torch.Tensor, magnitudes: torch.Tensor) -> torch.Tensor:
    """‖z‖₂² / ‖z‖₁, and 0 for z = 0."""
    return torch.where(magnitudes > 0, squares / magnitudes, 0.0).float()
