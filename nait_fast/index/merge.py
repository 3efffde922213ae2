"""Joins indexes that were made apart under one codebook into one, as if their pools had been added to the first."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nait_fast.codecs import codec_of
from nait_fast.compatibility import OLD, is_old, name_of, value_of
from nait_fast.data.plan import read_plan
from nait_fast.errors import BadInput, Damaged, Mismatch, NaitError
from nait_fast.index.format import FORMAT_VERSION
from nait_fast.index.reader import Index, ShardEntry
from nait_fast.index.run_file import read_run, write_run
from nait_fast.index.skipped import Listed, check_list, is_duplicate
from nait_fast.index.verify import shard_problem
from nait_fast.index.writer import IndexWriter
from nait_fast.notices import warn
from nait_fast.storage.files import sha256, sha256_file, write_atomic
from nait_fast.storage.lock import Lock
from nait_fast.storage.names import CALIBRATION, CODEBOOK, LOCK, MANIFEST, RUN, plan_name


def _same(index: Index) -> tuple[str, ...]:
    """What the manifest says of a code, and so must be the same in all: a row's bits then mean the same."""
    of_codec = codec_of(index.manifest["codec"]).entries
    read = ("experts", "chosen", "layers", "widths", "reading", "first_token", "reading_tokens")
    what = ("dtype", "model", *read, "codec", *of_codec, "template")
    how = ("template_kind", "template_date", "max_length", "row_bytes", "embedding", "embed_layer", "codebook", "exact")
    return *what, *how, "rds", "rds_width", "rds_model", "nll", "nll_model"


def check_joinable(indexes: Sequence[Index]) -> None:
    """Raises NaitError where the indexes cannot be one: made otherwise, or of the same dataset."""
    first = indexes[0]
    runs = [_identity_of(index) for index in indexes]
    for index, run in zip(indexes[1:], runs[1:], strict=True):
        ours, theirs = first.manifest, index.manifest
        if is_old(ours) != is_old(theirs):
            old, new = (first, index) if is_old(ours) else (index, first)
            raise Mismatch(
                f"was made {OLD}, and cannot be joined with {new.name}", where=old.name, remedy="index its pool again"
            )
        # Calibration aside: a codebook made here or given is the same codebook.
        options = sorted({*runs[0], *run} - {"calibration"})
        same = _same(first)
        changed = [k for k in same if ours.get(k) != theirs.get(k)]
        changed += [k for k in options if runs[0].get(k) != run.get(k)]
        if changed:
            key = changed[0]
            before, now = (ours, theirs) if key in same else (runs[0], run)
            shared = key in ("codebook", "chosen")
            remedy = f"index it with --codebook {first.name}" if shared else "index it again with the same"
            raise Mismatch(
                f"was made with another {name_of(key)} than {first.name} ({str(value_of(now, key))[:60]}, not "
                f"{str(value_of(before, key))[:60]})",
                where=index.name,
                remedy=remedy,
            )
    forms = [read_run(index.folder).get("products") for index in indexes]
    for index, form in zip(indexes, forms, strict=True):
        if form != forms[0]:
            warn(
                f"{index.name}: its fp32 products were made in another form than {first.name}'s ({form or 'none'}, "
                f"not {forms[0] or 'none'}): readings differ by rounding, and so may bits next to a threshold"
            )
    seen: dict[str, Path] = {}
    for index in indexes:
        for dataset in index.datasets:
            if dataset["sha256"] in seen:
                raise BadInput(
                    f"holds the dataset {dataset['path']}, which {seen[dataset['sha256']]} holds too",
                    where=index.name,
                    remedy="leave one of them out",
                )
            seen[dataset["sha256"]] = index.folder


def _identity_of(index: Index) -> dict[str, Any]:
    """The options that decide the index's bytes, as its run keeps them. Raises NaitError."""
    identity = read_run(index.folder).get("identity")
    if not isinstance(identity, dict):
        raise Damaged("not what nait_fast writes there", where=index.folder / RUN, remedy="rebuild the index")
    return identity


def merge(indexes: Sequence[Index], folder: Path, on_shard: Callable[[int, int], None]) -> dict[str, Any]:
    """Write the joined ``indexes``, which ``check_joinable`` has passed, into ``folder``, which
    ``storage.owned.check_folder`` has, and return its manifest; ``on_shard(rows of the pool, tokens)`` as each shard is
    done. A merge that was killed goes on. Raises NaitError for damaged shards.
    """
    for index in indexes:
        check_list(index)
    writer = IndexWriter(folder)
    with Lock(folder / LOCK):
        datasets = [dataset for index in indexes for dataset in index.datasets]
        run = _run_of(indexes, datasets)
        if (folder / RUN).exists() and read_run(folder) != run:
            raise Mismatch("holds another index", where=folder, remedy="choose another folder or delete it")
        if (folder / MANIFEST).exists():
            writer.sweep()
            return Index(folder).manifest
        write_run(folder, run)
        writer.begin()
        for name, digest in _beside(indexes[0]).items():
            _copy(indexes[0].folder / name, folder / name, digest)
        _copy_plans(indexes, folder)
        number = rows = 0
        shards = sum(len(index.entries) for index in indexes)
        writer.check(range(shards), every_byte=True)
        for index in indexes:
            listed = Listed(index)
            for entry in index.entries:
                lines = listed.lines_until(entry.first_row + entry.pool_rows)
                if not writer.is_done(number):
                    _copy_shard(index, entry, writer, number, rows, lines)
                on_shard(entry.pool_rows, writer.note(number)["tokens"])
                number += 1
            rows += index.pool_rows
        head = {k: v for k, v in indexes[0].manifest.items() if k in (*_same(indexes[0]), "model_name", "positions")}
        manifest = writer.finish({**head, "datasets": datasets}, range(shards), None)
        writer.sweep()
        return manifest


def _copy_shard(
    index: Index, entry: ShardEntry, writer: IndexWriter, number: int, first_row: int, lines: list[dict[str, Any]]
) -> None:
    """``first_row``: what the index's rows move by."""
    if (problem := shard_problem(index, entry)) is not None:
        raise problem
    shard = index.open(entry)
    # Repeated ids are found anew: the other row may now be one of another index.
    listed = [{**line, "row": line["row"] + first_row} for line in lines if not is_duplicate(line)]
    exact = {name: np.array(scores) for name, scores in shard.exact.items()}
    # The manifest has them of all its shards; here the first one stands for all.
    unread, unshown = [{} if entry.number else index.manifest.get(key, {}) for key in ("unread", "unshown")]
    writer.write_shard(
        number,
        (first_row + entry.first_row, entry.pool_rows),
        np.array(shard.row) + first_row,
        np.array(shard.n_tokens),
        np.array(shard.codes),
        exact,
        shard.ids(),
        listed,
        {name: np.array(column) for name, column in shard.columns.items()},
        unread,
        unshown,
        None if shard.contents is None else np.array(shard.contents),
    )


def _run_of(indexes: Sequence[Index], datasets: list[dict[str, Any]]) -> dict[str, Any]:
    first, files = read_run(indexes[0].folder), {}
    for name, digest in _beside(indexes[0]).items():
        files[name] = sha256_file(indexes[0].folder / name)
        if not files[name].startswith(digest):
            raise _other(indexes[0].folder / name)
    return {**first, "datasets": datasets, "exact": indexes[0].exact, "files": files, "format_version": FORMAT_VERSION}


def _beside(index: Index) -> dict[str, str]:
    """Codebook and calibration of an index, with the digits of their SHA-256 that its manifest has."""
    digests = {CODEBOOK: index.codebook_hash, CALIBRATION: index.manifest["calibration"]}
    return {name: digest for name, digest in digests.items() if digest}


def _other(path: Path) -> NaitError:
    return Damaged("has changed since the index was made (SHA-256 differs)", where=path, remedy="rebuild the index")


def _copy(source: Path, target: Path, digest: str = "") -> None:
    """Copy a small file whose SHA-256 begins with ``digest``. Raises NaitError."""
    try:
        data = source.read_bytes()
    except OSError as error:
        raise BadInput(f"cannot be read ({error.strerror or error})", where=source) from None
    if not sha256(data).startswith(digest):
        raise _other(source)
    write_atomic(target, data)


def _copy_plans(indexes: Sequence[Index], folder: Path) -> None:
    number = 0
    for index in indexes:
        for ordinal in range(len(index.datasets)):
            if (index.folder / plan_name(ordinal)).exists():
                read_plan(index.folder / plan_name(ordinal))
                _copy(index.folder / plan_name(ordinal), folder / plan_name(number))
            number += 1
