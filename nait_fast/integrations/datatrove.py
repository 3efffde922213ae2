"""datatrove: a filter that writes scores into the documents' metadata and keeps those that reach a threshold.

``LocalPipelineExecutor([JsonlReader(...), NaitFilter(model, signatures, threshold=0.5), JsonlWriter(...)], tasks=8)``
"""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from datatrove.data import Document
from datatrove.pipeline.filters.base_filter import BaseFilter
from datatrove.pipeline.writers.disk_base import DiskWriter

from nait_fast.errors import BadInput
from nait_fast.integrations.batch import ERROR, PREFIX, BatchScorer

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from nait_fast import arguments

# The executor pickles the pipeline for each of its tasks, so nothing else outlives a task in a process.
_of_process: dict[str, BatchScorer] = {}


class NaitFilter(BaseFilter):
    """Writes ``score.<signature>`` to ``doc.metadata``; keeps the documents whose every score is >= its threshold.

    ``threshold``: one number for all signatures, or a mapping from signature to number (the others do not decide);
    None: all are kept. The sample is the document's text; or the ``columns`` of its metadata (a list, or name ->
    column, as of ``BatchScorer``); or what ``sample`` makes of the document (a function of a module, so that it can be
    pickled). ``keep_bad``: what becomes of documents that cannot be scored: 'raise' (NaitError), or True or False;
    their scores are None, ``nait_error`` says why. ``options``: those of ``nait_fast.Scorer``. Each process loads the
    model once, for all of its tasks.
    """

    name = "nait_fast"

    def __init__(
        self,
        model: str | os.PathLike[str],
        signatures: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
        *,
        threshold: float | Mapping[str, float] | None = None,
        columns: Sequence[str] | Mapping[str, str] | None = None,
        sample: Callable[[Document], Mapping[str, Any]] | None = None,
        keep_bad: bool | str = "raise",
        batch_size: int = 64,
        exclusion_writer: DiskWriter | None = None,
        **options: "Unpack[arguments.ScoringArguments]",
    ):
        super().__init__(exclusion_writer, batch_size)
        if keep_bad not in (True, False, "raise"):
            raise BadInput(f"keep_bad={keep_bad}: choose 'raise', True or False", where="NaitFilter")
        if columns is not None and sample is not None:
            raise BadInput("columns and sample both make the sample: pass one of them", where="NaitFilter")
        self.threshold, self.columns, self.sample, self.keep_bad = threshold, columns, sample, keep_bad
        bad_rows = "raise" if keep_bad == "raise" else "null"
        self.scorer = BatchScorer(model, signatures, columns=columns, bad_rows=bad_rows, **options)

    def filter(self, doc: Document) -> bool | tuple[bool, str]:
        return self.filter_batch([doc])[0]

    def filter_batch(self, batch: list[Document]) -> list[bool | tuple[bool, str]]:
        scorer = _of_process.setdefault(repr(self.scorer.__getstate__()), self.scorer)
        names = scorer.names
        least = self._least(names)
        scores, problems = scorer.rows([self._sample(doc) for doc in batch])
        results: list[bool | tuple[bool, str]] = []
        for doc, row, problem in zip(batch, scores, problems, strict=True):
            doc.metadata |= dict(zip(names, row, strict=True))
            if problem is not None:
                doc.metadata[ERROR] = problem
                results.append(self.keep_bad is True or (False, ERROR))
                continue
            low = [name for name, at_least in least.items() if doc.metadata[name] < at_least]
            results.append((False, f"low_{low[0]}") if low else True)
        return results

    def _sample(self, doc: Document) -> Mapping[str, Any]:
        if self.sample is not None:
            return self.sample(doc)
        return {"text": doc.text} if self.columns is None else doc.metadata

    def _least(self, names: Sequence[str]) -> dict[str, float]:
        if not isinstance(self.threshold, Mapping):
            return {} if self.threshold is None else dict.fromkeys(names, self.threshold)
        if unknown := sorted({PREFIX + name for name in self.threshold} - set(names)):
            choices = ", ".join(name.removeprefix(PREFIX) for name in names)
            raise BadInput(
                f"threshold: no signature is named {unknown[0].removeprefix(PREFIX)}",
                where="NaitFilter",
                remedy=f"there are {choices}",
            )
        return {PREFIX + name: value for name, value in self.threshold.items()}
