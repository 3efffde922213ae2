"""The verbs as functions: the keyword arguments are the command line's flags with underscores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from os import PathLike
from typing import TYPE_CHECKING, Any

from nait_fast.config import (
    BenchOptions,
    CompareOptions,
    EvaluateOptions,
    HubOptions,
    IndexOptions,
    MergeOptions,
    RankOptions,
    ReportOptions,
    SelectOptions,
    SignatureBuildOptions,
    ValidateOptions,
)

if TYPE_CHECKING:
    import numpy as np
    from typing_extensions import Unpack

    from nait_fast import arguments
    from nait_fast.index.reader import Index
    from nait_fast.methods.signature import Signature
    from nait_fast.ranking.in_memory import RowSelection
    from nait_fast.rules.constraints.base import Constraint


def _run(verb: str, options: Any, quiet: bool) -> dict[str, Any]:
    """Run a verb that writes a folder; where that is a URL, or one of the Hub is named, it is sent there at the end.
    Raises NaitError."""
    from nait_fast.outputs.output_folder import removed_if_empty
    from nait_fast.outputs.published import published

    output, finish = options.output, None
    if isinstance(options, HubOptions) and options.push_to_hub is not None:
        finish = import_module("nait_fast.verbs.push").sender_of(options, output, quiet)
    with published(output, quiet, getattr(options, "repair", False)), removed_if_empty(output):
        summary = import_module(f"nait_fast.verbs.{verb}").run(options, quiet)
    return finish(summary) if finish else summary


def select(*, quiet: bool = True, **options: Unpack[arguments.SelectArguments]) -> dict[str, Any]:
    """Select a subset of a pool: index, signatures, ranking and files in one call.

    Given again with the same options it goes on where it stopped, or returns at once what is there.

    Args:
        quiet: No progress on stderr.
        **options: The flags of `nait-fast select` with underscores (page Options). Required: `model`, `dataset`,
            `target` (`"NAME=FILE"`, or several) and `output`; how much is selected say `fraction`, `top_k` or
            `token_budget`.

    Returns:
        What `manifest.json` of the selection says: among others `rows_selected`, `tokens_selected`, `composition`,
            `mean_scores` and `spearman_with_length`; `output`, the folder; `text`, what the command prints.

    Raises:
        BadInput: An option, a file or a row cannot be used.
        Mismatch: The folder holds the results of another question, or an index of another model, template or pool.
        Busy: Another command has the folder.

    Examples:
        >>> summary = nait_fast.select(model=MODEL, dataset="pool.jsonl", target="sums.jsonl", output="chosen", top_k=5)
        >>> summary["rows_selected"], summary["targets"]
        (5, ['sums'])
        >>> len(open("chosen/selected.jsonl").readlines())
        5
    """
    return _run("select", SelectOptions.from_mapping(dict(options), "select"), quiet)


def build_index(*, quiet: bool = True, **options: Unpack[arguments.IndexArguments]) -> dict[str, Any]:
    """Run a model over a pool once and keep its neuron bits.

    Given again after a kill it goes on with the shards that are not there yet, and ends in the same bytes.

    Args:
        quiet: No progress on stderr.
        **options: The flags of `nait-fast index` with underscores (page Options). Required: `model`, `dataset`,
            `output`.

    Returns:
        Counts of the index, `rows_read`, `rows_indexed`, `rows_skipped`, `truncated`, `tokens` and `bytes_per_row`, and
            what the pass took, `seconds` and `tokens_per_s`.

    Raises:
        BadInput: An option, a file or a row cannot be used, or the model is not supported.
        Mismatch: `append` or `codebook` of another model, template or options.
        Busy: Another command has the folder.

    Examples:
        >>> made = nait_fast.build_index(model=MODEL, dataset="pool.jsonl", output="fresh", calibration_size=20)
        >>> made["rows_indexed"], made["format"]
        (40, 'alpaca')
    """
    return _run("index", IndexOptions.from_mapping(dict(options), "build_index"), quiet)


def merge(*, quiet: bool = True, **options: Unpack[arguments.MergeArguments]) -> dict[str, Any]:
    """Join indexes that were made apart under one codebook.

    The result is the index that the first would be had the others' pools been added to it by `append`.

    Args:
        quiet: No progress on stderr.
        **options: The flags of `nait-fast merge`: `index`, two folders or more in the order that their rows shall have,
            and `output`.

    Returns:
        Counts of the joined index, as `build_index` returns them, and `merged`, how many were joined.

    Raises:
        Mismatch: The indexes differ in model, template, codebook or another option that decides their bytes.
        Damaged: A shard is not what its checksum says.

    Examples:
        >>> more = nait_fast.build_index(model=MODEL, dataset="sums.jsonl", output="more", codebook="index")
        >>> both = nait_fast.merge(index=["index", "more"], output="both")
        >>> both["rows_indexed"] == 40 + more["rows_indexed"]
        True
    """
    return _run("merge", MergeOptions.from_mapping(dict(options), "merge"), quiet)


def build_signature(*, quiet: bool = True, **options: Unpack[arguments.SignatureBuildArguments]) -> dict[str, Any]:
    """Build a capability's signature from in-domain samples, and write it.

    Args:
        quiet: No progress on stderr.
        **options: The flags of `nait-fast signature` with underscores (page Options). Required: `model`, `target`
            (`"NAME=FILE"`, or several) and `output`; method contrast needs `codebook`, the index it shall rank.

    Returns:
        `signatures`: for each target a dict that says its `name`, `method`, `samples` and `file`.

    Raises:
        BadInput: An option, a file or a row cannot be used, or the target has too few samples.
        Mismatch: The codebook is of another model, template or options.

    Examples:
        >>> made = nait_fast.build_signature(model=MODEL, target="sums.jsonl", codebook="index", output="sigs")
        >>> [one["name"] for one in made["signatures"]]
        ['sums']
    """
    return _run("signature", SignatureBuildOptions.from_mapping(dict(options), "build_signature"), quiet)


def signature_of(
    model: Any,
    samples: Sequence[Mapping[str, Any]],
    *,
    name: str = "target",
    tokenizer: Any = None,
    **options: Unpack[arguments.MemoryArguments],
) -> Signature:
    """The signature of in-domain samples, in memory.

    Args:
        model: A folder, GGUF file or Hub id, or a transformers model in evaluation mode, which is left as it is.
        samples: Rows of any pool format; 64 and more are better.
        name: What the signature is called.
        tokenizer: The model's own, for one in memory.
        **options: The flags of `nait-fast signature` but `target` and `output`, first of all `codebook` (an index
            folder or codebook file, which method contrast needs) and `method`.

    Returns:
        The signature; its `save(folder)` writes it.

    Raises:
        BadInput: A sample or an option cannot be used, or the model is not supported.
        Mismatch: The codebook is of another model, template or options.

    Examples:
        >>> rows = [{"instruction": f"add {n} and ten", "output": f"{n} plus ten"} for n in ("seven", "eight", "nine")]
        >>> adding = nait_fast.signature_of(MODEL, rows, name="adding", codebook="index")
        >>> adding.method, adding.save("signatures").name
        ('contrast', 'adding.safetensors')
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
    """Rank an index with signatures and write a selection, without the model.

    Args:
        **options: The flags of `nait-fast rank` with underscores (page Options). Required: `index` and `output`, and
            `signature` or `foreign_scores`; how much is selected say `fraction`, `top_k` or `token_budget`.

    Returns:
        What `manifest.json` of the selection says, as `select` returns it.

    Raises:
        BadInput: An option or a file cannot be used, or the scores of all rows are the same.
        Mismatch: A signature and the index differ in model, template, codebook or precision, or the pool has changed.
        Damaged: A shard is not what its checksum says.

    Examples:
        >>> ranked = nait_fast.rank(index="index", signature="signatures/sums.safetensors", output="ranked", top_k=5)
        >>> ranked["rows_selected"], ranked["rows_scored"]
        (5, 40)
    """
    return _run("rank", RankOptions.from_mapping(dict(options), "rank"), True)


def selection_of(
    index: Index | str | PathLike[str],
    signatures: Signature | str | PathLike[str] | Sequence[Signature | str | PathLike[str]] = (),
    *,
    foreign: Mapping[str, np.ndarray] | None = None,
    constraints: Sequence[Constraint] = (),
    **options: Unpack[arguments.SelectionArguments],
) -> RowSelection:
    """The rows that `rank` would select, in memory.

    Only a constraint or quality that reads the pool's rows needs the pool. Scores lie in the temporary folder
    meanwhile; method crds keeps its whitening in the index, as `rank` does.

    Args:
        index: An index, or its folder.
        signatures: One or several, or their files.
        foreign: Scores of another tool by name, float [rows of the pool], or [queries, rows of the pool] with one row
            for each target sample; they are ranked like a signature's.
        constraints: Objects of classes in `nait_fast.rules.constraints`, or of your own, asked behind those that
            `options` ask for.
        **options: The flags of `nait-fast rank` with underscores, but for index, signatures and what is written.

    Returns:
        The chosen rows, best first, with their tokens and scores.

    Raises:
        BadInput: An option cannot be used, no signatures are given, or the scores of all rows are the same.
        Mismatch: A signature and the index differ in model, template, codebook or precision.

    Examples:
        >>> chosen = nait_fast.selection_of("index", "signatures/sums.safetensors", top_k=5)
        >>> len(chosen), chosen.scores.shape, chosen.targets
        (5, (5, 1), ('sums',))
    """
    from nait_fast.ranking import in_memory

    return in_memory.selection_of(index, signatures, foreign or {}, constraints, options)


def evaluate(*, quiet: bool = True, **options: Unpack[arguments.EvaluateArguments]) -> dict[str, Any]:
    """Measure rankings of an index.

    Fidelity to exact scores, retrieval of a label, stability, confounds, agreement of methods and rules, transfer and
    core, as far as the options allow; what was not measured is listed with the reason. Writes `evaluation.json` and
    `evaluation.md`.

    Args:
        quiet: No progress on stderr.
        **options: The flags of `nait-fast evaluate` with underscores (page Options). Required: `index`, `signature` and
            `output`; `label` measures retrieval, `model` and `target` stability.

    Returns:
        What `evaluation.json` holds, and `text`, its tables.

    Raises:
        BadInput: An option or a file cannot be used.
        Mismatch: A signature, or `model`, and the index do not fit.

    Examples:
        >>> measured = nait_fast.evaluate(
        ...     index="index", signature="signatures/sums.safetensors", label="source", output="measured"
        ... )
        >>> measured["retrieval"][0]["relevant"]  # rows of the pool whose source is sums
        20
    """
    return _run("evaluate", EvaluateOptions.from_mapping(dict(options), "evaluate"), quiet)


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

    Examples:
        >>> seen = nait_fast.compare(
        ...     index="index", signature="kept/sums.safetensors", rule=["centroid", "roundrobin"], top_k=5
        ... )
        >>> [one["rule"] for one in seen["compared"] if one.get("rule")]
        ['centroid', 'roundrobin']
    """
    from nait_fast.verbs.compare import run

    return run(CompareOptions.from_mapping(dict(options), "compare"), quiet)


def validate(*, quiet: bool = True, **options: Unpack[arguments.ValidateArguments]) -> dict[str, Any]:
    """Train a model on a selection, on random rows and on the worst ones, and hold the losses side by side.

    LoRA with equal response tokens and steps for every arm, several seeds each; losses on held-out samples of the
    target and on rows of other kinds. A run that is killed goes on where it was.

    Args:
        quiet: No lines on stderr that say how long it may take and how far it is.
        **options: The flags of `nait-fast validate` with underscores (page Options). Required: `selection`, `held_out`
            and `output`.

    Returns:
        What `validation.json` holds: `verdicts` (one a target: `word` is better, worse or not told apart, `mean` and
            `half` the difference from random rows in nats a token with its 95% interval), `arms`, `sets`, `recipe`; and
            `text`, what the command prints.

    Raises:
        BadInput: An option or a file cannot be used, or the model cannot be trained so.
        MissingExtra: The extra `validate` is not installed.

    Examples:
        >>> trained = nait_fast.validate(
        ...     selection="chosen", held_out="held-out.jsonl", output="chosen/validation", tokens=400, steps=4
        ... )
        >>> [arm["arm"] for arm in trained["arms"]]
        ['base', 'random', 'random_length', 'top', 'bottom']
    """
    return _run("validate", ValidateOptions.from_mapping(dict(options), "validate"), quiet)


def report(*, quiet: bool = True, **options: Unpack[arguments.ReportArguments]) -> dict[str, Any]:
    """Tell what was selected and why, in one HTML file that opens offline.

    Args:
        quiet: No progress on stderr.
        **options: The flags of `nait-fast report` with underscores (page Options). Required: `selection`, a folder that
            `select` or `rank` wrote.

    Returns:
        `output`, the file; `bytes`, its size; `plots`, files of plots, if asked for; `notes`, what could not be shown;
            `text`, what the command prints.

    Raises:
        BadInput: The folder is no selection, or another file is in the way of the page.
        Damaged: The selection's files are not those that its manifest tells of.
        MissingExtra: The extra `report` is not installed.

    Examples:
        >>> page = nait_fast.report(selection="chosen")
        >>> page["output"]
        'chosen/report.html'
    """
    from nait_fast.verbs.report import run

    return run(ReportOptions.from_mapping(dict(options), "report"), quiet)


def inspect(path: str | PathLike[str], **reading: Unpack[arguments.ReadingOfRows]) -> dict[str, Any]:
    """What a pool, index, signature, selection, evaluation or validation holds, or what is read of a model.

    Args:
        path: A file or folder, or a model's Hub id. A model's weights are not read.
        reading: `format`, `columns` and `roles` of a pool's rows, as for `build_index`.

    Returns:
        `kind`, and what there is to say of such a thing (of a model `supported`, or why it is not); `text`, what the
            command prints.

    Raises:
        BadInput: There is nothing there that is known.
        Damaged: What is there is not what was written.

    Examples:
        >>> held = nait_fast.inspect("index")
        >>> held["kind"], held["rows"], held["neurons"]
        ('nait_fast index', 40, 216)
    """
    from nait_fast.verbs.inspection import inspect

    return inspect(str(path), **reading)


def verify(path: str | PathLike[str]) -> dict[str, Any]:
    """Check every byte of an index or a selection, and that each row is there once.

    Args:
        path: The folder.

    Returns:
        `ok`, true; how many `files` and `rows` were checked; `text`, what the command prints.

    Raises:
        BadInput: The folder is no index and no selection.
        Damaged: Anything is not as it was written; the message names it.

    Examples:
        >>> checked = nait_fast.verify("index")
        >>> checked["ok"], checked["files"], checked["rows"]
        (True, 1, 40)
    """
    from nait_fast.verbs.inspection import verify

    return verify(str(path))


def run_bench(*, quiet: bool = True, **options: Unpack[arguments.BenchArguments]) -> dict[str, Any]:
    """Measure the ops, the scan and the index pass on this machine; each is checked before it is timed.

    Args:
        quiet: No progress on stderr.
        **options: The flags of `nait-fast bench` with underscores (page Options).

    Returns:
        `rows`, the result rows; `failed`, those whose check did not hold; `text`, their tables.

    Raises:
        BadInput: An option or a file cannot be used.

    Examples:
        >>> measured = nait_fast.run_bench(shape="tiny", part="scan", seconds=0.1)
        >>> measured["failed"]
        []
    """
    from nait_fast.verbs.bench import run

    return run(BenchOptions.from_mapping(dict(options), "run_bench"), quiet)


def run_demo(
    *, model: str | PathLike[str] | None = None, output: str | PathLike[str] = "demo-output", quiet: bool = True
) -> dict[str, Any]:
    """The offline demonstration on a labelled pool.

    Args:
        model: Another model than SmolLM2-135M-Instruct: a folder, GGUF file or Hub id.
        output: Folder for the results; the pool and the targets are written there, too.
        quiet: No progress on stderr.

    Returns:
        `precision` of each target and method; `text`, what the command prints.

    Raises:
        BadInput: SmolLM2 is not installed and no other model is named, or files of others are in the way.
    """
    from nait_fast.verbs.demo import run

    return run(None if model is None else str(model), str(output), quiet)
