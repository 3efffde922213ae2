"""Ids that several rows of a pool share, found in bounded memory."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from nait_fast.errors import Damaged
from nait_fast.index.ids import NAMES, split
from nait_fast.storage.files import map_tensors, read_head

HASHES_AT_ONCE = 1 << 23  # 128 MB with their rows; more ids take more passes over the shards


def _ids(path: Path) -> tuple[np.ndarray, list[bytes]]:
    """(rows, ids) of a shard's samples that have an id."""
    layout = {name: tensor for name, tensor in read_head(path, "shard").layout.items() if name in (*NAMES, "row")}
    tensors = map_tensors(path, layout)
    for name, array in tensors.items():
        layout[name].check_all(array, path)
    row = tensors.get("row", np.zeros(0))
    if row.dtype != np.int64 or row.ndim != 1:
        raise Damaged(
            "tensor 'row' is missing or has another shape", where=path, remedy="rebuild it with index --repair"
        )
    texts = split(tensors, len(row), path)
    present = np.array([text is not None for text in texts], dtype=bool)
    return np.array(row)[present], [text for text in texts if text is not None]


def _hashes(ids: list[bytes]) -> np.ndarray:
    digests = b"".join(hashlib.blake2b(text, digest_size=8).digest() for text in ids)
    return np.frombuffer(digests, dtype="<u8")


def duplicate_ids(shards: Sequence[Path]) -> list[tuple[int, int]]:
    """(row, first row with the same id) of every row whose id an earlier row has, by row.

    ``shards``: files of an index, in order. Memory: 16 bytes an id, at most ``HASHES_AT_ONCE`` of them, and what is
    returned. Raises NaitError for a damaged shard.
    """
    total = sum(len(_ids(path)[0]) for path in shards)
    passes = -(-total // HASHES_AT_ONCE)
    repeated: list[tuple[int, int]] = []
    for number in range(passes):
        rows, hashes = [np.zeros(0, dtype=np.int64)], [np.zeros(0, dtype="<u8")]
        for path in shards:
            rows_of_shard, ids = _ids(path)
            ids_hashed = _hashes(ids)
            mine = ids_hashed % np.uint64(passes) == number
            rows.append(rows_of_shard[mine])
            hashes.append(ids_hashed[mine])
        repeated += _repeated(shards, np.concatenate(rows), np.concatenate(hashes))
    return sorted(repeated)


def _repeated(shards: Sequence[Path], rows: np.ndarray, hashes: np.ndarray) -> list[tuple[int, int]]:
    order = np.argsort(hashes, kind="stable")
    same = hashes[order][1:] == hashes[order][:-1]
    suspects = set(rows[order[1:][same]].tolist()) | set(rows[order[:-1][same]].tolist())
    if not suspects:
        return []
    pairs: list[tuple[int, int]] = []
    first: dict[bytes, int] = {}
    for path in shards:  # the ids themselves decide
        rows_of_shard, ids = _ids(path)
        for row, text in zip(rows_of_shard.tolist(), ids, strict=True):
            if row in suspects and (earlier := first.setdefault(text, row)) != row:
                pairs.append((row, earlier))
    return pairs
