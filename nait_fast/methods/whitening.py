"""The whitened principal components of the last hidden states that an index holds (CRDS-W, arXiv 2602.13773).

Of the index and not of its codebook, which is there before the pool has been read. Fitted when it is first asked for,
and kept beside the shards.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nait_fast.errors import BadInput, NaitError
from nait_fast.index.format import rds_vectors
from nait_fast.index.reader import Index
from nait_fast.index.sample import drawn_places
from nait_fast.index.stream import Stream
from nait_fast.notices import warn
from nait_fast.storage.files import pack_tensors, read_tensors, sha256, write_atomic
from nait_fast.storage.names import WHITENING

ROWS = 500_000  # that it is fitted on at most, drawn by SEED
SEED = 0
LEAST_VARIANCE = 1e-12  # of the greatest: below it is rounding
FEW = 4  # rows a component: of fewer, whitening makes much of chance


@dataclass(frozen=True)
class Whitening:
    """``mean`` float64 [H]; ``components`` float64 [D, H]: principal components over the square root of their variance,
    the greatest first."""

    mean: np.ndarray
    components: np.ndarray

    def __call__(self, e: np.ndarray) -> np.ndarray:
        """float64 [n, D] of ``e`` [n, H]."""
        return (e.astype(np.float64) - self.mean) @ self.components.T

    def described(self, index: Index) -> dict[str, Any]:
        """What a manifest says of it, fitted on ``index``: on how many ``rows``, how many ``dims`` these gave, and the
        ``hash``, 16 hex digits, of mean and components."""
        digest = sha256(self.mean.tobytes() + self.components.tobytes())[:16]
        return {"rows": min(index.rows, ROWS), "dims": len(self.components), "hash": digest}


def fit(blocks: Iterator[np.ndarray], dims: int) -> Whitening:
    """Of ``e`` [n, H], block by block, in memory that does not grow with the rows: at most ``dims`` components, and
    fewer than there are rows. Raises NaitError where all rows are the same."""
    shift, number = np.zeros(0), 0
    total, squares = np.zeros(0), np.zeros((0, 0))
    for block in blocks:
        e = block.astype(np.float64)
        if not number:
            shift = e.mean(axis=0)  # or squares of large means would take the digits of small variances
            total, squares = np.zeros(len(shift)), np.zeros((len(shift), len(shift)))
        e -= shift
        number += len(e)
        total += e.sum(axis=0)
        squares += e.T @ e
    mean = total / max(1, number)
    variances, vectors = np.linalg.eigh((squares - number * np.outer(mean, mean)) / max(1, number - 1))
    order = np.argsort(-variances)[: min(dims, max(0, number - 1))]
    order = order[variances[order] > LEAST_VARIANCE * variances.max(initial=0)]
    if not len(order):
        raise BadInput(
            f"the last hidden states of all {number:,} rows are the same", where="method crds", remedy="use method rds"
        )
    return Whitening(shift + mean, vectors.T[order] / np.sqrt(variances[order])[:, None])


def whitening_of(index: Index, dims: int) -> Whitening:
    """Of the rows of ``index``: as ``WHITENING`` in its folder has it, or fitted and kept there. Raises NaitError."""
    key = (WHITENING, dims)
    if key not in index.derived:
        index.derived[key] = _kept_or_fitted(index, dims)
    return index.derived[key]


def _kept_or_fitted(index: Index, dims: int) -> Whitening:
    path = index.folder / WHITENING
    of = {"index": index.manifest["checksum"], "dims": dims, "rows": ROWS, "seed": SEED}
    if (kept := _kept(path, of)) is not None:
        return kept
    if min(index.rows, ROWS) < FEW * dims:
        warn(
            f"index {index.name}: {index.rows:,} rows tell little of {dims:,} whitened components; index more rows, "
            "or use --method crds:dims=N"
        )
    made = fit(_drawn(index), dims)
    tensors = {"mean": made.mean, "components": made.components}
    try:
        write_atomic(path, pack_tensors(tensors, {"kind": "whitening", **of}))
    except NaitError as error:
        warn(f"{path}: the whitened components are not kept for the next time ({error.what})")
    return made


def _drawn(index: Index) -> Iterator[np.ndarray]:
    """e of the rows that it is fitted on."""
    columns = [name for name in ("rds", "rds_scale") if name in index.columns]
    places, first = drawn_places(index.rows, ROWS, SEED), 0
    for part in Stream(index, codes=False, columns=columns).parts():
        inside = places[slice(*np.searchsorted(places, (first, first + len(part.row))))] - first
        first += len(part.row)
        if len(inside):
            yield rds_vectors({name: column[inside] for name, column in part.columns.items()})


def _kept(path: Path, of: dict[str, object]) -> Whitening | None:
    """What an earlier ranking has left, if it is of the same."""
    try:
        tensors, meta = read_tensors(path, "whitening")
    except NaitError:
        return None
    if {key: meta.get(key) for key in of} != of or tensors.keys() != {"mean", "components"}:
        return None
    mean, components = (np.array(tensors[name]) for name in ("mean", "components"))
    fits = mean.ndim == 1 and components.ndim == 2 and components.shape[1] == len(mean)
    return Whitening(mean, components) if fits and mean.dtype == components.dtype == np.float64 else None
