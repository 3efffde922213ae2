"""Whether a model's packed, or right-padded, forwards equal separate ones: short random sequences tell."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import nn

from nait_fast.models.packed import ATTENTION, VARLEN, Pack, packed_attention_on, packed_forward, suits

LENGTHS = (3, 9, 9)  # of the random sequences that every proof runs


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
    try:
        return min(0.2, max(5e-2, 2 * _error(_separate(model, sequences, "sdpa"), separate)))
    except (TypeError, ValueError, AttributeError):  # a model without SDPA (MPT)
        return 5e-2


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


def known_to_pad(model: Any) -> str | None:
    """Why ``model``, which may have no weights, runs padded; None where only a forward tells."""
    if getattr(model.config, "attention_chunk_size", None):
        return "its attention runs in chunks"
    kinds = getattr(model.config, "layer_types", None) or getattr(model.config, "layers_block_type", None) or ()
    if other := sorted({str(kind) for kind in kinds} - {"full_attention", "sliding_attention", "attention"}):
        return f"layers of {', '.join(other)}"
    return None


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
