"""Padding-free forward: sequences lie one after another on a single token axis, attention stays within each.

transformers lets a model look its attention function up by name. Ours take the sequence boundaries from the keyword
``nait_pack`` that ``model(...)`` hands down to every attention module, and put the keys and values of a shared prefix,
computed once, in front of each sequence. One is made of torch's own attention, one call for each length; the other is
torch's variable-length FlashAttention, one kernel (half precision on a GPU).
"""

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from itertools import groupby
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from nait_fast.device_copies import to_device

ATTENTION = "nait_fast_packed"
VARLEN = "nait_fast_varlen"

KeysValues = tuple[torch.Tensor, torch.Tensor]


@dataclass
class Pack:
    """One packed batch: ``lengths`` of its sequences; ``prefix``: layer index -> keys and values [1, H_kv, P, D] that
    every sequence attends to first; ``record``, if a dict, receives this forward's own keys and values."""

    lengths: Sequence[int]
    prefix: dict[int, KeysValues] = field(default_factory=dict)
    record: dict[int, KeysValues] | None = None
    windows: set[int] = field(default_factory=set)  # sliding windows that attention modules asked for

    _bounds: "Bounds | None" = None
    _masks: dict[tuple[int, int, int | None], torch.Tensor] = field(default_factory=dict)

    def mask(self, length: int, n_prefix: int, window: int | None, like: torch.Tensor) -> torch.Tensor:
        """Additive mask [length, n_prefix + length] of what each query sees (causal, inside the sliding window).

        Kept for the batch: every layer asks for the same ones.
        """
        key = (length, n_prefix, window)
        if key not in self._masks:
            query = torch.arange(n_prefix, n_prefix + length, device=like.device)[:, None]
            token = torch.arange(n_prefix + length, device=like.device)[None, :]
            hidden = token > query
            if window:
                hidden |= token <= query - window
            self._masks[key] = torch.zeros(hidden.shape, dtype=like.dtype, device=like.device).masked_fill_(
                hidden, float("-inf")
            )
        return self._masks[key]

    def groups(self) -> Iterator[tuple[int, int, int]]:
        """(first token, number of sequences, length) of each run of equally long sequences: one attention call."""
        start = 0
        for length, run in groupby(self.lengths):
            count = sum(1 for _ in run)
            yield start, count, length
            start += count * length

    def start(self, layer: int, key: torch.Tensor, value: torch.Tensor, window: int | None) -> int:
        """Called first in each attention module: notes its window, keeps its keys and values if they are to be
        recorded; returns the length of the shared prefix."""
        if self.record is not None:
            self.record[layer] = (key, value)
        if window:
            self.windows.add(window)
        return self.prefix[layer][0].shape[2] if layer in self.prefix else 0

    def bounds(self, n_prefix: int, device: torch.device) -> "Bounds":
        """Boundaries as variable-length attention wants them; made once a batch."""
        if self._bounds is None or self._bounds.n_prefix != n_prefix:
            lengths = torch.tensor(list(self.lengths))
            ends = lengths.cumsum(0)
            zero = torch.zeros(1, dtype=torch.int64)
            query = torch.cat([zero, ends])
            key = torch.cat([zero, ends + n_prefix * torch.arange(1, len(lengths) + 1)])
            longest = int(lengths.max())
            gather = zero
            if n_prefix:
                # Own token t of sequence s stands at n_prefix + t in [prefix, own tokens]; the prefix before each.
                sequence = torch.repeat_interleave(torch.arange(len(lengths)), lengths + n_prefix)
                place = torch.arange(int(key[-1])) - key[sequence]
                gather = torch.where(place < n_prefix, place, query[sequence] + place)
            self._bounds = Bounds(
                n_prefix,
                to_device(query.int(), device),
                to_device(key.int(), device),
                longest,
                longest + n_prefix,
                to_device(gather, device),
            )
        return self._bounds


@dataclass(frozen=True)
class Bounds:
    """``query``, ``key`` int32 [B + 1]: where each sequence's queries and keys begin; ``gather`` int64: which rows of
    [prefix, own keys] make up the keys of all sequences."""

    n_prefix: int
    query: torch.Tensor
    key: torch.Tensor
    longest_query: int
    longest_key: int
    gather: torch.Tensor


def _softcapped(query, key, value, mask, scaling: float, softcap: float) -> torch.Tensor:
    repeat = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(repeat, 1), value.repeat_interleave(repeat, 1)
    scores = torch.tanh(query @ key.transpose(2, 3) * scaling / softcap) * softcap
    weights = torch.softmax(scores + mask, dim=-1, dtype=torch.float32)
    return weights.to(value.dtype) @ value


def packed_attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    nait_pack: Pack | None = None,
    **others,
) -> tuple[torch.Tensor, None]:
    """``query`` [1, H, T, D], ``key`` and ``value`` [1, H_kv, T, D] -> ([1, T, H, D], None)."""
    assert nait_pack is not None, "packed attention called outside packed_forward"
    if others.get("s_aux") is not None or others.get("position_bias") is not None:
        raise ValueError("attention sinks and position biases are not packed")
    n_prefix = nait_pack.start(module.layer_idx, key, value, sliding_window)
    before = nait_pack.prefix.get(module.layer_idx)
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    grouped = query.shape[1] != key.shape[1]
    out = torch.empty_like(query)
    for start, count, length in nait_pack.groups():
        tokens = slice(start, start + count * length)

        def split(x, tokens=tokens, count=count, length=length):
            # [1, H, count·length, D] -> [count, H, length, D]
            return x[0, :, tokens].unflatten(1, (count, length)).transpose(0, 1)

        q, k, v = split(query), split(key), split(value)
        if before:
            k = torch.cat([before[0].expand(count, -1, -1, -1), k], dim=2)
            v = torch.cat([before[1].expand(count, -1, -1, -1), v], dim=2)
        window = sliding_window if sliding_window and n_prefix + length > sliding_window else None
        if softcap is not None:
            result = _softcapped(q, k, v, nait_pack.mask(length, n_prefix, window, q), scaling, softcap)
        else:
            causal = not n_prefix and window is None
            mask = None if causal else nait_pack.mask(length, n_prefix, window, q)
            result = F.scaled_dot_product_attention(
                q, k, v, attn_mask=mask, is_causal=causal, scale=scaling, enable_gqa=grouped
            )
        out[0, :, tokens] = result.transpose(0, 1).flatten(1, 2)
    return out.transpose(1, 2), None


@cache
def _varlen() -> tuple[Any, frozenset[str]] | None:
    """(varlen_attn, its parameters), or None where this torch has none."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    return varlen_attn, frozenset(inspect.signature(varlen_attn).parameters)


def suits(model: Any) -> bool:
    """Whether it is worth a try: whether its results are right is for ``packs_exactly`` to find out."""
    weight = next(model.parameters())
    return weight.device.type == "cuda" and weight.dtype in (torch.float16, torch.bfloat16) and _varlen() is not None


def varlen_attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    nait_pack: Pack | None = None,
    **others,
) -> tuple[torch.Tensor, None]:
    """Same contract as ``packed_attention``. Raises ValueError for what the kernel cannot do."""
    assert nait_pack is not None, "packed attention called outside packed_forward"
    varlen = _varlen()
    if varlen is None or any(x is not None for x in (softcap, others.get("s_aux"), others.get("position_bias"))):
        raise ValueError("not for variable-length FlashAttention")
    function, parameters = varlen
    n_prefix = nait_pack.start(module.layer_idx, key, value, sliding_window)
    before = nait_pack.prefix.get(module.layer_idx)
    q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))  # [T, H, D]
    bounds = nait_pack.bounds(n_prefix, query.device)
    if before:
        k, v = (torch.cat([p[0].transpose(0, 1), new])[bounds.gather] for p, new in zip(before, (k, v), strict=True))
    options: dict[str, Any] = {}
    if "window_size" in parameters:
        options["window_size"] = (sliding_window - 1 if sliding_window else -1, 0)
    elif sliding_window and bounds.longest_key > sliding_window:
        raise ValueError("this torch's variable-length attention has no sliding window")
    else:
        options["is_causal"] = True
    if "scale" in parameters:
        options["scale"] = scaling
    elif scaling is not None and abs(scaling * query.shape[-1] ** 0.5 - 1) > 1e-6:
        raise ValueError("this torch's variable-length attention has a fixed scale")
    if "num_splits" in parameters and torch.version.hip is None:  # ROCm refuses it
        options["num_splits"] = 1  # a sequence's result must not depend on the batch
    groups = query.shape[1] // key.shape[1]
    if groups > 1 and "enable_gqa" in parameters:
        options["enable_gqa"] = True
    elif groups > 1:
        k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
    out = function(q, k, v, bounds.query, bounds.key, bounds.longest_query, bounds.longest_key, **options)
    return out[None], None


@contextmanager
def packed_attention_on(model: nn.Module, name: str = ATTENTION) -> Iterator[None]:
    """The model uses packed attention (or the one called ``name``) inside the block, its own after it."""
    from transformers import AttentionInterface

    AttentionInterface.register(ATTENTION, packed_attention)
    AttentionInterface.register(VARLEN, varlen_attention)
    configs: list[Any] = list({id(m.config): m.config for m in model.modules() if hasattr(m, "config")}.values())
    before = [(config, config._attn_implementation) for config in configs]
    try:
        for config, _ in before:
            config._attn_implementation = name
        yield
    finally:
        for config, implementation in before:
            config._attn_implementation = implementation


def packed_forward(model: nn.Module, input_ids: torch.Tensor, pack: Pack, first_position: int = 0):
    """Run ``model`` (a body, packed attention on) over ``input_ids`` int64 [T]; positions restart per sequence at
    ``first_position``. ``use_cache=True`` would silently break packing."""
    positions = torch.cat([torch.arange(first_position, first_position + n) for n in pack.lengths])
    return model(
        input_ids=input_ids[None],
        position_ids=to_device(positions, input_ids.device)[None],
        use_cache=False,
        nait_pack=pack,
    )
