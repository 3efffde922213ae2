"""Scores of every indexed row: popcount scans of the codes, or the exact scores stored beside them."""

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nait_fast.env import pick_device
from nait_fast.errors import NaitError
from nait_fast.index.reader import Index
from nait_fast.index.stream import READERS, Part, Stream
from nait_fast.kernels import PopcountScan
from nait_fast.ranking.signature import Signature, check_fits
from nait_fast.ranking.topk import TopK

GPU_SCAN_BYTES = 1 << 35  # code bytes x planes: about two seconds on a desktop's CPU
GPU_BUFFER_BYTES = 64 << 20  # of codes: a device's copies want more at once than a processor's cache holds
SCORE_BYTES = 2 << 20  # of scores in a block

Scorer = Callable[[np.ndarray], np.ndarray]  # codes uint8 [n, row_bytes] -> scores float64 [n, C]


@dataclass(frozen=True)
class Block:
    """Scores of consecutive rows: ``row`` int64 [n], ``n_tokens`` int32 [n], ``scores`` float64 [n, C]."""

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


def code_counter(signatures: Sequence[Signature], device: str, code_bytes: int = 0) -> PopcountScan:
    """Integer scores under bit signatures, to be multiplied by the signatures' scales."""
    planes = np.concatenate([s.tensors["planes"] for s in signatures])
    weights = np.concatenate([s.tensors["plane_weights"] for s in signatures])
    owners = np.repeat(np.arange(len(signatures)), [len(s.tensors["planes"]) for s in signatures])
    return PopcountScan(planes, weights, owners, len(signatures), device, code_bytes)


def code_scorer(signatures: Sequence[Signature], device: str = "cpu") -> Scorer:
    """A function from codes to their scores under bit signatures."""
    counts = code_counter(signatures, device)
    scales = np.array([s.meta["scale"] for s in signatures])
    return lambda codes: counts(codes) * scales


def _threads_scorer(signatures: Sequence[Signature], code_bytes: int) -> tuple[Scorer, int]:
    """(``code_scorer`` on the CPU, for several threads at once; how many there shall be). Compiles where that pays for
    ``code_bytes`` of codes in all."""
    counter = code_counter(signatures, "cpu", code_bytes)
    if not counter.compiles(0):
        return code_scorer(signatures), READERS
    counter(np.zeros((1, counter.planes.shape[1]), np.uint8))
    import numba

    scales = np.array([s.meta["scale"] for s in signatures])

    def score(codes: np.ndarray) -> np.ndarray:
        # One thread a part: a team of threads waits for its slowest after each part, and spins while it does.
        numba.set_num_threads(1)
        return counter(codes) * scales

    return score, numba.get_num_threads() + 1  # one more than the cores: while one waits for the disk


def score_codes(codes: np.ndarray, signatures: Sequence[Signature]) -> np.ndarray:
    """Scores float64 [n, C] of ``codes`` uint8 [n, row_bytes] under bit signatures, on the CPU."""
    return code_scorer(signatures)(codes)


def _may_have_gpu() -> bool:
    """Whether asking torch for a GPU, which takes seconds and hundreds of MB, can bring one."""
    devices = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")
    return sys.platform != "linux" or any(Path(device).exists() for device in devices)


def scan_device(device: str, index: Index, signatures: Sequence[Signature]) -> str:
    """Where to scan: 'auto' takes a GPU once the work outweighs starting torch. Scores are the same everywhere."""
    planes = sum(len(s.tensors["planes"]) for s in signatures if s.method != "nait")
    if device == "cpu" or not planes:
        return "cpu"
    small = index.rows * index.manifest["row_bytes"] * planes < GPU_SCAN_BYTES
    if device == "auto" and (small or not _may_have_gpu()):
        return "cpu"
    return str(pick_device(device))


def scan(index: Index, signatures: Sequence[Signature], device: str = "cpu") -> Iterator[Block]:
    """Scores of all rows in order, in blocks of some MB, on ``device`` (auto, cpu, cuda …).

    Whatever must be compiled is, before this returns. Raises NaitError for signatures that do not fit and, on the way,
    for damaged shards.
    """
    check_index(index, signatures)
    bit = [i for i, s in enumerate(signatures) if s.method != "nait"]
    exact = {i: s.name for i, s in enumerate(signatures) if s.method == "nait"}
    coded = [signatures[i] for i in bit]
    chosen = scan_device(device, index, signatures)
    score: Scorer | None

    def block(part: Part) -> Block:
        if score is not None and not exact:
            return Block(part.row, part.n_tokens, score(part.codes))
        scores = np.empty((len(part.row), len(signatures)))
        if score is not None:
            scores[:, bit] = score(part.codes)
        for i, name in exact.items():
            scores[:, i] = part.exact[name]
        return Block(part.row, part.n_tokens, scores)

    rows = max(1, SCORE_BYTES // (8 * max(1, len(signatures))))
    if bit and code_counter(coded, chosen).on_device:
        score = code_scorer(coded, chosen)
        whole = Stream(index, list(exact.values()), rows=rows, buffer_bytes=GPU_BUFFER_BYTES)
        return map(block, whole.parts())
    score, threads = _threads_scorer(coded, index.rows * index.layout.row_bytes) if bit else (None, READERS)
    return Stream(index, list(exact.values()), codes=bool(bit), rows=rows).map(block, threads)


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
    for part in Stream(index, buffer_bytes=GPU_BUFFER_BYTES).parts():
        rows = torch.from_numpy(part.row).to(scan.device)
        for start, scores in tiles(part.codes, scan):
            best.push(rows[start : start + len(scores)], scores[:, 0])
    chosen, scores = best.result()
    return chosen, scores * signature.meta["scale"]
