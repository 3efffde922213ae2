"""Lengths as a real pool has them, and random samples of these lengths.

The quantiles are those of 24,149 samples of five public instruction sets (Alpaca 37%, GSM8K 31%, Dolly 12%, GPTeacher
roleplay 12%, Code Alpaca 8%): tokens of a sample under SmolLM2-135M-Instruct's tokenizer and chat template, cut after
the last token of its content and at max_length 2,048 (4 samples are). Their mean is 158.6 tokens; 2% are longer than
384 tokens, 0.9% than 512. All of them begin with the same 24 tokens, the template's own.
"""

from collections.abc import Sequence

import numpy as np

from nait_fast.data.tokenize import Encoded

PREFIX = 24

# The length that a share of the samples does not pass: shares 0, 1/64 … 63/64, then finer ones for the tail.
QUANTILES = (
    37,
    47,
    51,
    53,
    55,
    57,
    59,
    61,
    63,
    66,
    68,
    71,
    73,
    77,
    80,
    84,
    88,
    91,
    95,
    99,
    103,
    107,
    111,
    114,
    118,
    121,
    125,
    128,
    131,
    134,
    137,
    140,
    143,
    146,
    149,
    153,
    156,
    159,
    162,
    165,
    169,
    172,
    175,
    179,
    183,
    186,
    191,
    194,
    199,
    203,
    208,
    213,
    219,
    225,
    232,
    239,
    248,
    256,
    267,
    279,
    296,
    317,
    347,
    412,
    555,
    818,
    1088,
    1403,
    1943,
    2048,
)
SHARES = (*(i / 64 for i in range(64)), 1 - 1 / 128, 1 - 1 / 256, 1 - 1 / 512, 1 - 1 / 1024, 1 - 1 / 4096, 1.0)


def sample_lengths(n: int, seed: int, max_length: int = 2048) -> np.ndarray:
    """``n`` lengths int64, drawn from the quantiles (linear between them) and cut at ``max_length``."""
    drawn = np.interp(np.random.default_rng(seed).random(n), SHARES, QUANTILES)
    return np.minimum(drawn.astype(np.int64), max_length)


def random_ids(lengths: Sequence[int] | np.ndarray, vocabulary: int, seed: int) -> list[Encoded]:
    """Samples of random token ids that begin with the same ``PREFIX`` tokens (fewer where a length leaves no room for a
    token behind them)."""
    generator = np.random.default_rng(seed)
    prefix = generator.integers(3, vocabulary, PREFIX).astype(np.int32)
    samples = []
    for row, length in enumerate(lengths):
        ids = generator.integers(3, vocabulary, int(length)).astype(np.int32)
        shared = min(PREFIX, int(length) - 1)
        ids[:shared] = prefix[:shared]
        samples.append(Encoded(row, None, ids))
    return samples
