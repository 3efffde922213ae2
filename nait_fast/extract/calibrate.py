"""Calibration: thresholds and bit frequencies from a sample of the pool."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from nait_fast.codecs.base import Codec
from nait_fast.codecs.codebook import Codebook
from nait_fast.data.encode import encode
from nait_fast.data.loader import samples_of
from nait_fast.data.plan import lines_of
from nait_fast.data.pool import Pool, where_of
from nait_fast.data.tokenize import Encoded, Encoder, Refused
from nait_fast.errors import BadInput
from nait_fast.extract.sinks import Collect

PREFIX_SAMPLES = 256
_PERMUTED_ROWS = 1 << 22  # up to here a whole permutation is drawn (32 MB)


def drawn_rows(rows: int, size: int, seed: int) -> np.ndarray:
    """Rows of a pool in a random order, at least those that a sample of ``size`` good ones needs."""
    generator = np.random.default_rng(seed)
    if rows <= _PERMUTED_ROWS:
        return generator.permutation(rows)
    return generator.choice(rows, min(rows, 4 * size + 1024), replace=False)


def encoded_rows(pool: Pool, fmt: str, encoder: Encoder, rows: Sequence[int]) -> list[Encoded]:
    """The usable ones among ``rows``, in the pool's order. Raises NaitError at a bad one, unless they are skipped."""
    places: dict[int, tuple[str, int]] = {}

    def refuse(refused: Refused) -> None:
        pool.refuse(where_of(*places[refused.row], refused.row), refused.row, refused.reason)

    return list(encode(encoder, samples_of(pool, fmt, lines_of(pool.reader(), sorted(rows)), places, []), refuse))


def first_samples(pool: Pool, fmt: str, encoder: Encoder) -> list[Encoded]:
    """The usable ones among the pool's first rows: they tell the prefix that its samples share."""
    return encoded_rows(pool, fmt, encoder, range(min(PREFIX_SAMPLES, pool.plan().rows)))


def sample_of(pool: Pool, fmt: str, encoder: Encoder, size: int, seed: int) -> list[Encoded]:
    """A random sample of ``size`` usable samples (or all there are), in the pool's order. Raises NaitError below 2."""
    drawn = drawn_rows(pool.plan().rows, size, seed)
    chosen: list[Encoded] = []
    start = 0
    while len(chosen) < size and start < len(drawn):
        rows = drawn[start : start + 2 * (size - len(chosen)) if start else size]
        start += len(rows)
        place = {int(row): i for i, row in enumerate(rows)}
        usable = sorted(encoded_rows(pool, fmt, encoder, rows.tolist()), key=lambda e: place[e.row])
        chosen += usable[: size - len(chosen)]
    if len(chosen) < 2:
        raise BadInput(f"calibration needs at least 2 usable samples, found {len(chosen)}", where=pool.path)
    return sorted(chosen, key=lambda e: e.row)


def make_codebook(
    collected: Collect,
    reading: str,
    meta: dict[str, Any],
    codec: Codec,
    entries: Mapping[str, Any],
    seed: int = 0,
    chosen: np.ndarray | None = None,
) -> Codebook:
    """Codebook of the finite samples in ``collected`` (needs ``reading``; drift_mean and hidden_mean where these were
    collected). ``entries``, ``seed``: what ``codec`` makes its part by; ``chosen`` int32 [N]: which neurons of experts
    they are."""
    finite = np.flatnonzero(collected.finite)
    if len(finite) < 2:
        raise BadInput(
            f"only {len(finite)} of {len(collected.finite)} samples have finite activations",
            where="calibration",
            remedy="try --dtype float32 if it runs in half precision, or another model",
        )
    values = collected.readings[reading].numpy()[finite]
    threshold = values.mean(axis=0, dtype=np.float64).astype(np.float32)
    drift = collected.readings.get("drift")
    hidden = collected.hidden.numpy()[finite]
    return Codebook(
        frequency=(values > threshold).mean(axis=0).astype(np.float32),
        meta={"codec": codec.name, "reading": reading, "samples": len(finite), **meta},
        threshold=threshold,
        scale=values.std(axis=0, dtype=np.float64).astype(np.float32),
        drift_mean=None if drift is None else drift.numpy()[finite].mean(axis=0, dtype=np.float64).astype(np.float32),
        part=codec.fit(values, threshold, collected.layout, entries, seed),
        hidden_mean=hidden.mean(axis=0, dtype=np.float64).astype(np.float32) if hidden.shape[1] else None,
        chosen=chosen,
    )
