"""Length-bucketed batches under a token budget."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from nait_fast.data.tokenize import Encoded


@dataclass(frozen=True)
class Batch:
    """``items``: places in the encoded window; ``prefix``: number of the shared prefix they stand behind, None without;
    ``n_prefix``: its tokens."""

    items: list[int]
    prefix: int | None = None
    n_prefix: int = 0


def make_batches(
    encoded: Sequence[Encoded], prefixes: Sequence[np.ndarray], batch_tokens: int, max_padding: float | None = None
) -> Iterator[Batch]:
    """Batches of similarly long samples, each at most ``batch_tokens`` tokens of its own (or one sample).

    ``max_padding``: for models that pad a batch to its longest sample, the share of padding that one may have; a batch
    of too different lengths ends early. Each sample stands behind the longest of ``prefixes`` int32 [P] that it begins
    with; those behind different ones never mix. The order depends only on the lengths and places. Where readings do not
    run over all tokens, those stand behind a prefix whose response begins behind it, with one of their chosen tokens
    behind it.
    """
    longest_first = sorted(range(len(prefixes)), key=lambda number: -len(prefixes[number]))
    groups: dict[int | None, list[int]] = {number: [] for number in (*longest_first, None)}
    for place, item in enumerate(encoded):
        behind = (number for number in longest_first if _stands_behind(item, prefixes[number]))
        groups[next(behind, None)].append(place)
    for number, members in groups.items():
        n_prefix = 0 if number is None else len(prefixes[number])
        members.sort(key=lambda i: (len(encoded[i].ids), i))
        batch: list[int] = []
        tokens = 0
        for i in members:
            length = len(encoded[i].ids) - n_prefix
            uneven = max_padding is not None and tokens + length < (1 - max_padding) * length * (len(batch) + 1)
            if batch and (tokens + length > batch_tokens or uneven):
                yield Batch(batch, number, n_prefix)
                batch, tokens = [], 0
            batch.append(i)
            tokens += length
        if batch:
            yield Batch(batch, number, n_prefix)


def _stands_behind(item: Encoded, prefix: np.ndarray) -> bool:
    n = len(prefix)
    if len(item.ids) <= n or not np.array_equal(item.ids[:n], prefix):
        return False
    return item.reading_spans is None or (item.lead >= n and item.reading_spans[-1][1] > n)
