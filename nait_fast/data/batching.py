"""Length-bucketed batches under a token budget, and the prefix that samples share."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from nait_fast.data.tokenize import Encoded

MIN_PREFIX = 4


@dataclass(frozen=True)
class Batch:
    """``items``: places in the encoded window; ``n_prefix``: leading tokens that come from the shared prefix."""

    items: list[int]
    n_prefix: int


def shared_prefix(encoded: Sequence[Encoded], share: float = 0.8) -> np.ndarray:
    """The longest token prefix that at least ``share`` of the samples begin with, int32 [P]; empty below 4 tokens.

    Samples also need a token of their own behind it, and have none of their response in it where readings do not run
    over all tokens.
    """
    limits = [min(len(e.ids) - 1, e.lead) for e in encoded]
    alive = [(e.ids, limit) for e, limit in zip(encoded, limits, strict=True)]
    needed = max(2, share * len(alive))
    prefix: list[int] = []
    while True:
        position = len(prefix)
        counts = Counter(int(ids[position]) for ids, limit in alive if limit > position)
        token, count = counts.most_common(1)[0] if counts else (0, 0)
        if count < needed:
            break
        prefix.append(token)
        alive = [(ids, limit) for ids, limit in alive if limit > position and ids[position] == token]
    return np.array(prefix if len(prefix) >= MIN_PREFIX else [], dtype=np.int32)


def make_batches(
    encoded: Sequence[Encoded], prefix: np.ndarray, batch_tokens: int, max_padding: float | None = None
) -> Iterator[Batch]:
    """Batches of similarly long samples, each at most ``batch_tokens`` tokens of its own (or one sample).

    ``max_padding``: for models that pad a batch to its longest sample, the share of padding that one may have; a batch
    of too different lengths ends early. Samples behind the shared prefix and others never mix. The order depends only
    on the lengths and places. Where readings do not run over all tokens, those stand behind the prefix whose response
    begins behind it, with one of their chosen tokens behind it.
    """
    n = len(prefix)
    groups: dict[int, list[int]] = {n: [], 0: []}
    for place, item in enumerate(encoded):
        behind = n and len(item.ids) > n and np.array_equal(item.ids[:n], prefix)
        if behind and item.reading_spans is not None:
            behind = item.lead >= n and item.reading_spans[-1][1] > n
        groups[n if behind else 0].append(place)
    for n_prefix, members in groups.items():
        members.sort(key=lambda i: (len(encoded[i].ids), i))
        batch: list[int] = []
        tokens = 0
        for i in members:
            length = len(encoded[i].ids) - n_prefix
            uneven = max_padding is not None and tokens + length < (1 - max_padding) * length * (len(batch) + 1)
            if batch and (tokens + length > batch_tokens or uneven):
                yield Batch(batch, n_prefix)
                batch, tokens = [], 0
            batch.append(i)
            tokens += length
        if batch:
            yield Batch(batch, n_prefix)
