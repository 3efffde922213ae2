"""The runs of a validation, one after another; those that a file of runs has already are not done again."""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nait_fast.config import ValidateOptions
from nait_fast.data.tokenize import Encoder
from nait_fast.errors import BadInput
from nait_fast.index import token_hashes
from nait_fast.validation import RUNS_KIND
from nait_fast.validation.accuracy import correct_of, likeliest
from nait_fast.validation.arms import BASE, RANDOM, Run
from nait_fast.validation.clock import Clock
from nait_fast.validation.gathering import Material
from nait_fast.validation.learner import Learner
from nait_fast.validation.runs import append_run, digest, line_of, read_runs
from nait_fast.validation.steps import make_steps


@dataclass(frozen=True)
class Runner:
    """Does runs. ``rows``: of each run that trains, the numbers of its samples in ``material``; ``setting``: hash
    of all else that decides their results."""

    options: ValidateOptions
    learner: Learner
    encoder: Encoder
    material: Material
    rows: Mapping[Run, np.ndarray]
    setting: str

    def through(self, runs: Sequence[Run], path: Path, quiet: bool) -> dict[Run, dict[str, Any]]:
        """Each run's row: those that ``path`` has, the others made now and added to it. Raises BadInput for a file of
        somebody else's, and for a training that diverges."""
        by_config = {row["config"]: row for row in own_runs(path) if "config" in row}
        configs = {run: self._config(run) for run in runs}
        missing = [run for run in runs if configs[run] not in by_config]
        candidates = self.material.candidates
        held = [row for rows in self.material.sets.values() for row in rows]
        clock = Clock(self.learner, candidates.groups[RANDOM], candidates.response, held, runs, missing, quiet)
        if missing:
            asked = {row for run in missing if run in self.rows for row in self.rows[run].tolist()}
            below = sorted(asked.union(self.material.measured))
            clock.say_before(below)
            self.learner.states(below if self.learner.below else [])
        for run in missing:
            started = time.perf_counter()
            row = {"config": configs[run], **asdict(run), **self._perform(run)}
            if not all(math.isfinite(x) for one in row["evaluated"].values() for x in one["nll"]):
                if run.arm == BASE:
                    raise BadInput(
                        "its loss is not finite before any training", where="the model", remedy="try --dtype"
                    )
                raise BadInput(
                    f"the training on {run.arm} diverged: a loss is not finite",
                    where=f"--lr {self.options.lr:g}",
                    remedy="lower it",
                )
            append_run(path, row)
            by_config[configs[run]] = row
            clock.add(run, row, time.perf_counter() - started)
        return {run: by_config[configs[run]] for run in runs}

    def _config(self, run: Run) -> str:
        """Hash of all that decides a run's result."""
        samples, rows = self.material.samples, np.sort(self.rows.get(run, np.zeros(0, dtype=np.int64)))
        return digest([self.setting, asdict(run), token_hashes.hashes_of(samples[row].ids for row in rows).tolist()])

    def _perform(self, run: Run) -> dict[str, Any]:
        """Train and evaluate; what the row says of them."""
        options, learner, material = self.options, self.learner, self.material
        out: dict[str, Any] = {}
        if run.arm == BASE:
            with learner.fresh(0):  # untrained adapters add nothing
                pass
        else:
            recipe, response = learner.recipe, material.candidates.response
            steps = make_steps(response, self.rows[run], recipe.tokens, recipe.steps, 1000 + run.seed)
            out = learner.train(steps, run.seed)
        out["evaluated"] = {name: learner.evaluate(rows) for name, rows in material.sets.items()}
        for name, rows in material.choices.items():
            out["evaluated"][name]["correct"] = likeliest(learner, rows)
        if options.answer not in (None, "likelihood"):
            for one in material.held:
                if one.texts and one.role == "target":
                    samples = [material.samples[row] for row in material.sets[one.name]]
                    right = correct_of(options.answer, learner, self.encoder, one.texts, samples, options.answer_tokens)
                    out["evaluated"][one.name]["correct"] = right
        return out


def own_runs(path: Path) -> list[dict[str, Any]]:
    """The runs of ``path``, which is begun if it is not there. Raises BadInput where it is somebody else's."""
    head, begun = line_of({"kind": RUNS_KIND}), path.read_bytes() if path.exists() else b""
    if begun != head and head.startswith(begun):  # a kill may have cut it
        path.unlink(missing_ok=True)
        append_run(path, {"kind": RUNS_KIND})
        return []
    rows = read_runs(path)
    if not rows or not isinstance(rows[0], dict) or rows[0].get("kind") != RUNS_KIND:
        raise BadInput(
            "is in the way: nait_fast did not write it, and would add to it",
            where=path,
            remedy="move it, or choose another --output",
        )
    return rows
