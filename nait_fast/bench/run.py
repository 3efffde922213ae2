"""Puts the parts together: which devices, which model, one part after another, rows as they come."""

import gc
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from nait_fast.bench.endtoend import measure_endtoend
from nait_fast.bench.kernels import measure_kernels
from nait_fast.bench.scan_timing import measure_scan
from nait_fast.bench.shapes import SHAPES, build, free_memory
from nait_fast.bench.timing import Ceilings, Stopwatch, measure_ceilings
from nait_fast.env import environment, pick_device, processor
from nait_fast.errors import NaitError
from nait_fast.models.load import LoadedModel, load_model, pick_dtype, prepare
from nait_fast.progress import say
from nait_fast.storage.lock import OutputLock

# The scan comes last: Numba's threads share OpenMP's pool with torch's on a CPU, and change what follows them.
PARTS = ("ceilings", "kernels", "endtoend", "scan")
CEILING_SECONDS = 5.0
ROOM = 1.2  # memory that a model needs, in sizes of its weights, before it is worth building


def devices_of(text: str) -> list[torch.device]:
    """The devices named in ``auto``, ``cpu`` or ``cuda:0,cuda:1``. Raises NaitError."""
    found = [pick_device(name.strip()) for name in text.split(",")]
    if any(device.type not in ("cpu", "cuda") for device in found):
        raise NaitError(f"--device {text}: measures cpu and cuda devices only")
    # 'cuda' is the current one: named with its number, so that two columns cannot be the same device unnoticed.
    named = [
        torch.device("cuda", torch.cuda.current_device()) if d.type == "cuda" and d.index is None else d for d in found
    ]
    if len(set(named)) < len(named):
        raise NaitError(f"--device {text}: a device is named twice")
    return named


def hardware_of(device: torch.device) -> str:
    """What a number must be named with: the GPU, or the CPU and how many threads it ran."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"{processor()}, {threads} thread{'s' if threads > 1 else ''}"


@dataclass
class Subject:
    """The model to measure: a shape with random weights, or a real one at ``path``; loaded when first asked for."""

    shape: str
    path: str | None
    device: torch.device
    dtype: str
    seed: int
    _loaded: LoadedModel | None = field(default=None, repr=False)

    @property
    def name(self) -> str:
        return Path(self.path).name if self.path else self.shape

    @property
    def width(self) -> int:
        """Neurons of its widest layer."""
        return max(self.load().widths) if self.path else SHAPES[self.shape].neurons

    @property
    def heads(self) -> tuple[int, int]:
        """(query heads, width of one)."""
        if not self.path:
            shape = SHAPES[self.shape]
            return shape.heads, shape.hidden // shape.heads
        config: Any = self.load().body.config
        heads = config.num_attention_heads
        return heads, getattr(config, "head_dim", None) or config.hidden_size // heads

    @property
    def small(self) -> bool:
        return self.name == "tiny"

    def lacking(self) -> str | None:
        """Words on the memory that the weights need and the device has not."""
        if self.path:
            return None
        free = free_memory(self.device)
        needed = SHAPES[self.shape].parameters * pick_dtype(self.dtype, self.device).itemsize
        if free is None or needed * ROOM <= free:
            return None
        return f"skipped: {self.shape} needs {needed * ROOM / 1e9:.1f} GB, {free / 1e9:.1f} GB are free"

    def load(self) -> LoadedModel:
        if self._loaded is None and self.path:
            self._loaded = load_model(self.path, dtype=self.dtype, device=str(self.device))
        elif self._loaded is None:
            body = build(SHAPES[self.shape], self.device, pick_dtype(self.dtype, self.device), self.seed)
            self._loaded = prepare(body, None, name=self.shape)
        return self._loaded

    def forget(self) -> None:
        self._loaded = None
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()


@dataclass
class Place:
    """A device with its ceilings, measured before anything that is set against them."""

    device: torch.device
    dtype: str
    watch: Stopwatch
    ceilings: Ceilings

    @classmethod
    def open(cls, device: torch.device, dtype: str, seconds: float, small: bool = False) -> "Place":
        with cls.current(device):
            watch = Stopwatch(device)
            return cls(device, dtype, watch, measure_ceilings(watch, pick_dtype(dtype, device), seconds, small))

    @staticmethod
    def current(device: torch.device) -> AbstractContextManager[Any]:
        return torch.cuda.device(device) if device.type == "cuda" else nullcontext()

    def rows(
        self, part: str, subject: Subject, seconds: float, max_length: int = 512, quiet: bool = True
    ) -> Iterator[dict[str, Any]]:
        """The rows of one part, complete but for the environment."""
        kind = str(pick_dtype(self.dtype, self.device)).removeprefix("torch.")
        base = {"part": part, "device": str(self.device), "hardware": hardware_of(self.device)}
        if part in ("kernels", "endtoend"):
            base |= {"shape": subject.name, "dtype": kind}
        with self.current(self.device):
            for row in self._rows(part, subject, seconds, max_length, quiet):
                yield base | row

    def _rows(
        self, part: str, subject: Subject, seconds: float, max_length: int, quiet: bool
    ) -> Iterator[dict[str, Any]]:
        seed = subject.seed
        if part == "ceilings":
            yield from self.ceilings.rows
        elif part == "scan":
            yield from measure_scan(self.watch, self.ceilings, seconds, seed, quiet, subject.small)
        elif part == "kernels":
            dtype = pick_dtype(self.dtype, self.device)
            yield from measure_kernels(
                self.watch, subject.width, subject.heads, dtype, self.ceilings, seconds, seed, quiet, subject.small
            )
        elif lacking := subject.lacking():
            yield {"name": "index pass", "check": lacking}
        else:
            self.watch.release()  # it would count as the model's memory
            say(f"bench: loading {subject.name}", quiet)
            try:
                model = subject.load()
            except torch.OutOfMemoryError:
                yield {"name": "index pass", "check": "skipped: no memory for it"}
                return
            except NaitError as error:
                yield {"name": "index pass", "check": f"failed: {error}"}
                return
            yield from measure_endtoend(model, self.ceilings, seconds, seed, max_length, quiet)


class ResultFile:
    """JSON lines, one a row, each with what it was made with; appended to, and written as rows come: by one command at
    a time. A pipe or a terminal takes them, too. Raises NaitError."""

    def __init__(self, path: str | None):
        self._lock: OutputLock | None = None
        place = Path(os.path.realpath(path or ""))
        if path and (place.is_file() or (not os.path.exists(path) and place.parent.is_dir())):
            self._lock = OutputLock(place.with_name(f".{place.name}.lock"), f"--output {path}", keep=False)
            self._lock.acquire()
        try:
            if path and self._lock is not None:
                _check_appendable(path, place)
            self._file = open(path, "a", encoding="utf-8") if path else None  # noqa: SIM115 - open for the run
        except BaseException:
            if self._lock is not None:
                self._lock.release()
            raise
        # Paths of the machine say nothing to a reader: the command keeps file names only.
        self._command = " ".join(["nait-fast", *(Path(a).name or a for a in sys.argv[1:])])
        self._environment = environment()

    def add(self, row: Mapping[str, Any]) -> None:
        if self._file is not None:
            whole = {"benchmark": "bench", **row, "command": self._command, "environment": self._environment}
            self._file.write(json.dumps(whole, ensure_ascii=False) + "\n")
            self._file.flush()

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
        if self._lock is not None:
            self._lock.release()


def _check_appendable(path: str, place: Path) -> None:
    """Raises NaitError where ``place``, which ``path`` leads to, is there and holds something else than rows of a
    bench."""
    if not place.exists():
        return
    try:
        lines = place.read_bytes().split(b"\n")
        rows = [json.loads(line) for line in lines[:-1] if line.strip()]
        ours = all(isinstance(row, dict) and {"part", "hardware", "name"} <= set(row) for row in rows)
        whole = not lines[-1]
    except (OSError, ValueError, RecursionError):
        ours = whole = False
    if not ours or not whole:
        raise NaitError(f"--output {path}: is not a file of results that rows can be added to; choose another file")


def read_results(paths: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
    """Rows by source: a file, or one device in it; named by hardware, and by file where that does not tell them apart.

    Raises NaitError naming a file that is no result.
    """
    found: list[tuple[str, str, list[dict[str, Any]]]] = []
    for path in paths:
        by_device: dict[tuple[str, str], list[dict[str, Any]]] = {}
        try:
            for number, line in enumerate(Path(path).read_text(encoding="utf-8").splitlines(), 1):
                row = json.loads(line) if line.strip() else None
                if row is None:
                    continue
                if not isinstance(row, dict) or not {"part", "hardware", "name"} <= set(row):
                    raise NaitError(f"--compare {path}: line {number} is no row of a bench")
                by_device.setdefault((row["hardware"], row.get("device", "")), []).append(row)
        except (UnicodeDecodeError, json.JSONDecodeError) as error:
            raise NaitError(f"--compare {path}: is not JSON lines ({' '.join(str(error).split())[:100]})") from None
        if not by_device:
            raise NaitError(f"--compare {path}: holds no row")
        found += [
            (f"{hardware} ({Path(path).name})" if len(paths) > 1 else hardware, device, rows)
            for (hardware, device), rows in by_device.items()
        ]
    sources: dict[str, list[dict[str, Any]]] = {}
    for label, device, rows in found:
        several = sum(other == label for other, _, _ in found) > 1
        unique = f"{label}, {device}" if several else label
        sources[unique if unique not in sources else f"{unique} #{len(sources) + 1}"] = rows
    return sources
