"""Scores of every indexed row: scans of the codes, the embeddings, or the exact scores stored beside them."""

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from nait_fast.codecs import codec_of
from nait_fast.env import check_variables, pick_device
from nait_fast.errors import BadInput
from nait_fast.index.reader import Index
from nait_fast.index.stream import BUFFER_BYTES, READERS, Part, Stream, Stretches
from nait_fast.kernels import PopcountScan
from nait_fast.methods import method_of
from nait_fast.methods.signature import Signature, require_samples
from nait_fast.ranking.sanity import check_spread
from nait_fast.ranking.sources import Sampled, check_index, code_counter, source_of, works_of
from nait_fast.ranking.streaming_topk import TopK, check_k

GPU_SCAN_BYTES = 1 << 35  # code bytes x planes, or multiply-adds: about two seconds on a desktop's CPU
GPU_BUFFER_BYTES = 64 << 20  # of codes: a device's copies want more at once than a processor's cache holds
SCORE_BYTES = 2 << 20  # of scores in a block


class Look(Protocol):
    """What is shown the similarities of the samples of all signatures, where rows are scored by them."""

    def sift(self, row: np.ndarray, similarities: np.ndarray) -> Any:
        """What is ``seen`` of rows int64 [n] and their similarities float64 [n, samples]; several threads may ask."""


class LookApart(Look, Protocol):
    """The same of some consecutive rows, in another process: ``add`` what ``sift`` gave of each block, in order."""

    def add(self, seen: Any) -> None: ...

    def kept(self) -> Any:
        """What is seen of all of these rows together."""


class LookAnywhere(Look, Protocol):
    """A look that other processes can help with."""

    def apart(self, first: int, stop: int) -> LookApart:
        """Of the rows from ``first`` to ``stop``; called in the order of the rows."""


@dataclass(frozen=True)
class Block:
    """Scores of consecutive rows: ``row`` int64 [n], ``n_tokens`` int32 [n], ``scores`` float64 [n, C]; ``seen``: what
    the ``look`` of a scan made of them."""

    row: np.ndarray
    n_tokens: np.ndarray
    scores: np.ndarray
    seen: Any = None


def score_codes(codes: np.ndarray, signatures: Sequence[Signature]) -> np.ndarray:
    """Scores float64 [n, C] of ``codes`` uint8 [n, row_bytes] under bit signatures, on the CPU."""
    return code_counter(signatures, "cpu")(codes) * np.array([s.meta["scale"] for s in signatures])


def _may_have_gpu() -> bool:
    """Whether asking torch for a GPU, which takes seconds and hundreds of MB, can bring one."""
    devices = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")
    return sys.platform != "linux" or any(Path(device).exists() for device in devices)


def check_device(
    device: str, index: Index, signatures: Sequence[Signature], flag: str = "--device", rule: str | None = None
) -> None:
    """Raises NaitError for a device that is named, but is not there or would have nothing to do by ``rule``."""
    if device in ("auto", "cpu"):
        return
    if not _planes(index, signatures, rule) and not _products(index, signatures, rule):
        raise BadInput(
            "codes are scanned on a device, and vectors compared, but none of these signatures is scored by them",
            where=f"{flag} {device}",
            remedy="leave it out",
        )
    pick_device(device)


def _planes(index: Index, signatures: Sequence[Signature], rule: str | None = None) -> int:
    """Bit planes to scan the codes with."""
    if rule in ("max", "roundrobin"):
        return sum(s.samples for s in signatures if s.is_bits)
    estimated = sum(source_of(index, s) == "estimated" for s in signatures)
    of_bits = sum(len(s.tensors["planes"]) for s in signatures if s.is_bits)
    return of_bits + estimated * codec_of(index.manifest["codec"]).planes


def _products(index: Index, signatures: Sequence[Signature], rule: str | None = None) -> int:
    """Multiply-adds a row where vectors are compared with single samples."""
    by_sample = rule in ("max", "roundrobin")
    compared = [s for s in signatures if by_sample or source_of(index, s) == "samples"]
    return sum(method_of(s.method).products(s) for s in compared)


def scan_device(device: str, index: Index, signatures: Sequence[Signature], rule: str | None = None) -> str:
    """Where to scan: 'auto' takes a GPU once the work outweighs starting torch. Bit scores are the same everywhere."""
    work = index.manifest["row_bytes"] * _planes(index, signatures, rule) + _products(index, signatures, rule)
    if device == "cpu" or not work:
        return "cpu"
    small = index.rows * work < GPU_SCAN_BYTES
    if device == "auto" and (small or not _may_have_gpu()):
        return "cpu"
    return str(pick_device(device))


def scan(
    index: Index,
    signatures: Sequence[Signature],
    device: str = "cpu",
    rule: str | None = None,
    look: Look | None = None,
) -> Iterator[Block]:
    """Scores of all rows in order by ``rule`` (None: each method's own), in blocks of some MB, on ``device`` (auto,
    cpu, cuda …). Rule roundrobin scores as max does.

    Whatever must be compiled is, before this returns. Raises NaitError for signatures that do not fit and, on the way,
    for damaged shards.
    """
    check_index(index, signatures)
    return Scanner(index, signatures, scan_device(device, index, signatures, rule), rule).blocks(index, look)


class Scanner:
    """Scores rows of ``index`` by ``rule`` under ``signatures`` that fit it, on ``device``. With 'cpu' it may be sent
    to other processes, which score parts of ``stream`` as they would be scored here."""

    def __init__(self, index: Index, signatures: Sequence[Signature], device: str = "cpu", rule: str | None = None):
        sources = {source_of(index, s) for s in signatures}
        self._works, self._device, self._number = works_of(index, signatures, device, rule), device, len(signatures)
        self._coded = bool(sources & {"bits", "estimated"})
        self._columns = list(dict.fromkeys(name for work in self._works for name in work.columns))
        self._exact = [s.name for s in signatures if source_of(index, s) == "exact"]
        self._sampled = [work for work in self._works if isinstance(work, Sampled)]
        numbers = sum(work.similarities.queries for work in self._sampled) + self._number - len(self._sampled)
        self._rows = max(1, SCORE_BYTES // (8 * max(1, numbers)))

    def stream(self, index: Index) -> Stream:
        """What is read of the index."""
        buffer_bytes = BUFFER_BYTES if self._device == "cpu" else GPU_BUFFER_BYTES
        return Stream(
            index, self._exact, codes=self._coded, columns=self._columns, rows=self._rows, buffer_bytes=buffer_bytes
        )

    def blocks(
        self, index: Index, look: Look | None = None, only: Stretches | None = None, cores: int | None = None
    ) -> Iterator[Block]:
        """Blocks in order, of all rows or of ``only`` some, by ``cores`` (by default as many as Numba takes). Whatever
        must be compiled is, before this returns. On the way it raises NaitError for damaged shards."""

        def block(part: Part) -> Block:
            return self._block(part, look)

        stream = self.stream(index)
        if self._device != "cpu":
            return map(block, stream.parts())
        if not any([work.compile() for work in self._works]):
            return stream.map(block, cores or READERS, only)
        import numba

        def alone(part: Part) -> Block:
            # One thread a part: a team of threads waits for its slowest after each part, and spins while it does.
            numba.set_num_threads(1)
            return block(part)

        # One more than the cores: while one waits for the disk.
        return stream.map(alone, (cores or numba.get_num_threads()) + 1, only)

    def _block(self, part: Part, look: Look | None) -> Block:
        if look is not None:
            each = [work.similarities(part) for work in self._sampled]
            reduced = np.stack([work.reduced(one) for work, one in zip(self._sampled, each, strict=True)], axis=1)
            return Block(part.row, part.n_tokens, reduced, look.sift(part.row, np.concatenate(each, axis=1)))
        if len(self._works) == 1:
            return Block(part.row, part.n_tokens, self._works[0].score(part))
        scores = np.empty((len(part.row), self._number))
        for work in self._works:
            scores[:, work.places] = work.score(part)
        return Block(part.row, part.n_tokens, scores)


Scan = Callable[[Index, Sequence[Signature], str, str | None, LookAnywhere | None], Iterator[Block]]  # as ``scan``


class AsTheyAre:
    """A ``Look`` that keeps all similarities."""

    def __init__(self) -> None:
        self._seen = list[np.ndarray]()

    def sift(self, row: np.ndarray, similarities: np.ndarray) -> np.ndarray:
        return similarities

    def apart(self, first: int, stop: int) -> "AsTheyAre":
        return AsTheyAre()

    def add(self, seen: np.ndarray) -> None:
        self._seen.append(seen)

    def kept(self) -> np.ndarray:
        return np.concatenate(self._seen)


def similarities(
    index: Index, signatures: Sequence[Signature], device: str = "cpu", scanning: Scan = scan
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """How like each target sample that ``signatures`` keep is to all rows in order, block by block: (row int64 [n],
    float64 [n, samples of all signatures]). Raises NaitError for signatures that do not fit, or keep no samples."""
    for signature in signatures:
        require_samples(signature, "similarities")
    return ((block.row, block.seen) for block in scanning(index, signatures, device, "max", AsTheyAre()))


def search(index: Index, signature: Signature, k: int, device: str = "cpu") -> tuple[np.ndarray, np.ndarray]:
    """The best rows of an index and their scores, in memory that does not grow with the index.

    On a GPU scores never leave it, but for the best.

    Args:
        index: The index.
        signature: A signature that fits it.
        k: How many rows.
        device: Where to scan: auto, cpu, cuda, cuda:1.

    Returns:
        (rows of the pool int64 [k], scores float64 [k]), best first; fewer where the index has fewer.

    Raises:
        Mismatch: The signature does not fit the index.
        BadInput: All rows have the same score, or there is no such device.

    Examples:
        >>> signature = nait_fast.load_signature("signatures/sums.safetensors")
        >>> rows, scores = nait_fast.search(nait_fast.Index("index"), signature, 5)
        >>> rows.shape, bool(scores[0] >= scores[4])
        ((5,), True)
    """
    check_k(k)
    check_variables()
    check_index(index, [signature])
    check_device(device, index, [signature], "search: device")
    chosen = scan_device(device, index, [signature])
    if signature.is_bits and (counter := code_counter([signature], chosen)).on_device:
        return _search_on_device(index, signature, k, counter)
    best = TopK(k)
    for block in scan(index, [signature], device):
        best.push(block.row, block.scores[:, 0])
    rows, scores = best.result()
    check_spread(index, [signature], np.array([best.lowest]), scores[:1])
    return rows, scores


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
    check_spread(index, [signature], np.array([best.lowest()]), scores[:1])
    return chosen, scores * signature.meta["scale"]
