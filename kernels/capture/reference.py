"""Pure-torch reference of the capture op: act(gate) · up and its per-sequence statistics.

The product is computed with the very operations that transformers uses, so that the hidden state that goes on to the
down projection is bit-equal to the unpatched model's.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F

from nait_fast.kernels.bitpack.reference import pack_bits
from nait_fast.kernels.capture.types import BitSpec, Segments, Stats

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


def activate(gate: torch.Tensor | None, up: torch.Tensor, act: str | Callable[[torch.Tensor], torch.Tensor]):
    """act(gate) · up, or act(up) where ``gate`` is None (a plain MLP); ``act`` a name of ACTIVATIONS or a callable."""
    function = ACTIVATIONS[act] if isinstance(act, str) else act
    return function(up) if gate is None else function(gate) * up


def _segment_sums(
    x: torch.Tensor, starts: list[int], ends: list[int], weights: torch.Tensor | None = None
) -> torch.Tensor:
    parts = [(a, x[a:b]) for a, b in zip(starts, ends, strict=True)]
    if weights is None:
        return torch.stack([part.sum(0, dtype=torch.float32) for _, part in parts])
    return torch.stack([_weighted_sum(part, weights[a : a + len(part)]) for a, part in parts])


def _weighted_sum(x: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Σ w_t x_t fp32 [J] of ``x`` [n, J], over the tokens of weight other than 0 (``weights`` [n] of the CPU)."""
    chosen = weights.nonzero()[:, 0]
    if not len(chosen):
        return torch.zeros(x.shape[1], device=x.device)
    first, last = int(chosen[0]), int(chosen[-1])
    x = x[first : last + 1] if last - first < len(chosen) else x[chosen.to(x.device)]
    counted = weights[chosen]
    if bool((counted == 1).all()):
        return x.sum(0, dtype=torch.float32)
    return (x.float() * counted[:, None].to(x.device)).sum(0)


def _rows_at(x: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """``x`` fp32 [B, J] at ``tokens`` int64 [B] of the CPU; zeros for -1."""
    rows, nowhere = x[tokens.clamp(min=0).to(x.device)].float(), tokens < 0
    return rows.masked_fill(nowhere[:, None].to(x.device), 0) if bool(nowhere.any()) else rows


def pool(hidden: torch.Tensor, segments: Segments, statistics: frozenset[str], up: torch.Tensor | None = None) -> Stats:
    """Statistics of ``hidden`` [T, J] (and of ``up`` [T, J] for up_abs_sum) over ``segments``."""
    starts, ends = segments.starts, segments.ends
    out = Stats()
    if "first" in statistics:
        out.first = _rows_at(hidden, segments.first_tokens)
    if "last" in statistics:
        out.last = _rows_at(hidden, segments.last_tokens)
    if "sum" in statistics:
        skip = segments.skip_first & (ends - starts > 1)
        out.sum = _segment_sums(hidden, (starts + skip).tolist(), ends.tolist(), segments.weights)
    if "up_abs_sum" in statistics:
        assert up is not None
        out.up_abs_sum = _segment_sums(up.abs(), starts.tolist(), ends.tolist(), segments.weights)
    return out


def mlp_capture(
    gate: torch.Tensor | None,
    up: torch.Tensor,
    act: str | Callable[[torch.Tensor], torch.Tensor],
    segments: Segments,
    statistics: frozenset[str],
    bits: BitSpec | None = None,
) -> tuple[torch.Tensor, Stats]:
    """Same contract as ``launch.mlp_capture``."""
    hidden = activate(gate, up, act)
    flat = hidden.reshape(-1, hidden.shape[-1])
    wanted = statistics if bits is None else statistics | {"sum"}
    stats = pool(flat, segments, wanted, up.reshape(-1, up.shape[-1]))
    if bits is not None:
        assert stats.sum is not None
        counts = segments.ends - segments.starts if segments.counts is None else segments.counts
        total = stats.sum if bits.prefix_sum is None else stats.sum + bits.prefix_sum
        stats.codes = pack_bits(total / counts[:, None].to(total.device), bits.threshold)
        stats.sum = stats.sum if "sum" in statistics else None
    return hidden, stats
