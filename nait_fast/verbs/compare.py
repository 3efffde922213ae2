"""``compare``: methods, rules and selections side by side on one index; needs no model."""

import csv
import dataclasses
import io
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from nait_fast.config import AmountOptions, CompareOptions
from nait_fast.env import environment
from nait_fast.errors import BadInput, NaitError
from nait_fast.evaluation import COMPARISON_FILE, COMPARISON_KIND, contenders, side_by_side
from nait_fast.evaluation.contenders import Contender, RowLabels
from nait_fast.evaluation.retrieval import read_relevant
from nait_fast.evaluation.row_content import texts_of
from nait_fast.evaluation.side_by_side import LETTERS, Missing, miss
from nait_fast.evaluation.side_by_side_text import text_of_comparison
from nait_fast.evaluation.writing import json_values
from nait_fast.index.pool_rows import PoolRows, open_rows
from nait_fast.index.reader import Index
from nait_fast.methods.foreign import foreign_scores
from nait_fast.methods.signature import Signature, load_signatures
from nait_fast.notices import hushed, recorded
from nait_fast.outputs.inputs import inputs_of
from nait_fast.outputs.output_folder import Output
from nait_fast.outputs.recognise import question
from nait_fast.progress import say
from nait_fast.ranking.columns import ScoreTable
from nait_fast.ranking.overview import SourceCounter, spread_places
from nait_fast.ranking.sanity import rows_of_targets
from nait_fast.ranking.scan import check_device
from nait_fast.ranking.select import check_budget
from nait_fast.remote.copies import named, refuse_url
from nait_fast.reporting.as_contender import selection_contender
from nait_fast.reporting.formatting import count
from nait_fast.reporting.selection_folder import SelectionFolder, open_selection
from nait_fast.storage.files import write_atomic, write_sealed
from nait_fast.verbs.evaluate import folder_for

TABLE, PAIRS = "compare.csv", "pairs.csv"
COUNTED_ROWS = 1_000_000  # beyond, the rows of a pool are read for a label only where one is named


def run(options: CompareOptions, quiet: bool = False) -> dict[str, Any]:
    """Compare; returns what ``compare.json`` holds, and ``text``, its tables. Raises NaitError."""
    refuse_url(options.output)
    check_budget(options)
    if twice := next((path for path in options.selection if options.selection.count(path) > 1), None):
        raise BadInput("is there twice", where=f"--selection {twice}", remedy="leave one out")
    if not (options.signature or options.foreign_scores or options.selection):
        raise BadInput("there is nothing to compare", where="compare", remedy="give --signature or --selection")
    index = Index(options.index)
    check_budget(options, index.rows)
    if not index.rows:
        raise BadInput("holds no rows", where=f"index {index.name}")
    with ExitStack() as stack:
        warnings = stack.enter_context(recorded())
        signatures = load_signatures(options.signature)
        signatures += [foreign_scores(text, index) for text in options.foreign_scores]
        selections = [open_selection(path) for path in options.selection]
        if options.output is None:
            folder = Path(tempfile.gettempdir())
            comparison = _compare(options, index, signatures, selections, folder, warnings, quiet)
            return {**comparison, "text": text_of_comparison(comparison)}
        folder, files = folder_for(options.output), (COMPARISON_FILE, TABLE, PAIRS)
        output = stack.enter_context(Output(folder, files, inputs=inputs_of(options), overwrite=options.overwrite))
        of = _question(options, index, signatures, selections)
        output.check_question(of, "another comparison")
        comparison = _compare(options, index, signatures, selections, folder, warnings, quiet)
        stage = output.begin()
        write_sealed(stage / COMPARISON_FILE, comparison)
        write_atomic(stage / TABLE, _table(comparison))
        write_atomic(stage / PAIRS, _pairs(comparison))
        output.done(of)
        return {"output": str(folder), **comparison, "text": text_of_comparison(comparison)}


def _question(
    options: CompareOptions, index: Index, signatures: Sequence[Signature], selections: Sequence[SelectionFolder]
) -> str:
    """What a comparison answers: which signatures, by which rules, and which selections, of which rows."""
    hashes, sums = [one.hash for one in signatures], [one.manifest["checksum"] for one in selections]
    return question([hashes, list(options.rule), sums, [dataset["sha256"] for dataset in index.datasets]])


def _compare(
    options: CompareOptions,
    index: Index,
    signatures: Sequence[Signature],
    selections: Sequence[SelectionFolder],
    folder: Path,
    warnings: list[str],
    quiet: bool,
) -> dict[str, Any]:
    """``folder``: where scores lie meanwhile; ``warnings``: those so far, what is said on the way comes to them."""
    missing: Missing = []
    asked, refused = contenders.asked_of(index, signatures, options.rule)
    if refused and not asked and not selections:
        raise refused[0][1]
    for what, error in refused:
        miss(missing, what, str(error))
    if (number := len(asked) + len(selections)) > len(LETTERS):
        raise BadInput(f"{number} rankings, at most {len(LETTERS)} are compared", where="compare")
    for rule in dict.fromkeys(one.rule for one in asked):
        check_device(options.device, index, [one.signature for one in asked if one.rule == rule], rule=rule)
    names = {one.signature.name for one in asked}.union(*(one.targets for one in selections))
    relevant = read_relevant(options.relevant, names, options.label)
    with contenders.table_of(index, folder) as rows:
        pool = _pool(index, options, missing)
        say(f"{count(number, 'ranking')} of {count(index.rows, 'row')}", quiet)
        by_number = dict(contenders.scored(index, rows, asked, options, options.device))
        several = [by_number[place] for place in range(len(asked))]
        several += [selection_contender(one, index, rows) for one in selections]
        amount: AmountOptions = options
        if not asked and not options.given & {field.name for field in dataclasses.fields(AmountOptions)}:
            amount = AmountOptions(top_k=max(len(one.places) for one in several))  # as much as the largest selection
        several.append(contenders.drawn(rows, amount, options.seed))
        rows_of_targets(index, list({one.signature.hash: one.signature for one in asked}.values()))
        labels = _labels(options, index, rows, pool, missing)
        return json_values(_measured(options, index, rows, several, labels, relevant, pool, missing, warnings))


def _pool(index: Index, options: CompareOptions, missing: Missing) -> PoolRows | None:
    """The pool's rows; None, with a note, where they are not there and nobody has asked for them."""
    try:
        return open_rows(index, options.dataset)
    except NaitError as error:
        if options.dataset or options.label:
            raise
        miss(missing, "texts and sources of rows", str(error))
        return None


def _labels(
    options: CompareOptions, index: Index, rows: ScoreTable, pool: PoolRows | None, missing: Missing
) -> RowLabels | None:
    """The label that was asked for, or where rows are from, if they tell."""
    if pool is None:
        return None
    if options.label is None:
        if (source := _source(rows, pool)) is None:
            return None
        what = f"composition by {source}"
        if rows.rows > COUNTED_ROWS:
            miss(missing, what, f"of so many rows it is read where it is asked for: --label {source}")
            return None
        try:
            return RowLabels.read(rows, pool, source)
        except BadInput as error:
            miss(missing, what, error.what)
            return None
    labels = RowLabels.read(rows, pool, options.label)
    if not labels.values:
        raise BadInput(f"no row of {', '.join(pool.paths)} has this key", where=f"--label {options.label}")
    return labels


def _source(rows: ScoreTable, pool: PoolRows) -> str | None:
    """The key by which the pool's rows say where they are from, as a selection counts them."""
    some = rows.row.take(spread_places(rows.rows))
    sources = SourceCounter(len(some))
    with hushed():  # NaN of rows is of no account here
        for line in pool.lines(some):
            sources.count(line)
    return sources.key()


def _measured(
    options: CompareOptions,
    index: Index,
    rows: ScoreTable,
    several: Sequence[Contender],
    labels: RowLabels | None,
    relevant: dict[str, set[str]],
    pool: PoolRows | None,
    missing: Missing,
    warnings: list[str],
) -> dict[str, Any]:
    names = side_by_side.names_of_columns(several)
    orders = side_by_side.orders(several, rows, missing)
    lengths, of_pool = side_by_side.lengths(several, rows)
    alone = side_by_side.only_here(several, rows)
    examples = np.array([row for one in alone for row in one["rows"]], dtype=np.int64)
    texts = {} if pool is None else texts_of(index, pool, examples)
    compared = []
    for name, one, of_lengths, spearman in zip(names, several, lengths, orders.pop("with_length"), strict=True):
        measures = {"column": name, "label": one.label, "targets": list(one.targets), "rule": one.rule, **one.details}
        compared.append({**measures, **of_lengths, "spearman_with_length": spearman})
    for measures, own in zip(compared, alone, strict=False):
        shown = [{"row": row, "text": texts.get(row)} for row in own["rows"]]
        measures["only_here"] = {"count": own["count"], "examples": shown}
    if options.label is None:
        miss(missing, "retrieval", "pass --label COLUMN, a key of the pool's rows")
    found = (
        []
        if options.label is None or labels is None
        else side_by_side.retrieval(several, rows, labels, relevant, missing)
    )
    return {
        "kind": COMPARISON_KIND,
        "format_version": side_by_side.FORMAT_VERSION,
        "index": named(index.folder),
        "pool": of_pool,
        "compared": compared,
        **side_by_side.overlap(several),
        **orders,
        "retrieval": found,
        "composition": None if labels is None else side_by_side.composition(several, rows, labels),
        "missing": missing,
        "warnings": warnings,
        "environment": environment(),
        "options": options.to_record(),
    }


def _csv(rows: Sequence[dict[str, Any]]) -> bytes:
    out = io.StringIO()
    writer = csv.DictWriter(out, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue().encode()


def _table(comparison: dict[str, Any]) -> bytes:
    """A line for each that is compared, and for each target whose rows it is measured by: what is one number of it."""
    found, lines = dict[str, list[dict[str, Any]]](), []
    for measures in comparison["retrieval"]:
        if measures["column"] != side_by_side.RANDOM:
            found.setdefault(measures["column"], []).append(measures)
    plain = ("rows", "tokens", "mean_tokens", "median_tokens", "target_tokens", "spearman_with_length")
    for one in comparison["compared"]:
        lines += [
            {
                "column": one["column"],
                "label": one["label"],
                "targets": " ".join(one["targets"]),
                "rule": one["rule"],
                **{key: one[key] for key in plain},
                "only_here": one.get("only_here", {}).get("count"),
                "finds": " ".join(of_label.get("label", [])),
                **{key: of_label.get(key) for key in ("relevant", "r_precision", "share", "chance")},
            }
            for of_label in found.get(one["column"], [{}])
        ]
    return _csv(lines)


def _pairs(comparison: dict[str, Any]) -> bytes:
    """A line for every two."""
    names = [one["column"] for one in comparison["compared"]]
    return _csv(
        [
            {"a": a, "b": b, **{key: comparison[key][i][j] for key in ("shared", "jaccard", "spearman")}}
            for j, b in enumerate(names)
            for i, a in enumerate(names[:j])
        ]
    )
