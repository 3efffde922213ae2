"""What is read of the body's end, its last hidden state: e = Σ_t w_t h_t of a sample, w_t = t / Σ t (``rds``)."""

from dataclasses import dataclass

import numpy as np
import torch

from nait_fast.device_copies import to_device
from nait_fast.kernels import segment_sums
from nait_fast.kernels.capture.types import Segments

OF_THE_END = ("rds",)  # of a sample, not of a layer


@dataclass(frozen=True)
class PlaceSums:
    """Of each sequence: ``hidden`` Σ t · h_t fp32 [B, H], and ``places`` Σ t int64 [B] of the CPU, exactly."""

    hidden: torch.Tensor
    places: torch.Tensor


def place_sums(states: torch.Tensor, segments: Segments, n_prefix: int) -> PlaceSums:
    """Of the last hidden ``states`` [..., H] of the tokens of ``segments``, all of them or those of other weight than
    0. A sequence's first token stands at place n_prefix + 1 of its sample."""
    n_tokens = states.numel() // states.shape[-1]
    starts, ends = segments.starts.numpy(), segments.ends.numpy()
    places = np.zeros(n_tokens, dtype=np.int64)
    for start, end in zip(starts, ends, strict=True):
        places[start:end] = np.arange(n_prefix + 1, n_prefix + 1 + end - start)
    if segments.weights is not None:
        places *= segments.weights.numpy() != 0
    sums = np.array([places[start:end].sum() for start, end in zip(starts, ends, strict=True)], dtype=np.int64)
    weights = torch.from_numpy(places.astype(np.float32))  # exact: below 2 ** 24
    everyone = Segments(segments.starts, segments.ends, torch.zeros_like(segments.skip_first), weights=weights)
    return PlaceSums(segment_sums(states, everyone), torch.from_numpy(sums))


def rds_of(own: PlaceSums, prefix: PlaceSums | None) -> torch.Tensor:
    """e fp32 [B, H] of samples with the sums ``own``, behind those of a shared ``prefix`` [1, H]."""
    hidden, places = own.hidden, own.places
    if prefix is not None:
        hidden, places = hidden + prefix.hidden, places + prefix.places
    # fp64: whole numbers beyond 2 ** 24 would be rounded, and it is one division a sample
    return (hidden.double() / to_device(places.double(), hidden.device)[:, None]).float()
