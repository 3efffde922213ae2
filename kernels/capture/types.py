"""What goes into the capture op and comes out of it, on every backend."""

from dataclasses import dataclass, field
from typing import Any

import torch


@dataclass
class Segments:
    """Where each sequence's content tokens lie in a flattened token axis.

    ``starts`` and ``ends`` int64 [B], CPU: sequence ``i`` owns tokens ``starts[i] <= t < ends[i]``. ``skip_first[i]``
    leaves that sequence's first token out of ``sum`` (an attention sink), unless it is the only one. ``counts``
    int64 [B]: tokens that a mean divides by (a shared prefix included); only for bits.
    ``plan``: what a backend derives from all this and keeps for the batch's other layers.
    """

    starts: torch.Tensor
    ends: torch.Tensor
    skip_first: torch.Tensor
    counts: torch.Tensor | None = None
    plan: Any = field(default=None, repr=False, compare=False)


@dataclass(frozen=True)
class BitSpec:
    """Bits of a layer's mean: (sum + ``prefix_sum``) / counts > ``threshold``, both fp32 [J]; None: no prefix."""

    threshold: torch.Tensor
    prefix_sum: torch.Tensor | None = None


@dataclass
class Stats:
    """Per-sequence statistics of one layer, fp32 [B, J]; only those asked for are set.

    ``first``, ``last``: activation at the first and last token; ``sum``: over the tokens (less the skipped first);
    ``up_abs_sum``: sum of |up| over all tokens; ``codes`` uint8 [B, layer_bytes(J)]: packed bits of the mean.
    ``hidden_sum`` [B, H]: as ``sum``, of what went into the MLP (a model's layer sets it, not the op).
    """

    first: torch.Tensor | None = None
    last: torch.Tensor | None = None
    sum: torch.Tensor | None = None
    up_abs_sum: torch.Tensor | None = None
    codes: torch.Tensor | None = None
    hidden_sum: torch.Tensor | None = None
