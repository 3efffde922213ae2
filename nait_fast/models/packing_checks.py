"""Whether a model's packed, or right-padded, forwards equal separate ones: short random sequences tell."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import nn

from nait_fast.errors import is_out_of_memory
from nait_fast.models.leading import loaded_layers
from nait_fast.models.pack import Pack, PrefixState
from nait_fast.models.packed import ATTENTION, VARLEN, packed_attention_on, packed_forward, suits
from nait_fast.models.rows import row_mixers

LENGTHS = (3, 9, 9)  # of the random sequences that every proof runs
# A configuration's names of layers that may run packed; of those that do with their mixers in rows.
PACKED_LAYERS = {"full_attention", "sliding_attention", "attention", "mlp", "moe"}
LAYERS_IN_ROWS = {"linear_attention", "mamba", "conv", "recurrent", "hybrid", "hybrid_sliding"}


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
    known = PACKED_LAYERS | (LAYERS_IN_ROWS if row_mixers(model) else set())
    if other := sorted(_layer_kinds(model) - known):
        return f"layers of {', '.join(other)}"
    return None


def expected_path(model: Any) -> str:
    """How ``model``, which may have no weights, runs, as far as is known before a forward."""
    padded = known_to_pad(model)
    if padded is not None:
        return f"padded ({padded})"
    kinds = ", ".join(sorted(set(row_mixers(model).values())))
    return f"packed{f', mixers in rows ({kinds})' if kinds else ''}, if a trial when it is loaded agrees"


def _layer_kinds(model: Any) -> set[str]:
    config = model.config
    kinds = getattr(config, "layer_types", None) or getattr(config, "layers_block_type", None) or ()
    return {str(kind) for kind in kinds[: loaded_layers(model)]}


def packed_attention_for(model: Any, eager: list[torch.Tensor] | None = None) -> str | None:
    """The fastest packed attention that is exact for ``model`` here, None if it must run padded; ``eager`` as above."""
    candidates = [VARLEN, ATTENTION] if suits(model) else [ATTENTION]
    return next((name for name in candidates if packs_exactly(model, name, eager)), None)


def packs_exactly(model: Any, attention: str = ATTENTION, eager: list[torch.Tensor] | None = None) -> bool:
    """Whether the packed forward with ``attention`` equals separate forwards on short random sequences, one behind a
    prefix.

    Some architectures keep state between tokens in ways that ``models/rows.py`` does not know, or mask in ways of their
    own: those run padded instead.
    """
    config = model.config
    if getattr(config, "attention_chunk_size", None):
        return False
    sequences = _random_sequences(model, LENGTHS)
    pack, state = Pack(LENGTHS, row_padding=1.0), PrefixState()  # mixers see rows of different lengths at once
    with torch.no_grad():
        try:
            separate = eager or _separate(model, sequences, "eager")  # transformers' SDPA leaves softcapping out
            bound = _bound(model, sequences, separate)
            with packed_attention_on(model, attention):
                packed = packed_forward(model, torch.cat(sequences), pack).last_hidden_state[0]
                packed_forward(model, sequences[1][:4], Pack([4], record=state))
                behind = Pack([5], prefix=state)
                rest = packed_forward(model, sequences[1][4:], behind, 4).last_hidden_state[0]
        except (TypeError, ValueError, AttributeError, AssertionError, RuntimeError) as error:
            if is_out_of_memory(error):
                raise
            return False
    slides = any("sliding" in kind for kind in _layer_kinds(model))
    if slides and not pack.windows:  # the window lives in the mask alone, which packing leaves out
        return False
    return _error([packed, rest], [*separate, separate[1][4:]]) <= bound
