"""What goes into the capture op and comes out of it, on every backend."""

from dataclasses import dataclass, field
from typing import Any

import torch

from nait_fast.device_copies import to_device


@dataclass
class Segments:
    """Where each sequence's content tokens lie in a flattened token axis.

    ``starts`` and ``ends`` int64 [B], CPU: sequence ``i`` owns tokens ``starts[i] <= t < ends[i]``. ``skip_first[i]``
    leaves that sequence's first token out of ``sum`` (an attention sink), unless it is the only one. ``counts``
    int64 [B]: tokens that a mean divides by (a shared prefix included); only for bits.
    ``weights`` fp32 [T], CPU: how much each of all tokens counts in the sums, None for 1 each; a token of weight 0 is
    left out, whatever its activation. ``first_at``, ``last_at`` int64 [B], CPU: where ``first`` and ``last`` are read,
    None for each sequence's own ends; -1: at none of these tokens, which gives zeros.
    ``plan``: what a backend derives from all this and keeps for the batch's other layers.
    """

    starts: torch.Tensor
    ends: torch.Tensor
    skip_first: torch.Tensor
    counts: torch.Tensor | None = None
    weights: torch.Tensor | None = None
    first_at: torch.Tensor | None = None
    last_at: torch.Tensor | None = None
    plan: Any = field(default=None, repr=False, compare=False)
    _moved: Any = field(default=None, init=False, repr=False, compare=False)

    @property
    def first_tokens(self) -> torch.Tensor:
        """Where ``first`` is read, int64 [B]."""
        return self.starts if self.first_at is None else self.first_at

    @property
    def last_tokens(self) -> torch.Tensor:
        """Where ``last`` is read, int64 [B]."""
        return self.ends - 1 if self.last_at is None else self.last_at

    def weights_on(self, device: torch.device) -> torch.Tensor | None:
        """The weights on ``device``, moved there once."""
        if self.weights is None:
            return None
        if self._moved is None or self._moved[0] != device:
            self._moved = (device, to_device(self.weights, device))
        return self._moved[1]


@dataclass(frozen=True)
class BitSpec:
    """Bits of a layer's mean: (sum + ``prefix_sum``) / counts > ``threshold``, both fp32 [J]; None: no prefix."""

    threshold: torch.Tensor
    prefix_sum: torch.Tensor | None = None


@dataclass
class Stats:
    """Per-sequence statistics of one layer, fp32 [B, J]; only those asked for are set.

    ``first``, ``last``: activation at the first and last token; ``sum``: over the tokens (less the skipped first), each
    times its weight; ``up_abs_sum``: likewise of |up|, over all tokens; ``codes`` uint8 [B, layer_bytes(J)]: packed
    bits of the mean.
    ``hidden_sum`` [B, H]: as ``sum``, of what went into the MLP (a model's layer sets it, not the op).
    """

    first: torch.Tensor | None = None
    last: torch.Tensor | None = None
    sum: torch.Tensor | None = None
    up_abs_sum: torch.Tensor | None = None
    codes: torch.Tensor | None = None
    hidden_sum: torch.Tensor | None = None
