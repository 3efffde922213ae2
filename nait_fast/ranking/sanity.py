"""Whether a ranking says anything: scores that do not differ, and rows that are samples of the target themselves."""

from collections.abc import Sequence

import numpy as np

from nait_fast.errors import BadInput
from nait_fast.index import token_hashes
from nait_fast.index.reader import Index
from nait_fast.index.stream import Stream
from nait_fast.methods.signature import Signature
from nait_fast.notices import warn

ROUNDING = 1e-6  # of a score's size: what batches change of sums of floats


def check_spread(index: Index, signatures: Sequence[Signature], low: np.ndarray, high: np.ndarray) -> None:
    """``low``, ``high`` float64 [C]: extremes of each signature's scores over the index.

    Raises NaitError where all rows have one score, unless there is one row, or all rows hold the same, which is said.
    """
    flat = high - low <= np.where([s.is_bits for s in signatures], 0.0, ROUNDING) * np.maximum(abs(low), abs(high))
    if index.rows < 2 or not flat.any():
        return
    where = f"target '{signatures[int(np.argmax(flat))].name}'"
    if _same_contents(index):
        if index.manifest["truncated"]:
            raise BadInput(
                f"all {index.rows:,} rows hold the same tokens once they are cut",
                where=where,
                remedy=f"index the pool with a larger --max-length than {index.manifest['max_length']}",
                join=": ",
            )
        warn(f"all {index.rows:,} rows hold the same tokens: they rank as they lie in the pool")
        return
    if all(s.meta["reading"] == "none" for s in signatures):  # scores of other tools
        raise BadInput(f"all {index.rows:,} rows have the same score", where=where, remedy="give scores that differ")
    if _same_codes(index):
        raise BadInput(
            f"all {index.rows:,} rows have the same score, for all have one and the same code: the chosen layers tell "
            "no row from another",
            where=where,
            remedy="index the pool with other --layers or another model",
        )
    raise BadInput(
        f"all {index.rows:,} rows have the same score, though their codes differ: its signature weighs nothing in "
        "which they do",
        where=where,
        remedy="build it from samples that differ from the pool, or with another --method",
    )


def _same_contents(index: Index) -> bool:
    first: np.ndarray | None = None
    for shard in index.shards():
        hashes = shard.contents
        if hashes is None:
            return False
        first = hashes[:1] if first is None or not len(first) else first
        if (hashes != first[:1]).any():
            return False
    return True


def _same_codes(index: Index) -> bool:
    columns, first = list(index.columns), None
    for part in Stream(index, columns=columns).parts():
        arrays = [part.codes, *(part.columns[name] for name in columns)]
        first = first or [np.array(array[:1]) for array in arrays]
        if any((array != one).any() for array, one in zip(arrays, first, strict=True)):
            return False
    return True


def rows_of_targets(
    index: Index, signatures: Sequence[Signature], places: np.ndarray | None = None
) -> dict[str, int | None]:
    """Name -> how many rows of the index are samples of that target, by the tokens read (of the ``token_hashes.MOST``
    that the signature tells of); None where the index or the signature is of a version that does not tell. ``places``
    int64 [k], ascending: only those among these rows of the index. Warns of those that there are."""
    rows_by_name: dict[str, int | None] = {signature.name: None for signature in signatures}
    # Signatures of one name may be of one target, by several methods, or of several.
    samples_of = {(s.name, hashes.tobytes()): hashes for s in signatures if (hashes := _samples_of(s)) is not None}
    counts = dict.fromkeys(samples_of, 0)
    start = 0
    for shard in index.shards() if samples_of else ():
        if (hashes := shard.contents) is None:
            return rows_by_name
        stop = start + len(hashes)
        if places is not None:
            hashes = hashes[places[slice(*np.searchsorted(places, (start, stop)))] - start]
        start = stop
        for target, samples in samples_of.items():
            counts[target] += int(np.isin(hashes, samples).sum())
    for target, rows in counts.items():
        name, least = target[0], "at least " if len(samples_of[target]) == token_hashes.MOST else ""
        rows_by_name[name] = max(rows, rows_by_name[name] or 0)
        if rows:
            of = f"pool's {index.rows:,}" if places is None else f"{len(places):,} selected"
            warn(
                f"target '{name}': {least}{rows:,} of the {of} rows are samples of the target itself; "
                "they rank high for that alone: leave them out of the one or the other (--decontaminate FILE)"
            )
    return rows_by_name


def _samples_of(signature: Signature) -> np.ndarray | None:
    text = (signature.meta.get("target") or {}).get(token_hashes.NAME)
    try:
        return token_hashes.from_text(text) if isinstance(text, str) else None
    except ValueError:
        return None
