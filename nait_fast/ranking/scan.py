"""Scores of every indexed row: popcount scans of the codes, or the exact scores stored beside them."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from nait_fast.env import pick_device
from nait_fast.errors import NaitError
from nait_fast.index.reader import Index
from nait_fast.kernels import PopcountScan
from nait_fast.ranking.signature import Signature, check_fits
from nait_fast.ranking.topk import TopK

GPU_SCAN_BYTES = 1 << 35  # code bytes x planes: about two seconds on a desktop's CPU


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


def code_counter(signatures: Sequence[Signature], device: str) -> PopcountScan:
    """Integer scores under bit signatures, to be multiplied by the signatures' scales."""
    planes = np.concatenate([s.tensors["planes"] for s in signatures])
    weights = np.concatenate([s.tensors["plane_weights"] for s in signatures])
    owners = np.repeat(np.arange(len(signatures)), [len(s.tensors["planes"]) for s in signatures])
    return PopcountScan(planes, weights, owners, len(signatures), device)


def code_scorer(signatures: Sequence[Signature], device: str = "cpu") -> Callable[[np.ndarray], np.ndarray]:
    """A function from ``codes`` uint8 [n, row_bytes] to their scores float64 [n, C] under bit signatures."""
    counts = code_counter(signatures, device)
    scales = np.array([s.meta["scale"] for s in signatures])
    return lambda codes: counts(codes) * scales


def score_codes(codes: np.ndarray, signatures: Sequence[Signature]) -> np.ndarray:
    """Scores float64 [n, C] of ``codes`` uint8 [n, row_bytes] under bit signatures, on the CPU."""
    return code_scorer(signatures)(codes)


def scan_device(device: str, index: Index, signatures: Sequence[Signature]) -> str:
    """Where to scan: 'auto' takes a GPU once the work outweighs starting torch. Scores are the same everywhere."""
    planes = sum(len(s.tensors["planes"]) for s in signatures if s.method != "nait")
    if device == "cpu" or not planes:
        return "cpu"
    if device == "auto" and index.rows * index.manifest["row_bytes"] * planes < GPU_SCAN_BYTES:
        return "cpu"
    return str(pick_device(device))


def scan(index: Index, signatures: Sequence[Signature], device: str = "cpu") -> Iterator[Block]:
    """Scores shard by shard on ``device`` (auto, cpu, cuda …). Raises NaitError for signatures that do not fit and
    damaged shards."""
    check_index(index, signatures)
    bit = [i for i, s in enumerate(signatures) if s.method != "nait"]
    chosen = scan_device(device, index, signatures)
    score = code_scorer([signatures[i] for i in bit], chosen) if bit else None
    for shard in index.shards():
        scores = np.empty((len(shard.row), len(signatures)))
        if score is not None:
            scores[:, bit] = score(shard.codes)
        for i, signature in enumerate(signatures):
            if signature.method == "nait":
                scores[:, i] = shard.exact[signature.name]
        yield Block(np.array(shard.row), np.array(shard.n_tokens), scores)


def search(index: Index, signature: Signature, k: int, device: str = "cpu") -> tuple[np.ndarray, np.ndarray]:
    """The ``k`` best rows and their scores, best first, in memory that does not grow with the index.

    On a GPU (``device``: auto, cpu, cuda …) scores never leave it, but for those k.
    """
    if k < 1:
        raise NaitError(f"search: k must be at least 1, not {k}")
    check_index(index, [signature])
    chosen = scan_device(device, index, [signature])
    if signature.method != "nait" and (counter := code_counter([signature], chosen)).on_device:
        return _search_on_device(index, signature, k, counter)
    best = TopK(k)
    for block in scan(index, [signature]):
        best.push(block.row, block.scores[:, 0])
    return best.result()


def _search_on_device(
    index: Index, signature: Signature, k: int, counter: PopcountScan
) -> tuple[np.ndarray, np.ndarray]:
    import torch

    from nait_fast.kernels.popcount.device import tiles
    from nait_fast.kernels.popcount.topk import DeviceTopK

    scan = counter.device_scan()
    best = DeviceTopK(k, scan.device)
    for shard in index.shards():
        rows = torch.from_numpy(np.array(shard.row)).to(scan.device)
        for start, scores in tiles(shard.codes, scan):
            best.push(rows[start : start + len(scores)], scores[:, 0])
    chosen, scores = best.result()
    return chosen, scores * signature.meta["scale"]
