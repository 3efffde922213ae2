"""``BatchScorer``: what every adapter is made of. Columns of samples in, columns of scores out."""

from __future__ import annotations

import inspect
import os
from collections.abc import Iterable, Mapping, Sequence
from threading import Lock
from typing import TYPE_CHECKING, Any

from nait_fast.data.row_conventions import make_conventions
from nait_fast.errors import BadInput

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from nait_fast import arguments
    from nait_fast.scorer import Scorer

PREFIX = "score."
ERROR = "nait_error"
BAD_ROWS = ("raise", "null")


def check_options(options: Mapping[str, Any]) -> None:
    """Raises NaitError for what ``Scorer`` does not take: here, for the first batch may come in another process."""
    from nait_fast.scorer import Scorer

    known = [p.name for p in inspect.signature(Scorer).parameters.values() if p.kind is p.KEYWORD_ONLY]
    if unknown := sorted(options.keys() - set(known)):
        raise BadInput(f"unknown option '{unknown[0]}'", where="Scorer", remedy=f"known are {', '.join(known)}")


class BatchScorer:
    """Adds a column ``score.<signature>`` (float64) for each signature to batches of samples.

    ``model`` and ``signatures`` are names of files or Hub ids, so that it can be sent to other processes: each loads
    the model at its first batch, once. ``columns``: the columns that make a sample (default: all of the batch), or,
    where they are not called as a format knows them, name -> column: {"prompt": "q", "response": "a"}. ``bad_rows``:
    'raise' (NaitError) at a sample that cannot be scored, or 'null': its scores are None, and the column ``nait_error``
    says why (None for the others). ``options``: those of ``nait_fast.Scorer``.
    """

    def __init__(
        self,
        model: str | os.PathLike[str],
        signatures: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
        *,
        columns: Sequence[str] | Mapping[str, str] | None = None,
        bad_rows: str = "raise",
        **options: Unpack[arguments.ScoringArguments],
    ):
        if bad_rows not in BAD_ROWS:
            raise BadInput(f"choose {' or '.join(BAD_ROWS)}", where=f"bad_rows={bad_rows}")
        check_options(options)
        files = [signatures] if isinstance(signatures, (str, os.PathLike)) else list(signatures)
        named: Any = columns_of(columns)
        if isinstance(columns, Mapping):
            named = dict(columns)
            make_conventions(columns=[f"{name}={column}" for name, column in named.items()])
        self._given: dict[str, Any] = {
            "model": os.fspath(model),
            "signatures": [os.fspath(file) for file in files],
            "columns": named,
            "bad_rows": bad_rows,
            **options,
        }
        self._start()

    def _start(self) -> None:
        self._scorer: Scorer | None = None
        self._loading = Lock()

    def __getstate__(self) -> dict[str, Any]:
        return self._given  # what makes the scores and nothing else: caches take its hash for the function's

    def __setstate__(self, given: dict[str, Any]) -> None:
        self._given = given
        self._start()

    @property
    def signatures(self) -> list[str]:
        """The signatures' files."""
        return list(self._given["signatures"])

    @property
    def scorer(self) -> Scorer:
        """The process's own, loaded at the first use. Raises NaitError."""
        with self._loading:
            if self._scorer is None:
                from nait_fast.scorer import Scorer

                kept = ("columns",) if isinstance(self._given["columns"], dict) else ()
                options = {k: v for k, v in self._given.items() if k not in ("columns", "bad_rows") or k in kept}
                self._scorer = Scorer(options.pop("model"), options.pop("signatures"), **options)
            return self._scorer

    @property
    def names(self) -> list[str]:
        """The score columns, in the order of the signatures (loads the model)."""
        return [PREFIX + name for name in self.scorer.names]

    def rows(self, samples: Sequence[Mapping[str, Any]]) -> tuple[list[list[float | None]], list[str | None]]:
        """(scores of each sample in the order of ``names``, or Nones; what is wrong with each, or None)."""
        wanted = columns_of(self._given["columns"])
        if wanted is not None:
            samples = [{key: row[key] for key in wanted if key in row} for row in samples]
        scores, problems = self.scorer.try_score([_present(row) for row in samples])
        if problems and self._given["bad_rows"] == "raise":
            first = min(problems)
            raise BadInput(
                problems[first], where=f"sample {first} of a batch", remedy="fix it, or pass bad_rows='null'"
            )
        return (
            [[None] * scores.shape[1] if i in problems else row.tolist() for i, row in enumerate(scores)],
            [problems.get(i) for i in range(len(samples))],
        )

    def __call__(self, batch: Mapping[str, Sequence[Any]]) -> dict[str, list[Any]]:
        """The new columns of ``batch``, whose columns are of equal length."""
        keys = list(batch)
        if absent := [name for name in columns_of(self._given["columns"]) or () if name not in batch]:
            raise BadInput(
                f"{absent[0]} is no column of the batch", where="columns", remedy=f"it has {', '.join(keys)}"
            )
        samples = [dict(zip(keys, row, strict=True)) for row in zip(*batch.values(), strict=True)]
        scores, problems = self.rows(samples)
        out: dict[str, list[Any]] = {name: [row[c] for row in scores] for c, name in enumerate(self.names)}
        if self._given["bad_rows"] == "null":
            out[ERROR] = problems
        return out


def columns_of(named: Sequence[str] | Mapping[str, str] | None) -> list[str] | None:
    """The columns of a batch that ``columns`` names; None: all."""
    if named is None:
        return None
    return list(named.values()) if isinstance(named, Mapping) else [named] if isinstance(named, str) else list(named)


def _present(row: Mapping[str, Any]) -> dict[str, Any]:
    """Tables give every row every column: one that is null is not there."""
    return {key: value for key, value in row.items() if value is not None}
