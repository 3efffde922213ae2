"""ODA-DataScorer: ``NaitScorer``, which scores rows with signatures beside its other scorers.

In ``model_based/scorers/scores_info.json``: ``{"name": "NaitScorer", "module": "nait_fast.integrations.oda_scorer"}``.
"""

import json
import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from scorers.base_scorer import BaseScorer
from utils.utils_jsonl import append_jsonl, load_jsonl_id_set, normalize_id, repair_trailing_incomplete_jsonl

from nait_fast.errors import BadInput
from nait_fast.integrations.batch import ERROR, BatchScorer

NAME = "NaitScorer"
OURS = ("model", "signatures", "batch_size", "bad_rows", "options")
OF_HOST = ("name", "sub_name", "num_gpu_per_job", "data_parallel", "resume", "flush_every")


class NaitScorer(BaseScorer):
    """Gives each row ``score``, of the first signature, and of several each its ``score.<signature>``.

    Its ``config``: ``model``; ``signatures``, a file or a list; ``batch_size`` (256), rows at a time, of which batches
    are formed by length; ``bad_rows``: 'raise' (NaitError) at a row that cannot be scored, or 'null': its scores are
    null, and ``nait_error`` says why; ``options``: those of ``nait_fast.Scorer``. A file that was written in part is
    gone on with. Raises NaitError.
    """

    def _validate_config(self) -> None:
        if missing := next((key for key in ("model", "signatures") if not self.config.get(key)), None):
            raise BadInput(f"{missing} is missing", where=NAME)
        if unknown := sorted(self.config.keys() - {*OURS, *OF_HOST}):
            raise BadInput(f"unknown option '{unknown[0]}'", where=NAME, remedy=f"known are {', '.join(OURS)}")
        size = self.config.setdefault("batch_size", 256)
        if type(size) is not int or size < 1:
            raise BadInput("must be a whole number, at least 1", where=f"{NAME}: batch_size {size}")

    def _setup(self) -> None:
        config = self.config
        bad_rows, options = config.get("bad_rows", "raise"), config.get("options") or {}
        self._batch = BatchScorer(config["model"], config["signatures"], bad_rows=bad_rows, **options)

    def score_item(self, data_item: dict[str, Any]) -> float | None:
        """The first signature's score of one row."""
        return self._records([data_item])[0]["score"]

    def evaluate(self, dataset: str) -> list[dict[str, Any]]:
        """``{"id", "score"}`` of each row of a JSONL file."""
        return [record for records in self._scored(dataset, set()) for record in records]

    def evaluate_to_file(self, dataset: str, output_file: str, resume: bool = True) -> str:
        """As ``evaluate``, a batch at a time into ``output_file``; with ``resume`` what it holds stays."""
        done: set[str] = set()
        if resume and os.path.exists(output_file):
            repair_trailing_incomplete_jsonl(output_file)
            done = load_jsonl_id_set(output_file, id_key="id")
        else:
            Path(output_file).parent.mkdir(parents=True, exist_ok=True)
            Path(output_file).write_bytes(b"")
        for records in self._scored(dataset, done):
            append_jsonl(records, output_file, flush=True)
        return output_file

    def _scored(self, dataset: str, done: set[str]) -> Iterator[list[dict[str, Any]]]:
        items = (item for item in _items(dataset) if not ((known := normalize_id(item.get("id"))) and known in done))
        while some := list(islice(items, self.config["batch_size"])):
            yield self._records(some)

    def _records(self, items: list[dict[str, Any]]) -> list[dict[str, Any]]:
        scores, problems = self._batch.rows(items)
        records = []
        for item, row, problem in zip(items, scores, problems, strict=True):
            several = dict(zip(self._batch.names, row, strict=True)) if len(row) > 1 else {}
            error = {} if problem is None else {ERROR: problem}
            records.append({"id": item.get("id", ""), "score": row[0], **several, **error})
        return records


def _items(dataset: str) -> Iterator[dict[str, Any]]:
    with open(dataset, encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                try:
                    item = json.loads(line)
                except ValueError as error:
                    raise BadInput(f"not valid JSON ({error})", where=f"{dataset}:{number}") from None
                if not isinstance(item, dict):
                    raise BadInput("is no row", where=f"{dataset}:{number}")
                yield item
