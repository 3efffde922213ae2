"""From command to result on a GPU, in parts that stand alone: products, passes, fidelity, the whole command, scale.

    python -m benchmarks.gpu_whole_command [--parts products pass] [--weights DIR --dataset POOL --target NAME=FILE …]

- ``products``: rates of F.linear in bf16 and torch._scaled_mm in FP8 (row- and tensor-wise scales, with fast
  accumulation and without), and of quantising the input, at 65,536 tokens for a 7B model's matrices.
- ``pass``: LLaMA-2-7B's shape, random weights: the index pass in bf16 beside its baselines, in FP8, and of the first
  third of the layers (shares of FP8, too, are of this run's bf16 rate and the data sheet's).
- ``fidelity``: SmolLM2's real weights on the rows of ``--dataset`` in bf16 and FP8, of all, half, a third and a sixth
  of the layers, against bf16 of all: Spearman, overlap of the best 10%, R-precision of each ``--target``'s own source.
- ``whole``: `index`, `signature` and `rank` as processes, by stage, with LLaMA-2-7B's shape, its random weights saved
  on the device, on 52,002 made-up rows of Alpaca's lengths with responses 2.8 times as long (about what GPT-4's are, an
  assumption); then `index` of a third of the layers, in FP8 and in bf16.
- ``million``: the same commands with SmolLM2 on 1,000,000 short rows, and `rank` with four signatures.

Rows go to ``gpu_whole_command.jsonl`` as each step ends, so that what is cut off leaves the others. All fits in 12
minutes of an H100 or H200 by estimate: 0.4, 2, 1.5, 5.5 and 2.5. A step that has no time left gets a row that says so.

``--weights``: a machine without network or ``gguf`` gets SmolLM2 from ``benchmarks.travelling_weights``: the GGUF
file's own blocks, losslessly, in two files of 46 MiB. Where 64 MiB travel with a call and commands end after 10
minutes, make two calls: carry ``blocks-0.safetensors`` with ``--parts products pass``, then the folder's other files
and the pool with ``--parts fidelity whole million``; what was carried before is still there. Without weights a shape's
random ones run, and fidelity is left out. ``--tiny``: a rehearsal on a CPU.
"""

import argparse
import dataclasses
import gzip
import inspect
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from benchmarks.gpu_suite import Suite
from benchmarks.travelling_weights import unpack
from nait_fast import api
from nait_fast.bench.checks import failure
from nait_fast.bench.command_stages import measure_commands
from nait_fast.bench.endtoend import BARE_FUSED, measure_endtoend
from nait_fast.bench.peaks import peak_of
from nait_fast.bench.run import MeasuredDevice, devices_of, hardware_of
from nait_fast.bench.shapes import SHAPES, Shape, build
from nait_fast.bench.synthetic import save_model
from nait_fast.bench.timing import Stopwatch
from nait_fast.config import IndexOptions
from nait_fast.errors import NaitError
from nait_fast.evaluation.retrieval import r_precision
from nait_fast.index.reader import Index
from nait_fast.methods.signature import load_signature
from nait_fast.models.load import prepare
from nait_fast.ranking.scan import scan
from nait_fast.ranking.spearman import spearman

PARTS = ("products", "pass", "fidelity", "whole", "million")
SECONDS = {"products": 30, "pass": 60, "fidelity": 20, "whole": 200, "million": 60}  # that a part's first step needs
MATRICES = ((4096, 4096), (11008, 4096), (4096, 11008))  # inputs, outputs
DEPTHS = (Fraction(1), Fraction(1, 2), Fraction(1, 3), Fraction(1, 6))
E4M3_MAX = 448.0
RESPONSES = 2.8
FLOAT8 = "float8"


@dataclasses.dataclass
class Run:
    """One run: where rows go, what is measured on, and how large."""

    suite: Suite
    device: torch.device
    tiny: bool
    seed: int = 0

    @property
    def shape(self) -> Shape:
        return SHAPES["tiny" if self.tiny else "llama-2-7b"]

    def keep(self, part: str, rows: Iterator[dict[str, Any]]) -> None:
        """Write ``rows`` as they come; what ends them early gets a row of its own."""
        base = {"part": part, "device": str(self.device), "hardware": hardware_of(self.device)}
        try:
            for row in rows:
                self.suite.keep([base | row])
        except Exception as error:  # one step must not cost the others
            self.suite.keep([{**base, "name": part, "check": failure(error)}])

    def has(self, seconds: float) -> bool:
        return self.tiny or self.suite.left > seconds


def knows(option: str, value: str = "") -> bool:
    """Whether ``index`` has this option, and this choice of it."""
    fields = {field.name: field for field in dataclasses.fields(IndexOptions)}
    return option in fields and (not value or value in (fields[option].metadata.get("choices") or ()))


# --------------------------------------------------------------------------------------------------------- products


def _quantised(x: torch.Tensor, rows: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """``x`` [n, K] in e4m3 and its scales, [n, 1] by rows, or one number."""
    most = x.abs().amax(dim=1, keepdim=True) if rows else x.abs().amax()
    scale = most.float().clamp(min=1e-12) / E4M3_MAX
    return (x / scale).to(torch.float8_e4m3fn), scale


def product_rows(run: Run) -> Iterator[dict[str, Any]]:
    """A row a matrix and form of product, in turn."""
    watch = Stopwatch(run.device)
    tokens, seconds = (64, 0.0) if run.tiny else (65_536, 6.0)
    name_of_device = torch.cuda.get_device_name(run.device) if run.device.type == "cuda" else ""
    for inputs, outputs in [(64, 48)] if run.tiny else MATRICES:
        x = torch.randn(tokens, inputs, device=run.device, dtype=torch.bfloat16)
        weight = torch.randn(outputs, inputs, device=run.device, dtype=torch.bfloat16) * 0.02
        jobs: dict[str, Callable[[], Any]] = {"bf16": lambda x=x, weight=weight: F.linear(x, weight)}
        for by_rows in (True, False):
            (a, scale_a), (b, scale_b) = _quantised(x, by_rows), _quantised(weight, by_rows)
            for fast in (False, True):

                def product(
                    a=a, b=b, scale_a=scale_a, scale_b=scale_b.T if by_rows else scale_b, fast=fast
                ) -> torch.Tensor:
                    options = {"out_dtype": torch.bfloat16, "use_fast_accum": fast}
                    return torch._scaled_mm(a, b.T, scale_a=scale_a, scale_b=scale_b, **options)

                words = f"fp8, {'row' if by_rows else 'tensor'}-wise{', fast accumulation' if fast else ''}"
                jobs[words] = product
            jobs[f"quantising the input, {'row' if by_rows else 'tensor'}-wise, eager"] = lambda x=x, by_rows=by_rows: (
                _quantised(x, by_rows)
            )
        usable, expected = {}, F.linear(x, weight).float()
        about = {"tokens": tokens, "inputs": inputs, "outputs": outputs}
        for name, job in jobs.items():
            try:
                made = job()
            except (RuntimeError, ValueError) as error:
                yield {"name": name, **about, "check": failure(error)}
                continue
            if isinstance(made, torch.Tensor):
                about[f"error of {name}"] = float((made.float() - expected).norm() / expected.norm())
            usable[name] = job
        del expected
        for name, times in watch.in_turn(usable, seconds).items():
            error = {"relative_error": about[f"error of {name}"]} if f"error of {name}" in about else {}
            row = {"name": name, **{k: about[k] for k in ("tokens", "inputs", "outputs")}, **error, **times.fields()}
            if not name.startswith("quantising"):
                rate = 2.0 * tokens * inputs * outputs / (times.p50 / 1e3)
                peak = peak_of(name_of_device, torch.float8_e4m3fn if "fp8" in name else torch.bfloat16)
                row |= {"tflop_per_s": rate / 1e12} | ({"of_peak": rate / peak} if peak else {})
            yield row


# ------------------------------------------------------------------------------------------------------------- pass


def pass_rows(run: Run) -> Iterator[dict[str, Any]]:
    """The index pass of the shape: bf16 beside its baselines, FP8, a third of the layers in both."""
    measured = MeasuredDevice.open(run.device, "bfloat16", 0 if run.tiny else 5, small=run.tiny)
    measured.watch.release()
    yield from measured.ceilings.rows
    third = dataclasses.replace(run.shape, layers=max(1, round(run.shape.layers / 3)))
    arms = [(run.shape, False), (run.shape, True), (third, False), (third, True)]
    for number, (shape, float8) in enumerate(arms):
        about = {"shape": shape.name, "layers": shape.layers, "dtype": FLOAT8 if float8 else "bfloat16"}
        if float8 and "float8" not in inspect.signature(prepare).parameters:
            yield {"name": "index pass", **about, "check": "skipped: no float8 in this version"}
            continue
        if not run.has(30):
            yield {"name": "index pass", **about, "check": run.suite.skipped}
            continue
        options: dict[str, Any] = {"float8": True} if float8 else {}
        model = prepare(build(shape, run.device, torch.bfloat16, run.seed), None, name=shape.name, **options)
        only = () if number == 0 else ("index pass", BARE_FUSED)
        for row in measure_endtoend(model, measured.ceilings, 0 if run.tiny else 20, run.seed, only=only):
            yield about | row
        del model
        if run.device.type == "cuda":
            torch.cuda.empty_cache()


# --------------------------------------------------------------------------------------------------------- fidelity


def _sources(pool: Path) -> np.ndarray:
    with gzip.open(pool, "rt", encoding="utf-8") if pool.suffix == ".gz" else open(pool, encoding="utf-8") as lines:
        return np.array([json.loads(line).get("source", "") for line in lines])


def fidelity_rows(run: Run, model: Path, pool: Path, targets: list[str], work: Path) -> Iterator[dict[str, Any]]:
    """A row an arm and target: how it ranks against bf16 of all layers, and what it retrieves."""
    sources, reference = _sources(pool), None
    for depth in DEPTHS:
        for dtype in ("bfloat16", FLOAT8):
            name = f"{dtype}, {depth} of the layers"
            if not knows("dtype", dtype) or (depth < 1 and not knows("depth")):
                yield {"name": name, "check": "skipped: not in this version"}
                continue
            if not run.has(SECONDS["fidelity"]):
                yield {"name": name, "check": run.suite.skipped}
                continue
            options: dict[str, Any] = {"model": str(model), "dtype": dtype, "device": str(run.device)}
            options |= {"max_length": 384} | ({"depth": str(depth)} if depth < 1 else {})
            folder = work / name.replace("/", "-")
            try:
                arm = _ranked(folder, pool, targets, options)
            except NaitError as error:
                yield {"name": name, "check": failure(error)}
                continue
            finally:
                shutil.rmtree(folder, ignore_errors=True)
            if (depth, dtype) == (DEPTHS[0], "bfloat16"):
                reference = arm.scores
            best = max(1, len(arm.scores) // 10)
            for place, target in enumerate(text.partition("=")[0] for text in targets):
                mine, same = arm.scores[:, place], {}
                if reference is not None:  # else what the others are held against has failed
                    theirs = reference[:, place]
                    top = [set(np.argsort(-x, kind="stable")[:best].tolist()) for x in (mine, theirs)]
                    same = {"spearman": float(spearman(mine, theirs)), "overlap": len(top[0] & top[1]) / best}
                relevant = sources[arm.row] == target
                yield {
                    "name": f"{name}, {target}",
                    **{"dtype": dtype, "depth": str(depth), "target": target, "rows": len(mine)},
                    **same,
                    **({"r_precision": float(r_precision(mine, relevant))} if relevant.any() else {}),
                    **{"index_seconds": arm.seconds, "tokens_per_s": arm.tokens_per_s},
                }


@dataclasses.dataclass
class Arm:
    """How one precision and depth ranks: ``scores`` float64 [n, targets] of the pool's rows ``row``."""

    row: np.ndarray
    scores: np.ndarray
    seconds: float
    tokens_per_s: float


def _ranked(folder: Path, pool: Path, targets: list[str], options: dict[str, Any]) -> Arm:
    began = time.perf_counter()
    summary = api.build_index(dataset=str(pool), output=str(folder / "index"), **options)
    spent = time.perf_counter() - began
    api.build_signature(target=targets, codebook=str(folder / "index"), output=str(folder / "signatures"), **options)
    names = [text.partition("=")[0] for text in targets]
    signatures = [load_signature(folder / "signatures" / f"{name}.safetensors") for name in names]
    blocks = list(scan(Index(folder / "index"), signatures))
    row, scores = (np.concatenate([getattr(block, key) for block in blocks]) for key in ("row", "scores"))
    return Arm(row, scores, spent, summary["tokens_per_s"])


# --------------------------------------------------------------------------------------------------- whole commands


def whole_rows(run: Run, work: Path) -> Iterator[dict[str, Any]]:
    """The commands with the shape's random weights in bf16, and `index` of a third of the layers."""
    began = time.perf_counter()
    save_model(run.shape, work / "model", run.device, torch.bfloat16, run.seed)
    if run.device.type == "cuda":
        torch.cuda.empty_cache()
    yield {"name": "random weights saved", "shape": run.shape.name, "seconds": time.perf_counter() - began}
    rows = 100 if run.tiny else 52_002
    base = ["--device", str(run.device), "--max-length", "512", "--dtype"]
    arms: list[tuple[list[str], float, tuple[str, ...]]] = [([*base, "bfloat16"], 200, ())]
    if knows("depth"):
        if knows("dtype", FLOAT8):
            arms.append(([*base, FLOAT8, "--depth", "1/3"], 70, ("index",)))
        arms.append(([*base, "bfloat16", "--depth", "1/3"], 90, ("index",)))
    for number, (options, seconds, only) in enumerate(arms[:2] if run.tiny else arms):
        about = {"shape": run.shape.name}
        if not run.has(seconds):
            yield {**about, "name": f"index {' '.join(options)}", "check": run.suite.skipped}
            continue
        folder = work / f"arm{number}"
        folder.mkdir()
        for row in measure_commands(str(work / "model"), folder, rows, run.seed, options, RESPONSES, only=only):
            yield about | row
        shutil.rmtree(folder)


def million_rows(run: Run, model: Path, work: Path) -> Iterator[dict[str, Any]]:
    """The commands with a small model on many short rows."""
    rows = 100 if run.tiny else 1_000_000
    options = ["--device", str(run.device), "--dtype", "bfloat16", "--max-length", "256"]
    for row in measure_commands(str(model), work, rows, run.seed, options, 0.35, signatures=4):
        yield {"model": model.name, **row}


def small_model(run: Run, weights: Path | None, work: Path) -> Path:
    """SmolLM2's real weights where they have travelled, else its shape's (tiny: the tiny one's) random ones."""
    if weights is not None:
        unpack(weights, work / "smollm2-135m", torch.bfloat16)
        return work / "smollm2-135m"
    folder = work / "random-weights"
    save_model(SHAPES["tiny" if run.tiny else "smollm2-135m"], folder, run.device, torch.bfloat16, run.seed)
    return folder


def measure(run: Run, parts: list[str], weights: Path | None, dataset: Path | None, targets: list[str]) -> None:
    """The ``parts``, as long as there is time."""
    with tempfile.TemporaryDirectory(prefix="nait-fast-gpu-") as made:
        work = Path(made)
        for part in PARTS:
            folder = work / part
            folder.mkdir()
            if part not in parts:
                continue
            if not run.has(SECONDS[part]):
                run.keep(part, iter([{"name": part, "check": run.suite.skipped}]))
            elif part == "products":
                run.keep(part, product_rows(run))
            elif part == "pass":
                run.keep(part, pass_rows(run))
            elif part == "whole":
                run.keep(part, whole_rows(run, folder))
            elif part == "fidelity" and (dataset is None or not targets or (weights is None and not run.tiny)):
                check = "skipped: needs --weights, --dataset and --target"
                run.keep(part, iter([{"name": part, "check": check}]))
            elif part == "fidelity":
                assert dataset is not None
                run.keep(part, fidelity_rows(run, small_model(run, weights, folder), dataset, targets, folder))
            else:
                run.keep(part, million_rows(run, small_model(run, weights, folder), folder))
            shutil.rmtree(folder)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--minutes", type=float, default=12.0, help="time for everything, about (default 12)")
    parser.add_argument("--weights", type=Path, help="folder of benchmarks.travelling_weights")
    parser.add_argument("--dataset", type=Path, help="JSONL pool with a source in each row (or .gz)")
    parser.add_argument("--target", nargs="+", default=[], metavar="NAME=FILE", help="NAME: a source of the pool")
    parser.add_argument("--out", type=Path, help="folder for gpu_whole_command.jsonl")
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--tiny", action="store_true", help="a rehearsal: a tiny shape, few rows (--device cpu)")
    arguments = parser.parse_args(argv)
    if arguments.device.startswith("cuda") and not torch.cuda.is_available():
        print(
            "gpu_whole_command: no GPU that torch can use here; nothing was run (--tiny --device cpu)", file=sys.stderr
        )
        return 2
    (device,) = devices_of(arguments.device)
    ends = time.monotonic() + 60 * arguments.minutes
    suite = Suite(arguments.out, ends, arguments.minutes, name="gpu_whole_command")
    measure(Run(suite, device, arguments.tiny), arguments.parts, arguments.weights, arguments.dataset, arguments.target)
    failed = suite.failed()
    if failed:
        print(f"failed: {'; '.join(failed)}")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
