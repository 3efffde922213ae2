"""How long the runs of a validation may take and how much memory, said before; and on the way, how much is left."""

import math
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from nait_fast.env import memory_in_use
from nait_fast.validation.arms import BASE, Run

TRIED = 4  # samples of a trial


def memory(learner: Any, rows: int) -> int:
    """Bytes that training takes, about: what there is by now, the states of ``rows`` samples, and a step's insides."""
    width = int(learner.hidden_width)
    tokens = sum(len(sample.ids) for sample in learner.samples) // len(learner.samples)
    states = rows * tokens * width * 4 if learner.below else 0
    layers = 1 if learner.recipe.checkpoint else len(learner.upper.layers)
    at_once = min(learner.recipe.tokens // learner.recipe.steps * 3, learner.recipe.pack_tokens)
    step = at_once * width * 40 * 4 * layers
    # On a CPU glibc keeps what is freed (env.keep_freed_memory): measured with SmolLM2, 1.4 of what is asked for.
    return int((memory_in_use(learner.device) + states + step) * (1.0 if learner.device.type == "cuda" else 1.4))


class Clock:
    """Says before how long the runs may take, and on the way how much is left."""

    def __init__(
        self,
        learner: Any,
        trained: np.ndarray,
        response: np.ndarray,
        held_out: Sequence[int],
        runs: Sequence[Run],
        missing: Sequence[Run],
        quiet: bool,
    ):
        """``trained``: rows that a step may be tried on, of ``response`` tokens with a loss; ``held_out``: all rows
        that a run is measured on; ``missing``: those of ``runs`` that are still to be done."""
        self._learner, self._held_out, self._quiet = learner, held_out, quiet
        self._step = [(int(row), int(response[row])) for row in trained[:TRIED]]
        self._total, self._missing, self._done = len(runs), len(missing), 0
        self._left = [run.arm != BASE for run in missing]
        self._a_run = self._an_evaluation = self._seconds = self._expected = 0.0

    def say_before(self, rows: Sequence[int]) -> None:
        """Times some samples below the adapters, a step and an evaluation, which change nothing. ``rows``: all that
        will run."""
        if self._quiet:
            return
        learner, recipe = self._learner, self._learner.recipe
        measured = self._held_out[:TRIED]
        learner.train([self._step], 0)  # once for what is made at the first call
        below = learner.seconds_below / max(1, learner.rows_below)
        started = time.perf_counter()
        learner.train([self._step], 0)
        self._a_run = (time.perf_counter() - started) / sum(n for _, n in self._step) * recipe.tokens
        learner.evaluate(measured)
        started = time.perf_counter()
        learner.evaluate(measured)
        self._an_evaluation = (time.perf_counter() - started) / len(measured) * len(self._held_out)
        expected = sum(self._left) * self._a_run + self._missing * self._an_evaluation + len(rows) * below
        kept = f" ({self._total - self._missing} are there)" if self._missing < self._total else ""
        self._print(
            f"{self._missing} runs{kept} of {recipe.tokens:,} response tokens in {recipe.steps} steps: about "
            f"{_minutes(expected)}, {memory(learner, len(rows)) / 1e9:.1f} GB"
        )

    def add(self, run: Run, row: Mapping[str, Any], seconds: float) -> None:
        if self._quiet:
            return
        self._seconds += seconds
        self._expected += self._an_evaluation + (run.arm != BASE) * self._a_run
        self._done += 1
        del self._left[0]
        losses = ", ".join(f"{name} {sum(e['nll']) / sum(e['tokens']):.3f}" for name, e in row["evaluated"].items())
        left = sum(self._left) * self._a_run + len(self._left) * self._an_evaluation
        behind = f"; {_minutes(left * self._seconds / self._expected)} left" if self._left else ""
        self._print(f"{self._done}/{self._missing} {run.arm.replace('_', ' ')} {run.seed}: {losses}{behind}")

    def _print(self, text: str) -> None:
        print(f"nait-fast: {text}", file=sys.stderr, flush=True)


def _minutes(seconds: float) -> str:
    if seconds < 90:
        return f"{math.ceil(seconds)} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
