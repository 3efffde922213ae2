"""``index``: a pool's bit codes on disk."""

import dataclasses
import os
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from nait_fast.codecs import codec_of
from nait_fast.codecs.codebook import load_codebook
from nait_fast.config import IndexOptions, SelectOptions
from nait_fast.data.plan import Plan
from nait_fast.data.row_conventions import LABEL_FALSE
from nait_fast.data.unread import warn_unread
from nait_fast.env import environment, keep_freed_memory
from nait_fast.errors import BadInput
from nait_fast.extract.indexing import Directions, IndexBuild, open_pool, representation_of
from nait_fast.extract.session import Terms, open_session, warn_longer
from nait_fast.index.format import bytes_per_row
from nait_fast.index.reader import Index
from nait_fast.methods.signature import Signature, check_fits, check_names, load_signatures
from nait_fast.notices import recorded, warn
from nait_fast.options import flag_of
from nait_fast.outputs.inputs import check_folders, check_inputs, inputs_of
from nait_fast.outputs.output_folder import sweep
from nait_fast.outputs.recognise import question
from nait_fast.remote.copies import local_folder, named
from nait_fast.reporting import inspected
from nait_fast.stages import counted_stages, stage
from nait_fast.storage.files import make_folder, read_json, write_json
from nait_fast.storage.lock import FOLDER_LOCK, OutputLock
from nait_fast.storage.names import RUN
from nait_fast.storage.owned import check_folder, is_name
from nait_fast.urls import all_without_secrets, is_url
from nait_fast.verbs.inspection import index_summary
from nait_fast.workers.local import default_workers, run_workers
from nait_fast.workers.watch import Watch
from nait_fast.workers.worker import Worker, device_of, index_pool, worker_of


def directions_of(signatures: list[Signature]) -> Directions:
    """The exact scores that ``nait`` signatures ask of an index build."""
    nait = [s for s in signatures if s.is_direction]
    return {s.name: (s.meta["reading"], s.tensors["direction"], s.hash) for s in nait}


def check_scored(signatures: list[Signature], session: Terms) -> None:
    """Raises NaitError for signatures that the pass cannot score, as far as is known of ``session``."""
    for signature in signatures:
        if not signature.is_direction:
            raise BadInput(
                f"signature '{signature.name}' is of method {signature.method}; only nait signatures are scored in the "
                "pass, the others rank the finished index",
                where="--exact",
            )
        if session.must_choose:
            raise BadInput(
                f"signature '{signature.name}' was made before this index chooses which neurons of experts it keeps",
                where="--exact",
                remedy="give --codebook of an index, and a signature made with it",
            )
        check_fits(signature, session.identity(signature.meta), None, "this index")


def summary_of(manifest: dict[str, Any], output: str | Path) -> dict[str, Any]:
    """What a run of ``index`` reports of the index."""
    dataset = manifest["datasets"][-1]
    return {
        "index": named(Path(output)),
        "rows_read": sum(d["rows"] for d in manifest["datasets"]),
        "rows_indexed": manifest["rows"],
        "rows_skipped": manifest["skipped"]["rows"],
        "skipped_reasons": manifest["skipped"]["reasons"],
        "unread": manifest.get("unread", {}),
        "unshown": manifest.get("unshown", {}),
        "duplicate_ids": manifest["duplicate_ids"],
        "datasets": len(manifest["datasets"]),
        "format": dataset["format"],
        "template": manifest["template_kind"],
        "truncated": manifest["truncated"],
        "tokens": manifest["tokens"],
        "bytes_per_row": bytes_per_row(manifest),
    }


def warn_of(manifest: dict[str, Any], folder: str | Path, ignore: Iterable[str]) -> None:
    """Say what of the index's pools was not read, or left out though its rows are well formed, or is longer than what
    the model was made for."""
    datasets = manifest["datasets"]
    where = datasets[0]["path"] if len(datasets) == 1 else f"the {len(datasets)} datasets of {folder}"
    if rows := manifest["skipped"]["reasons"].get(LABEL_FALSE):
        warn(f"{where}: {rows:,} rows are left out: {LABEL_FALSE}; --ignore label reads them, too")
    warn_unread(where, manifest.get("unread", {}), manifest.get("unshown", {}), ignore)
    if (positions := manifest.get("positions")) is not None:
        longer = sum(int((shard.n_tokens > positions).sum()) for shard in Index(folder).shards())
        if longer:
            warn_longer(where, longer, positions)


def work_of(build: IndexBuild) -> dict[str, Any]:
    """What a run of ``index`` reports of its own work: ``tokens_served`` are the samples' own, of which those that
    stand in a shared prefix need no run; ``tokens_per_s`` counts them."""
    rate = build.tokens / build.seconds if build.seconds and build.tokens else None
    return {
        "shared_prefix_tokens": [len(ids) for ids in build.prefixes],
        "tokens_served": build.tokens,
        "tokens_run": build.run_tokens,
        "forward": build.session.model.forward,
        "products": build.session.model.products.form,
        "padding_waste": round(build.session.padding, 4),
        "seconds": round(build.seconds, 3),
        "tokens_per_s": round(rate, 1) if rate else None,
    }


_NOT_OF_THE_RUN = ("device", "workers", "engine", "address", "trust_remote_code", "output")  # workers may differ here


def index_lock(options: IndexOptions) -> OutputLock:
    """The lock of an index's folder, which all workers of one command hold together: the same options but for where
    they run. Make the folder first."""
    deciding = {name: value for name, value in options.to_record().items() if name not in _NOT_OF_THE_RUN}
    for name in ("model", "tokenizer", "dataset", "codebook"):
        deciding[name] = _resolved(deciding[name])
    deciding["exact"] = [_resolved(path) for path in options.exact]
    return OutputLock(
        local_folder(options.output) / FOLDER_LOCK,
        f"--output {options.output}",
        question(deciding),
        alone=lambda: sweep(local_folder(options.output), is_name),
    )


def _resolved(path: str | None) -> str | None:
    return str(Path(path).resolve()) if path and os.path.exists(path) else path


def hold_folder(options: IndexOptions, stack: ExitStack) -> Path:
    """The folder of an index, made if need be and ours, together with other workers of this command, until ``stack``
    ends. Raises NaitError where another command is at it, and where something is in the way."""
    folder = make_folder(local_folder(options.output))
    # What --append refuses of --codebook is told by the build.
    inputs = [(flag, path) for flag, path in inputs_of(options) if not (flag == "--codebook" and options.append)]
    check_folders(folder, inputs)
    lock = index_lock(options)
    lock.acquire()
    try:
        check_inputs(folder, is_name, inputs)
        check_folder(folder)
    except BaseException:
        lock.leave()
        raise
    stack.callback(lock.release)
    return folder


def reads_the_end(options: IndexOptions) -> bool:
    """Whether an index keeps what comes out of the body's last layer."""
    return options.embeddings.rds is not None or options.nll != "none"


def open_build(given: dict[str, Any], worker: Worker, quiet: bool, stack: ExitStack) -> tuple[IndexBuild, Directions]:
    """What a worker needs for the options ``given``: the model, the pool and the folder, put together, and the exact
    scores to ask of them. The folder is ours until ``stack`` ends."""
    options = IndexOptions.from_mapping(given, "index")
    folder = hold_folder(options, stack)
    with stage("pool"):
        pool = open_pool(options, folder)
        pool.detect()
    signatures = load_signatures(options.exact)
    check_names(signatures, "--exact")
    given_codebook = load_codebook(options.codebook) if options.codebook else None
    options = dataclasses.replace(options, device=device_of(options.device, worker))

    def check(session: Terms) -> None:
        representation_of(session, options, folder, given_codebook)  # tells the session which neurons are kept
        check_scored(signatures, session)

    with stage("load"):
        session = open_session(
            options,
            options,
            options.first_token,
            quiet,
            check,
            tokens=options.tokens,
            nll=options.nll,
            complete=reads_the_end(options),
        )
    check(session)
    directions = directions_of(signatures)
    with stage("pool"):
        build = IndexBuild(
            session,
            pool,
            options,
            folder,
            exact_readings=frozenset(r for r, _, _ in directions.values()),
            with_drift=codec_of(options.chosen_codec.name).calibrates,
        )
    return build, directions


def work(given: dict[str, Any], worker: Worker, quiet: bool) -> dict[str, Any]:
    """What one worker does with the options ``given``; returns a summary once the index is complete."""
    with ExitStack() as stack:
        warnings, seconds = stack.enter_context(recorded()), stack.enter_context(counted_stages())
        build, directions = open_build(given, worker, quiet, stack)
        keep_freed_memory(build.session.model.device)
        manifest = index_pool(build, directions, worker)
        folder = build.folder.path
        summary = {**summary_of(manifest, folder), **work_of(build)}
        if worker.rank == 0 and worker.parent is None:  # else whoever started the workers says it
            build.pool.warn_of_formats()
            warn_of(manifest, folder, build.options.ignore)
        log = "log.json" if worker.world == 1 else f"log-{worker.rank}.json"
        record = {
            **summary,
            "products": build.session.model.products.described(),
            "stages": {name: round(spent, 3) for name, spent in seconds.items()},
            "warnings": warnings,
            "config": all_without_secrets(given),
            "environment": environment(),
        }
        write_json(folder / log, record)
    return summary


def _check_calibration(options: IndexOptions) -> None:
    """What is added or made again has the index's codebook: NaitError where another calibration is asked for."""
    path = local_folder(options.output) / RUN
    if not (options.append or options.repair) or not path.exists():
        return
    works = "--append adds" if options.append else "--repair works"
    calibration = (read_json(path).get("identity") or {}).get("calibration")
    settings = calibration if isinstance(calibration, list) else []
    for place, name in enumerate(("calibration_size", "seed")):
        value = getattr(options, name)
        if value != getattr(IndexOptions, name) and settings[place : place + 1] != [value]:
            raise BadInput(
                f"{works} under the codebook that {options.output} has",
                where=f"{flag_of(name)} {value}",
                remedy="leave it out",
            )


def run(options: IndexOptions, quiet: bool = False) -> dict[str, Any]:
    """Build, finish, extend or repair an index; returns a summary."""
    summary = _run(options, quiet)
    if worker_of().rank:  # the first one of several workers tells
        return summary
    rate = f"{summary['tokens_served']:,} tokens in {summary['seconds']:,.1f} s"
    rate += f", {summary['tokens_per_s']:,.0f} a second" if summary["tokens_per_s"] else ""
    shown = index_summary(Index(local_folder(options.output)), options.output)
    return {**summary, "text": inspected.of_index(shown, rate)}


def check_shared(options: IndexOptions | SelectOptions) -> None:
    """Raises NaitError where processes on other nodes could not write into the output."""
    if options.engine == "ray" and is_url(options.output):
        raise BadInput(
            "actors on other nodes write into a folder that all of them see",
            where=f"--engine ray --output {options.output}",
            remedy="name one",
        )


def _run(options: IndexOptions, quiet: bool) -> dict[str, Any]:
    check_shared(options)
    _check_calibration(options)
    if options.engine == "ray":
        return _with_workers(options, quiet, _on_ray)
    worker = worker_of()
    number = options.workers or (1 if worker.world > 1 else default_workers(options.device))
    if number > 1 and worker.world > 1 and "RANK" in os.environ:
        raise BadInput(
            f"torchrun has started {worker.world} workers already",
            where=f"--workers {number}",
            remedy="leave the flag out",
        )
    if number == 1:
        return work(options.to_mapping(), worker, quiet or worker.rank > 0)

    def start(options: IndexOptions, folder: Path, plan: Plan, watch: Callable[[], None]) -> int:
        run_workers(work, options.to_mapping(), number, watch)
        return number

    return _with_workers(options, quiet, start)


def _with_workers(
    options: IndexOptions, quiet: bool, start: Callable[[IndexOptions, Path, Plan, Callable[[], None]], int]
) -> dict[str, Any]:
    """The work done by processes that ``start`` starts, watched from this one."""
    with ExitStack() as stack:
        warnings = stack.enter_context(recorded())
        folder = hold_folder(options, stack)
        pool = open_pool(options, folder)  # what is wrong with it is told once, before any worker starts
        pool.detect()
        pool.warn_of_formats()
        with Watch(folder, pool.plan(), quiet) as watch:
            number = start(options, folder, pool.plan(), watch.look)
        manifest = Index(folder).manifest
        warn_of(manifest, folder, options.ignore)
        summary = {**summary_of(manifest, folder), "workers": number, **watch.summary()}
        log = {**summary, "warnings": warnings, "config": options.to_record(), "environment": environment()}
        write_json(folder / "log.json", log)
        return summary


def for_other_nodes(options: IndexOptions | SelectOptions) -> dict[str, Any]:
    """The options for processes whose current folder is another one: what lies here by its whole path."""
    given = options.to_mapping()
    for name in ("output", "dataset", "model", "tokenizer", "codebook"):
        if given.get(name) and Path(given[name]).exists():
            given[name] = str(Path(given[name]).resolve())
    return given | {"exact": [str(Path(path).resolve()) for path in given["exact"]]} if "exact" in given else given


def run_units(
    opens: Callable[..., Any],
    options: IndexOptions | SelectOptions,
    given: dict[str, Any],
    plan: Plan,
    watch: Callable[[], None],
) -> int:
    """The units of ``plan`` on a cluster, by what ``opens`` makes of ``given``; how many actors there were."""
    from nait_fast.workers.ray_engine import run_on_ray

    return run_on_ray(
        opens,
        given,
        len(plan.units),
        device=options.device,
        where=f"--output {options.output}",
        workers=options.workers,
        address=options.address,
        watch=watch,
    )


def _on_ray(options: IndexOptions, folder: Path, plan: Plan, watch: Callable[[], None]) -> int:
    return run_units(open_build, options, for_other_nodes(options), plan, watch)
