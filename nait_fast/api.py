"""The verbs as functions: the keyword arguments are the command line's flags with underscores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike
from typing import TYPE_CHECKING, Any

from nait_fast.config import (
    BenchOptions,
    CompareOptions,
    EvaluateOptions,
    IndexOptions,
    MergeOptions,
    RankOptions,
    ReportOptions,
    SelectOptions,
    SignatureBuildOptions,
)

if TYPE_CHECKING:
    import numpy as np
    from typing_extensions import Unpack

    from nait_fast import arguments
    from nait_fast.index.reader import Index
    from nait_fast.methods.signature import Signature
    from nait_fast.ranking.in_memory import RowSelection
    from nait_fast.rules.constraints.base import Constraint


def select(*, quiet: bool = True, **options: Unpack[arguments.SelectArguments]) -> dict[str, Any]:
    """Select a subset of a pool: ``select(model=…, dataset=…, target=["NAME=FILE"], output=…, fraction=0.1)``.

    Options: ``nait_fast.config.SelectOptions``. Writes ``output`` and returns its summary. Raises NaitError.
    """
    from nait_fast.verbs.select import run

    return run(SelectOptions.from_mapping(dict(options), "select"), quiet)


def build_index(*, quiet: bool = True, **options: Unpack[arguments.IndexArguments]) -> dict[str, Any]:
    """Index a pool: ``build_index(model=…, dataset=…, output=…)``. Options: ``IndexOptions``. Raises NaitError."""
    from nait_fast.verbs.index import run

    return run(IndexOptions.from_mapping(dict(options), "build_index"), quiet)


def merge(*, quiet: bool = True, **options: Unpack[arguments.MergeArguments]) -> dict[str, Any]:
    """Join indexes made apart under one codebook: ``merge(index=["a", "b"], output=…)``.

    The result is the index that the first would be had the others' pools been added to it. Options: ``MergeOptions``.
    Raises NaitError.
    """
    from nait_fast.verbs.merge import run

    return run(MergeOptions.from_mapping(dict(options), "merge"), quiet)


def build_signature(*, quiet: bool = True, **options: Unpack[arguments.SignatureBuildArguments]) -> dict[str, Any]:
    """Build signatures: ``build_signature(model=…, target=[…], codebook=INDEX, output=…)``.

    Options: ``SignatureBuildOptions``. Raises NaitError.
    """
    from nait_fast.verbs.signature import run

    return run(SignatureBuildOptions.from_mapping(dict(options), "build_signature"), quiet)


def signature_of(
    model: Any,
    samples: Sequence[Mapping[str, Any]],
    *,
    name: str = "target",
    tokenizer: Any = None,
    **options: Unpack[arguments.MemoryArguments],
) -> Signature:
    """The signature of in-domain ``samples`` in memory (rows of any pool format; 64 and more are better).

    ``model``: a name, or a transformers model in evaluation mode, which then needs its ``tokenizer`` and is left alone.
    ``options``: those of ``SignatureBuildOptions`` but ``target`` and ``output``, first of all ``codebook`` (an index
    folder or codebook file, which method contrast needs) and ``method``. ``Signature.save(folder)`` writes it. Raises
    NaitError.
    """
    from nait_fast.verbs.signature import from_memory

    named = {
        "model": str(model) if isinstance(model, (str, PathLike)) else "in memory",
        "target": ["memory"],
        "output": "memory",
    }
    checked = SignatureBuildOptions.from_mapping({**options, **named}, "signature_of")
    return from_memory(model, samples, tokenizer or checked.tokenizer, name, checked)


def rank(**options: Unpack[arguments.RankArguments]) -> dict[str, Any]:
    """Rank an index without the model: ``rank(index=…, signature=[…], output=…, top_k=1000)``.

    Options: ``RankOptions``. Raises NaitError.
    """
    from nait_fast.verbs.rank import run

    return run(RankOptions.from_mapping(dict(options), "rank"))


def selection_of(
    index: Index | str | PathLike[str],
    signatures: Signature | str | PathLike[str] | Sequence[Signature | str | PathLike[str]] = (),
    *,
    foreign: Mapping[str, np.ndarray] | None = None,
    constraints: Sequence[Constraint] = (),
    **options: Unpack[arguments.SelectionArguments],
) -> RowSelection:
    """The rows that ``rank`` would select, in memory: ``selection_of(index, signatures, top_k=1000, rule="max")``.

    ``foreign``: scores of another tool by name, float [rows of the pool], or [queries, rows of the pool] with one row
    for each target sample; they are ranked like a signature's. ``constraints``: objects of classes in
    ``nait_fast.rules.constraints``, or of your own, asked behind those that ``options`` ask for: those of
    ``RankOptions`` but for signatures and what is written. Only a constraint or quality that reads the pool's rows
    needs the pool. Scores lie in the temporary folder meanwhile; method crds keeps its whitening in the index, as
    ``rank`` does. Raises NaitError.
    """
    from nait_fast.ranking import in_memory

    return in_memory.selection_of(index, signatures, foreign or {}, constraints, options)


def evaluate(*, quiet: bool = True, **options: Unpack[arguments.EvaluateArguments]) -> dict[str, Any]:
    """Measure rankings of an index: ``evaluate(index=…, signature=[…], output=…, label="source")``.

    Fidelity to exact scores, retrieval of a label, stability, confounds, agreement of methods, transfer and core, as
    far as the options allow; what was not measured is listed with the reason. Options: ``EvaluateOptions``. Writes
    ``evaluation.json`` and ``evaluation.md`` and returns what they hold. Raises NaitError.
    """
    from nait_fast.verbs.evaluate import run

    return run(EvaluateOptions.from_mapping(dict(options), "evaluate"), quiet)


def compare(*, quiet: bool = True, **options: Unpack[arguments.CompareArguments]) -> dict[str, Any]:
    """Hold methods, rules and selections side by side on one index, without the model.

    Args:
        quiet: no line on stderr that says what is done.
        **options: those of ``CompareOptions``: ``index`` and at least one of ``signature``, ``foreign_scores`` and
            ``selection``.

    Returns:
        What ``compare.json`` holds, whether or not it is written: ``compared`` (of each, and of random rows: size,
        lengths, what it alone selects), ``shared``, ``jaccard`` and ``spearman`` of every two, ``retrieval``,
        ``composition``, ``missing`` (what is not compared, and why); and ``text``, the tables.

    Raises:
        NaitError: for bad input, and where none of the signatures can be ranked by the index.

    Example:
        ``compare(index="idx", signature=["contrast/math.safetensors", "rds/math.safetensors"], top_k=1000)``
    """
    from nait_fast.verbs.compare import run

    return run(CompareOptions.from_mapping(dict(options), "compare"), quiet)


def report(*, quiet: bool = True, **options: Unpack[arguments.ReportArguments]) -> dict[str, Any]:
    """Tell what was selected and why in one HTML file: ``report(selection=…, output="report.html")``.

    ``selection`` is a folder that ``select`` or ``rank`` wrote. Options: ``ReportOptions``. Needs the extra ``report``.
    Raises NaitError.
    """
    from nait_fast.verbs.report import run

    return run(ReportOptions.from_mapping(dict(options), "report"), quiet)


def inspect(path: str | PathLike[str]) -> dict[str, Any]:
    """What a pool, index, signature, selection or evaluation holds, or what is read of a model. Raises NaitError."""
    from nait_fast.verbs.inspection import inspect

    return inspect(str(path))


def verify(path: str | PathLike[str]) -> dict[str, Any]:
    """Check every byte of an index or a selection. Raises NaitError on any problem."""
    from nait_fast.verbs.inspection import verify

    return verify(str(path))


def run_bench(*, quiet: bool = True, **options: Unpack[arguments.BenchArguments]) -> dict[str, Any]:
    """Measure the ops, the scan and the index pass on this machine: ``run_bench(shape="tiny", part="scan")``.

    Options: ``BenchOptions``. Returns the rows, and ``text``: their tables. Raises NaitError.
    """
    from nait_fast.verbs.bench import run

    return run(BenchOptions.from_mapping(dict(options), "run_bench"), quiet)


def run_demo(
    *, model: str | PathLike[str] | None = None, output: str | PathLike[str] = "demo-output", quiet: bool = True
) -> dict[str, Any]:
    """The offline demonstration on a labelled pool, by SmolLM2-135M-Instruct unless another ``model`` is named. Raises
    NaitError."""
    from nait_fast.verbs.demo import run

    return run(None if model is None else str(model), str(output), quiet)
