"""Mixers of tokens that carry state (convolutions, state spaces, linear attention) in a packed forward.

Such a mixer takes a sequence a row. Just around it the packed tokens are laid into rows, those of similar lengths
together, and taken out of them again: attention, MLPs and norms see no padding, and the mixer, which looks back only,
has some behind each sequence. Whether it does look back only is for ``packing_checks`` to find out.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from nait_fast.models.pack import Pack, Rows, running

# What a mixer is, and the parts (modules or tensors) by which it is known.
MIXERS_IN_ROWS: dict[str, frozenset[str]] = {
    "state space or gated delta rule": frozenset({"conv1d", "A_log"}),  # Mamba 1 and 2, Qwen3-Next, OLMo Hybrid
    "Kimi delta attention": frozenset({"conv1d", "forget_gate"}),
    "short convolution": frozenset({"in_proj", "conv", "out_proj"}),  # LFM2
    "lightning attention": frozenset({"qkv_proj", "slope_rate", "output_gate"}),  # MiniMax
    "gated linear recurrence": frozenset({"conv_1d", "rg_lru"}),  # Griffin
    "convolution of queries and keys": frozenset({"conv_qk_depthwise", "conv_qk_grouped"}),  # ZAYA
}


def row_mixers(model: nn.Module) -> dict[nn.Module, str]:
    """The modules of ``model`` that run in rows, and what of the table each is."""
    return {
        module: kind
        for module in model.modules()
        for kind, parts in MIXERS_IN_ROWS.items()
        if all(hasattr(module, part) for part in parts)
    }


class _InRows:
    """A mixer's forward while packed forwards are under way: theirs runs in rows, others are as before."""

    def __init__(self, module: nn.Module):
        self.module = module
        self.own = module.__dict__.get("forward")  # a module may carry a forward of its own (accelerate's hooks)

    def plain(self, *args: Any, **named: Any) -> Any:
        if self.own is not None:
            return self.own(*args, **named)
        return type(self.module).forward(self.module, *args, **named)

    def __call__(self, *args: Any, **named: Any) -> Any:
        pack = running()
        return self.plain(*args, **named) if pack is None else _run(self, pack, args, named)


@contextmanager
def mixers_in_rows(model: nn.Module) -> Iterator[None]:
    """Inside the block packed forwards of ``model`` run its mixers in rows."""
    mixers = row_mixers(model)
    mine = [_InRows(module) for module in mixers if not isinstance(module.__dict__.get("forward"), _InRows)]
    try:
        for forward in mine:
            forward.module.__dict__["forward"] = forward
        yield
    finally:
        for forward in mine:
            if forward.module.__dict__.get("forward") is not forward:  # somebody has put one around it: that one stays
                continue
            del forward.module.__dict__["forward"]
            if forward.own is not None:
                forward.module.__dict__["forward"] = forward.own


def _run(forward: _InRows, pack: Pack, args: tuple[Any, ...], named: dict[str, Any]) -> Any:
    """What ``forward`` gives for the packed sequences, each in a row; a shared prefix runs in front of each anew."""
    module, tokens = forward.module, sum(pack.lengths)
    if pack.record is not None:
        pack.record.calls[module] = ((args, named), tokens)
    before, n_prefix = pack.prefix.calls.get(module, (None, 0))
    results = []
    for rows in pack.rows(next(module.parameters()).device):
        its_args, its_named = _laid((args, named), before, (1, tokens), rows)
        results.append((rows, forward.plain(*its_args, **its_named)))
    return _taken(results, n_prefix)


def _laid(value: Any, before: Any, whole: tuple[int, int], rows: Rows) -> Any:
    """``value`` with each tensor [*whole, ...] in it laid into ``rows``, behind the one of ``before`` where that is."""
    if isinstance(value, torch.Tensor) and tuple(value.shape[:2]) == whole:
        laid = rows.lay(value)
        return laid if before is None else torch.cat([before.expand(len(laid), *before.shape[1:]), laid], dim=1)
    if isinstance(value, (tuple, list)):
        return type(value)(_laid(x, before and before[i], whole, rows) for i, x in enumerate(value))
    if isinstance(value, dict):
        return {key: _laid(x, before and before[key], whole, rows) for key, x in value.items()}
    return value


def _taken(results: Sequence[tuple[Rows, Any]], n_prefix: int) -> Any:
    """What a forward gave for all rows, its tensors [1, tokens, ...]; None for what is not one number a token."""
    rows, out = results[0]
    if isinstance(out, tuple):
        return tuple(_taken([(rows, out[i]) for rows, out in results], n_prefix) for i in range(len(out)))
    count, longest = rows.shape
    if not isinstance(out, torch.Tensor) or tuple(out.shape[:2]) != (count, n_prefix + longest):
        return None
    return torch.cat([rows.take(out[:, n_prefix:]) for rows, out in results])[None]
