"""Scores of another tool, ranked as a method's: a number for each row, or one for each target sample and row.

Not in ``METHODS``: no signature file is of it, and no model runs for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from nait_fast import compatibility
from nait_fast.config import RULES, split_target
from nait_fast.errors import BadInput, Damaged
from nait_fast.index.reader import Index
from nait_fast.methods.base import Method
from nait_fast.methods.signature import SAMPLES, Signature
from nait_fast.methods.similarity import Similarities
from nait_fast.outputs.fetched import local_copy
from nait_fast.storage.files import sha256, sha256_file

if TYPE_CHECKING:
    import torch

    from nait_fast.codecs.codebook import Codebook
    from nait_fast.extract.sinks import Encode
    from nait_fast.index.stream import Part

FLAG = "--foreign-scores"
SCORE = "score"  # the column of a table that holds them


class _Given(Similarities):
    """``scores`` float [Q, rows of the pool], in memory or mapped."""

    def __init__(self, scores: np.ndarray):
        self.queries, self._scores = len(scores), scores

    def __call__(self, part: Part) -> np.ndarray:
        return self._scores[:, part.row].T.astype(np.float64)

    def __reduce__(self) -> tuple[Any, ...]:
        """For another process: mapped scores by their file's name."""
        if isinstance(self._scores, np.memmap):
            return _mapped, (str(self._scores.filename),)
        return _Given, (self._scores,)


def _mapped(file: str) -> _Given:
    scores = np.load(file, mmap_mode="r", allow_pickle=False)
    return _Given(scores[None] if scores.ndim == 1 else scores)


class Foreign(Method):
    name = "foreign"
    about = "scores of another tool"
    tensors = MappingProxyType({})
    rules = RULES
    layers_untold = "they are another tool's."
    unit = likeness = "as given"

    def reading(self, asked: str | None) -> str:
        _refuse()

    def fit(
        self, name: str, material: np.ndarray, meta: Mapping[str, Any], codebook: Codebook | None, settings: Any
    ) -> Signature:
        _refuse()

    def refit(self, signature: Signature, material: np.ndarray, codebook: Codebook | None, name: str) -> Signature:
        _refuse()

    def check_meta(self, meta: Mapping[str, Any]) -> None:
        _refuse()

    def source(self, index: Index, signature: Signature) -> str:
        return "samples"

    def check_index(self, index: Index, signature: Signature, where: str) -> None:
        return  # made for it

    def similarities(self, index: Index, signature: Signature, device: str, code_bytes: int) -> Similarities:
        return _Given(signature.tensors[SAMPLES])

    def sink(self, signature: Signature, n: int, device: torch.device | None) -> Encode:
        _refuse()

    def scores(self, signature: Signature, sink: Encode) -> np.ndarray:
        _refuse()


def _refuse() -> NoReturn:
    raise BadInput("scores of another tool come without a model and its readings")


METHOD = Foreign()


def foreign_scores(text: str, index: Index) -> Signature:
    """``NAME=FILE`` as a signature, in memory only, whose scores of the rows of ``index`` are those of FILE.

    FILE: a table (.parquet) of ``score`` by ``row`` (numbers in the pool) or by ``id``, or an array (.npy), float
    [rows of the pool] or [queries, rows of the pool], as ``*_cossim.npy`` of arXiv 2602.14696's code is. Raises
    NaitError where a row of the index has no finite score, or two.
    """
    name, path = split_target(text, FLAG)
    file, where = local_copy(path), f"{FLAG} {text}"
    if not file.is_file():
        raise BadInput("no such file", where=where)
    if file.suffix == ".npy":
        scores = _array(file, index, where)
    elif file.suffix == ".parquet":
        scores = _table(file, index, where)[None]
    else:
        raise BadInput("is no table or array that can be read", where=where, remedy="give .parquet or .npy")
    return _signature(name, scores, index, where, sha256_file(file))


def foreign_of(name: str, scores: np.ndarray, index: Index, where: str) -> Signature:
    """``scores`` float [rows of the pool] or [queries, rows of the pool] as a signature, in memory only. Raises
    NaitError, naming ``where`` they were given, where a row of the index has no finite score."""
    where = f"{where} {name}"
    try:
        scores = np.ascontiguousarray(scores)
    except ValueError as error:
        raise BadInput(f"is no matrix of scores ({error})", where=where) from None
    return _signature(name, _checked(scores, index, where), index, where, sha256(scores.view(np.uint8).data))


def _signature(name: str, scores: np.ndarray, index: Index, where: str, digest: str) -> Signature:
    for shard in index.shards():
        for line in scores:
            if not (good := np.isfinite(line[shard.row])).all():
                row = int(shard.row[int(np.argmin(good))])
                raise BadInput(f"row {row} has no finite score", where=where)
    meta = {
        "method": METHOD.name,
        "reading": "none",
        **compatibility.shared_entries(index.manifest),
        "samples": len(scores),
        "sha256": digest,
    }
    return ForeignSignature(name, meta, {SAMPLES: scores})


class ForeignSignature(Signature):
    """One that no file holds."""

    @property
    def hash(self) -> str:
        """First 16 hex digits of the SHA-256 of the file, or array, that the scores are from."""
        return self.meta["sha256"][:16]


def _array(file: Path, index: Index, where: str) -> np.ndarray:
    """float [Q, rows of the pool], mapped."""
    try:
        scores = np.load(file, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise Damaged("is no array of numbers as NumPy writes them", where=where) from error
    return _checked(scores, index, where)


def _checked(scores: np.ndarray, index: Index, where: str) -> np.ndarray:
    """float [Q, rows of the pool]."""
    scores = scores[None] if scores.ndim == 1 else scores
    if scores.ndim != 2 or scores.dtype.kind not in "fiu" or not len(scores):
        raise BadInput(f"is no matrix of scores ({scores.dtype}, {scores.shape})", where=where)
    if scores.shape[1] != index.pool_rows:
        raise BadInput(f"has scores of {scores.shape[1]:,} rows, the pool has {index.pool_rows:,}", where=where)
    return scores


def _table(file: Path, index: Index, where: str) -> np.ndarray:
    """float64 [rows of the pool], NaN where there is none."""
    import pyarrow as pa
    from pyarrow import parquet

    try:
        held = parquet.read_schema(file).names
        by = next((key for key in ("row", "id") if key in held), None)
        if by is None or SCORE not in held:
            raise BadInput(
                f"has the columns {', '.join(held)[:80]}", where=where, remedy=f"name them row (or id) and {SCORE}"
            )
        table = parquet.read_table(file, columns=[by, SCORE])
        scores = table[SCORE].cast(pa.float64()).to_numpy()
        keys = table[by].cast(pa.int64() if by == "row" else pa.string())
    except (OSError, pa.ArrowException) as error:
        raise Damaged(f"cannot be read ({str(error).splitlines()[0]})", where=where) from None
    if keys.null_count:
        raise BadInput(f"{keys.null_count:,} entries have no {by}", where=where)
    rows = keys.to_numpy() if by == "row" else _rows_of(keys.to_pylist(), index, where)
    if len(rows) and not (rows.min() >= 0 and rows.max() < index.pool_rows):
        raise BadInput(f"row {rows.max() if rows.min() >= 0 else rows.min()} is none of the pool's", where=where)
    unique, counts = np.unique(rows, return_counts=True)
    if (counts > 1).any():
        raise BadInput(f"row {unique[int(np.argmax(counts > 1))]} is there twice", where=where)
    out = np.full(index.pool_rows, np.nan)
    out[rows] = scores
    return out


def _rows_of(ids: list[str], index: Index, where: str) -> np.ndarray:
    """Numbers in the pool, int64 [n], of rows with these ``ids``."""
    row_of: dict[str, int] = {}
    for shard in index.shards():
        for row, one in zip(shard.row.tolist(), shard.ids(), strict=True):
            if one is not None and row_of.setdefault(one, row) != row:
                raise BadInput(f"two rows of the index have the id '{one[:80]}'", where=where, remedy="score by row")
    missing = next((one for one in ids if one not in row_of), None)
    if missing is not None:
        raise BadInput(f"id '{missing[:80]}' is of no row of the index", where=where)
    return np.array([row_of[one] for one in ids], dtype=np.int64)
