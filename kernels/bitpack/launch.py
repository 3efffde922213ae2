"""Checks and backend choice of the bit-pack ops."""

import torch

from nait_fast.kernels.bitpack import reference
from nait_fast.kernels.bitpack.reference import layer_bytes
from nait_fast.kernels.common.dispatch import current, pick

PACK_BLOCK = (4, 512)  # rows, neurons of a program of pack_kernel
TOPK_MAX = 32768  # of a row that one program of topk_kernel holds: twice that does not fit a multiprocessor's registers


def topk_block(n_neurons: int) -> int:
    """Width of a program of topk_kernel: a power of two."""
    return max(32, 1 << (n_neurons - 1).bit_length())


def topk_warps(block: int) -> int:
    return min(16, max(4, block // 1024))


def pack_bits(values: torch.Tensor, threshold: torch.Tensor) -> torch.Tensor:
    """Threshold and pack: bit ``j`` of row ``i`` is ``values[i, j] > threshold[j]`` (NaN gives 0).

    ``values`` float [B, J], ``threshold`` float [J]; returns uint8 [B, layer_bytes(J)]. Raises ValueError on shapes
    that do not fit.
    """
    if values.ndim != 2 or threshold.shape != values.shape[1:]:
        raise ValueError(f"values must be [B, J] and threshold [J]: {tuple(values.shape)}, {tuple(threshold.shape)}")
    double = torch.float64 in (values.dtype, threshold.dtype)  # the kernel compares in fp32
    if double or pick(values.device.type, ("triton", "reference")) == "reference":
        return reference.pack_bits(values, threshold)
    from nait_fast.kernels.bitpack.kernel import pack_kernel

    n_rows, n_neurons = values.shape
    values = values if values.stride(1) == 1 else values.contiguous()
    codes = values.new_empty(n_rows, layer_bytes(n_neurons) // 4, dtype=torch.int32)
    block_b, block_j = PACK_BLOCK
    grid = (-(-n_rows // block_b) * -(-n_neurons // block_j),)
    if codes.numel():
        with current(values.device):
            pack_kernel[grid](
                values,
                threshold.float().contiguous(),
                codes,
                n_rows,
                n_neurons,
                values.stride(0),
                codes.shape[1],
                BLOCK_B=block_b,
                BLOCK_J=block_j,
                num_warps=4,
            )
    return codes.view(torch.uint8)


def topk_bits(values: torch.Tensor, k: int) -> torch.Tensor:
    """Bitset of the ``k`` largest of each row of ``values`` [B, J]; equal values: the lower index wins; NaN is largest.

    Returns uint8 [B, layer_bytes(J)]; all J where ``k`` is larger. Raises ValueError for a negative ``k``.
    """
    n_rows, n_neurons = values.shape
    if k < 0:
        raise ValueError(f"k must not be negative: {k}")
    k = min(k, n_neurons)
    block = topk_block(n_neurons)
    double = values.dtype == torch.float64  # the kernel orders in fp32
    if double or block > TOPK_MAX or pick(values.device.type, ("triton", "reference")) == "reference":
        return reference.topk_bits(values, k)
    from nait_fast.kernels.bitpack.kernel import topk_kernel

    values = values if values.stride(1) == 1 else values.contiguous()
    codes = values.new_empty(n_rows, layer_bytes(n_neurons) // 4, dtype=torch.int32)
    if n_rows:
        with current(values.device):
            topk_kernel[(n_rows,)](
                values,
                codes,
                n_neurons,
                values.stride(0),
                codes.shape[1],
                k,
                BLOCK_J=block,
                num_warps=topk_warps(block),
            )
    return codes.view(torch.uint8)
