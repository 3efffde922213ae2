"""Checks an index: every byte, what the bytes say, and every row of the pool exactly once (indexed or skipped).

Memory: what one shard takes, mapped, and the lines of ``skipped.jsonl`` that tell of its rows.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from nait_fast.errors import Damaged, Mismatch, NaitError
from nait_fast.index.calibration import load_calibration
from nait_fast.index.reader import Index, Shard, ShardEntry
from nait_fast.index.run_file import read_run
from nait_fast.index.skipped import Listed
from nait_fast.storage.files import sha256_file
from nait_fast.storage.names import CALIBRATION, CODEBOOK, MANIFEST, RUN, SKIPPED, WORK


def shard_problem(index: Index, entry: ShardEntry) -> NaitError | None:
    """What is wrong with the bytes of one shard; None if nothing is."""
    try:
        index.layout_of(entry)
        if sha256_file(entry.path) != entry.sha256:
            return _damaged("its bytes have changed (SHA-256 differs)", entry.path, "rebuild it with index --repair")
    except NaitError as error:
        return error.replace()  # without the frames that it was raised in, which hold arrays
    return None


def problems_of(index: Index) -> list[NaitError]:
    """All that is wrong with an index, in the order of the files. The list is empty where nothing is."""
    problems = list(_beside(index))
    # A list that is not the one that was written would only repeat that for every shard.
    listed = None if any(problem.where == str(index.folder / SKIPPED) for problem in problems) else Listed(index)
    tokens, whole = 0, True
    try:
        for entry in index.entries:
            left_out, noted = listed.until(entry.first_row + entry.pool_rows) if listed else (None, [])
            problem, shard_tokens = _check(index, entry, left_out, noted)
            tokens += shard_tokens
            if problem is not None:
                problems.append(problem)
                whole = False
        if listed:
            problems += listed.end()
    except NaitError as error:  # of a line of skipped.jsonl, or of a shard that something changes now
        problems.append(error.replace())
        whole = False
    if whole and tokens != index.manifest["tokens"]:
        problems.append(
            Damaged(f"{index.manifest['tokens']} tokens, the shards hold {tokens}", where=index.folder / MANIFEST)
        )
    return problems


def _damaged(what: str, where: Path, remedy: str = "rebuild the index") -> Damaged:
    return Damaged(what, where=where, remedy=remedy)


def _check(
    index: Index, entry: ShardEntry, left_out: list[int] | None, noted: list[int]
) -> tuple[NaitError | None, int]:
    """(what is wrong with one shard, its tokens)."""
    if (problem := shard_problem(index, entry)) is not None:
        return problem, 0
    try:
        shard = index.open(entry)
        problem = _content_problem(index, entry, shard) or _rows_problem(entry, shard, left_out, noted)
        return problem, int(np.sum(shard.n_tokens, dtype=np.int64))
    except NaitError as error:
        return error.replace(), 0


def _beside(index: Index) -> Iterator[NaitError]:
    """Problems of the files beside the shards."""
    written, folder = index.manifest, index.folder
    remedy = "finish what is being added to it" if (folder / WORK).is_dir() else "rebuild the index"
    for name, digest in (
        (CODEBOOK, index.codebook_hash),
        (CALIBRATION, written["calibration"]),
        (SKIPPED, written["skipped"].get("sha256")),
    ):
        file = folder / name
        try:
            if not digest and file.exists():
                yield _damaged("does not belong to this index, whose manifest names none", file, "delete it")
            elif digest and not file.is_file():
                yield _damaged("is missing", file, remedy)
            elif digest and not sha256_file(file).startswith(digest):
                yield _damaged("has changed since the index was made (SHA-256 differs)", file, remedy)
            elif digest and name == CALIBRATION:
                load_calibration(file, index.code_layout, index.exact, index.columns)
            elif digest and name == CODEBOOK:
                meta = index.codebook.meta
                if other := [key for key in meta if key in written and meta[key] != written[key]]:
                    what = f"was made with another {other[0]} than the index"
                    yield Mismatch(what, where=file, remedy="rebuild the index")
        except NaitError as error:
            yield error.replace()
    if (folder / RUN).exists():  # an aid of later runs
        try:
            read_run(folder)
        except NaitError as error:
            yield error.replace()


def _content_problem(index: Index, entry: ShardEntry, shard: Shard) -> Damaged | None:
    """What no writer puts into a shard, though its bytes are as they were written. Raises NaitError, too."""
    row, n_tokens = np.array(shard.row), np.array(shard.n_tokens)
    if len(row) and (n_tokens.min() < 1 or n_tokens.max() > index.manifest["max_length"]):
        return _damaged("samples of impossible lengths (n_tokens)", entry.path)
    padding = ~index.code_layout.pack(np.ones((1, index.code_layout.n_neurons), dtype=bool))[0]
    columns = np.flatnonzero(padding)
    if (shard.codes[:, columns] & padding[columns]).any():
        return _damaged("bits of codes beyond their layer's neurons are set", entry.path)
    for name, scores in shard.exact.items():
        if not np.isfinite(scores).all():
            return _damaged(f"exact scores of '{name}' that are not finite", entry.path)
    for name, column in shard.columns.items():
        if column.dtype.kind == "f" and not (np.isfinite(column).all() and (name == "rds" or (column >= 0).all())):
            return _damaged(f"impossible '{name}'", entry.path)
    shard.ids()
    return None


def _rows_problem(entry: ShardEntry, shard: Shard, left_out: list[int] | None, noted: list[int]) -> Damaged | None:
    """Whether the shard's rows and those ``left_out`` are the unit's, and those only ``noted`` of among the shard's."""
    if left_out is None:
        return None
    row = np.array(shard.row)
    both = np.sort(np.concatenate([row, np.array(left_out, dtype=np.int64)]))
    # Row numbers are within the unit by now; comparing lengths first keeps a monstrous unit from being written out.
    if len(both) != entry.pool_rows or (both[1:] == both[:-1]).any():
        return _damaged(f"the rows that it lacks are not those that {SKIPPED} lists", entry.path)
    if not np.isin(np.array(noted, dtype=np.int64), row).all():
        return _damaged(f"{SKIPPED} says of a row that it is kept, but it is not there", entry.path)
    return None
