"""``rank``: an index and signatures in, the chosen rows out; needs no model."""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nait_fast.config import BudgetOptions, ConstraintOptions, RankOptions, SelectOptions
from nait_fast.env import environment
from nait_fast.errors import BadInput, Mismatch
from nait_fast.index.pool_rows import PoolRows, open_rows
from nait_fast.index.reader import Index
from nait_fast.methods import method_of
from nait_fast.methods.foreign import foreign_scores
from nait_fast.methods.signature import Signature, load_signatures
from nait_fast.notices import recorded
from nait_fast.outputs.inputs import inputs_of
from nait_fast.outputs.output_folder import Output
from nait_fast.ranking.cautions import warn_of_few, warn_of_selection, warn_of_truncated
from nait_fast.ranking.choosing import Laps, ScoredSelection, check_constraints, scored_selection
from nait_fast.ranking.exports import check_exports, write_exports
from nait_fast.ranking.external import ranks
from nait_fast.ranking.overview import SourceCounter, overview_of
from nait_fast.ranking.requirements import check_asked
from nait_fast.ranking.scan import Scan, check_device, scan
from nait_fast.ranking.select import check_budget, turns_taken
from nait_fast.ranking.selection_files import (
    DROPPED,
    KIND,
    SCORES,
    SELECTED,
    write_dropped,
    write_scores,
    write_selected,
)
from nait_fast.ranking.similarity_files import write_similarities
from nait_fast.ranking.sources import check_index, source_of
from nait_fast.ranking.spearman import with_length
from nait_fast.remote.copies import named
from nait_fast.reporting.answer import answer_of
from nait_fast.storage.files import read_json, sha256_file, write_sealed
from nait_fast.storage.names import MANIFEST
from nait_fast.urls import all_without_secrets
from nait_fast.verbs.selection_output import (
    answers,
    recognise,
    selection_folder,
    selection_in,
    selection_names,
    warn_of_replaced,
)


def rank_index(
    index: Index,
    signatures: list[Signature],
    options: BudgetOptions,
    seed: int,
    folder: Path,
    pool: PoolRows,
    device: str = "auto",
    begin: Callable[[], Path] | None = None,
    constraining: ConstraintOptions | None = None,
    targets: Sequence[str] = (),
    scanning: Scan = scan,
) -> dict[str, Any]:
    """Score, select and write the outputs; returns what the manifest says of them. ``folder``: where they will lie;
    ``begin``, called before anything is written, gives the folder to write them in; ``targets``: files of the targets'
    samples, where they are at hand; ``scanning``: who reads the index."""
    check_exports(options.export, pool.format)
    warn_of_truncated(index)
    warn_of_few(signatures)
    clock = Laps()
    with scored_selection(
        index,
        signatures,
        options,
        constraining or ConstraintOptions(),
        seed=seed,
        folder=folder,
        pool=lambda: pool,
        device=device,
        targets=targets,
        clock=clock,
        scanning=scanning,
    ) as made:
        table, selection, stage = made.table, made.selection, begin() if begin else folder
        sources = SourceCounter(len(selection.rows))
        files = _write(made, options, stage, pool, clock, sources)
        files |= write_similarities(stage, options.export, index, made.scoring, device, len(selection.rows), scanning)
        clock.lap("exports")
        spearman, spearman_rows = with_length(table)
        clock.lap("spearman")
        top = options.pick == "top"
        overview = overview_of(table, selection, index, pool, stage / SELECTED, sources, top)
        if turns := turns_taken(table, selection):
            overview["turns"] = turns
        clock.lap("overview")
        if top:
            length = (constraining or ConstraintOptions()).length
            warn_of_selection(made, length, options.combine, overview, spearman)
    in_pool = {s.name: method_of(s.method).whitening(index, s) for s in signatures}
    whitening = {name: fitted for name, fitted in in_pool.items() if fitted}
    return {
        "method": [s.method for s in signatures],
        "reading": [s.meta["reading"] for s in signatures],
        **({} if options.rule is None and made.rule == "centroid" else {"rule": made.rule}),
        **({"length": "matched"} if made.matched else {}),
        "targets": table.names,
        "approximate": [s.name for s in signatures if source_of(index, s) == "estimated"],
        "signatures": {s.name: s.hash for s in signatures},
        **({"whitening": whitening} if whitening else {}),
        "scores": options.scores,
        "rows_read": index.pool_rows,
        "rows_scored": table.rows,
        "rows_skipped": index.manifest["skipped"],
        "rows_truncated": index.manifest["truncated"],
        "rows_of_targets": made.in_targets,
        "rows_selected": len(selection.rows),
        "tokens_selected": selection.tokens,
        **overview,
        **({"rows_looked_at": selection.looked, "constraints": selection.described} if made.constrained else {}),
        **made.mixed,
        "spearman_with_length": spearman,
        "spearman_rows": spearman_rows,
        "scan_seconds": clock.seconds["scan"],
        "seconds": clock.seconds,
        "files": files,
    }


def _write(
    made: ScoredSelection, options: BudgetOptions, folder: Path, pool: PoolRows, clock: Laps, sources: SourceCounter
) -> dict[str, str]:
    """Write the files of a selection: name -> SHA-256; its rows' ``sources`` are counted."""
    files, selection = {}, made.selection
    lines = sources.passing(pool.lines(selection.rows))
    files[SELECTED] = write_selected(folder / SELECTED, lines, selection.order)
    clock.lap("lines")
    scores = folder / SCORES
    if options.scores != "none":
        every = options.scores == "all"
        with ranks(selection.keys, folder) as ranked:
            write_scores(scores, made.index, made.table, selection, ranked, every, made.constrained, made.quality)
        files[SCORES] = sha256_file(scores)
    clock.lap("scores")
    if made.constrained:
        files[DROPPED] = write_dropped(folder / DROPPED, made.index, made.table, selection)
        clock.lap("dropped")
    return {**files, **write_exports(folder, options.export, made.index, selection)}


def write_manifest(
    folder: Path, verb: str, config: dict[str, Any], index: Index, summary: dict[str, Any]
) -> dict[str, Any]:
    """``manifest.json`` of a selection; returns it."""
    of_index = (
        "model",
        "model_name",
        "template",
        "template_kind",
        "codebook",
        "experts",
        "chosen",
        "layers",
        "max_length",
        "reading_tokens",
        "dtype",
        "datasets",
    )
    manifest = {
        "kind": KIND,
        "verb": verb,
        **summary,
        "index": index.manifest["checksum"],
        **{key: index.manifest[key] for key in of_index if key in index.manifest},
        "config": config,
        "environment": environment(),
    }
    return write_sealed(folder / MANIFEST, all_without_secrets(manifest))


def _refuse_select(folder: Path, options: RankOptions) -> None:
    """Raises NaitError where the results of ``select`` would give way to those of ``rank``, whatever they answer: its
    index and signatures would lie beside another selection's manifest."""
    if (folder / MANIFEST).exists() and not options.overwrite and read_json(folder / MANIFEST).get("verb") == "select":
        raise Mismatch(
            "holds what select has chosen",
            where=f"--output {options.output}",
            remedy="choose another folder, or pass --overwrite to replace it",
        )


@contextmanager
def scanning_of(options: RankOptions | SelectOptions, index: Index) -> Iterator[Scan]:
    """Who scans ``index``: this machine, or a cluster. Raises NaitError where there is none."""
    if options.engine == "local":
        yield scan
        return
    from nait_fast.workers.ray_scan import scans_on_ray

    with scans_on_ray(index, options.workers, options.address) as scanning:
        yield scanning


def run(options: RankOptions, quiet: bool = False) -> dict[str, Any]:
    """Rank an index; returns a summary."""
    with recorded() as warnings:
        check_budget(options)
        check_constraints(options, options, len(options.signature) + len(options.foreign_scores))
        folder = selection_folder(options.output)
        _refuse_select(folder, options)
        index = Index(options.index)
        check_budget(options, index.rows)
        if not (options.signature or options.foreign_scores):
            raise BadInput("--signature (or --foreign-scores) is missing", where="rank")
        signatures = load_signatures(options.signature)
        signatures += [foreign_scores(text, index) for text in options.foreign_scores]
        check_index(index, signatures)
        check_asked(signatures, options, options)
        check_device(options.device, index, signatures, rule=options.rule)
        pool = open_rows(index, options.dataset)
        inputs = [*inputs_of(options), *(("--dataset", path) for path in pool.paths)]
        of = answers({s.name: s.hash for s in signatures}, index.datasets)
        names = selection_names(folder, [signature.name for signature in signatures])
        with Output(folder, names, recognise=recognise, inputs=inputs, overwrite=options.overwrite) as output:
            output.check_question(of, "other signatures or another index")
            before = selection_in(folder)
            with scanning_of(options, index) as scanning:
                summary = rank_index(
                    index,
                    signatures,
                    options,
                    options.seed,
                    folder,
                    pool,
                    options.device,
                    output.begin,
                    options,
                    scanning=scanning,
                )
            manifest = write_manifest(
                output.stage, "rank", options.to_record(), index, {**summary, "warnings": warnings}
            )
            output.done(of, asked=None)
    warn_of_replaced(before, manifest, folder, options.overwrite)
    return {"output": named(folder), **summary, "text": answer_of(manifest, options.output, sys.stderr.isatty())}
