"""Calibration: thresholds and bit frequencies from a sample of the pool."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import nn

from nait_fast.codecs.base import Codec
from nait_fast.codecs.codebook import Codebook
from nait_fast.codecs.layout import CodeLayout
from nait_fast.data.encode import encode, parsed
from nait_fast.data.formats import Sample
from nait_fast.data.loader import samples_of
from nait_fast.data.parts import Record
from nait_fast.data.plan import lines_of
from nait_fast.data.pool import Pool, check, where_of
from nait_fast.data.tokenize import Encoded, Encoder, Refused
from nait_fast.errors import BadInput
from nait_fast.extract.pooling import READINGS, dtype_of
from nait_fast.extract.sinks import HOST, Collect

PREFIX_SAMPLES, PREFIX_RUNS = 512, 8
BLOCK_NEURONS, DEVICE_BLOCK_NEURONS = 512, 16_384  # whose statistics are taken at once
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


def spread_samples(pool: Pool, fmt: str, encoder: Encoder) -> list[Encoded]:
    """The usable ones of a few runs of rows all over the pool, whose sources may lie one after another: they tell the
    prefixes that its samples share. What is wrong with the others is said by whoever comes to their unit."""
    rows = pool.plan().rows
    starts = (place * rows // PREFIX_RUNS for place in range(PREFIX_RUNS))
    chosen = {row for start in starts for row in range(start, min(start + PREFIX_SAMPLES // PREFIX_RUNS, rows))}
    records = lines_of(pool.reader(), sorted(chosen))

    def sample(record: Record, row: int) -> Sample:
        return check(record.payload, fmt, row, pool.conventions)[1]

    return list(encode(encoder, parsed(records, sample, lambda *bad: None), lambda refused: None))


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
    values = collected.readings[reading]
    threshold, frequency, scale = statistics_of(values, finite)
    drift = collected.readings.get("drift")
    hidden = collected.hidden.cpu().numpy()[finite]
    return Codebook(
        frequency=frequency,
        meta={"codec": codec.name, "reading": reading, "samples": len(finite), **meta},
        threshold=threshold,
        scale=scale,
        drift_mean=None if drift is None else mean_of(drift, finite),
        part=codec.fit(rows_of(values, finite).cpu().numpy(), threshold, collected.layout, entries, seed)
        if codec.tensors
        else None,
        hidden_mean=hidden.mean(axis=0, dtype=np.float64).astype(np.float32) if hidden.shape[1] else None,
        chosen=chosen,
    )


def device_for(n: int, layout: CodeLayout, readings: Iterable[str], body: nn.Module) -> torch.device:
    """Where the ``readings`` of a calibration sample of ``n`` are kept: on the device of ``body``, where they take no
    more than a quarter of what the body leaves of its memory; else on the host.

    What others hold there at the moment does not count: device and host differ in last bits, and a run that is resumed
    must end in the same ones.
    """
    device = next(body.parameters()).device
    if device.type != "cuda":
        return HOST
    size = sum(dtype_of(name).itemsize for name in readings if name in READINGS) * n * layout.n_neurons
    held = sum(tensor.nbytes for tensor in (*body.parameters(), *body.buffers()))
    room = torch.cuda.get_device_properties(device).total_memory - held
    return device if size <= room // 4 else HOST


def rows_of(values: torch.Tensor, rows: np.ndarray) -> torch.Tensor:
    """``values[rows]``, without a copy where that is all of them."""
    return values if len(rows) == len(values) else values[torch.from_numpy(rows).to(values.device)]


def mean_of(values: torch.Tensor, rows: np.ndarray) -> np.ndarray:
    """fp32 [N]: mean of ``rows`` of ``values`` [n, N], summed up in fp64."""
    return _by_blocks(values, rows, _block_mean, _block_mean_on_device)[0]


def statistics_of(values: torch.Tensor, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean of ``rows`` of ``values`` [n, N], share of them above it, and standard deviation, in fp64 rounded to fp32
    [N] each."""
    mean, frequency, scale = _by_blocks(values, rows, _block_statistics, _block_statistics_on_device)
    return mean, frequency, scale


def _by_blocks(
    values: torch.Tensor,
    rows: np.ndarray,
    of_host: Callable[[np.ndarray], tuple[np.ndarray, ...]],
    of_device: Callable[[torch.Tensor], tuple[torch.Tensor, ...]],
) -> list[np.ndarray]:
    """What ``of_host`` or ``of_device`` makes of ``rows`` of each block of neurons, put together.

    A block's numbers stay in a core's cache, and blocks are shared among threads. NumPy adds up each neuron's rows in
    their order, whatever other neurons are beside it (but for a neuron alone): blocks do not change a bit.
    """
    size = BLOCK_NEURONS if values.device == HOST else DEVICE_BLOCK_NEURONS
    edges = np.linspace(0, values.shape[1], max(1, values.shape[1] // size) + 1).astype(int).tolist()
    blocks = [slice(start, stop) for start, stop in pairwise(edges)]
    if values.device != HOST:
        parts = [of_device(rows_of(values[:, block], rows)) for block in blocks]
        return [torch.cat(part).cpu().numpy() for part in zip(*parts, strict=True)]
    with ThreadPoolExecutor(torch.get_num_threads()) as threads:
        made = list(threads.map(lambda block: of_host(rows_of(values[:, block], rows).numpy()), blocks))
    return [np.concatenate(part) for part in zip(*made, strict=True)]


def _block_mean(values: np.ndarray) -> tuple[np.ndarray, ...]:
    return (values.mean(axis=0, dtype=np.float64).astype(np.float32),)


def _block_mean_on_device(values: torch.Tensor) -> tuple[torch.Tensor, ...]:
    return (values.mean(dim=0, dtype=torch.float64).float(),)


def _block_statistics(values: np.ndarray) -> tuple[np.ndarray, ...]:
    wide = values.astype(np.float64)  # once: NumPy's own mean and std would do so piece by piece, and more than once
    mean = wide.mean(axis=0)
    threshold = mean.astype(np.float32)
    frequency = (values > threshold).mean(axis=0).astype(np.float32)
    wide -= mean
    wide *= wide
    return threshold, frequency, np.sqrt(wide.mean(axis=0)).astype(np.float32)


def _block_statistics_on_device(values: torch.Tensor) -> tuple[torch.Tensor, ...]:
    (mean,) = _block_mean_on_device(values)
    frequency = (values > mean).mean(dim=0, dtype=torch.float64).float()
    return mean, frequency, values.double().std(dim=0, correction=0).float()
