"""``select``: model, pool and targets in, the subset to train on out."""

from typing import Any

from nait_fast.config import SelectOptions
from nait_fast.data.pool import Pool
from nait_fast.extract.indexing import IndexBuild
from nait_fast.extract.session import open_session
from nait_fast.index.files import make_folder
from nait_fast.index.reader import Index
from nait_fast.ranking.select import check_budget
from nait_fast.verbs.index import directions_of, summary_of
from nait_fast.verbs.rank import rank_index, selection_folder, write_manifest
from nait_fast.verbs.signature import build_signatures, default_reading, describe, open_targets

SHARD_ROWS = 8192


def run(options: SelectOptions, quiet: bool = False) -> dict[str, Any]:
    """Select; returns a summary. Everything that can be wrong with the input is checked before the model is loaded."""
    check_budget(options)
    reading = default_reading(options.method, options.reading)
    folder = selection_folder(options.output)
    index_folder, signature_folder = make_folder(folder / "index"), make_folder(folder / "signatures")
    pool = Pool(options.dataset, format=options.format, skip_bad_rows=options.skip_bad_rows)
    check_budget(options, pool.scan().good)
    targets = open_targets(options.target, "auto")
    session = open_session(options, options, options.first_token, quiet)
    nait = options.method == "nait"
    build = IndexBuild(
        session, pool, index_folder,
        codec="nag" if options.method == "nag" else "neuron", reading="mean" if nait else reading,
        top_k=options.nag_top_k, calibration_size=options.calibration_size, seed=options.seed, shard_rows=SHARD_ROWS,
        skip_bad_rows=options.skip_bad_rows, exact_readings=frozenset([reading] if nait else []),
        with_drift=nait and options.sign == "contrast",
    )  # fmt: skip
    codebook = build.codebook()
    signatures = build_signatures(session, targets, options, reading, codebook)
    files = [signature.save(signature_folder) for signature in signatures]
    manifest = build.run(directions_of(signatures))
    index = Index(index_folder)
    told = rank_index(index, signatures, options, options.seed, folder, pool, options.device)
    extraction = summary_of(manifest, build, index_folder)
    described = [describe(s, f) for s, f in zip(signatures, files, strict=True)]
    told = {"output": str(folder), **told, "extraction": extraction, "targets_described": described}
    write_manifest(folder, "select", options.to_mapping(), index, told)
    return told
