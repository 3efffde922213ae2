"""``index``: a pool's bit codes on disk."""

from pathlib import Path
from typing import Any

from nait_fast.config import IndexOptions
from nait_fast.data.pool import Pool
from nait_fast.env import environment
from nait_fast.errors import NaitError
from nait_fast.extract.indexing import IndexBuild
from nait_fast.extract.session import Session, open_session
from nait_fast.index.codebook import load_codebook
from nait_fast.index.files import make_folder, write_json
from nait_fast.ranking.signature import Signature, check_fits, load_signature
from nait_fast.verbs.signature import default_reading

Directions = dict[str, tuple[str, Any, str]]


def directions_of(signatures: list[Signature]) -> Directions:
    """The exact scores that ``nait`` signatures ask of an index build."""
    found = [s for s in signatures if s.method == "nait"]
    return {s.name: (s.meta["reading"], s.tensors["direction"], s.hash) for s in found}


def check_scored(signatures: list[Signature], session: Session) -> None:
    for signature in signatures:
        if signature.method != "nait":
            raise NaitError(
                f"--score: signature '{signature.name}' is of method {signature.method}; only nait signatures are "
                "scored in the pass, the others rank the finished index"
            )
        identity = session.identity()
        check_fits(signature, identity["model"], identity["template"], None, "this index")
        if signature.meta["first_token"] != identity["first_token"]:
            raise NaitError(f"--score: signature '{signature.name}' was made with another --first-token")


def summary_of(manifest: dict[str, Any], build: IndexBuild, output: str | Path) -> dict[str, Any]:
    """What a run of ``index`` reports."""
    rate = build.tokens / build.seconds if build.seconds and build.tokens else None
    return {
        "index": str(output),
        "rows_read": manifest["dataset"]["rows"],
        "rows_indexed": manifest["rows"],
        "rows_skipped": manifest["skipped"]["rows"],
        "skipped_reasons": manifest["skipped"]["reasons"],
        "format": manifest["dataset"]["format"],
        "template": manifest["template_kind"],
        "truncated": manifest["truncated"],
        "tokens": manifest["tokens"],
        "bytes_per_row": manifest["row_bytes"],
        "shared_prefix_tokens": len(build.prefix),
        "tokens_run": build.tokens,
        "seconds": round(build.seconds, 3),
        "tokens_per_s": round(rate, 1) if rate else None,
    }


def run(options: IndexOptions, quiet: bool = False) -> dict[str, Any]:
    """Build (or finish) an index; returns a summary."""
    folder = make_folder(options.output)
    pool = Pool(options.dataset, format=options.format, skip_bad_rows=options.skip_bad_rows)
    pool.scan()
    codebook = load_codebook(options.codebook) if options.codebook else None
    signatures = [load_signature(path) for path in options.score]
    reading = default_reading("nag" if options.codec == "nag" else "contrast", options.reading)
    session = open_session(options, options, options.first_token, quiet)
    check_scored(signatures, session)
    directions = directions_of(signatures)
    build = IndexBuild(
        session, pool, folder, codec=options.codec, reading=reading, top_k=options.nag_top_k,
        calibration_size=options.calibration_size, seed=options.seed, shard_rows=options.shard_rows,
        skip_bad_rows=options.skip_bad_rows, codebook=codebook,
        exact_readings=frozenset(r for r, _, _ in directions.values()), with_drift=options.codec == "neuron",
    )  # fmt: skip
    build.codebook()
    manifest = build.run(directions)
    summary = summary_of(manifest, build, folder)
    write_json(folder / "log.json", {**summary, "config": options.to_mapping(), "environment": environment()})
    return summary
