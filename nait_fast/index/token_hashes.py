"""What samples hold, as 64-bit hashes of the tokens read: tells which rows of a pool are samples of a target."""

import base64
import hashlib
from collections.abc import Iterable

import numpy as np

NAME = "contents"  # of a shard's tensor int64 [n]; shards of older indexes have none
MOST = 1 << 16  # samples whose hashes a signature holds


def hashes_of(tokens: Iterable[np.ndarray]) -> np.ndarray:
    """int64 [n]: of each sample's token ids (int32)."""
    digests = b"".join(hashlib.blake2b(np.asarray(ids, "<i4").tobytes(), digest_size=8).digest() for ids in tokens)
    return np.frombuffer(digests, dtype="<i8")


def as_text(hashes: np.ndarray) -> str:
    """The different ones, at most ``MOST`` of them, for a signature's metadata."""
    return base64.b64encode(np.unique(hashes)[:MOST].astype("<i8").tobytes()).decode()


def from_text(text: str) -> np.ndarray:
    """What ``as_text`` wrote, int64 [n] ascending. Raises ValueError."""
    return np.frombuffer(base64.b64decode(text, validate=True), dtype="<i8")
