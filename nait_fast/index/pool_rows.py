"""The rows of the pools that an index was made from, by their numbers in the index."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from nait_fast.data.parts import as_line, with_nulls
from nait_fast.data.plan import Plan, Reader, lines_of, load_plan, stamps_of
from nait_fast.data.pool import Pool
from nait_fast.data.row_conventions import conventions_of
from nait_fast.errors import BadInput, Mismatch, NaitError
from nait_fast.notices import warn
from nait_fast.storage.names import plan_name

if TYPE_CHECKING:
    from nait_fast.index.reader import Index


class PoolRows:
    """Several pools, numbered through in the order of ``readers``. ``paths``: where they are; ``format``: of the first
    one's rows."""

    def __init__(self, readers: Sequence[Reader], format: str):
        self._readers, self.format = readers, format
        self.paths = [reader.source.path for reader in readers]

    def lines(self, rows: np.ndarray) -> Iterator[bytes]:
        """The rows with these ascending numbers (int64), each as JSON without the newline: those of JSONL byte for
        byte as stored (but null for NaN, with a warning), others written anew. Only the units that hold one are read.
        Raises NaitError when a pool has changed."""
        first = mended = 0
        for reader in self._readers:
            end = first + reader.plan.rows
            inside = rows[np.searchsorted(rows, first) : np.searchsorted(rows, end)] - first
            for _, record in lines_of(reader, inside.tolist()):
                stored = as_line(record.payload)
                line = with_nulls(stored)
                mended += line != stored
                yield line
            first = end
        if mended:
            warn(
                f"{', '.join(self.paths)}: {mended:,} chosen rows hold NaN or infinite numbers, which are no JSON; "
                "they are written as null"
            )


def label_values(
    lines: Iterable[bytes], column: str, known: dict[str, int] | None = None
) -> tuple[np.ndarray, dict[str, int]]:
    """(number of each row's value, int32 [n], −1 where a row has none; value -> number) of a key of the pool's rows.

    Values that are no text count as their JSON. ``known``: those of the rows before, which new ones come to.
    """
    values: dict[str, int] = {} if known is None else known
    numbers = []
    for line in lines:
        value = json.loads(line).get(column)
        if value is None:
            numbers.append(-1)
        else:
            numbers.append(values.setdefault(value if isinstance(value, str) else json.dumps(value), len(values)))
    return np.array(numbers, dtype=np.int32), values


def datasets_of(index: Index, rows: np.ndarray) -> list[dict[str, Any]]:
    """What the index says of the dataset of each of ``rows`` int64 [m], numbers in its pools."""
    ends = np.cumsum([dataset["rows"] for dataset in index.datasets])
    return [index.datasets[number] for number in np.searchsorted(ends, rows, side="right").tolist()]


def dataset_of(datasets: Sequence[dict[str, Any]], row: int) -> dict[str, Any]:
    """The one of an index's ``datasets`` that holds ``row``, a number in its pools."""
    ends = np.cumsum([dataset["rows"] for dataset in datasets])
    return datasets[int(np.searchsorted(ends, row, side="right"))]


def rows_of(pool: Pool) -> PoolRows:
    """Those of one pool."""
    return PoolRows([pool.reader()], pool.detect())


def open_rows(index: Index, moved: Sequence[str] = (), advice: str = "pass --dataset") -> PoolRows:
    """The rows of the pools that ``index`` was made from.

    ``moved``: where they are now, if not where the manifest says, in the same order. The index's plan of a pool whose
    files have not been touched spares reading them; else they are hashed. Raises NaitError for other data, and where
    they are gone: then with ``advice``, what to do if they have moved.
    """
    folder, datasets = index.name, index.datasets
    if moved and len(moved) != len(datasets):
        raise BadInput(
            f"index {folder} was made from {len(datasets)} datasets, {len(moved)} are named",
            where="--dataset",
            remedy="name all, in the order of inspect",
        )
    readers = []
    for number, dataset in enumerate(datasets):
        pool = Pool(
            moved[number] if moved else dataset["path"],
            format=dataset["format"],
            skip_bad_rows=True,
            conventions=conventions_of(dataset),
        )
        try:
            plan = pool.plan(_kept_plan(index, number, pool))
        except NaitError as error:
            raise error.replace(note=f"the pool of index {folder}; if it has moved, {advice}") from None
        if plan.sha256 != dataset["sha256"]:
            raise Mismatch(f"is not the data that index {folder} was made from (SHA-256 differs)", where=pool.path)
        readers.append(pool.reader())
    return PoolRows(readers, datasets[0]["format"])


def _kept_plan(index: Index, number: int, pool: Pool) -> Plan | None:
    try:
        plan = load_plan(index.folder / plan_name(number))
    except NaitError:
        return None
    same = plan.kind == pool.source.kind and any(plan.stamps) and plan.stamps == stamps_of(pool.source)
    return plan if same else None
