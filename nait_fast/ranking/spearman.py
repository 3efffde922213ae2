"""Spearman's rank correlation, and that of scores with length."""

import numpy as np

from nait_fast.ranking.columns import ScoreTable, Spill, block_rows

EXACT_ROWS = 1_000_000  # above this, over every n-th row


def centred_ranks(values: np.ndarray) -> np.ndarray:
    """Ranks float64 [n] less their mean, ties at their mean rank."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (counts.cumsum() - (counts - 1) / 2)[inverse] - (len(values) + 1) / 2


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Pearson's correlation of two centred vectors; NaN if one is constant."""
    norm = np.sqrt((a * a).sum() * (b * b).sum())
    return float((a * b).sum() / norm) if norm else float("nan")


def spearman(x: np.ndarray, y: np.ndarray) -> float:
    """Spearman's rank correlation of two vectors, ties at their mean rank; NaN if one is constant."""
    return correlation(centred_ranks(x), centred_ranks(y))


def with_length(table: ScoreTable) -> tuple[dict[str, float | None], int]:
    """(correlation of each target's scores with the samples' tokens, None if one is constant; rows it is over).

    Over every row up to ``EXACT_ROWS`` of them, over every n-th one, n as small as that allows, beyond.
    """
    lengths = sampled_ranks(table.n_tokens)
    out: dict[str, float | None] = {}
    for column, name in enumerate(table.names):
        value = correlation(sampled_ranks(table.scores, column), lengths)
        out[name] = round(value, 4) if np.isfinite(value) else None
    return out, len(lengths)


def sampled_ranks(spill: Spill, column: int = 0) -> np.ndarray:
    """``centred_ranks`` of every row of a column, or of every n-th one, as ``with_length`` has it."""
    stride = max(1, -(-spill.rows // EXACT_ROWS))
    step = block_rows(1) // stride * stride or stride
    # Copies: a view would keep its whole block.
    parts = [spill.read(start, start + step, column)[::stride].copy() for start in range(0, spill.rows, step)]
    return centred_ranks(np.concatenate(parts))
