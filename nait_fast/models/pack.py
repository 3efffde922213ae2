"""What attention must know of a packed batch: sequences that lie one after another on a single token axis."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby

import torch

from nait_fast.transfer import to_device

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
