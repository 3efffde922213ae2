"""One packed batch: where its sequences lie, and what a shared prefix has left for them."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import torch
from torch import nn

from nait_fast.device_copies import to_device

MAX_ROW_PADDING = 0.03  # share of padding among the rows of one call of a mixer
KeysValues = tuple[torch.Tensor, torch.Tensor]


@dataclass
class PrefixState:
    """What a prefix of P tokens leaves for those behind it: ``keys`` and values [1, H_kv, P, D] of each attention, by
    its layer index; ``calls``, of each mixer in rows (``models/rows.py``), what it was called with, and P."""

    keys: dict[int, KeysValues] = field(default_factory=dict)
    calls: dict[nn.Module, tuple[Any, int]] = field(default_factory=dict)


@dataclass
class Pack:
    """One packed batch: ``lengths`` of its sequences; ``prefix``: what all of them stand behind; ``record``, if given,
    receives what this forward's own tokens leave; ``row_padding``: the most among the rows of one call of a mixer."""

    lengths: Sequence[int]
    prefix: PrefixState = field(default_factory=PrefixState)
    record: PrefixState | None = None
    row_padding: float = MAX_ROW_PADDING
    windows: set[int] = field(default_factory=set)  # sliding windows that attention modules asked for

    _bounds: "Bounds | None" = None
    _rows: "list[Rows] | None" = None
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
            self.record.keys[layer] = (key, value)
        if window:
            self.windows.add(window)
        return self.prefix.keys[layer][0].shape[2] if layer in self.prefix.keys else 0

    def rows(self, device: torch.device) -> "list[Rows]":
        """The sequences laid into rows, those of similar lengths together; made once a batch."""
        if self._rows is None:
            self._rows, first, start = [], 0, 0
            while first < len(self.lengths):
                stop = _similar(self.lengths, first, self.row_padding)
                self._rows.append(Rows.of(self.lengths[first:stop], start, device))
                first, start = stop, start + sum(self.lengths[first:stop])
        return self._rows

    def bounds(self, n_prefix: int, device: torch.device) -> "Bounds":
        """Boundaries as variable-length attention wants them; made once a batch."""
        if self._bounds is None or self._bounds.n_prefix != n_prefix:
            lengths = torch.tensor(list(self.lengths))
            ends = lengths.cumsum(0)
            zero = torch.zeros(1, dtype=torch.int64)
            query = torch.cat([zero, ends])
            key = torch.cat([zero, ends + n_prefix * torch.arange(1, len(lengths) + 1)])
            longest = int(lengths.max())
            own = torch.arange(int(ends[-1])) + n_prefix * torch.repeat_interleave(
                torch.arange(1, len(lengths) + 1), lengths
            )
            shared = (key[:-1, None] + torch.arange(n_prefix)).flatten()
            self._bounds = Bounds(
                n_prefix,
                to_device(query.int(), device),
                to_device(key.int(), device),
                longest,
                longest + n_prefix,
                to_device(own, device),
                to_device(shared, device),
            )
        return self._bounds


@dataclass(frozen=True)
class Bounds:
    """``query``, ``key`` int32 [B + 1]: where each sequence's queries and keys begin; among the keys of all sequences,
    each with the P of its prefix in front: ``own`` int64 [T], where its own ones stand, ``shared`` int64 [B · P]."""

    n_prefix: int
    query: torch.Tensor
    key: torch.Tensor
    longest_query: int
    longest_key: int
    own: torch.Tensor
    shared: torch.Tensor

    def behind(self, prefix: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
        """``own`` [T, H, D], a copy of ``prefix`` [P, H, D] in front of each sequence: [T + B · P, H, D]."""
        out = own.new_empty(len(own) + len(self.shared), *own.shape[1:])
        out.index_copy_(0, self.own, own)
        return out.index_copy_(0, self.shared, prefix.repeat(len(self.shared) // len(prefix), 1, 1))


@dataclass(frozen=True)
class Rows:
    """Sequences of T ``tokens`` in all, one after another from token ``start`` on, laid into rows of ``shape`` (B,
    longest), each from the left. ``places`` int64 [T]: where each token stands among B · longest; None: in order."""

    start: int
    tokens: int
    shape: tuple[int, int]
    places: torch.Tensor | None

    @classmethod
    def of(cls, lengths: Sequence[int], start: int, device: torch.device) -> "Rows":
        shape, tokens = (len(lengths), max(lengths)), sum(lengths)
        if tokens == shape[0] * shape[1]:
            return cls(start, tokens, shape, None)
        places = torch.cat([torch.arange(n) + i * shape[1] for i, n in enumerate(lengths)])
        return cls(start, tokens, shape, to_device(places, device))

    def lay(self, x: torch.Tensor) -> torch.Tensor:
        """[1, all tokens, ...] -> [B, longest, ...], zero behind each sequence."""
        own = x[0, self.start : self.start + self.tokens]
        if self.places is None:
            return own.unflatten(0, self.shape)
        out = own.new_zeros(self.shape[0] * self.shape[1], *own.shape[1:])
        return out.index_copy_(0, self.places, own).unflatten(0, self.shape)

    def take(self, x: torch.Tensor) -> torch.Tensor:
        """[B, longest, ...] -> [T, ...], what ``lay`` has laid."""
        flat = x.flatten(0, 1)
        return flat if self.places is None else flat[self.places]


def _similar(lengths: Sequence[int], first: int, padding: float) -> int:
    """Behind the last of the sequences from ``first`` on that fit into rows with at most this share of padding."""
    longest, tokens = 0, 0
    for i in range(first, len(lengths)):
        longest, tokens = max(longest, lengths[i]), tokens + lengths[i]
        if tokens < (1 - padding) * longest * (i + 1 - first):
            return i
    return len(lengths)


_running: ContextVar[Pack | None] = ContextVar("nait_fast pack", default=None)


def running() -> Pack | None:
    """The pack of the caller's forward; None outside of a packed one."""
    return _running.get()


@contextmanager
def packed_as(pack: Pack) -> Iterator[None]:
    """A forward inside the block is one of ``pack``."""
    before = _running.set(pack)
    try:
        yield
    finally:
        _running.reset(before)
