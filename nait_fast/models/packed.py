"""Padding-free forward: sequences lie one after another on a single token axis, attention stays within each.

transformers lets a model look its attention function up by name. Ours takes the sequence boundaries from the keyword
``nait_pack`` that ``model(...)`` hands down to every attention module, and puts the keys and values of a shared
prefix, computed once, in front of each sequence.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from nait_fast.models.pack import Pack
from nait_fast.models.varlen import VARLEN, suits, varlen_attention
from nait_fast.transfer import to_device

ATTENTION = "nait_fast_packed"
LENGTHS = (3, 9, 9)  # of the random sequences that every proof runs


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
        for config, own in before:
            config._attn_implementation = own


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


def _error(got: list[torch.Tensor], expected: list[torch.Tensor]) -> float:
    mine, theirs = torch.cat(got).float(), torch.cat(expected).float()
    return float((mine - theirs).norm() / theirs.norm())


def _separate(
    model: Any, sequences: list[torch.Tensor], attention: str | None, after: Callable[[int], None] = lambda tokens: None
) -> list[torch.Tensor]:
    """Hidden states of a forward for each sequence, with ``attention`` or the model's own."""
    with packed_attention_on(model, attention) if attention else nullcontext():
        out = []
        for sequence in sequences:
            out.append(model(input_ids=sequence[None], use_cache=False).last_hidden_state[0])
            after(len(sequence))
        return out


def separate_forwards(model: Any, attention: str | None, after: Callable[[int], None]) -> list[torch.Tensor]:
    """Hidden states [T, H] of each short random sequence that the proofs below run; ``after(T)`` comes after each."""
    return _separate(model, _random_sequences(model, LENGTHS), attention, after)


def _bound(model: Any, sequences: list[torch.Tensor], separate: list[torch.Tensor]) -> float:
    """Error that a right forward may have; ``separate``: the sequences' own, through eager attention.

    Half precision has a floor that grows with depth: what SDPA, which is right too, changes in this very model; twice
    that is allowed. SDPA leaves soft caps out, so there it says nothing.
    """
    if separate[0].dtype == torch.float32:
        return 1e-3
    if getattr(model.config, "attn_logit_softcapping", None):
        return 5e-2
    return min(0.2, max(5e-2, 2 * _error(_separate(model, sequences, "sdpa"), separate)))


def _random_sequences(model: Any, lengths: Sequence[int]) -> list[torch.Tensor]:
    weight = model.get_input_embeddings().weight
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(weight.shape[0], (n,), generator=generator).to(weight.device) for n in lengths]


def pads_exactly(model: Any, eager: list[torch.Tensor] | None = None) -> bool:
    """Whether right-padded batches (one of them without padding) equal separate forwards.

    ``eager``: the model's ``separate_forwards`` with eager attention, where they have been run already.
    """
    sequences = _random_sequences(model, LENGTHS)
    with torch.no_grad():
        separate = _separate(model, sequences, None)
        bound = _bound(model, sequences, eager or _separate(model, sequences, "eager"))
        got = []
        for batch in (sequences, sequences[1:]):
            ids = nn.utils.rnn.pad_sequence(batch, batch_first=True)
            mask = nn.utils.rnn.pad_sequence([torch.ones_like(s) for s in batch], batch_first=True)
            hidden = model(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
            got += [h[: len(s)] for h, s in zip(hidden, batch, strict=True)]
    return _error(got, [*separate, *separate[1:]]) <= bound


def packed_attention_for(model: Any, eager: list[torch.Tensor] | None = None) -> str | None:
    """The fastest packed attention that is exact for ``model`` here, None if it must run padded; ``eager`` as above."""
    candidates = [VARLEN, ATTENTION] if suits(model) else [ATTENTION]
    return next((name for name in candidates if packs_exactly(model, name, eager)), None)


def packs_exactly(model: Any, attention: str = ATTENTION, eager: list[torch.Tensor] | None = None) -> bool:
    """Whether the packed forward with ``attention`` equals separate forwards on short random sequences, one behind a
    prefix.

    Some architectures keep state between tokens or mask in ways of their own: those run padded instead.
    """
    config = model.config
    if getattr(config, "attention_chunk_size", None):
        return False
    sequences = _random_sequences(model, LENGTHS)
    pack, recording = Pack(LENGTHS), Pack([4], record={})
    with torch.no_grad():
        try:
            separate = eager or _separate(model, sequences, "eager")  # transformers' SDPA leaves softcapping out
            bound = _bound(model, sequences, separate)
            with packed_attention_on(model, attention):
                packed = packed_forward(model, torch.cat(sequences), pack).last_hidden_state[0]
                packed_forward(model, sequences[1][:4], recording)
                behind = Pack([5], prefix=recording.record or {})
                rest = packed_forward(model, sequences[1][4:], behind, 4).last_hidden_state[0]
        except torch.OutOfMemoryError:
            raise
        except (TypeError, ValueError, AttributeError, AssertionError, RuntimeError):
            return False
    slides = "sliding_attention" in (getattr(config, "layer_types", None) or ())
    if slides and not pack.windows:  # the window lives in the mask alone, which packing leaves out
        return False
    return _error([packed, rest], [*separate, separate[1][4:]]) <= bound
