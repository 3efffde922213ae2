"""The verbs as functions: the keyword arguments are the command line's flags with underscores."""

from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Any

from nait_fast.attach import Captured, capture
from nait_fast.config import (
    EvaluateOptions,
    IndexOptions,
    MergeOptions,
    RankOptions,
    ReportOptions,
    SelectOptions,
    SignatureBuildOptions,
)
from nait_fast.errors import NaitError
from nait_fast.index.reader import Index
from nait_fast.ranking.resident import ResidentIndex
from nait_fast.ranking.scan import search
from nait_fast.ranking.signature import Signature, load_signature
from nait_fast.scorer import Scorer

__all__ = ["Captured", "Index", "NaitError", "ResidentIndex", "Scorer", "Signature", "build_index",
           "build_signature", "capture", "evaluate", "load_signature", "merge", "rank", "report", "search", "select",
           "signature_of"]  # fmt: skip


def select(*, quiet: bool = True, **options: Any) -> dict[str, Any]:
    """Select a subset of a pool: ``select(model=…, dataset=…, target=["NAME=FILE"], output=…, fraction=0.1)``.

    Options: ``nait_fast.config.SelectOptions``. Writes ``output`` and returns its summary. Raises NaitError.
    """
    from nait_fast.verbs.select import run

    return run(SelectOptions.from_mapping(options, "select"), quiet)


def build_index(*, quiet: bool = True, **options: Any) -> dict[str, Any]:
    """Index a pool: ``build_index(model=…, dataset=…, output=…)``. Options: ``IndexOptions``. Raises NaitError."""
    from nait_fast.verbs.index import run

    return run(IndexOptions.from_mapping(options, "build_index"), quiet)


def merge(*, quiet: bool = True, **options: Any) -> dict[str, Any]:
    """Join indexes made apart under one codebook: ``merge(index=["a", "b"], output=…)``.

    The result is the index that the first would be had the others' pools been added to it. Options: ``MergeOptions``.
    Raises NaitError.
    """
    from nait_fast.verbs.merge import run

    return run(MergeOptions.from_mapping(options, "merge"), quiet)


def build_signature(*, quiet: bool = True, **options: Any) -> dict[str, Any]:
    """Build signatures: ``build_signature(model=…, target=[…], codebook=INDEX, output=…)``.

    Options: ``SignatureBuildOptions``. Raises NaitError.
    """
    from nait_fast.verbs.signature import run

    return run(SignatureBuildOptions.from_mapping(options, "build_signature"), quiet)


def signature_of(
    model: Any, samples: Sequence[Mapping[str, Any]], *, name: str = "target", tokenizer: Any = None, **options: Any
) -> Signature:
    """The signature of in-domain ``samples`` in memory (rows of any pool format; 64 and more are better).

    ``model``: a name, or a transformers model in evaluation mode, which then needs its ``tokenizer`` and is left alone.
    ``options``: those of ``SignatureBuildOptions`` but ``target`` and ``output``, first of all ``codebook`` (an index
    folder or codebook file, which method contrast needs) and ``method``. ``Signature.save(folder)`` writes it. Raises
    NaitError.
    """
    from nait_fast.verbs.signature import from_memory

    named = {"model": str(model) if isinstance(model, (str, PathLike)) else "in memory", "target": ["memory"],
             "output": "memory"}  # fmt: skip
    checked = SignatureBuildOptions.from_mapping({**options, **named}, "signature_of")
    return from_memory(model, samples, tokenizer or checked.tokenizer, name, checked)


def rank(**options: Any) -> dict[str, Any]:
    """Rank an index without the model: ``rank(index=…, signature=[…], output=…, top_k=1000)``.

    Options: ``RankOptions``. Raises NaitError.
    """
    from nait_fast.verbs.rank import run

    return run(RankOptions.from_mapping(options, "rank"))


def evaluate(*, quiet: bool = True, **options: Any) -> dict[str, Any]:
    """Measure rankings of an index: ``evaluate(index=…, signature=[…], output=…, label="source")``.

    Fidelity to exact scores, retrieval of a label, stability, confounds, agreement of methods, transfer and core, as
    far as the options allow; what was not measured is listed with the reason. Options: ``EvaluateOptions``. Writes
    ``evaluation.json`` and ``evaluation.md`` and returns what they hold. Raises NaitError.
    """
    from nait_fast.verbs.evaluate import run

    return run(EvaluateOptions.from_mapping(options, "evaluate"), quiet)


def report(*, quiet: bool = True, **options: Any) -> dict[str, Any]:
    """Tell what was selected and why in one HTML file: ``report(selection=…, output="report.html")``.

    ``selection`` is a folder that ``select`` or ``rank`` wrote. Options: ``ReportOptions``. Needs the extra ``report``.
    Raises NaitError.
    """
    from nait_fast.verbs.report import run

    return run(ReportOptions.from_mapping(options, "report"), quiet)
