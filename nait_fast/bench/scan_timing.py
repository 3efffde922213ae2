"""The popcount scan: random codes of 5,760 bytes (SmolLM2-135M's 46,080 neurons), and of 44 KB (LLaMA-2-7B's 352,256),
against 1 to 128 bit planes.

Four planes make one capability (a signed 4-bit weight a neuron). GB/s count the bytes of codes, read once however many
planes there are. ``floor_ms`` is what a GPU needs at least: to read the codes, or for its arithmetic at the rate that
its int8 products reach in this run (``dot``), or at 16 POPC a clock and multiprocessor (``count``, where that is the
GPU's rate). All rows are scanned, and the scores of the first and the last 1,000 must equal the NumPy reference's,
before a time is taken.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from nait_fast.bench.checks import failure
from nait_fast.bench.timing import Ceilings, Stopwatch, free_memory
from nait_fast.kernels.common.dispatch import has_triton
from nait_fast.kernels.popcount import cpu, reference
from nait_fast.progress import say

ROW_BYTES = 5760
PLANES = (1, 4, 16, 64, 128)
WIDE_ROW_BYTES = 44_032
WIDE_PLANES = (4, 128)
POPC_A_CLOCK = 16  # of a multiprocessor: CUDA's table of arithmetic throughput
POPC_FROM, POPC_TO = (8, 0), (9, 0)  # the compute capabilities that this is known of
CHECKED = 2000  # rows at both ends together: an offset of 32 bits would go wrong only far from the first
STREAMED = 200_000

Query = tuple[np.ndarray, np.ndarray, np.ndarray, int]


def make_query(n_planes: int, seed: int, row_bytes: int = ROW_BYTES) -> Query:
    """(planes uint8 [Q, W], weights, owners int64 [Q], scores): capabilities of four planes, weights 1, 2, 4, -8."""
    planes = np.random.default_rng(seed).integers(0, 256, (n_planes, row_bytes), dtype=np.uint8)
    weights = np.array([1, 2, 4, -8], dtype=np.int64)[np.arange(n_planes) % 4]
    return planes, weights, np.arange(n_planes) // 4, -(-n_planes // 4)


def _ends(rows: Any) -> np.ndarray:
    """The first and the last of ``rows`` (array or tensor), or all where they are few."""
    parts = [rows] if len(rows) <= CHECKED else [rows[: CHECKED // 2], rows[-(CHECKED // 2) :]]
    return np.concatenate([part.cpu().numpy() if isinstance(part, torch.Tensor) else part for part in parts])


def _planes(n: int, row_bytes: int = ROW_BYTES) -> str:
    wide = f", {row_bytes // 1000} KB" if row_bytes != ROW_BYTES else ""
    return f"{n} plane{'s' if n > 1 else ''}{wide}"


@dataclass
class ScanCase:
    """``scan(codes)`` gives the scores (array or tensor) of ``codes`` [n, W] for ``query``; ``in_place``: they lie in
    the device's own memory, so that a share of its read bandwidth says something."""

    name: str
    method: str
    scan: Callable[[Any], Any]
    codes: Any
    query: Query
    in_place: bool = True
    expected: Callable[[np.ndarray], np.ndarray] | None = None  # the reference's scores, if not the popcount scan's
    arithmetic_s: float = 0.0  # what the arithmetic takes at least; 0: not known

    def row(self, watch: Stopwatch, ceilings: Ceilings, seconds: float, quiet: bool) -> dict[str, Any]:
        """The result row: the check, and the speed if that passed."""
        say(f"bench: scan, {self.name}", quiet)
        row: dict[str, Any] = {
            "name": self.name,
            "method": self.method,
            "planes": len(self.query[0]),
            "rows": len(self.codes),
            "row_bytes": self.codes.shape[1],
        }
        try:
            sample = _ends(self.codes)
            scores = self.expected(sample) if self.expected else reference.popcount_scan(sample, *self.query)
            differ = int((_ends(self.scan(self.codes)) != scores).sum())
            if differ:
                return row | {"check": f"failed: {differ:,} scores differ from the reference"}
            row["check"] = f"ok: {len(sample):,} rows equal"
            times = watch.in_turn({"scan": partial(self.scan, self.codes)}, seconds)["scan"]
        except Exception as error:  # a kernel that does not compile here must not cost the other rows
            return row | {"check": failure(error)}
        size = len(self.codes) * self.codes.shape[1]
        rate = size / (times.p50 / 1e3)
        row |= times.fields() | {"gb_per_s": rate / 1e9} | ({"of_read": rate / ceilings.read} if self.in_place else {})
        if self.arithmetic_s:
            floor = 1e3 * max(size / ceilings.read, self.arithmetic_s)
            row |= {"floor_ms": floor, "of_floor": floor / times.p50}
        return row


def measure_scan(
    watch: Stopwatch, ceilings: Ceilings, seconds: float, seed: int = 0, quiet: bool = True, small: bool = False
) -> Iterator[dict[str, Any]]:
    """One row a method and number of planes."""
    if watch.device.type != "cuda":
        yield from _on_cpu(watch, ceilings, seconds, seed, quiet, small)
    elif has_triton():
        yield from _on_gpu(watch, ceilings, seconds, seed, quiet)
    else:
        yield {"name": "scan", "check": "skipped: no Triton here; codes are scanned on the CPU"}


def _on_cpu(
    watch: Stopwatch, ceilings: Ceilings, seconds: float, seed: int, quiet: bool, small: bool
) -> Iterator[dict[str, Any]]:
    n = 500 if small else 20_000
    generator, share = np.random.default_rng(seed), seconds / (2 * len(PLANES) + len(WIDE_PLANES))
    codes = generator.integers(0, 256, (n, ROW_BYTES), dtype=np.uint8)
    for n_planes in PLANES:
        query = make_query(n_planes, seed + 1)
        scans = {"numba": cpu.popcount_scan, "numpy": reference.popcount_scan}
        for method, function in scans.items():
            # NumPy is the reference, and slow: fewer rows.
            scanned = codes if method == "numba" else codes[:CHECKED]

            def scan(rows: np.ndarray, function: Any = function, query: Query = query) -> np.ndarray:
                return function(rows, *query)

            case = ScanCase(f"{method}, {_planes(n_planes)}", method, scan, scanned, query)
            yield case.row(watch, ceilings, share, quiet)
    wide = generator.integers(0, 256, (n // 5, WIDE_ROW_BYTES), dtype=np.uint8)
    for n_planes in WIDE_PLANES:
        query = make_query(n_planes, seed + 1, WIDE_ROW_BYTES)

        def scan_wide(rows: np.ndarray, query: Query = query) -> np.ndarray:
            return cpu.popcount_scan(rows, *query)

        case = ScanCase(f"numba, {_planes(n_planes, WIDE_ROW_BYTES)}", "numba", scan_wide, wide, query)
        yield case.row(watch, ceilings, share, quiet)


def _on_gpu(watch: Stopwatch, ceilings: Ceilings, seconds: float, seed: int, quiet: bool) -> Iterator[dict[str, Any]]:
    from nait_fast.kernels.popcount.device import DeviceScan, stream

    device = watch.device
    n = 1_000_000 if (free_memory(device) or 0) >= 16 << 30 else 100_000
    generator = torch.Generator(device).manual_seed(seed)
    share = seconds / (2 * len(PLANES) + 2 * len(WIDE_PLANES) + 4)

    def random_codes(rows: int, row_bytes: int) -> torch.Tensor:
        return torch.randint(0, 256, (rows, row_bytes), dtype=torch.uint8, device=device, generator=generator)

    def both(codes: torch.Tensor, n_planes: int) -> Iterator[dict[str, Any]]:
        width = codes.shape[1]
        query = make_query(n_planes, seed + 1, width)
        auto = _choice(DeviceScan(*query, device, "auto"), codes)
        for method in ("count", "dot"):
            name, scan = f"{method}, {_planes(n_planes, width)}", DeviceScan(*query, device, method)
            floor = _arithmetic_seconds(method, query, len(codes), ceilings, device)
            case = ScanCase(name, method, scan, codes, query, arithmetic_s=floor)
            yield case.row(watch, ceilings, share, quiet) | {"auto": auto}

    wide = random_codes(n // 8, WIDE_ROW_BYTES)
    for n_planes in WIDE_PLANES:
        yield from both(wide, n_planes)
    del wide
    codes = random_codes(n, ROW_BYTES)
    for n_planes in PLANES:
        yield from both(codes, n_planes)
    for n_planes in (1, 4):
        yield _scaled(codes, n_planes, seed).row(watch, ceilings, share, quiet)
    host = codes[:STREAMED].cpu().numpy()  # pageable memory, as a mapped file is
    for n_planes in (4, 64):
        query = make_query(n_planes, seed + 1)
        scan = partial(_streamed, stream, DeviceScan(*query, device, "auto"))
        case = ScanCase(f"from host memory, {_planes(n_planes)}", "stream", scan, host, query, in_place=False)
        yield case.row(watch, ceilings, share, quiet)


def _arithmetic_seconds(method: str, query: Query, n: int, ceilings: Ceilings, device: torch.device) -> float:
    """What the arithmetic of a scan of ``n`` rows takes at least; 0 where the rate is not known."""
    planes = query[0]
    if method == "dot":
        from nait_fast.kernels.popcount.device import columns_of

        columns = columns_of(*query)[0].shape[1]
        return 2.0 * n * 8 * planes.shape[1] * columns / ceilings.int8 if ceilings.int8 else 0.0
    properties = torch.cuda.get_device_properties(device)
    if torch.version.hip is not None or not POPC_FROM <= (properties.major, properties.minor) <= POPC_TO:
        return 0.0
    rate = POPC_A_CLOCK * properties.multi_processor_count * 1e3 * getattr(properties, "clock_rate", 0)
    return n * planes.shape[1] / 4 * len(planes) / rate if rate else 0.0


def _scaled(codes: torch.Tensor, n_planes: int, seed: int) -> ScanCase:
    """Rotated codes of 30 layers with a factor a row and layer: powers of two, so that sums in fp32 are exact."""
    from nait_fast.kernels.popcount.device import scaled_scores

    planes, weights, _, _ = query = make_query(n_planes, seed + 1)
    layers, device = 30, codes.device
    factors = 2.0 ** np.random.default_rng(seed).integers(-1, 2, layers)
    scales = torch.from_numpy(factors).half().to(device).expand(len(codes), layers).contiguous()
    by_layer = np.repeat(weights[:, None], layers, axis=1).astype(np.float32)
    on_device = torch.from_numpy(planes).to(device), torch.from_numpy(by_layer).to(device), scales
    width = ROW_BYTES // layers

    def expected(rows: np.ndarray) -> np.ndarray:
        ends, owners = np.arange(layers + 1) * width, np.zeros(n_planes, dtype=np.int64)
        row_factors = np.broadcast_to(factors, (len(rows), layers))
        return reference.scaled_scan(rows, planes, by_layer, owners, 1, row_factors, ends)[:, 0]

    return ScanCase(
        f"scaled, {_planes(n_planes)}",
        "scaled",
        lambda rows: scaled_scores(rows, *on_device, width),
        codes,
        query,
        expected=expected,
    )


def _streamed(stream: Callable[[np.ndarray, Any], np.ndarray], scan: Any, rows: np.ndarray) -> np.ndarray:
    return stream(rows, scan)


def _choice(scan: Any, codes: torch.Tensor) -> str:
    """The method that ``auto`` settles on for ``codes``."""
    try:
        scan(codes)
        return getattr(scan, "_chosen", "") or "not decided"
    except Exception as error:  # the rows of the two methods say why
        return type(error).__name__
