"""Puts the parts together: which devices, which model, one part after another, rows as they come."""

import gc
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from nait_fast.bench.checks import failure
from nait_fast.bench.command_stages import measure_cli
from nait_fast.bench.endtoend import measure_endtoend
from nait_fast.bench.kernels import measure_kernels
from nait_fast.bench.scan_timing import measure_scan
from nait_fast.bench.shapes import SHAPES, build
from nait_fast.bench.timing import Ceilings, Stopwatch, free_memory, measure_ceilings
from nait_fast.env import pick_device
from nait_fast.errors import BadInput
from nait_fast.models.load import LoadedModel, load_model, pick_dtype, prepare
from nait_fast.processors import processor
from nait_fast.progress import say

# The scan comes last: Numba's threads share OpenMP's pool with torch's on a CPU, and change what follows them.
PARTS = ("ceilings", "kernels", "endtoend", "scan")
ALONE = "cli"  # takes minutes, and nothing of it is set against the ceilings
CLI_ROWS = {"cpu": 500, "cuda": 52_002}  # on a GPU as many as Alpaca has
CEILING_SECONDS = 5.0
ROOM = 1.2  # memory that a model needs, in sizes of its weights, before it is worth building


def devices_of(text: str) -> list[torch.device]:
    """The devices named in ``auto``, ``cpu`` or ``cuda:0,cuda:1``. Raises NaitError."""
    devices = [pick_device(name.strip()) for name in text.split(",")]
    if any(device.type not in ("cpu", "cuda") for device in devices):
        raise BadInput("measures cpu and cuda devices only", where=f"--device {text}")
    # 'cuda' is the current one: named with its number, so that two columns cannot be the same device unnoticed.
    named = [
        torch.device("cuda", torch.cuda.current_device()) if d.type == "cuda" and d.index is None else d
        for d in devices
    ]
    if len(set(named)) < len(named):
        raise BadInput("a device is named twice", where=f"--device {text}")
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


def cli_rows(subject: Subject, rows: int | None, max_length: int, quiet: bool = True) -> Iterator[dict[str, Any]]:
    """The rows of part ``cli``, complete but for the environment."""
    device = subject.device
    base = {"part": ALONE, "device": str(device), "hardware": hardware_of(device), "shape": subject.name}
    base |= {"dtype": str(pick_dtype(subject.dtype, device)).removeprefix("torch.")}
    number = rows or CLI_ROWS[device.type]
    arguments = (subject.shape, subject.path, device, subject.dtype, number, max_length, subject.seed, quiet)
    for row in measure_cli(*arguments):
        yield base | row


@dataclass
class MeasuredDevice:
    """A device with its ceilings, measured before anything that is set against them."""

    device: torch.device
    dtype: str
    watch: Stopwatch
    ceilings: Ceilings

    @classmethod
    def open(cls, device: torch.device, dtype: str, seconds: float, small: bool = False) -> "MeasuredDevice":
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
            except Exception as error:
                yield {"name": "index pass", "check": failure(error)}
                return
            yield from measure_endtoend(model, self.ceilings, seconds, seed, max_length, quiet)
