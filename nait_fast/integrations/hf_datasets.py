"""Hugging Face ``datasets``: scores as columns, through ``Dataset.map`` or an ``IterableDataset``'s.

``ds.map(ScoreColumns(model, signatures), batched=True, batch_size=256)``
"""

from collections.abc import Mapping, Sequence
from typing import Any

from nait_fast.integrations.batch import ERROR, BatchScorer


class ScoreColumns(BatchScorer):
    """A function for ``map(..., batched=True)``; ``datasets`` adds what it returns to the batch's own columns.

    A column has one type from its first batch on, so with ``bad_rows='null'`` scores that are missing are NaN, and
    ``nait_error`` is '' for rows without one. Its hash, by which ``datasets`` finds a cached result, is that of its
    arguments: after a change of a file behind an unchanged name, pass ``load_from_cache_file=False``. With ``num_proc``
    each process loads the model; a program that has run a model before must not fork:
    ``multiprocess.set_start_method("spawn")`` first.
    """

    def __call__(self, batch: Mapping[str, Sequence[Any]]) -> dict[str, list[Any]]:
        missing: dict[bool, Any] = {True: "", False: float("nan")}
        return {
            name: [missing[name == ERROR] if value is None else value for value in column]
            for name, column in super().__call__(batch).items()
        }
