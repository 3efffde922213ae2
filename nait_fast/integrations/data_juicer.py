"""data-juicer: the operator ``nait_fast_filter``, which writes scores into a sample's stats and keeps it by bounds.

A recipe finds it through ``custom_operator_paths: [ops.py]``, where ``ops.py`` holds one line, ``import
nait_fast.integrations.data_juicer`` (this file itself cannot be named there: data-juicer would load it as a module
``data_juicer``). From Python, import this module, then ``NestedDataset.process(NaitFastFilter(...))``.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from data_juicer.ops.base_op import OPERATORS, UNFORKABLE, Filter
from data_juicer.utils.constant import DEFAULT_PREFIX, Fields
from data_juicer.utils.resource_utils import cuda_device_count

from nait_fast.errors import BadInput
from nait_fast.integrations.batch import ERROR, PREFIX, BatchScorer, columns_of
from nait_fast.methods.signature import load_signature

NAME = "nait_fast_filter"


@UNFORKABLE.register_module(NAME)  # a process forked from one that has run a model waits for threads that it lacks
@OPERATORS.register_module(NAME)
class NaitFastFilter(Filter):
    """Writes ``score.<signature>`` (float) to the stats; keeps the samples whose every score lies within the bounds.

    ``min_score``, ``max_score``: one number for all signatures, or a mapping from signature to number; None: no bound.
    ``columns``: those that make a sample (default: all but data-juicer's own), or a mapping from the name that a format
    knows to the column, as of ``BatchScorer``. ``keep_bad``: what becomes of samples that cannot be scored: 'raise'
    (NaitError), or True or False; their scores are NaN, and the stat ``nait_error`` says why ('' for the others).
    ``scorer_options``: those of ``nait_fast.Scorer``. ``kwargs``: those of any Filter; without ``batch_size`` it is
    256. Each process loads the model, on the GPU of its rank where there is one. NaitError also for a signature that
    cannot be read or a bound for none of them.
    """

    _accelerator = "cuda"
    _batched_op = True

    def __init__(
        self,
        model: str,
        signatures: str | list[str],
        min_score: float | dict[str, float] | None = None,
        max_score: float | dict[str, float] | None = None,
        columns: list[str] | dict[str, str] | None = None,
        keep_bad: bool | str = "raise",
        scorer_options: dict[str, Any] | None = None,
        *args: Any,
        **kwargs: Any,
    ):
        # A recipe's default, skip_op_error, would drop the whole batch beside a bad sample, or all when no model loads.
        super().__init__(*args, **{"batch_size": 256, **kwargs, "skip_op_error": False})
        if keep_bad not in (True, False, "raise"):
            raise BadInput(f"keep_bad={keep_bad}: choose raise, true or false", where=NAME)
        # Plain attributes: data-juicer takes its cache's hash over them, and leaves out what is callable (the scorer).
        self.model, self.columns, self.keep_bad = model, columns, keep_bad
        self.signatures = [signatures] if isinstance(signatures, str) else list(signatures)
        self.scorer_options = dict(scorer_options or {})
        self.names = [load_signature(file).name for file in self.signatures]
        self.min_score = self._bounds("min_score", min_score)
        self.max_score = self._bounds("max_score", max_score)

    def _bounds(self, option: str, given: float | Mapping[str, float] | None) -> dict[str, float | None]:
        if not isinstance(given, Mapping):
            return dict.fromkeys(self.names, given)
        if unknown := sorted(set(given) - set(self.names)):
            raise BadInput(
                f"{option}: no signature is named {unknown[0]}", where=NAME, remedy=f"there are {', '.join(self.names)}"
            )
        return {name: given.get(name) for name in self.names}

    def run(self, dataset: Any, **kwargs: Any) -> Any:
        try:
            return super().run(dataset, **kwargs)
        finally:
            self.__dict__.pop("_scorer", None)  # the next operator may need its memory

    def compute_stats_batched(self, samples: Any, rank: int | None = None, context: bool = False) -> Any:
        if "_scorer" not in self.__dict__:
            device = f"cuda:{(rank or 0) % cuda_device_count()}" if self.use_cuda() else "cpu"
            bad_rows = "raise" if self.keep_bad == "raise" else "null"
            options = {"device": device, **self.scorer_options}
            mapped = self.columns if isinstance(self.columns, Mapping) else None
            self._scorer = BatchScorer(self.model, self.signatures, columns=mapped, bad_rows=bad_rows, **options)
        keys = columns_of(self.columns) or [key for key in samples if not key.startswith(DEFAULT_PREFIX)]
        if absent := [key for key in keys if key not in samples]:
            raise BadInput(
                f"columns: {absent[0]} is no column of the dataset", where=NAME, remedy=f"it has {', '.join(samples)}"
            )
        columns: list[Sequence[Any]] = [samples[key] for key in keys]
        scores, problems = self._scorer.rows([dict(zip(keys, row, strict=True)) for row in zip(*columns, strict=True)])
        for stats, row, problem in zip(samples[Fields.stats], scores, problems, strict=True):
            # One type in all batches, which a dataset's table needs: NaN and '' where others have None.
            stats |= {PREFIX + n: float("nan") if s is None else s for n, s in zip(self.names, row, strict=True)}
            if self.keep_bad != "raise":
                stats[ERROR] = problem or ""
        return samples

    def process_batched(self, samples: Any) -> list[bool]:
        return [self._keeps(stats) for stats in samples[Fields.stats]]

    def _keeps(self, stats: Mapping[str, Any]) -> bool:
        if stats.get(ERROR):
            return self.keep_bad is True
        return all(
            self.get_keep_boolean(stats[PREFIX + name], self.min_score[name], self.max_score[name])
            for name in self.names
        )
