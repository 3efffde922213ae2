"""``select``: model, pool and targets in, the subset to train on out."""

import dataclasses
import gc
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from nait_fast._version import __version__
from nait_fast.config import IndexOptions, SelectOptions, split_target
from nait_fast.data.pool import Pool
from nait_fast.env import PACKAGES, VARIABLES, installed, keep_freed_memory
from nait_fast.errors import BadInput, Mismatch, NaitError
from nait_fast.extract.indexing import Directions, IndexBuild, open_pool, representation_of
from nait_fast.extract.session import Terms, open_session
from nait_fast.index.pool_rows import rows_of
from nait_fast.index.reader import Index
from nait_fast.methods import method_of
from nait_fast.methods.signature import Signature, check_fits, load_signature
from nait_fast.models.weight_cache import checkpoint_stamps
from nait_fast.notices import hushed, recorded
from nait_fast.outputs.inputs import check_inputs, inputs_of
from nait_fast.outputs.output_folder import Output
from nait_fast.outputs.recognise import question
from nait_fast.progress import say
from nait_fast.ranking.choosing import check_constraints
from nait_fast.ranking.exports import check_exports
from nait_fast.ranking.requirements import check_before
from nait_fast.ranking.select import check_budget
from nait_fast.remote.copies import local_folder, named
from nait_fast.reporting.answer import answer_of
from nait_fast.storage.files import make_folder, read_json, read_sealed
from nait_fast.storage.names import MANIFEST
from nait_fast.storage.owned import is_name
from nait_fast.verbs.index import (
    check_shared,
    directions_of,
    for_other_nodes,
    hold_folder,
    reads_the_end,
    run_units,
    summary_of,
    warn_of,
    work_of,
)
from nait_fast.verbs.rank import rank_index, scanning_of, write_manifest
from nait_fast.verbs.selection_output import (
    answers,
    recognise,
    selection_folder,
    selection_in,
    selection_names,
    warn_of_replaced,
)
from nait_fast.verbs.signature import (
    SignatureOutput,
    build_signatures,
    check_method,
    describe,
    open_targets,
    questions,
    signature_output,
)
from nait_fast.workers.local import default_workers, run_workers
from nait_fast.workers.watch import Watch
from nait_fast.workers.worker import Worker, device_of, index_pool, worker_of


def run(options: SelectOptions, quiet: bool = False) -> dict[str, Any]:
    """Select; returns a summary. What can be wrong with the input is checked before the model is loaded, the rows of
    the pool as they come."""
    with recorded() as warnings, ExitStack() as stack:
        output, asked, index, summary = _select(options, quiet, stack)
        before = selection_in(output.folder)
        manifest = write_manifest(output.stage, "select", options.to_record(), index, {**summary, "warnings": warnings})
        output.done(answers(summary["signatures"], index.datasets), asked)
    warn_of_replaced(before, manifest, output.folder, options.overwrite)
    return {**summary, "text": answer_of(manifest, options.output, sys.stderr.isatty())}


def _select(options: SelectOptions, quiet: bool, stack: ExitStack) -> tuple[Output, str, Index, dict[str, Any]]:
    """(the folder, which is ours until ``stack`` ends, what was asked, the index, what the manifest says)."""
    check_shared(options)
    check_budget(options)
    check_constraints(options, options, len(options.target))
    if worker_of().world > 1 and "RANK" in os.environ:
        raise BadInput(
            "starts its own workers (--workers)",
            where="select",
            remedy="with torchrun use index, then signature and rank",
        )
    method = method_of(options.chosen_method.name)
    reading = method.reading(options.reading)
    by_sample = check_before(options, method)
    inputs = inputs_of(options)
    folder = selection_folder(options.output)
    names = selection_names(folder, [split_target(target)[0] for target in options.target])
    output = stack.enter_context(Output(folder, names, recognise=recognise, inputs=inputs, overwrite=options.overwrite))
    passing = _index_options(options, folder / "index", reading)
    index_folder = hold_folder(passing, stack)
    check_inputs(index_folder, is_name, inputs)
    pool = open_pool(passing, index_folder)
    check_budget(options, pool.plan().rows)
    check_exports(options.export, pool.detect())
    pool.warn_of_formats()
    targets = open_targets(options.target, "auto", pool.conventions, pool)
    made = stack.enter_context(signature_output(make_folder(folder / "signatures"), targets, options, reading, inputs))
    said = pool.conventions.described()
    asked = question([pool.plan().sha256, questions(targets, options, reading), *([said] if said else [])])
    _check_asked(output, asked, options)
    if options.engine == "ray":  # one for the pass and for the scans: a Ray of our own takes seconds to start
        from nait_fast.workers.ray_cluster import cluster

        stack.enter_context(cluster(options.address))
    made_from = _made_from(options, passing, asked)
    kept = _kept(folder, made_from, [split_target(target)[0] for target in options.target], by_sample)
    if kept is not None:
        say(f"{named(folder)}: index and signatures are of this model, pool and targets; no model is loaded", quiet)
        signatures, work_done = kept, {"tokens_served": 0, "tokens_run": 0, "seconds": 0.0, "tokens_per_s": None}
        files = [folder / "signatures" / f"{signature.name}.safetensors" for signature in kept]
    else:
        signatures, files, work_done = _run_model(options, passing, reading, pool, targets, made, by_sample, quiet)
    index = Index(index_folder)
    extraction = {**summary_of(index.manifest, index_folder), **work_done}
    warn_of(index.manifest, index_folder, options.ignore)
    if output.asked != asked:  # else the very question; its signatures' hashes may be those of another version
        output.check_question(answers({s.name: s.hash for s in signatures}, index.datasets), "another question")
    with scanning_of(options, index) as scanning:
        ranked = rank_index(
            index,
            signatures,
            options,
            options.seed,
            folder,
            rows_of(pool),
            options.device,
            output.begin,
            options,
            [split_target(target)[1] for target in options.target],
            scanning,
        )
    described = [describe(s, f) for s, f in zip(signatures, files, strict=True)]
    return (
        output,
        asked,
        index,
        {
            "output": named(folder),
            **ranked,
            "extraction": extraction,
            "targets_described": described,
            "made_from": made_from if made_from == _made_from(options, passing, asked) else None,
        },
    )


def _run_model(
    options: SelectOptions,
    passing: IndexOptions,
    reading: str,
    pool: Pool,
    targets: Mapping[str, Pool],
    made: SignatureOutput,
    by_sample: bool,
    quiet: bool,
) -> tuple[list[Signature], list[Path], dict[str, Any]]:
    """(signatures, their files, what the pass over the pool did): all that needs the model. The index is there then."""
    index_folder = Path(passing.output)
    number = 0 if options.engine == "ray" else options.workers or default_workers(options.device)

    def check(session: Terms) -> None:
        check_method(session, options, reading)
        representation_of(session, passing, index_folder, None)

    complete = reads_the_end(passing)
    session = open_session(
        passing, passing, options.first_token, quiet, check, tokens=options.tokens, complete=complete
    )
    keep_freed_memory(session.model.device)
    check_method(session, options, reading)
    build = _open_build(session, pool, passing, options, reading)
    codebook = build.codebook()
    digest = None if codebook is None else codebook.hash
    for path in options.decontaminate_codes:  # before the pool is read: the rest shows with the index
        check_fits(load_signature(path), session.identity(), digest, "this selection's index")
    signatures = build_signatures(session, targets, options, reading, codebook, by_sample or None)
    files = made.save(signatures)
    if number == 1:
        index_pool(build, directions_of(signatures))
        work_done = work_of(build)
    else:
        build.prepare(directions_of(signatures))
        del build, session
        _free_gpu()
        with Watch(index_folder, pool.plan(), quiet) as watch:
            whole = [str(file.resolve()) for file in files]
            given = {"options": for_other_nodes(options), "reading": reading, "signatures": whole}
            if options.engine == "ray":
                number = run_units(open_pass, options, given, pool.plan(), watch.look)
            else:
                run_workers(work, given, number, watch.look)
        work_done = {"workers": number, **watch.summary()}
    return signatures, files, work_done


_WHERE = ("output", "workers", "engine", "address")  # not what is made, but where


def _made_from(options: SelectOptions, passing: IndexOptions, asked: str) -> str | None:
    """A digest of all that index and signatures are made from: options, the data that ``asked`` is of, libraries, and
    the files of model and tokenizer by size and times. None where these cannot be told to be the same another time."""
    stamps = [checkpoint_stamps(name) for name in (options.model, options.tokenizer) if name is not None]
    if None in stamps:
        return None
    deciding = {name: value for name, value in passing.to_record().items() if name not in _WHERE}
    versions = [__version__, *map(installed, PACKAGES)]
    return question([asked, deciding, stamps, versions, [os.environ.get(name) for name in VARIABLES]])


def _kept(folder: Path, made_from: str | None, targets: Sequence[str], by_sample: bool) -> list[Signature] | None:
    """The signatures of a finished selection in ``folder`` whose index, too, is of ``made_from``; None where they are
    not whole, of anything else, or (``by_sample``) without their samples."""
    try:
        manifest = read_sealed(folder / MANIFEST)
        if made_from is None or manifest.get("made_from") != made_from:
            return None
        signatures = [load_signature(folder / "signatures" / f"{name}.safetensors") for name in targets]
        index = Index(folder / "index")
        same = {s.name: s.hash for s in signatures} == manifest["signatures"]
        same = same and all(s.samples or not by_sample for s in signatures)
        return signatures if same and index.manifest["checksum"] == manifest["index"] else None
    except (NaitError, KeyError):
        return None


def _check_asked(output: Output, asked: str, options: SelectOptions) -> None:
    """Raises NaitError, before the model is loaded, where the folder holds the results of another question."""
    if options.overwrite or not output.holds_results:
        return
    if output.asked is not None:
        same = output.asked == asked
    elif not (output.folder / MANIFEST).exists():
        same = True  # shows once the signatures are there
    else:  # of rank, or of a version that kept no claim: the rest shows once the signatures are there
        manifest = read_json(output.folder / MANIFEST)
        same = (manifest["targets"], set(manifest["method"])) == (
            [split_target(t)[0] for t in options.target],
            {options.chosen_method.name},
        )
    if not same:
        raise Mismatch(
            "holds the results of another question (other targets, data or method)",
            where=f"--output {options.output}",
            remedy="choose another folder, or pass --overwrite to replace them",
        )


def open_pass(given: dict[str, Any], worker: Worker, quiet: bool, stack: ExitStack) -> tuple[IndexBuild, Directions]:
    """As ``verbs.index.open_build``, for one of several that do the pass; calibration and signatures are there."""
    options, reading = SelectOptions.from_mapping(given["options"]), given["reading"]
    passing = _index_options(options, local_folder(options.output) / "index", reading)
    pool = open_pool(passing, hold_folder(passing, stack))
    passing = dataclasses.replace(passing, device=device_of(options.device, worker))
    with hushed():  # whoever started the workers has said it
        complete = reads_the_end(passing)
        session = open_session(passing, passing, options.first_token, quiet, tokens=options.tokens, complete=complete)
        build = _open_build(session, pool, passing, options, reading)
    return build, directions_of([load_signature(file) for file in given["signatures"]])


def work(given: dict[str, Any], worker: Worker, quiet: bool) -> None:
    """What one of several workers does of the pass over the pool."""
    with ExitStack() as stack:
        build, directions = open_pass(given, worker, quiet, stack)
        keep_freed_memory(build.session.model.device)
        index_pool(build, directions, worker)


def _free_gpu() -> None:
    """Give the model's memory back: a worker needs it."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _index_options(options: SelectOptions, folder: Path, reading: str) -> IndexOptions:
    """The index pass of a selection."""
    names = {field.name for field in dataclasses.fields(IndexOptions)}
    shared = {name: value for name, value in vars(options).items() if name in names}
    chosen = options.chosen_method
    wanted = method_of(chosen.name).index_options(reading, chosen.settings)
    return IndexOptions(**{**shared, "output": str(folder), **wanted})


def _open_build(session: Any, pool: Any, passing: IndexOptions, options: SelectOptions, reading: str) -> IndexBuild:
    chosen = options.chosen_method
    method = method_of(chosen.name)
    return IndexBuild(
        session,
        pool,
        passing,
        Path(passing.output),
        exact_readings=method.exact_readings(reading),
        with_drift=method.needs_drift(chosen.settings),
    )
