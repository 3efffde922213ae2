"""The leading tokens that many samples share (system messages, templates' instructions): each is run once for all."""

from collections.abc import Sequence

import numpy as np

from nait_fast.data.tokenize import Encoded

SCHEME = 2  # of what is chosen here: with other prefixes a reading differs by rounding
MIN_PREFIX = 4  # tokens
MAX_PREFIX = 1024
MOST = 8  # prefixes: each splits the batches once more
# What each prefix must spare: a share of all tokens, and at least about what a forward of its own costs.
LEAST_GAIN, LEAST_TOKENS = 0.01, 32
LEAST_SHARE = 1 / 32  # of the samples
_LOOKED_AT = 1024  # samples


def shared_prefixes(encoded: Sequence[Encoded]) -> list[np.ndarray]:
    """Prefixes int32 [P] that spare the most tokens when each is run once and every sample stands behind the longest
    that it begins with; the longest first, none where nothing is worth it.

    Samples also need a token of their own behind a prefix, and have none of their response in it where readings do not
    run over all tokens. Of the trie of leading ids, nodes are taken one by one, by what each still spares, and those
    given back that later ones have made needless.
    """
    step = -(-len(encoded) // _LOOKED_AT) or 1
    looked_at = encoded[::step]
    nodes = _nodes(looked_at)
    least = max(LEAST_GAIN * sum(len(e.ids) for e in looked_at), LEAST_TOKENS / step)
    chosen: list[int] = []

    def gains(candidates: Sequence[int], others: Sequence[int]) -> list[float]:
        """Tokens that each of ``candidates`` spares beside ``others``, for one sample in ``step``."""
        has = np.zeros(len(looked_at), dtype=np.int64)
        for other in others:
            length, members = nodes[other]
            has[members] = np.maximum(has[members], length)
        return [
            np.maximum(length - has[m], 0).sum() - length / step for length, m in map(nodes.__getitem__, candidates)
        ]

    while len(chosen) < MOST and (left := [node for node in range(len(nodes)) if node not in chosen]):
        spared = gains(left, chosen)
        best = int(np.argmax(spared))
        if spared[best] < least:
            break
        chosen.append(left[best])
    for node in sorted(chosen, key=lambda node: nodes[node][0]):
        others = [other for other in chosen if other != node]
        if gains([node], others)[0] < least:
            chosen = others
    prefixes = [looked_at[nodes[node][1][0]].ids[: nodes[node][0]] for node in chosen]
    return sorted(prefixes, key=lambda ids: (-len(ids), ids.tolist()))


def _nodes(encoded: Sequence[Encoded]) -> list[tuple[int, np.ndarray]]:
    """(length, places of the samples that begin so) of every prefix that ends where its samples part."""
    limits = np.array([min(len(e.ids) - 1, e.lead, MAX_PREFIX) for e in encoded], dtype=np.int64)
    least = max(2.0, LEAST_SHARE * len(encoded))
    if len(limits) < least:
        return []
    ids = np.full((len(encoded), int(limits.max()) + 1), -1, dtype=np.int32)  # -1: this sample goes no farther
    for row, (sample, limit) in enumerate(zip(encoded, limits, strict=True)):
        ids[row, :limit] = sample.ids[:limit]
    nodes, waiting = [], [(0, np.arange(len(encoded)))]
    while waiting:
        length, members = waiting.pop()
        own = ids[members, length:]
        together = (own == own[0]).all(axis=0) & (own[0] >= 0)
        length += int(together.argmin())  # the last column is of no sample
        if length >= MIN_PREFIX:
            nodes.append((length, members))
        tokens, counts = np.unique(ids[members, length], return_counts=True)
        waiting += [
            (length, members[ids[members, length] == token])
            for token, count in zip(tokens, counts, strict=True)
            if token >= 0 and count >= least
        ]
    return nodes
