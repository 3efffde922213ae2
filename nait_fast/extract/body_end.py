"""What is read of the body's end, its last hidden states: e = Σ_t w_t h_t of a sample, w_t = t / Σ t (``rds``), and the
mean loss of its response (``nll``), also over that of the response alone (``ifd``)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from nait_fast.data.spans import Span
from nait_fast.device_copies import to_device
from nait_fast.kernels import segment_sums
from nait_fast.kernels.capture.types import Segments
from nait_fast.models.head import LMHead

LOSSES = ("nll", "ifd")
OF_THE_END = ("rds", *LOSSES)  # of a sample, not of a layer
LEAST_LOSS = 2.0**-24  # of a response alone, below it: what fp32 cannot tell from the probability 1, and ifd divides by


@dataclass(frozen=True)
class PositionSums:
    """Of each sequence: ``hidden`` Σ t · h_t fp32 [B, H], and ``positions`` Σ t int64 [B] of the CPU, exactly."""

    hidden: torch.Tensor
    positions: torch.Tensor


def position_sums(states: torch.Tensor, segments: Segments, n_prefix: int) -> PositionSums:
    """Of the last hidden ``states`` [..., H] of the tokens of ``segments``, all of them or those of other weight than
    0. A sequence's first token stands at position n_prefix + 1 of its sample."""
    n_tokens = states.numel() // states.shape[-1]
    starts, ends = segments.starts.numpy(), segments.ends.numpy()
    positions = np.zeros(n_tokens, dtype=np.int64)
    for start, end in zip(starts, ends, strict=True):
        positions[start:end] = np.arange(n_prefix + 1, n_prefix + 1 + end - start)
    if segments.weights is not None:
        positions *= segments.weights.numpy() != 0
    sums = np.array([positions[start:end].sum() for start, end in zip(starts, ends, strict=True)], dtype=np.int64)
    weights = torch.from_numpy(positions.astype(np.float32))  # exact: below 2 ** 24
    everyone = Segments(segments.starts, segments.ends, torch.zeros_like(segments.skip_first), weights=weights)
    return PositionSums(segment_sums(states, everyone), torch.from_numpy(sums))


def rds_of(own: PositionSums, prefix: PositionSums | None) -> torch.Tensor:
    """e fp32 [B, H] of samples with the sums ``own``, behind those of a shared ``prefix`` [1, H]."""
    hidden, positions = own.hidden, own.positions
    if prefix is not None:
        hidden, positions = hidden + prefix.hidden, positions + prefix.positions
    # fp64: whole numbers beyond 2 ** 24 would be rounded, and it is one division a sample
    return (hidden.double() / to_device(positions.double(), hidden.device)[:, None]).float()


def mean_losses(
    head: LMHead,
    states: torch.Tensor,
    starts: Sequence[int],
    samples: Sequence[np.ndarray],
    ranges: Sequence[Sequence[Span]],
    n_prefix: int = 0,
    prefix: torch.Tensor | None = None,
) -> torch.Tensor:
    """Mean loss, fp32 [B], of the tokens of each sample that lie in its ``ranges``, each predicted from the last hidden
    state before it; a sample's first token has none. One of a sample without any such token is NaN.

    ``states`` [..., H]: those of sample b from its token ``n_prefix`` on lie from ``starts[b]`` on; ``prefix``
    [n_prefix, H]: those of the tokens before. ``samples``: all ids int32 [K] of each.
    """
    tokens = [np.concatenate([np.arange(max(a, 1), b) for a, b in own] or [np.zeros(0, int)]) for own in ranges]
    behind = [own - 1 - n_prefix for own in tokens]  # of the state before, below 0 in the prefix
    every = np.concatenate(behind)
    at = np.concatenate([np.where(own < 0, 0, start + own) for start, own in zip(starts, behind, strict=True)])
    labels = np.concatenate([ids[own] for ids, own in zip(samples, tokens, strict=True)]).astype(np.int64)
    counts = torch.tensor([len(own) for own in tokens])
    device = states.device
    rows = states.reshape(-1, states.shape[-1])[to_device(torch.from_numpy(at), device)]
    inside = np.flatnonzero(every < 0)
    if len(inside):
        assert prefix is not None
        of_prefix = prefix[to_device(torch.from_numpy(every[inside] + n_prefix), device)]
        rows[to_device(torch.from_numpy(inside), device)] = of_prefix
    losses = head.losses(rows, to_device(torch.from_numpy(labels), device))
    # A sum of each sample's own, in order; lengths add up to what there is.
    sums = torch.segment_reduce(losses.double(), "sum", lengths=to_device(counts, device), unsafe=True)
    return (sums / to_device(counts.double(), device)).clamp(min=0).float()
