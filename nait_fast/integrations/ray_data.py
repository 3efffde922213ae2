"""Ray Data: scores as columns of a ``ray.data.Dataset``, its best rows, and an index of it.

Actors load the model once each and never talk to each other. Ray holds back whoever produces faster than they score,
and starts a lost actor again.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nait_fast.errors import BadInput
from nait_fast.integrations.batch import PREFIX, BatchScorer

if TYPE_CHECKING:
    from ray.data import Dataset
    from typing_extensions import Unpack

    from nait_fast import arguments

POOL = "pool"  # in the folder of an index: the rows that were in Ray's memory
_STAGED = "_SUCCESS"


class _ScoreActor(BatchScorer):
    """What an actor runs: the batch with its new columns."""

    def __call__(self, batch: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
        plain = {name: [_plain(value) for value in column] for name, column in batch.items()}
        return {**batch, **super().__call__(plain)}


def _plain(value: Any) -> Any:
    """Arrow's lists and numbers come as NumPy's."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list) else value


def score(
    dataset: Dataset,
    model: str | os.PathLike[str],
    signatures: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    *,
    concurrency: int = 1,
    num_gpus: float = 0,
    num_cpus: float | None = None,
    batch_size: int = 1024,
    **options: Unpack[arguments.BatchScorerArguments],
) -> Dataset:
    """``dataset`` with a column ``score.<signature>`` (float64) for each signature, lazily as all of Ray Data.

    ``concurrency``: actors, each with ``num_gpus`` GPUs and ``num_cpus`` CPUs (default: 1 without a GPU);
    ``batch_size``: rows a call, out of which batches are formed by length; ``options``: those of ``BatchScorer``, such
    as ``bad_rows``.
    """
    first = BatchScorer(model, signatures, **options)._given  # checked here, not on a node
    given = {key: value for key, value in first.items() if key not in ("model", "signatures")}
    return dataset.map_batches(
        _ScoreActor,
        fn_constructor_args=(first["model"], first["signatures"]),
        fn_constructor_kwargs=given,
        concurrency=concurrency,
        num_gpus=num_gpus,
        num_cpus=num_cpus,
        batch_size=batch_size,
    )


def top_k(dataset: Dataset, target: str, k: int) -> list[dict[str, Any]]:
    """The ``k`` rows of a scored ``dataset`` with the highest ``score.<target>``, best first; rows without a score are
    left out. Each block gives its own best, which are merged here. Raises NaitError for a target that is not there.
    """
    column = target if target.startswith(PREFIX) else PREFIX + target
    if k < 1:
        raise BadInput(f"{k} rows: must be at least 1", where="top_k")

    def best(table: Any) -> Any:
        import pyarrow as pa
        import pyarrow.compute as pc

        if column not in table.column_names:
            raise BadInput(f"no column {column}", where="top_k", remedy=f"there are {', '.join(table.column_names)}")
        table = table.filter(pc.is_finite(pc.fill_null(pc.cast(table[column], pa.float64()), float("nan"))))
        return table.take(pc.sort_indices(table, sort_keys=[(column, "descending")])[:k])

    best_of_blocks = dataset.map_batches(best, batch_format="pyarrow", batch_size=None).take_all()
    return sorted(best_of_blocks, key=lambda row: -row[column])[:k]


def index(dataset: Dataset, output: str | os.PathLike[str], model: str, **options: Any) -> dict[str, Any]:
    """Index the rows of ``dataset`` with ``engine="ray"``; returns the summary of ``nait_fast.build_index``.

    Its rows are written into ``output/pool`` as Parquet first, in order, for an index needs a pool that stays: a rerun
    takes what it finds there, and ``rank`` reads the chosen rows from it. ``options``: those of ``build_index``.
    Raises NaitError.
    """
    from nait_fast.config import IndexOptions
    from nait_fast.storage.files import make_folder, write_atomic
    from nait_fast.verbs.index import run

    pool = Path(output).resolve() / POOL
    given = {"engine": "ray", **options, "model": model, "dataset": str(pool), "output": output}
    checked = IndexOptions.from_mapping(given, "index")  # before rows are written
    make_folder(pool)
    if not (pool / _STAGED).exists():
        _write_in_order(dataset, pool)
        write_atomic(make_folder(pool) / _STAGED, b"")
    return run(checked, quiet=True)


def _write_in_order(dataset: Dataset, pool: Path) -> None:
    """Parquet files whose names sort as the rows do, the same for the same dataset, in place of what is in ``pool``."""
    from ray.data import SaveMode
    from ray.data.datasource import FilenameProvider

    class InOrder(FilenameProvider):
        def get_filename_for_task(self, write_uuid: str, task_index: int) -> str:
            return f"part-{task_index:06d}.parquet"

    options = dataset.context.execution_options
    before, options.preserve_order = options.preserve_order, True
    try:
        dataset.write_parquet(str(pool), filename_provider=InOrder(), mode=SaveMode.OVERWRITE)
    finally:
        options.preserve_order = before


__all__: Sequence[str] = ("index", "score", "top_k")
