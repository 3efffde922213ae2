"""Popcount scan on a GPU: planes prepared once, then tiles of codes to integer scores.

Two kernels give the same integers: ``count`` (POPC, one pass a plane) and ``dot`` (int8 tensor cores, one column for
all planes of a score that fit int8). Which is faster depends on planes, columns and device: the first large tile is
scanned by both, timed, and decides.
"""

import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from nait_fast.kernels.common.dispatch import current, interpreted

PLANE_GROUP = 8  # planes that share one pass over the codes
COUNT_BLOCK = (4, 512)  # rows, words of a program of count_kernel and scaled_kernel, which is one warp
INTERPRETED_ROWS = 32  # the same in Triton's interpreter, which pays for each program and not for its size
DOT_COLUMNS = (16, 64)  # fewest and most columns of a program; 128 would not fit the shared memory of every GPU
DOT_STAGES = 2  # tiles of columns on their way
TIMED_BYTES = 8 << 20  # of codes; smaller tiles are over before a timing would pay
TILE_BYTES = 16 << 20  # of codes on their way to the device: a part of an index is several, so that copies overlap
# The choice without a timing: at this many planes POPC's rate meets memory bandwidth (docs/kernels.md).
COUNT_PLANES = 6


def count_block(row_bytes: int, words: int) -> tuple[int, int]:
    """Rows, words of a program over spans of ``words`` words: fewer where rows of ``row_bytes`` begin anywhere, for
    narrow loads need more addresses."""
    rows, most = COUNT_BLOCK
    rows = INTERPRETED_ROWS if interpreted() else rows
    return rows, min(most if row_bytes % 16 == 0 else most // 2, 1 << (words - 1).bit_length())


def dot_block(columns: int) -> tuple[int, int]:
    """Rows, bytes of a program of dot_kernel with ``columns`` columns: what was fastest on an H100, within 64 KB."""
    return (64, 128) if columns <= 16 else (128, 64)


def columns_of(
    planes: np.ndarray, weights: np.ndarray, owners: np.ndarray, n_scores: int
) -> tuple[np.ndarray, np.ndarray]:
    """Planes merged into int8 columns: (columns int8 [8, M, W], factors float64 [M, n_scores]).

    Σ_q weight_q · plane_q of a score is one integer a neuron; its balanced base-256 digits are the columns (one where
    the planes hold 8-bit weights). score = (bits · columns) @ factors, columns[s] being the neurons s, 8 + s, … .
    """
    bits = np.unpackbits(planes, axis=1, bitorder="little")
    columns, factors = [], []
    for score in range(n_scores):
        mine = owners == score
        value = weights[mine] @ bits[mine].astype(np.int64)
        factor = 1
        while value.any():
            digit = ((value + 128) & 255) - 128
            columns.append(digit.astype(np.int8))
            factors.append(np.eye(n_scores)[score] * factor)
            value, factor = (value - digit) >> 8, factor * 256
    if not columns:
        return np.zeros((8, 0, planes.shape[1]), dtype=np.int8), np.zeros((0, n_scores))
    stacked = np.stack(columns).reshape(len(columns), -1, 8)
    return np.ascontiguousarray(stacked.transpose(2, 0, 1)), np.stack(factors)


@dataclass
class DeviceScan:
    """``planes`` uint8 [Q, W], ``weights``, ``owners`` int64 [Q] as in ``reference.popcount_scan``, on ``device``.

    ``method``: 'count', 'dot' or 'auto'.
    """

    planes: np.ndarray
    weights: np.ndarray
    owners: np.ndarray
    n_scores: int
    device: torch.device
    method: str = "auto"

    def __post_init__(self) -> None:
        self._planes = torch.from_numpy(self.planes).to(self.device).view(torch.int32)
        self._groups = [self._group(start) for start in range(0, len(self.planes), PLANE_GROUP)]
        self._columns: torch.Tensor | None = None
        self._factors: torch.Tensor | None = None
        self._chosen = "" if self.method == "auto" else self.method

    def _group(self, start: int) -> tuple[torch.Tensor, torch.Tensor, int]:
        """(planes, their weights int64 [planes, scores] of the scores that they add to, the first of these)."""
        some = slice(start, start + PLANE_GROUP)
        first, last = int(self.owners[some].min()), int(self.owners[some].max())
        weights = np.zeros((len(self.owners[some]), last - first + 1), dtype=np.int64)
        weights[np.arange(len(weights)), self.owners[some] - first] = self.weights[some]
        return self._planes[some].contiguous(), torch.from_numpy(weights).to(self.device), first

    def _prepare_dot(self) -> None:
        columns, factors = columns_of(self.planes, self.weights, self.owners, self.n_scores)
        self._columns = torch.from_numpy(columns).to(self.device)
        # Usually a column is a score. Otherwise: products of integers below 2⁵³ are exact in fp64, and integer matrix
        # products do not exist on a GPU.
        plain = np.array_equal(factors, np.eye(self.n_scores))
        self._factors = None if plain else torch.from_numpy(factors).to(self.device)

    def counts(self, codes: torch.Tensor) -> torch.Tensor:
        """Scores int64 [n, n_scores] by popcounts, a plane at a time."""
        from nait_fast.kernels.popcount.kernel import count_kernel

        n, words = len(codes), codes.shape[1] // 4
        out = torch.zeros(n, self.n_scores, dtype=torch.int64, device=codes.device)
        rows, block = count_block(codes.shape[1], words)
        for planes, weights, first in self._groups:
            count_kernel[(-(-n // rows),)](
                codes.view(torch.uint32),
                planes.view(torch.uint32),
                weights,
                out[:, first:],
                n,
                words,
                weights.shape[1],
                self.n_scores,
                N_PLANES=len(planes),
                PLANES=1 << (len(planes) - 1).bit_length(),
                BLOCK_N=rows,
                BLOCK_W=block,
                num_warps=1,
            )
        return out

    def products(self, codes: torch.Tensor) -> torch.Tensor:
        """Bits times each int8 column: [n, M], int64 where the columns are the scores, else int32."""
        from nait_fast.kernels.popcount.kernel import dot_kernel

        if self._columns is None:
            self._prepare_dot()
        assert self._columns is not None
        n, width, n_columns = len(codes), codes.shape[1], self._columns.shape[1]
        out = torch.empty(
            n, n_columns, dtype=torch.int64 if self._factors is None else torch.int32, device=codes.device
        )
        low, high = DOT_COLUMNS
        block_m = min(high, max(low, 1 << (n_columns - 1).bit_length()))
        block_n, block_k = dot_block(block_m)
        packed = torch.version.hip is None and not interpreted()
        dot_kernel[(-(-n // block_n) * -(-n_columns // block_m),)](
            codes,
            self._columns,
            out,
            n,
            n_columns,
            N_BYTES=width,
            BLOCK_N=block_n,
            BLOCK_M=block_m,
            BLOCK_K=block_k,
            PACKED=packed,
            num_warps=8 if block_m > 32 else 4,
            num_stages=1 if width % 16 else DOT_STAGES,
        )
        return out

    def _scores(self, codes: torch.Tensor, method: str) -> torch.Tensor:
        if method == "count":
            return self.counts(codes)
        products = self.products(codes)
        return products if self._factors is None else (products.double() @ self._factors).long()

    def __call__(self, codes: torch.Tensor) -> torch.Tensor:
        """Scores int64 [n, n_scores] of ``codes`` uint8 [n, W], contiguous, on the device."""
        with current(codes.device):
            return self._scan(codes)

    def _scan(self, codes: torch.Tensor) -> torch.Tensor:
        if not len(codes) or not len(self.planes) or not self.weights.any():
            return torch.zeros(len(codes), self.n_scores, dtype=torch.int64, device=codes.device)
        if self._chosen:
            return self._scores(codes, self._chosen)
        if codes.numel() < TIMED_BYTES or codes.device.type != "cuda":
            return self._scores(codes, "count" if len(self.planes) <= COUNT_PLANES else "dot")
        times = {}
        for method in ("count", "dot"):
            self._scores(codes, method)  # compiles
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            scores = self._scores(codes, method)
            end.record()
            end.synchronize()
            times[method] = start.elapsed_time(end)
        self._chosen = min(times, key=lambda name: times[name])
        return scores


def scaled_scores(
    codes: torch.Tensor, planes: torch.Tensor, weights: torch.Tensor, scales: torch.Tensor, layer_bytes: int
) -> torch.Tensor:
    """One score, fp32 [n], as in ``reference.scaled_scan``, of layers of one width, all of it on one device.

    ``codes`` uint8 [n, W] and ``planes`` uint8 [Q, W], W at least L layers of ``layer_bytes`` (whole 32-bit words);
    ``weights`` float [Q, L], ``scales`` fp16 or fp32 [n, L]. Raises ValueError on shapes that do not fit.
    """
    from nait_fast.kernels.popcount.kernel import scaled_kernel

    (n, width), n_layers = codes.shape, scales.shape[1]
    fits = planes.shape[1] == width >= n_layers * layer_bytes and not (width % 4 or layer_bytes % 4)
    if not fits or weights.shape != (len(planes), n_layers) or len(scales) != n:
        shapes = ", ".join(str(tuple(x.shape)) for x in (codes, planes, weights, scales))
        raise ValueError(f"codes, planes, weights and scales do not fit: {shapes}")
    codes, planes = (x.contiguous().view(torch.uint32) for x in (codes, planes))
    weights, scales = weights.float().contiguous(), scales.contiguous()
    words = layer_bytes // 4
    total = torch.zeros(n, dtype=torch.float32, device=codes.device)
    for some, weight in zip(planes.split(PLANE_GROUP), weights.split(PLANE_GROUP), strict=True):
        group = 1 << (len(some) - 1).bit_length()
        (rows, block), scores = count_block(width, words), torch.empty_like(total)
        if n and len(some):
            with current(codes.device):
                scaled_kernel[(-(-n // rows),)](
                    codes,
                    some,
                    weight,
                    scales,
                    scores,
                    n,
                    n_layers,
                    width // 4,
                    N_PLANES=len(some),
                    PLANES=group,
                    WORDS=words,
                    BLOCK_N=rows,
                    BLOCK_W=block,
                    num_warps=1,
                )
            total += scores
    return total


def tiles(codes: np.ndarray, scan: DeviceScan, tile_bytes: int = TILE_BYTES) -> Iterator[tuple[int, torch.Tensor]]:
    """(first row, scores int64 [rows, n_scores] on the device) of host ``codes`` uint8 [n, W], tile by tile.

    ``codes`` may be a mapped file. They go through two pinned buffers: while the device copies and scans one tile, the
    host fills the other.
    """
    n, width = codes.shape
    rows = min(n, max(1, tile_bytes // max(1, width)))
    cuda = scan.device.type == "cuda"
    buffers = [torch.empty(rows, width, dtype=torch.uint8, pin_memory=cuda) for _ in range(2 if n > rows else 1)]
    done: list[torch.cuda.Event | None] = [None] * len(buffers)
    with current(scan.device):
        copier = torch.cuda.Stream(scan.device) if cuda else None
    for number, start in enumerate(range(0, n, max(1, rows))):
        slot = number % len(buffers)
        if (event := done[slot]) is not None:
            event.synchronize()  # the buffer's last tile is scanned: so the host is two tiles ahead at most
        block = codes[start : start + rows]
        with warnings.catch_warnings():  # a mapped file is not writable, and is not written
            warnings.simplefilter("ignore")
            buffers[slot][: len(block)].copy_(torch.from_numpy(block))  # torch's copy uses several threads
        if copier is None:
            yield start, scan(buffers[slot][: len(block)].clone())
            continue
        with torch.cuda.stream(copier):
            tile = buffers[slot][: len(block)].to(scan.device, non_blocking=True)
            copied = torch.cuda.Event()
            copied.record(copier)
        now = torch.cuda.current_stream(scan.device)
        now.wait_event(copied)
        tile.record_stream(now)
        scores = scan(tile)
        done[slot] = scanned = torch.cuda.Event()
        scanned.record(now)
        yield start, scores


def stream(codes: np.ndarray, scan: DeviceScan, tile_bytes: int = TILE_BYTES) -> np.ndarray:
    """Scores int64 [n, n_scores] of host ``codes`` uint8 [n, W]; see ``tiles``."""
    parts = [scores for _, scores in tiles(codes, scan, tile_bytes)]
    return torch.cat(parts).cpu().numpy() if parts else np.zeros((0, scan.n_scores), dtype=np.int64)
