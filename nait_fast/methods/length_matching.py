"""How often neurons fire in samples of given lengths: a pool's bit frequencies as a smooth function of log length."""

import numpy as np

from nait_fast.index.reader import Index
from nait_fast.index.sample import codes_at, drawn_places

ROWS = 16_384  # of the pool
NEAR = 0.2  # share of the rows within a bandwidth: of less, rows at the ends of the lengths come out far too long
LEAST_NEAR, LEAST_BANDWIDTH = 32, 0.05  # rows; of log length
GROUPS = 8  # of a target's samples, by length


def groups_of(lengths: np.ndarray) -> np.ndarray:
    """int64 [Q]: samples of similar ``lengths`` [Q] in groups of about the same size, numbered from 0."""
    ranks = np.searchsorted(np.sort(lengths), lengths)  # equal lengths together
    return np.unique(ranks * min(GROUPS, len(lengths)) // len(lengths), return_inverse=True)[1]


def frequencies_at(index: Index, lengths: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """float64 [G, N]: p_pool at the ``lengths`` int [Q] (tokens) of the samples of each of ``groups`` int [Q], averaged
    over them.

    p_pool(ℓ) is the Nadaraya-Watson estimate over rows of ``index``, Gaussian in log length, its bandwidth reaching
    ``NEAR`` of them. Raises NaitError for damaged shards.
    """
    places = drawn_places(index.rows, ROWS, 0)
    tokens = np.concatenate([np.array(shard.n_tokens) for shard in index.shards()])[places]
    weights = _kernel(np.log(tokens), np.log(lengths))
    number = int(groups.max()) + 1
    mean = np.stack([weights[groups == group].mean(axis=0) for group in range(number)]).astype(np.float32)
    out, at = np.zeros((number, index.layout.n_neurons)), 0
    for block in codes_at(index, places):
        bits = index.layout.unpack(block["codes"])
        out += mean[:, at : at + len(bits)] @ bits.astype(np.float32)
        at += len(bits)
    return out.clip(0, 1)


def _kernel(rows: np.ndarray, samples: np.ndarray) -> np.ndarray:
    """float64 [Q, n]: weights of ``rows`` [n] around each of ``samples`` [Q], of sum 1; both logarithms of lengths."""
    near = min(len(rows), max(LEAST_NEAR, round(NEAR * len(rows))))
    out = np.empty((len(samples), len(rows)))
    for weights, sample in zip(out, samples.tolist(), strict=True):
        apart = np.abs(rows - sample)
        bandwidth = max(LEAST_BANDWIDTH, float(np.partition(apart, near - 1)[near - 1]))
        weights[:] = np.exp(-0.5 * (apart / bandwidth) ** 2)
        weights /= weights.sum()
    return out
