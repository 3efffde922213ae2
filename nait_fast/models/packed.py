"""Padding-free forward: sequences lie one after another on a single token axis, attention stays within each.

transformers lets a model look its attention function up by name. Ours takes the sequence boundaries from the keyword
``nait_pack`` that ``model(...)`` hands down to every attention module, and puts the keys and values of a shared
prefix, computed once, in front of each sequence.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

ATTENTION = "nait_fast_packed"

KeysValues = tuple[torch.Tensor, torch.Tensor]


@dataclass
class Pack:
    """One packed batch: ``lengths`` of its sequences; ``prefix``: layer index -> keys and values [1, H_kv, P, D] that
    every sequence attends to first; ``record``, if a dict, receives this forward's own keys and values."""

    lengths: Sequence[int]
    prefix: dict[int, KeysValues] = field(default_factory=dict)
    record: dict[int, KeysValues] | None = None
    windows: set[int] = field(default_factory=set)  # sliding windows that attention modules asked for

    def groups(self) -> Iterator[tuple[int, int, int]]:
        """(first token, number of sequences, length) of each run of equally long sequences: one attention call."""
        start = 0
        for length, run in groupby(self.lengths):
            count = sum(1 for _ in run)
            yield start, count, length
            start += count * length


def _visible(length: int, n_prefix: int, window: int | None, device: torch.device) -> torch.Tensor:
    """Bool [length, n_prefix + length]: which keys each query sees (causal, and inside the sliding window)."""
    query = torch.arange(n_prefix, n_prefix + length, device=device)[:, None]
    key = torch.arange(n_prefix + length, device=device)[None, :]
    visible = key <= query
    if window:
        visible &= key > query - window
    return visible


def _softcapped(query, key, value, visible, scaling: float, softcap: float) -> torch.Tensor:
    repeat = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(repeat, 1), value.repeat_interleave(repeat, 1)
    scores = torch.tanh(query @ key.transpose(2, 3) * scaling / softcap) * softcap
    weights = torch.softmax(scores.masked_fill(~visible, float("-inf")), dim=-1, dtype=torch.float32)
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
    **_unused,
) -> tuple[torch.Tensor, None]:
    """``query`` [1, H, T, D], ``key`` and ``value`` [1, H_kv, T, D] -> ([1, T, H, D], None)."""
    assert nait_pack is not None, "packed attention called outside packed_forward"
    layer = module.layer_idx
    if nait_pack.record is not None:
        nait_pack.record[layer] = (key, value)
    if sliding_window:
        nait_pack.windows.add(sliding_window)
    before = nait_pack.prefix.get(layer)
    n_prefix = before[0].shape[2] if before else 0
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
            result = _softcapped(q, k, v, _visible(length, n_prefix, window, q.device), scaling, softcap)
        else:
            causal = not n_prefix and window is None
            mask = None if causal else _visible(length, n_prefix, window, q.device)
            result = F.scaled_dot_product_attention(
                q, k, v, attn_mask=mask, is_causal=causal, scale=scaling, enable_gqa=grouped
            )
        out[0, :, tokens] = result.transpose(0, 1).flatten(1, 2)
    return out.transpose(1, 2), None


@contextmanager
def packed_attention_on(model: nn.Module) -> Iterator[None]:
    """The model uses packed attention inside the block, its own after it."""
    from transformers import AttentionInterface

    AttentionInterface.register(ATTENTION, packed_attention)
    configs: list[Any] = list({id(m.config): m.config for m in model.modules() if hasattr(m, "config")}.values())
    before = [(config, config._attn_implementation) for config in configs]
    try:
        for config, _ in before:
            config._attn_implementation = ATTENTION
        yield
    finally:
        for config, name in before:
            config._attn_implementation = name


def packed_forward(model: nn.Module, input_ids: torch.Tensor, pack: Pack, first_position: int = 0):
    """Run ``model`` (a body, packed attention on) over ``input_ids`` int64 [T]; positions restart per sequence at
    ``first_position``. ``use_cache=True`` would silently break packing."""
    positions = torch.cat([torch.arange(first_position, first_position + n) for n in pack.lengths])
    return model(
        input_ids=input_ids[None],
        position_ids=positions[None].to(input_ids.device),
        use_cache=False,
        nait_pack=pack,
    )


def packs_exactly(model: Any) -> bool:
    """Whether the packed forward equals separate forwards on three short random sequences, one behind a prefix.

    Some architectures keep state between tokens or mask in ways of their own: those run padded instead.
    """
    config = model.config
    if getattr(config, "attention_chunk_size", None):
        return False
    weight = model.get_input_embeddings().weight
    generator = torch.Generator().manual_seed(0)
    lengths = (3, 9, 9)
    sequences = [torch.randint(weight.shape[0], (n,), generator=generator).to(weight.device) for n in lengths]
    pack, recording = Pack(lengths), Pack([4], record={})
    with torch.no_grad():
        separate = [model(input_ids=s[None], use_cache=False).last_hidden_state[0] for s in sequences]
        try:
            with packed_attention_on(model):
                packed = packed_forward(model, torch.cat(sequences), pack).last_hidden_state[0]
                packed_forward(model, sequences[1][:4], recording)
                behind = Pack([5], prefix=recording.record or {})
                rest = packed_forward(model, sequences[1][4:], behind, 4).last_hidden_state[0]
        except (TypeError, ValueError, AttributeError, AssertionError, RuntimeError):
            return False
    slides = "sliding_attention" in (getattr(config, "layer_types", None) or ())
    if slides and not pack.windows:  # the window lives in the mask alone, which packing leaves out
        return False
    expected = torch.cat([*separate, separate[1][4:]]).float()
    error = (torch.cat([packed, rest]).float() - expected).norm() / expected.norm()
    return bool(error <= (1e-3 if weight.dtype == torch.float32 else 5e-2))
