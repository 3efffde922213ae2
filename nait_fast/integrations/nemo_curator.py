"""NeMo Curator: a stage that adds score columns to document batches, pandas or Arrow.

``Pipeline("scores", stages=[reader, NaitScoreStage(model, signatures), writer]).run(RayDataExecutor())``
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import pandas as pd
import pyarrow as pa
import torch
from nemo_curator.backends.base import WorkerMetadata
from nemo_curator.stages.base import ProcessingStage
from nemo_curator.stages.resources import Resources
from nemo_curator.tasks import DocumentBatch

from nait_fast.integrations.batch import ERROR, PREFIX, BatchScorer, columns_of
from nait_fast.methods.signature import load_signature

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from nait_fast import arguments


class NaitScoreStage(ProcessingStage[DocumentBatch, DocumentBatch]):
    """Adds a column ``score.<signature>`` (float64) for each signature; a batch's table stays of its kind.

    ``columns``: those that make a sample (default: all), or name -> column, as of ``BatchScorer``. ``bad_rows``:
    'raise' (NaitError) at a sample that cannot be scored, or 'null': its scores are null, and the column ``nait_error``
    (string) says why. ``options``: those of ``nait_fast.Scorer``. Each worker loads the model once and takes a GPU if
    this process sees one, else a CPU core: ``stage.with_(resources=Resources(gpus=1), num_workers=4)`` says otherwise.
    NaitError for an unreadable signature.
    """

    def __init__(
        self,
        model: str | os.PathLike[str],
        signatures: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
        *,
        columns: Sequence[str] | Mapping[str, str] | None = None,
        bad_rows: str = "raise",
        **options: "Unpack[arguments.ScoringArguments]",
    ):
        self.name = "nait_fast_scores"
        self.resources = Resources(cpus=1.0, gpus=1.0 if torch.cuda.is_available() else 0.0)
        self.columns = columns_of(columns)
        self.scorer = BatchScorer(model, signatures, columns=columns, bad_rows=bad_rows, **options)
        self.added = [PREFIX + load_signature(file).name for file in self.scorer.signatures]
        self.added += [ERROR] * (bad_rows == "null")

    def inputs(self) -> tuple[list[str], list[str]]:
        return ["data"], self.columns or []

    def outputs(self) -> tuple[list[str], list[str]]:
        return ["data"], self.added

    def setup(self, worker_metadata: WorkerMetadata | None = None) -> None:
        _ = self.scorer.scorer  # loads the model before the first batch

    def process(self, task: DocumentBatch) -> DocumentBatch:
        data = task.data
        # Through Arrow, which knows null from NaN: pandas writes NaN for a text that is not there.
        table = data if isinstance(data, pa.Table) else pa.Table.from_pandas(data, preserve_index=False)
        added = self.scorer({name: table[name].to_pylist() for name in self.columns or table.column_names})
        if isinstance(data, pa.Table):
            data = data.drop_columns([name for name in added if name in data.column_names])
            for name, values in added.items():
                data = data.append_column(name, pa.array(values, pa.string() if name == ERROR else pa.float64()))
        else:
            kinds = {name: "string" if name == ERROR else "float64" for name in added}
            data = data.assign(**{n: pd.Series(v, index=data.index, dtype=kinds[n]) for n, v in added.items()})
        return DocumentBatch(task.dataset_name, data, _stage_perf=task._stage_perf, _metadata=task._metadata)
