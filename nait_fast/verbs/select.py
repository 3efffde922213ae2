"""``select``: model, pool and targets in, the subset to train on out."""

import dataclasses
import gc
import os
from pathlib import Path
from typing import Any

from nait_fast.config import IndexOptions, SelectOptions
from nait_fast.data.rows import rows_of
from nait_fast.dist.local import default_workers, run_workers
from nait_fast.dist.progress import Watch
from nait_fast.dist.worker import Worker, device_of, index_pool, worker_of
from nait_fast.errors import NaitError
from nait_fast.extract.indexing import IndexBuild, open_pool
from nait_fast.extract.session import open_session
from nait_fast.index.files import make_folder
from nait_fast.index.reader import Index
from nait_fast.notices import recorded
from nait_fast.ranking.select import check_budget
from nait_fast.ranking.signature import load_signature
from nait_fast.verbs.index import directions_of, summary_of, work_of
from nait_fast.verbs.rank import rank_index, selection_folder, write_manifest
from nait_fast.verbs.signature import build_signatures, default_reading, describe, open_targets


def run(options: SelectOptions, quiet: bool = False) -> dict[str, Any]:
    """Select; returns a summary. What can be wrong with the input is checked before the model is loaded, the rows of
    the pool as they come."""
    with recorded() as warnings:
        folder, index, told = _select(options, quiet)
    write_manifest(folder, "select", options.to_mapping(), index, {**told, "warnings": warnings})
    return told


def _select(options: SelectOptions, quiet: bool) -> tuple[Path, Index, dict[str, Any]]:
    """(the folder, its index, what the manifest says)."""
    check_budget(options)
    if worker_of().world > 1 and "RANK" in os.environ:
        raise NaitError("select: starts its own workers (--workers); with torchrun use index, then signature and rank")
    reading = default_reading(options.method, options.reading)
    folder = selection_folder(options.output)
    index_folder, signature_folder = make_folder(folder / "index"), make_folder(folder / "signatures")
    passing = _index_options(options, index_folder, reading)
    pool = open_pool(passing, index_folder)
    check_budget(options, pool.plan().rows)
    pool.detect()
    targets = open_targets(options.target, "auto")
    number = options.workers or default_workers(options.device)
    session = open_session(passing, passing, options.first_token, quiet)
    build = _open_build(session, pool, passing, options, reading)
    codebook = build.codebook()
    signatures = build_signatures(session, targets, options, reading, codebook)
    files = [signature.save(signature_folder) for signature in signatures]
    if number == 1:
        manifest = index_pool(build, directions_of(signatures))
        told = work_of(build)
    else:
        build.prepare(directions_of(signatures))
        del build, session
        _free_gpu()
        with Watch(index_folder, pool.plan(), quiet) as watch:
            given = {"options": options.to_mapping(), "reading": reading, "signatures": [str(file) for file in files]}
            run_workers("select", given, number, watch.look)
        manifest, told = Index(index_folder).manifest, {"workers": number, **watch.told()}
    extraction = {**summary_of(manifest, index_folder), **told}
    index = Index(index_folder)
    ranked = rank_index(index, signatures, options, options.seed, folder, rows_of(pool), options.device)
    described = [describe(s, f) for s, f in zip(signatures, files, strict=True)]
    return folder, index, {"output": str(folder), **ranked, "extraction": extraction, "targets_described": described}


def work(given: dict[str, Any], worker: Worker, quiet: bool) -> None:
    """One of several workers on the index pass; calibration and signatures are there."""
    options, reading = SelectOptions.from_mapping(given["options"]), given["reading"]
    passing = _index_options(options, Path(options.output) / "index", reading)
    pool = open_pool(passing, Path(passing.output))
    passing = dataclasses.replace(passing, device=device_of(options.device, worker))
    session = open_session(passing, passing, options.first_token, quiet)
    signatures = [load_signature(file) for file in given["signatures"]]
    index_pool(_open_build(session, pool, passing, options, reading), directions_of(signatures), worker)


def _free_gpu() -> None:
    """Give the model's memory back: a worker needs it."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _index_options(options: SelectOptions, folder: Path, reading: str) -> IndexOptions:
    """The index pass of a selection."""
    shared = {name: value for name, value in vars(options).items() if name in IndexOptions.__dataclass_fields__}
    bits = {"contrast": reading, "nag": None}.get(options.method, "mean")
    codec, embed = "nag" if options.method == "nag" else "neuron", "last" if options.method == "embed" else "none"
    return IndexOptions(**{**shared, "output": str(folder), "reading": bits, "codec": codec, "embed": embed})


def _open_build(session: Any, pool: Any, passing: IndexOptions, options: SelectOptions, reading: str) -> IndexBuild:
    nait = options.method == "nait"
    return IndexBuild(
        session, pool, passing, Path(passing.output), exact_readings=frozenset([reading] if nait else []),
        with_drift=nait and options.sign == "contrast",
    )  # fmt: skip
