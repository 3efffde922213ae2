"""Scores of every indexed row: popcount scans of the codes, or the exact scores stored beside them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from nait_fast.errors import NaitError
from nait_fast.index.reader import Index
from nait_fast.kernels import popcount_scan
from nait_fast.ranking.signature import Signature, check_fits
from nait_fast.ranking.topk import TopK


@dataclass(frozen=True)
class Block:
    """Scores of one shard: ``row`` int64 [n], ``n_tokens`` int32 [n], ``scores`` float64 [n, C]."""

    row: np.ndarray
    n_tokens: np.ndarray
    scores: np.ndarray


def check_index(index: Index, signatures: Sequence[Signature]) -> None:
    """Refuse signatures that this index cannot score. Raises NaitError."""
    names = [signature.name for signature in signatures]
    if len(set(names)) != len(names):
        raise NaitError(f"two signatures have the name '{max(names, key=names.count)}': rename one file's target")
    for signature in signatures:
        where = f"index {index.folder}"
        check_fits(signature, index.manifest["model"], index.manifest["template"], index.codebook_hash, where)
        if signature.meta["layers"] != index.manifest["layers"]:
            raise NaitError(f"signature '{signature.name}' covers other layers than {where}: rebuild it")
        codec = index.manifest["codec"]
        if signature.method == "nait" and index.exact.get(signature.name) != signature.hash:
            raise NaitError(
                f"{where} holds no exact scores of nait signature '{signature.name}': index the pool with --score, "
                "or rank with method contrast"
            )
        if (signature.method == "nag") != (codec == "nag") and signature.method != "nait":
            raise NaitError(f"signature '{signature.name}' ({signature.method}) does not fit codec {codec} of {where}")
        if signature.method == "nag" and signature.meta["top_k"] != index.manifest["top_k"]:
            raise NaitError(
                f"signature '{signature.name}' has top-{signature.meta['top_k']} sets, {where} top-"
                f"{index.manifest['top_k']}: rebuild one of them"
            )


def score_codes(codes: np.ndarray, signatures: Sequence[Signature]) -> np.ndarray:
    """Scores float64 [n, C] of ``codes`` uint8 [n, row_bytes] under bit signatures."""
    planes = np.concatenate([s.tensors["planes"] for s in signatures])
    weights = np.concatenate([s.tensors["plane_weights"] for s in signatures])
    owners = np.repeat(np.arange(len(signatures)), [len(s.tensors["planes"]) for s in signatures])
    counts = popcount_scan(codes, planes, weights, owners, len(signatures))
    return counts * np.array([s.meta["scale"] for s in signatures])


def scan(index: Index, signatures: Sequence[Signature]) -> Iterator[Block]:
    """Scores shard by shard. Raises NaitError for signatures that do not fit and damaged shards."""
    check_index(index, signatures)
    bit = [i for i, s in enumerate(signatures) if s.method != "nait"]
    for shard in index.shards():
        scores = np.empty((len(shard.row), len(signatures)))
        if bit:
            scores[:, bit] = score_codes(shard.codes, [signatures[i] for i in bit])
        for i, signature in enumerate(signatures):
            if signature.method == "nait":
                scores[:, i] = shard.exact[signature.name]
        yield Block(np.array(shard.row), np.array(shard.n_tokens), scores)


def search(index: Index, signature: Signature, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The ``k`` best rows and their scores, best first, in memory that does not grow with the index."""
    if k < 1:
        raise NaitError(f"search: k must be at least 1, not {k}")
    best = TopK(k)
    for block in scan(index, [signature]):
        best.push(block.row, block.scores[:, 0])
    return best.result()
