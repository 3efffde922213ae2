"""Which form a model's fp32 products take on this processor, and what bfloat16 would bring: a short trial tells.

It multiplies random numbers of the model's own widest shapes, for less than a second where bfloat16 is not very slow,
and is kept in the user's cache folder, so that every index made on a machine has the same form. The form decides the
last bits of a number: an index keeps the one that it was begun with (``run.json``).
"""

import json
import os
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from typing_extensions import Self

from nait_fast.env import MKL, STRICT, STRICT_MKL, cache_folder, installed, processor
from nait_fast.errors import Mismatch, NaitError
from nait_fast.models.linear import BLOCKED, FORMS, TORCH, VARIABLE, blocked_linear, plain_linears, usable
from nait_fast.notices import warn
from nait_fast.progress import say
from nait_fast.storage.files import write_json

SCHEME = 1  # of what is timed, and how
ROWS, WIDEST = 512, 1536  # of a product in the trial
LEAST = 1 << 16  # numbers of a weight from which products are worth a trial
ROUNDS, SECONDS = (3, 8), 0.25
MARGIN = 1.05  # by how much torch's own must be faster: what nearly ties shall not change with the weather
HALF, WORTH = "bfloat16", 1.5  # from which factor on bfloat16 is worth a word
Seconds = Mapping[str, float]


@dataclass(frozen=True)
class Products:
    """``form``: of ``FORMS``, how fp32 products are made; ``choice``: there is another form here; ``forced``: the user
    has named it; ``seconds``: what a product took in the trial in each form and in ``bfloat16``, empty without a trial;
    ``why``: what has decided."""

    form: str = TORCH
    choice: bool = False
    forced: bool = False
    seconds: Seconds = field(default_factory=dict)
    why: str = ""

    def as_begun(self, form: str, folder: Path) -> Self:
        """These, in the ``form`` that the index in ``folder`` was begun with. Raises NaitError where the user has named
        another one."""
        if form not in FORMS or (self.forced and form != self.form):
            unset = f"unset {VARIABLE} or " if self.forced else ""
            raise Mismatch(
                f"holds an index whose fp32 products are made otherwise ({form})",
                where=folder,
                remedy=f"{unset}choose another folder",
            )
        if form == TORCH and not rows_alone():
            remedy = f"set {MKL}={STRICT_MKL} before torch multiplies"
            warn(f"{folder}: begun with MKL in its strict mode, without which last bits differ: {remedy}")
        return replace(self, form=form, why="as the index was begun")

    @property
    def half_is(self) -> float | None:
        """How many times as fast as fp32 in its faster form bfloat16 is here; None where nothing is known of it."""
        best = min((self.seconds[form] for form in FORMS if form in self.seconds), default=0.0)
        return best / self.seconds[HALF] if best and HALF in self.seconds else None

    def tell(self, precision: str, quiet: bool) -> None:
        """Say in one line what has been chosen for a model of ``precision``; warn where bfloat16 is slow here."""
        if precision == HALF and self.half_is is not None and self.half_is < 1:
            warn(f"--dtype {HALF}: on this processor its products take {1 / self.half_is:.1f} times as long as fp32's")
        if precision != "float32" or not self.choice:
            return
        line = f"fp32 products: {self.form} ({self.why})"
        if self.half_is is not None and self.half_is >= WORTH:
            line += f"; those of {HALF} are {self.half_is:.1f}× as fast here: --dtype {HALF}"
        say(line, quiet)

    def described(self) -> dict[str, Any]:
        """What a log keeps of it."""
        return {"form": self.form, "why": self.why, "trial_seconds": dict(self.seconds)}


def products_of(model: nn.Module) -> Products:
    """How the fp32 products of ``model`` are made here, by ``NAIT_FAST_LINEAR``, else by a trial; of a model of another
    dtype on a CPU the trial tells only what its dtype brings."""
    weight = next(model.parameters())
    timed = weight.device.type == "cpu" and weight.dtype in (torch.float32, torch.bfloat16)
    can_block, shapes = usable(model), _widest(model) if timed else []
    forced = os.environ.get(VARIABLE, "")
    if can_block and forced:
        return Products(forced, choice=True, forced=True, why=VARIABLE)
    if forced == BLOCKED:
        warn(f"{VARIABLE}={forced}: not used, as it is of fp32 products on an x86 CPU")
    if not shapes:
        return Products(BLOCKED, choice=True, why="too small for a trial") if can_block else Products()
    strict = rows_alone()
    seconds = _remembered(shapes, strict)
    if not can_block or BLOCKED not in seconds:
        return Products(seconds=seconds)
    if not strict:
        return Products(BLOCKED, True, False, seconds, f"{TORCH} gives a row other bits with other rows or threads")
    torch_is = seconds[BLOCKED] / seconds[TORCH]
    if torch_is > MARGIN:
        return Products(TORCH, True, False, seconds, f"{torch_is:.2f}× as fast as {BLOCKED} in a trial")
    return Products(BLOCKED, True, False, seconds, f"{1 / torch_is:.2f}× as fast as {TORCH} in a trial")


@cache
def rows_alone() -> bool:
    """Whether torch's own fp32 product gives a row the same bits alone, among few and among many rows: MKL does where
    it is strict (``env.strict_mkl``), and then with any number of threads, too."""
    generator = torch.Generator().manual_seed(0)
    x, weight = (torch.randn(n, WIDEST, generator=generator) for n in (ROWS, 192))
    with torch.inference_mode():
        whole = F.linear(x, weight)
        return STRICT in os.environ.get(MKL, "") and all(
            torch.equal(F.linear(x[:rows], weight), whole[:rows]) for rows in (1, 5, 64, 100)
        )


def _widest(model: nn.Module) -> list[tuple[int, int]]:
    """(out, in) of the two largest kinds of linear layers, cut to what a trial multiplies."""
    kinds = {tuple(m.weight.shape) for m in plain_linears(model)}
    largest = sorted(kinds, key=lambda shape: shape[0] * shape[1], reverse=True)[:2]
    cut = {(min(out, WIDEST), min(into, WIDEST)) for out, into in largest if out * into >= LEAST}
    return sorted(cut)


def _remembered(shapes: list[tuple[int, int]], strict: bool) -> Seconds:
    """The trial's seconds, from the user's cache folder where this machine has done it before."""
    key = [SCHEME, processor(), installed("torch"), strict, *map(list, shapes)]  # not threads: workers have one form
    folder = cache_folder()
    file = None if folder is None else folder / "products.json"
    kept = _kept(file)
    name = json.dumps(key)
    if name in kept:
        return kept[name]
    seconds = _trial(shapes)
    if file is not None:
        with suppress(OSError, NaitError):  # a help only
            file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_json(file, {**_kept(file), name: seconds})
    return seconds


def _kept(file: Path | None) -> dict[str, dict[str, float]]:
    try:
        stored: Any = json.loads(file.read_bytes()) if file is not None else {}
    except (OSError, ValueError, RecursionError):
        return {}
    if not isinstance(stored, dict):
        return {}
    return {name: seconds for name, seconds in stored.items() if _is_trial(seconds)}


def _is_trial(seconds: Any) -> bool:
    if not isinstance(seconds, dict) or TORCH not in seconds:
        return False
    return all(isinstance(value, float) and value > 0 for value in seconds.values())


def _trial(shapes: list[tuple[int, int]]) -> dict[str, float]:
    """Seconds of one product of each shape, by form: the least of a few rounds in turn, of one thread's own time, which
    others that are at work here change little."""
    generator = torch.Generator().manual_seed(0)
    pairs = [tuple(torch.randn(n, into, generator=generator) for n in (ROWS, out)) for out, into in shapes]
    half = [tuple(t.bfloat16() for t in pair) for pair in pairs]
    jobs: dict[str, Callable[[], Any]] = {
        TORCH: lambda: [F.linear(x, weight) for x, weight in pairs],
        BLOCKED: lambda: [blocked_linear(x, weight, None) for x, weight in pairs],
        HALF: lambda: [F.linear(x, weight) for x, weight in half],
    }
    if not usable(nn.Linear(1, 1)):
        del jobs[BLOCKED]
    least: dict[str, float] = {}
    threads, began = torch.get_num_threads(), time.thread_time()
    torch.set_num_threads(1)
    try:
        with torch.inference_mode():
            for number in range(ROUNDS[1]):
                if number >= ROUNDS[0] and time.thread_time() - began > SECONDS:
                    break
                for name, job in list(jobs.items()):
                    started = time.thread_time()
                    job()
                    taken = time.thread_time() - started
                    least[name] = min(taken, least.get(name, taken))
                    if name == HALF and taken > (2 if number else 8) * least[TORCH]:
                        del jobs[HALF]  # many times as slow on some processors: known well enough
    finally:
        torch.set_num_threads(threads)
    return least
