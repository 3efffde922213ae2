"""Packed attention in one kernel: torch's variable-length FlashAttention (half precision on a GPU)."""

import inspect
from functools import cache
from typing import Any

import torch

from nait_fast.models.pack import Pack

VARLEN = "nait_fast_varlen"


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
    """Same contract as ``packed.packed_attention``. Raises ValueError for what the kernel cannot do."""
    assert nait_pack is not None, "packed attention called outside packed_forward"
    found = _varlen()
    if found is None or any(x is not None for x in (softcap, others.get("s_aux"), others.get("position_bias"))):
        raise ValueError("not for variable-length FlashAttention")
    function, parameters = found
    n_prefix = nait_pack.start(module.layer_idx, key, value, sliding_window)
    before = nait_pack.prefix.get(module.layer_idx)
    q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))  # [T, H, D]
    bounds = nait_pack.bounds(n_prefix, query.device)
    if before:
        k, v = (torch.cat([p[0].transpose(0, 1), own])[bounds.gather] for p, own in zip(before, (k, v), strict=True))
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
