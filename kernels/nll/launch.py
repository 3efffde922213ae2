"""Checks and backend choice of the losses of tokens."""

import torch

from nait_fast.kernels.common.dispatch import current, interpreted, pick
from nait_fast.kernels.nll import reference

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
PART = 2048  # entries of the vocabulary that a program goes through
TILE = (128, 128, 64)  # rows of a program, entries of the vocabulary, numbers of a state
OF_FP32, UNALIGNED = (64, 128, 32), (64, 64, 32)  # what fits into registers where a number is wider, or loaded alone
GROUP = 8  # blocks of rows whose programs run side by side
INTERPRETED = (128, 1024, 128)  # a tile in Triton's interpreter, which pays for each step and not for its size


def token_losses(
    x: torch.Tensor,
    weight: torch.Tensor,
    labels: torch.Tensor,
    bias: torch.Tensor | None = None,
    scale: float = 1.0,
    softcap: float | None = None,
) -> torch.Tensor:
    """Cross-entropy of each token from its hidden state, fp32 [n]: logsumexp(logits) − logit of its label.

    ``x`` [n, H], ``weight`` [V, H] and ``bias`` [V] of one dtype and device, ``labels`` int64 [n] there, too. Logits
    are ``scale`` · (x · weight + bias), then ``softcap`` · tanh(logits / softcap) where there is a cap; they are never
    there as [n, V]. A label outside the vocabulary has the loss NaN. A row's result does not depend on the others on
    a GPU. Raises ValueError on shapes and dtypes that do not fit, an empty vocabulary and a cap that is not positive.
    """
    shapes = x.ndim == weight.ndim == 2 and x.shape[1:] == weight.shape[1:] and labels.shape == x.shape[:1]
    if not shapes or not len(weight) or (bias is not None and bias.shape != weight.shape[:1]):
        told = ", ".join(str(tuple(t.shape)) for t in (x, weight, labels, bias) if t is not None)
        raise ValueError(f"x [n, H], weight [V, H], labels [n] and bias [V] do not fit: {told}")
    if labels.dtype != torch.int64 or weight.dtype != x.dtype or (bias is not None and bias.dtype != x.dtype):
        told = ", ".join(str(t.dtype) for t in (x, weight, labels, bias) if t is not None)
        raise ValueError(f"x, weight and bias must be of one dtype, labels int64: {told}")
    if softcap is not None and not softcap > 0:
        raise ValueError(f"a cap of {softcap} is not positive")
    backend = pick(x.device.type, ("triton", "cpu", "reference")) if x.dtype in DTYPES and x.shape[1] else "reference"
    if backend == "triton":
        return _on_triton(x, weight, labels, bias, scale, softcap)
    if backend == "cpu":
        from nait_fast.kernels.nll.cpu import token_losses as on_cpu

        return on_cpu(x, weight, labels, bias, scale, softcap)
    return reference.token_losses(x, weight, labels, bias, scale, softcap)


def _on_triton(x, weight, labels, bias, scale: float, softcap: float | None) -> torch.Tensor:
    from nait_fast.kernels.nll.kernel import losses_kernel

    (n, width), words = x.shape, len(weight)
    x, weight = (t if t.stride(1) == 1 or width == 1 else t.contiguous() for t in (x, weight))
    size = x.element_size()
    aligned = not any(t.stride(0) * size % 16 or t.data_ptr() % 16 for t in (x, weight))
    rows, block, numbers = (
        INTERPRETED if interpreted() else UNALIGNED if not aligned else OF_FP32 if size == 4 else TILE
    )
    parts = -(-words // PART)
    highest, sums = (torch.empty(parts, n, dtype=torch.float32, device=x.device) for _ in range(2))
    at_label = torch.full((n,), torch.nan, dtype=torch.float32, device=x.device)
    if n:
        with current(x.device):
            losses_kernel[(-(-n // rows) * parts,)](
                x,
                weight,
                None if bias is None else bias.contiguous(),
                labels.contiguous(),
                highest,
                sums,
                at_label,
                n,
                words,
                x.stride(0),
                weight.stride(0),
                float(scale),
                float(softcap or 0),
                WIDTH=width,
                HAS_BIAS=bias is not None,
                HAS_CAP=softcap is not None,
                BLOCKS=PART // block,
                BLOCK_N=rows,
                BLOCK_V=block,
                BLOCK_K=numbers,
                GROUP=GROUP,
                PRECISION="ieee",  # no TF32
                INTERPRETED=interpreted(),
                num_warps=8,
                num_stages=2 if torch.version.hip else 3,
            )
    return torch.logsumexp(highest + sums.log(), dim=0) - at_label
