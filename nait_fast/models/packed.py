"""Padding-free forward: sequences lie one after another on a single token axis, attention stays within each.

transformers lets a model look its attention function up by name. Ours take the sequence boundaries from the pack of
the running forward, and put the keys and values of a shared prefix, computed once, in front of each sequence. One is
made of torch's own attention, one call for each length; the other is torch's variable-length FlashAttention, one kernel
(half precision on a GPU). What mixes tokens without attention runs in rows (``models/rows.py``).
"""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from nait_fast.device_copies import to_device
from nait_fast.models.pack import Pack, packed_as, running
from nait_fast.models.rows import mixers_in_rows

ATTENTION = "nait_fast_packed"
VARLEN = "nait_fast_varlen"


def _step_by_step(query, key, value, mask, scaling: float, softcap: float | None, sinks) -> torch.Tensor:
    """Attention of ``query`` [B, H, L, D] over ``key`` and ``value`` [B, H_kv, L_kv, ·], with ``mask`` added to scores
    that stay below ``softcap``; ``sinks`` [H]: a score each head has beside its keys' and gets nothing for."""
    repeat = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(repeat, 1), value.repeat_interleave(repeat, 1)
    scores = query @ key.transpose(2, 3) * scaling
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    scores = scores + mask
    if sinks is not None:
        scores = torch.cat([scores, sinks.to(scores.dtype)[:, None, None].expand(*scores.shape[:3], 1)], dim=-1)
    weights = torch.softmax(scores, dim=-1, dtype=torch.float32)[..., : key.shape[2]]
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
    **others,
) -> tuple[torch.Tensor, None]:
    """``query`` [1, H, T, D], ``key`` and ``value`` [1, H_kv, T, D] -> ([1, T, H, D], None)."""
    pack = running()
    assert pack is not None, "packed attention called outside packed_forward"
    if others.get("position_bias") is not None:
        raise ValueError("position biases are not packed")
    sinks = others.get("s_aux")
    n_prefix = pack.start(module.layer_idx, key, value, sliding_window)
    before = pack.prefix.keys.get(module.layer_idx)
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    grouped = query.shape[1] != key.shape[1]
    n_heads, n_tokens = query.shape[1:3]
    out = query.new_empty(n_tokens, n_heads, value.shape[-1])  # latent attention's values are narrower than its keys
    for start, count, length in pack.groups():
        tokens = slice(start, start + count * length)

        def split(x, tokens=tokens, count=count, length=length):
            # [1, H, count·length, D] -> [count, H, length, D]
            return x[0, :, tokens].unflatten(1, (count, length)).transpose(0, 1)

        q, k, v = split(query), split(key), split(value)
        if before:
            k = torch.cat([before[0].expand(count, -1, -1, -1), k], dim=2)
            v = torch.cat([before[1].expand(count, -1, -1, -1), v], dim=2)
        window = sliding_window if sliding_window and n_prefix + length > sliding_window else None
        if softcap is not None or sinks is not None:
            result = _step_by_step(q, k, v, pack.mask(length, n_prefix, window, q), scaling, softcap, sinks)
        else:
            causal = not n_prefix and window is None
            mask = None if causal else pack.mask(length, n_prefix, window, q)
            result = F.scaled_dot_product_attention(
                q, k, v, attn_mask=mask, is_causal=causal, scale=scaling, enable_gqa=grouped
            )
        out[tokens].unflatten(0, (count, length)).copy_(result.transpose(1, 2))
    return out[None], None


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
    **others,
) -> tuple[torch.Tensor, None]:
    """Same contract as ``packed_attention``. Raises ValueError for what the kernel cannot do."""
    pack = running()
    assert pack is not None, "packed attention called outside packed_forward"
    varlen = _varlen()
    if varlen is None or any(x is not None for x in (softcap, others.get("s_aux"), others.get("position_bias"))):
        raise ValueError("not for variable-length FlashAttention")
    function, parameters = varlen
    n_prefix = pack.start(module.layer_idx, key, value, sliding_window)
    before = pack.prefix.keys.get(module.layer_idx)
    q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))  # [T, H, D]
    bounds = pack.bounds(n_prefix, query.device)
    if before:
        k, v = (bounds.behind(p[0].transpose(0, 1), new) for p, new in zip(before, (k, v), strict=True))
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
    """The model uses packed attention (or the one called ``name``) inside the block, its own after it; with packed
    attention, its mixers that carry state run in rows."""
    from transformers import AttentionInterface

    AttentionInterface.register(ATTENTION, packed_attention)
    AttentionInterface.register(VARLEN, varlen_attention)
    configs: list[Any] = list({id(m.config): m.config for m in model.modules() if hasattr(m, "config")}.values())
    before = [(config, config._attn_implementation) for config in configs]
    try:
        for config, _ in before:
            config._attn_implementation = name
        with mixers_in_rows(model) if name in (ATTENTION, VARLEN) else nullcontext():
            yield
    finally:
        for config, implementation in before:
            config._attn_implementation = implementation


def packed_forward(model: nn.Module, input_ids: torch.Tensor, pack: Pack, first_position: int = 0):
    """Run ``model`` (a body, packed attention on) over ``input_ids`` int64 [T]; positions restart per sequence at
    ``first_position``. ``use_cache=True`` would silently break packing."""
    positions = torch.cat([torch.arange(first_position, first_position + n) for n in pack.lengths])
    with packed_as(pack):
        return model(
            input_ids=input_ids[None], position_ids=to_device(positions, input_ids.device)[None], use_cache=False
        )
