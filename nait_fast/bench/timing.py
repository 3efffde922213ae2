"""A device: times of jobs measured in turn on it, its free memory, and the ceilings that times are set against."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from nait_fast.models.linear import usable

MIN_ROUNDS, MAX_ROUNDS = 3, 200
Job = Callable[[], Any]


@dataclass(frozen=True)
class Times:
    """Milliseconds of a job: quantiles (20, 50, 80%) over ``repeats`` runs."""

    p20: float
    p50: float
    p80: float
    repeats: int

    @classmethod
    def of(cls, milliseconds: list[float]) -> "Times":
        p20, p50, p80 = (float(q) for q in np.quantile(milliseconds, (0.2, 0.5, 0.8)))
        return cls(p20, p50, p80, len(milliseconds))

    def fields(self, prefix: str = "") -> dict[str, float | int]:
        """As a result row holds them."""
        return {
            f"{prefix}ms_p20": self.p20,
            f"{prefix}ms": self.p50,
            f"{prefix}ms_p80": self.p80,
            f"{prefix}repeats": self.repeats,
        }


def synchronize(device: torch.device) -> None:
    """Wait until the device has done all that was queued."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def free_memory(device: torch.device) -> int | None:
    """Bytes that can still be allocated on ``device``; None where the system does not tell."""
    if device.type == "cuda":
        torch.cuda.empty_cache()  # blocks that torch keeps for itself can be had, too
        return torch.cuda.mem_get_info(device)[0]
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            fields = dict(line.split(":", 1) for line in file)
        return int(fields["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return None


class Stopwatch:
    """Times jobs on one device: CUDA events on a GPU, the host's clock on a CPU, caches emptied before each run."""

    def __init__(self, device: torch.device):
        self.device = device
        size = 128 << 20
        if device.type == "cuda":  # 1 GiB takes long enough to read that a job of several launches is queued meanwhile
            size = min(1 << 30, torch.cuda.get_device_properties(device).total_memory // 16)
        self._size = size // 4
        self._others: torch.Tensor | None = None

    def flush(self) -> None:
        """Fill the last-level cache with other data, read only: written lines would still be on their way to memory
        while the job runs. On a GPU it also gives the host time to queue the job before the device gets to it."""
        if self._others is None:
            self._others = torch.randint(-100, 100, (self._size,), dtype=torch.int32, device=self.device)
        torch.sum(self._others, dtype=torch.int32)

    def release(self) -> None:
        """Give the memory of ``flush`` back until its next call."""
        self._others = None

    def once(self, job: Job) -> Callable[[], float]:
        """Run ``job`` once; call the result, after ``synchronize``, for its milliseconds."""
        self.flush()
        if self.device.type != "cuda":
            began = time.perf_counter()
            job()
            spent = (time.perf_counter() - began) * 1e3
            return lambda: spent
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        job()
        end.record()
        return lambda: start.elapsed_time(end)

    def in_turn(self, jobs: Mapping[str, Job], seconds: float) -> dict[str, Times]:
        """Times of ``jobs``, run one after another in each of as many rounds as ``seconds`` allow (3 to 200).

        In turn, so that a change of clock or temperature meets them all. Two rounds before (compilation, allocator,
        autotuning) are not counted.
        """
        for _ in range(2):
            for job in jobs.values():
                job()
        synchronize(self.device)
        spent: dict[str, list[float]] = {name: [] for name in jobs}
        began, rounds = time.perf_counter(), 0
        while rounds < MIN_ROUNDS or (rounds < MAX_ROUNDS and time.perf_counter() - began < seconds):
            taken = {name: self.once(job) for name, job in jobs.items()}
            synchronize(self.device)
            for name, read in taken.items():
                spent[name].append(read())
            rounds += 1
        return {name: Times.of(milliseconds) for name, milliseconds in spent.items()}


@dataclass(frozen=True)
class Ceilings:
    """What this device reached in this run: ``copy`` (bytes read + bytes written) and ``read`` in bytes/s, ``matmul``
    in floating-point operations/s, ``int8`` the same of int8 products (0: not measured); ``rows`` tell how."""

    copy: float
    read: float
    matmul: float
    rows: list[dict[str, Any]]
    int8: float = 0.0


def _matmuls(n: int, device: torch.device, dtype: torch.dtype) -> dict[str, Job]:
    a, b = (torch.randn(n, n, device=device, dtype=dtype) for _ in range(2))
    jobs: dict[str, Job] = {f"matmul {n}³": lambda: torch.matmul(a, b)}
    if usable(torch.nn.Linear(1, 1).to(device, dtype)):  # what the engine multiplies with on such a CPU
        product = torch.ops.mkldnn._linear_pointwise
        jobs[f"matmul {n}³, oneDNN"] = lambda: product(a, b, None, "none", [], "")
    return jobs


def measure_ceilings(watch: Stopwatch, dtype: torch.dtype, seconds: float, small: bool = False) -> Ceilings:
    """Copy and read bandwidth over at least 1 GiB on a GPU (128 MiB on a CPU; 8 MiB if ``small``) and the rate of an
    8192³ product (1536³; 256³), all of random numbers: a GPU draws less power, and clocks higher, on zeros."""
    device, cuda = watch.device, watch.device.type == "cuda"
    size = 8 << 20 if small else 1 << 30 if cuda else 128 << 20
    n = 256 if small else 8192 if cuda else 1536
    kind = str(dtype).removeprefix("torch.")
    source = torch.randn(size // 4, device=device)
    target = torch.empty_like(source)
    jobs: dict[str, tuple[Job, str, float]] = {
        "copy": (lambda: target.copy_(source), "gb_per_s", 2.0 * size),
        "read, sum of fp32": (lambda: torch.sum(source), "gb_per_s", float(size)),
        "read, sum of int32": (lambda: torch.sum(source.view(torch.int32), dtype=torch.int32), "gb_per_s", float(size)),
    }
    for name, job in _matmuls(n, device, dtype).items():
        jobs[name] = (job, "tflop_per_s", 2.0 * n**3)
    if cuda and torch.version.hip is None:  # what the scan's tensor cores are set against
        left, right = (torch.randint(-128, 128, (n, n), dtype=torch.int8, device=device) for _ in range(2))
        jobs[f"int8 matmul {n}³"] = (lambda: torch._int_mm(left, right.t()), "tflop_per_s", 2.0 * n**3)
    rows: list[dict[str, Any]] = []
    share = seconds / len(jobs)
    for name, (job, unit, amount) in jobs.items():
        times = watch.in_turn({name: job}, share)[name]
        rate = amount / (times.p50 / 1e3)
        scale = 1e9 if unit == "gb_per_s" else 1e12
        of = {"dtype": "int8" if name.startswith("int8") else kind} if scale == 1e12 else {"bytes": int(amount)}
        rows.append({"name": name, **of, unit: rate / scale, **times.fields()})

    def best(word: str, unit: str) -> float:
        return max((row[unit] for row in rows if row["name"].startswith(word)), default=0.0)

    copy, read = (1e9 * best(word, "gb_per_s") for word in ("copy", "read"))
    matmul, int8 = (1e12 * best(word, "tflop_per_s") for word in ("matmul", "int8"))
    return Ceilings(copy, read, matmul, rows, int8)
