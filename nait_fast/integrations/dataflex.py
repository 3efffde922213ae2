"""DataFlex: the selector ``nait_fast``, which scores the pool with the model as it is at that moment of its training.

``python -m nait_fast.integrations.dataflex CONFIG.yaml`` trains as ``dataflex-cli train CONFIG.yaml`` does, and knows
the selector; on several GPUs ``torchrun --nproc_per_node 8 -m nait_fast.integrations.dataflex CONFIG.yaml``. A checkout
of DataFlex gets it by one line in its ``train/selector/__init__.py``, ``import nait_fast.integrations.dataflex``.
"""

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from accelerate.utils import broadcast_object_list
from dataflex.core.registry import register_selector
from dataflex.train.selector.base_selector import Selector
from dataflex.utils.logging import logger

from nait_fast.errors import BadInput, Mismatch, NaitError
from nait_fast.integrations.in_training import LiveScorer, LiveSignature, TokenRows, taken_in_turns
from nait_fast.ranking.spearman import spearman
from nait_fast.storage.files import make_folder, pack_tensors, read_json, read_tensors, sha256, write_atomic, write_json

NAME, KIND = "nait_fast", "live signature"
LEAST = {"rebuild_steps": 0, "candidates": 2, "calibration_size": 2, "target_size": 2, "batch_tokens": 1, "seed": 0}
PROBED_ROWS = 16  # of the pool, which tell it from another one of as many rows


@register_selector(NAME)
class NaitSelector(Selector):
    """Selects the rows that fire the neurons which the target's rows fire oftener than the pool's, under the weights of
    the step: method contrast, read anew.

    The target is the training's ``eval_dataset``, which is tokenised as the pool is; with ``eval_on_each_dataset``
    there are several, and they take rows in turns. Its signature is made anew when the model has trained
    ``rebuild_steps`` since the last one (0: for each selection); the pool's rows are read for each. ``candidates``: how
    many rows are read, drawn at random for each selection (None: all); ``calibration_size``: how many of these the
    target is held against; ``target_size``: target rows, at most; ``layers``, ``first_token``, ``seed``: as the
    command's; ``batch_tokens``: as of ``LiveScorer``. ``cache_dir`` keeps selections and signatures, which the same
    training takes from there when it is resumed. Raises NaitError for what cannot be used.
    """

    def __init__(
        self,
        dataset: Any,
        accelerator: Any,
        data_collator: Any,
        cache_dir: str,
        eval_dataset: Any = None,
        rebuild_steps: int = 0,
        candidates: int | None = None,
        calibration_size: int = 512,
        target_size: int = 512,
        layers: str = "all",
        first_token: str = "exclude",
        batch_tokens: int | None = None,
        seed: int = 0,
    ):
        super().__init__(dataset, accelerator, data_collator, cache_dir)
        options = {
            "rebuild_steps": rebuild_steps,
            "candidates": candidates,
            "calibration_size": calibration_size,
            "target_size": target_size,
            "batch_tokens": batch_tokens,
            "seed": seed,
            "layers": layers,
            "first_token": first_token,
        }
        for name, least in LEAST.items():
            value, optional = options[name], name in ("candidates", "batch_tokens")
            if not (value is None and optional) and not (type(value) is int and value >= least):
                raise BadInput(f"must be a whole number, at least {least}", where=f"{NAME}: {name}: {value}")
        if not eval_dataset:
            raise BadInput("no eval_dataset, which is its target", where=NAME, remedy="name one in the training's file")
        self.rebuild_steps, self.candidates, self.calibration_size = rebuild_steps, candidates, calibration_size
        self.seed = seed
        several = eval_dataset if isinstance(eval_dataset, Mapping) else {"eval_dataset": eval_dataset}
        self.targets = {
            name: TokenRows(rows, self._drawn(range(len(rows)), target_size, 0), name) for name, rows in several.items()
        }
        self.scorer = LiveScorer(accelerator, layers=str(layers), first_token=first_token, batch_tokens=batch_tokens)
        self.folder = make_folder(cache_dir, f"{NAME}: cache_dir")
        probed = np.linspace(0, len(dataset) - 1, PROBED_ROWS).astype(int).tolist()
        texts = [rows.digest() for rows in (*self.targets.values(), TokenRows(dataset, probed, "dataset"))]
        self._made_of = [options, list(several), len(dataset), *texts]
        self._signature: LiveSignature | None = None
        sizes = {name: len(rows.positions) for name, rows in self.targets.items()}
        self._say(f"options: {json.dumps(options)}; target rows: {json.dumps(sizes)}")

    def select(self, model: Any, step_id: int, num_samples: int, **kwargs: Any) -> list[int]:
        """Positions of ``num_samples`` rows, best first, the same in all processes. Raises NaitError."""
        pool = self.candidate_positions() if hasattr(self, "candidate_positions") else range(len(self.dataset))
        positions = self._drawn(pool, self.candidates or len(pool), 1, step_id)
        if len(positions) < num_samples:
            raise BadInput(
                f"{len(positions)} rows to select {num_samples} from",
                where=f"{NAME}: step {step_id}",
                remedy="lower update_step, or raise candidates",
            )
        file = self.folder / f"step_{step_id}.json"
        model_is = self.scorer.identity(model)
        made_of = self._digest(model_is, num_samples, sha256(np.asarray(positions, dtype=np.int64).tobytes()))
        if (kept := self._of_main(lambda: _kept(file, made_of))) is not None:
            self._say(f"step {step_id}: selected before, {file}")
            return kept
        signature = self._signature_at(model, step_id, positions, self._digest(model_is))
        scores, lengths = self.scorer.scores(model, signature, TokenRows(self.dataset, positions, "dataset"))
        finite = np.isfinite(scores).all(axis=1)
        if finite.sum() < num_samples:
            raise BadInput(
                f"{finite.sum()} of {len(scores)} rows have finite activations, to select {num_samples} from",
                where=f"{NAME}: step {step_id}",
            )
        places = taken_in_turns(scores, num_samples)
        chosen = [positions[place] for place in places]
        metric = {name: scores[places, column].tolist() for column, name in enumerate(signature.names)}
        about = {
            "signature_step": signature.step,
            "rows": len(scores),
            "rows_not_finite": int((~finite).sum()),
            "spearman_with_length": {
                name: _rounded(spearman(column[finite], lengths[finite]))
                for name, column in zip(signature.names, scores.T, strict=True)
            },
            "made_of": made_of,
        }
        self._say(f"step {step_id}: {num_samples} rows selected; {json.dumps(about)}")
        if self.accelerator.is_main_process:
            write_json(file, {"indices": chosen, "metric": metric, NAME: about})
        return chosen

    def _say(self, text: str) -> None:
        if self.accelerator.is_main_process:
            logger.info(f"[{NAME}] {text}")

    def _drawn(self, positions: Sequence[int], size: int, *stream: int) -> list[int]:
        """``size`` of ``positions`` at random, in their order, or all of them."""
        if len(positions) <= size:
            return list(positions)
        drawn = np.random.default_rng([self.seed, *stream]).choice(len(positions), size, replace=False)
        return [positions[place] for place in np.sort(drawn).tolist()]

    def _digest(self, *more: Any) -> str:
        return sha256(json.dumps([self._made_of, *more]).encode())[:16]

    def _signature_at(self, model: Any, step: int, positions: Sequence[int], made_of: str) -> LiveSignature:
        """The latest one, while it is of less than ``rebuild_steps`` ago; else that of this step, which is kept."""
        latest = self._signature or self._of_main(lambda: _latest_signature(self.folder, step, made_of))
        if latest is None or not 0 <= step - latest.step < max(1, self.rebuild_steps):
            sample = TokenRows(self.dataset, self._drawn(positions, self.calibration_size, 2, step), "dataset")
            latest = self.scorer.signature(model, sample, self.targets, step)
            if self.accelerator.is_main_process and self.rebuild_steps:
                meta = {"kind": KIND, "step": step, "names": latest.names, "widths": latest.widths, "made_of": made_of}
                tensors = {"threshold": latest.threshold, "weights": latest.weights}
                write_atomic(self.folder / f"signature_step_{step}.safetensors", pack_tensors(tensors, meta))
        self._signature = latest
        return latest

    def _of_main(self, read: Callable[[], Any]) -> Any:
        """What the main process reads, in all of them. Raises its NaitError in all of them, too."""
        found: list[Any] = [None]
        if self.accelerator.is_main_process:
            try:
                found = [read()]
            except NaitError as error:
                found = [error]
        if self.accelerator.num_processes > 1:
            broadcast_object_list(found)
        if isinstance(found[0], NaitError):
            raise found[0]
        return found[0]


def _rounded(value: float) -> float | None:
    return round(value, 4) if np.isfinite(value) else None


def _kept(file: Path, made_of: str) -> list[int] | None:
    """What was selected before, as ``file`` has it. Raises NaitError where it is of something else."""
    if not file.exists():
        return None
    about = read_json(file)
    if not isinstance(about.get(NAME), dict) or about[NAME].get("made_of") != made_of:
        raise _of_another(file)
    return about["indices"]


def _latest_signature(folder: Path, step: int, made_of: str) -> LiveSignature | None:
    """The one of the last step up to ``step`` that ``folder`` holds. Raises NaitError where it is of something else."""
    files = {int(path.stem.rpartition("_")[2]): path for path in folder.glob("signature_step_*.safetensors")}
    if not (steps := [number for number in files if number <= step]):
        return None
    file = files[max(steps)]
    tensors, meta = read_tensors(file, KIND)
    if meta.get("made_of") != made_of:
        raise _of_another(file)
    arrays = {name: np.array(array) for name, array in tensors.items()}
    return LiveSignature(meta["step"], tuple(meta["names"]), tuple(meta["widths"]), **arrays)


def _of_another(file: Path) -> Mismatch:
    return Mismatch(
        "was made of another pool, target or model, or by other options",
        where=file,
        remedy="empty cache_dir, or name another",
    )


def main() -> None:
    """Trains by the configuration that the command line names."""
    from dataflex.launcher import launch

    try:
        launch()
    except NaitError as error:
        print(f"{NAME}: error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
