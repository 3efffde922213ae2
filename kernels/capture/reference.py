"""Pure-torch reference of the capture op: act(gate) · up and its per-sequence statistics.

The product is computed with the very operations that transformers uses, so that the hidden state that goes on to the
down projection is bit-equal to the unpatched model's.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F

STATISTICS = ("first", "last", "sum", "up_abs_sum")


def _gelu_new(x: torch.Tensor) -> torch.Tensor:
    return 0.5 * x * (1.0 + torch.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * torch.pow(x, 3.0))))


ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "gelu_new": _gelu_new,
    "relu": F.relu,
    "relu2": lambda x: torch.square(F.relu(x)),
}


@dataclass
class Segments:
    """Where each sequence's content tokens lie in a flattened token axis.

    ``starts`` and ``ends`` int64 [B], CPU: sequence ``i`` owns tokens ``starts[i] <= t < ends[i]``. ``skip_first[i]``
    leaves that sequence's first token out of ``sum`` (an attention sink; DESIGN: first_token=exclude), unless it is
    the only one.
    """

    starts: torch.Tensor
    ends: torch.Tensor
    skip_first: torch.Tensor


@dataclass
class Stats:
    """Per-sequence statistics of one layer, fp32 [B, J]; only those asked for are set.

    ``first``, ``last``: activation at the first and last token; ``sum``: over the tokens (less the skipped first);
    ``up_abs_sum``: sum of |up| over all tokens.
    """

    first: torch.Tensor | None = None
    last: torch.Tensor | None = None
    sum: torch.Tensor | None = None
    up_abs_sum: torch.Tensor | None = None


def activate(gate: torch.Tensor | None, up: torch.Tensor, act: str | Callable[[torch.Tensor], torch.Tensor]):
    """act(gate) · up, or act(up) where ``gate`` is None (a plain MLP); ``act`` a name of ACTIVATIONS or a callable."""
    function = ACTIVATIONS[act] if isinstance(act, str) else act
    return function(up) if gate is None else function(gate) * up


def _segment_sums(x: torch.Tensor, starts: list[int], ends: list[int]) -> torch.Tensor:
    return torch.stack([x[a:b].sum(0, dtype=torch.float32) for a, b in zip(starts, ends, strict=True)])


def pool(hidden: torch.Tensor, segments: Segments, statistics: frozenset[str], up: torch.Tensor | None = None) -> Stats:
    """Statistics of ``hidden`` [T, J] (and of ``up`` [T, J] for up_abs_sum) over ``segments``."""
    starts, ends = segments.starts, segments.ends
    out = Stats()
    if "first" in statistics:
        out.first = hidden[starts.to(hidden.device)].float()
    if "last" in statistics:
        out.last = hidden[(ends - 1).to(hidden.device)].float()
    if "sum" in statistics:
        skip = segments.skip_first & (ends - starts > 1)
        out.sum = _segment_sums(hidden, (starts + skip).tolist(), ends.tolist())
    if "up_abs_sum" in statistics:
        assert up is not None
        out.up_abs_sum = _segment_sums(up.abs(), starts.tolist(), ends.tolist())
    return out


def mlp_capture(
    gate: torch.Tensor | None,
    up: torch.Tensor,
    act: str | Callable[[torch.Tensor], torch.Tensor],
    segments: Segments,
    statistics: frozenset[str],
) -> tuple[torch.Tensor, Stats]:
    """The activation of one MLP and its statistics.

    ``gate`` [..., J] or None, ``up`` [..., J] (leading axes flatten to the token axis T of ``segments``). Returns
    ``(hidden [..., J] in the input dtype, Stats)``.
    """
    hidden = activate(gate, up, act)
    flat = hidden.reshape(-1, hidden.shape[-1])
    return hidden, pool(flat, segments, statistics, up.reshape(-1, up.shape[-1]))
