"""Everything that needs a GPU, in one command, offline: the GPU's tests, then what ``nait-fast bench`` measures.

    python -m benchmarks.gpu_suite [--part all] [--out DIR] [--minutes 8] [--device cuda:0] [--shapes NAME …]

The tests come first; if one fails, that is recorded and nothing is timed (a part that is named alone, is: each of its
rows has a check of its own). Then come the ceilings, the kernels and whole index passes of three model shapes with
random weights, the scan, and what reading a mixture of experts costs. What no longer fits into the time gets a row that
says so. Rows go to ``gpu_suite.jsonl`` in ``benchmarks/results/<GPU>/`` (or DIR) as each step ends; the tables come
last. Exit status: 0, 1 when a test or a check failed, 2 where there is no GPU.
"""

import argparse
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks.record import record
from nait_fast.bench.results import state_of, tables

ROOT = Path(__file__).resolve().parent.parent
PARTS = ("all", "tests", "ceilings", "pipeline", "kernels", "scan", "endtoend", "experts")
SHAPES = ("llama-2-7b", "smollm2-135m", "qwen2.5-1.5b")  # the one that the targets speak of first: time may run out
PIPELINE_SHAPE = "smollm2-135m"  # a CPU runs it too
# Tests outside tests/gpu that run on a GPU where there is one.
DEVICE_TESTS = [
    "tests/ops/test_topk_device.py",
    "tests/index/test_index.py",
    "tests/codecs/test_rotated.py",
    "tests/models/test_fused.py",
    "-k",
    "topk_device or on_the_device or resident or backends_agree or test_fused",
]
# Seconds that a step may measure for, and those it needs besides: compiling, making a model, checking.
BUDGET = {"ceilings": 6.0, "kernels": 9.0, "scan": 12.0, "endtoend": 25.0}
BESIDES = {"ceilings": 10.0, "kernels": 12.0, "scan": 20.0, "endtoend": 45.0}
EXPERTS_SECONDS = 90.0  # with the model's making, and its proofs
TESTS_SHARE = 0.5  # of the time, at most


@dataclass
class Suite:
    """The state of one run: rows so far, and when it must end."""

    folder: Path | None
    ends: float
    minutes: float
    rows: list[dict[str, Any]] = field(default_factory=list)
    name: str = "gpu_suite"  # of the file, and of who speaks

    @property
    def left(self) -> float:
        """Seconds."""
        return self.ends - time.monotonic()

    @property
    def skipped(self) -> str:
        """The check of a part for which there is no time."""
        return f"skipped: {max(0.0, self.left):.0f} s of {self.minutes:g} minutes were left"

    def keep(self, rows: list[dict[str, Any]]) -> None:
        """Append a step's rows to the result file and the tables."""
        if rows:
            path = record(self.name, rows, self.folder)
            self.rows += rows
            first = rows[0]
            words = " ".join(filter(None, (first["part"], first.get("shape"))))
            print(
                f"{self.name}: {words}: {len(rows)} rows in {path}; {self.left:.0f} s left", file=sys.stderr, flush=True
            )

    def failed(self) -> list[str]:
        """What failed, by name."""
        return [
            " ".join(filter(None, (row["part"], row.get("shape"), row["name"])))
            for row in self.rows
            if state_of(row) in ("failed", "unfinished")
        ]


def run_pytest(name: str, arguments: list[str], seconds: float, base: dict[str, Any]) -> dict[str, Any]:
    """A row on one run of pytest; its last lines go to stderr if it failed."""
    # A file whose imports this machine lacks must not keep the others from running.
    flags = ["-q", "--tb=short", "-p", "no:cacheprovider", "--continue-on-collection-errors"]
    if find_spec("xdist"):  # each compiles kernels of its own most of the time
        flags += ["-n", str(max(1, (os.cpu_count() or 1) // 4))]
    command = [sys.executable, "-m", "pytest", *flags, *arguments]
    paths = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    # What a shell or an image may have set would test another thing: the interpreter, another backend, TF32 for fp32.
    changed = ("TRITON_INTERPRET", "NAIT_FAST_BACKEND", "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE")
    environment = {k: v for k, v in os.environ.items() if k not in changed}
    environment |= {"HF_HUB_OFFLINE": "1", "PYTHONPATH": paths}
    row: dict[str, Any] = {**base, "part": "tests", "name": name}
    began = time.monotonic()
    try:
        done = subprocess.run(
            command,
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=max(1.0, seconds),
        )
        output, status = done.stdout, done.returncode
    except subprocess.TimeoutExpired as error:
        output, status = (error.stdout or b"").decode(errors="replace"), -1
    row["seconds"] = time.monotonic() - began
    lines = output.strip().splitlines()
    summary = lines[-1].strip("= ") if lines else "no output"
    if status == 0:
        return row | {"check": f"ok: {summary}"}
    print("\n".join(lines[-40:]), file=sys.stderr, flush=True)
    if status == -1:
        return row | {"check": f"unfinished: not done after {seconds:.0f} s"}
    return row | {"check": f"failed: {'no test was found' if status == 5 else summary}"}


def run_tests(suite: Suite, base: dict[str, Any]) -> bool:
    """The GPU's tests and the kernels', side by side (most of their time is compilation); whether all passed."""
    runs = {"pytest -m gpu": ["-m", "gpu", "tests/gpu"], "search and top-k": DEVICE_TESTS}
    for path in sorted((ROOT / "tests" / "ops").glob("*kernel*.py")):
        runs[path.name] = [str(path.relative_to(ROOT))]
    limit = suite.left * TESTS_SHARE
    with ThreadPoolExecutor(len(runs)) as pool:
        jobs = [pool.submit(run_pytest, name, arguments, limit, base) for name, arguments in runs.items()]
        for job in jobs:
            suite.keep([job.result()])
    return not suite.failed()


def measure(suite: Suite, parts: set[str], shapes: list[str], device: Any, base: dict[str, Any]) -> None:
    """The parts of ``nait-fast bench``, as long as there is time."""
    import torch

    from nait_fast.bench.pipeline import measure_pipeline
    from nait_fast.bench.run import MeasuredDevice, Subject

    def failed(row: dict[str, Any], error: Exception) -> None:
        suite.keep([{**row, "check": f"failed: {type(error).__name__}: {error}"[:300]}])

    try:
        measured = MeasuredDevice.open(device, "auto", BUDGET["ceilings"])
    except Exception as error:  # without ceilings nothing can be set against them
        failed({**base, "part": "ceilings", "name": "ceilings"}, error)
        return

    def step(part: str, subject: Subject) -> None:
        about = {**base, "part": part, **({"shape": subject.name} if part in ("kernels", "endtoend") else {})}
        seconds = min(BUDGET[part], suite.left - BESIDES[part])
        if part not in parts and part != "ceilings":
            return
        if part != "ceilings" and seconds < BUDGET[part] / 4:
            suite.keep([{**about, "name": part, "check": suite.skipped}])
            return
        try:
            for row in measured.rows(part, subject, seconds):
                suite.keep([base | row])
        except Exception as error:  # one step must not cost the others
            failed({**about, "name": part}, error)

    def pipeline() -> None:
        about = {**base, "part": "pipeline"}
        shape = PIPELINE_SHAPE if PIPELINE_SHAPE in shapes else shapes[0]
        try:
            for row in measure_pipeline(shape, device, (torch.float32, torch.bfloat16)):
                suite.keep([{**about, **row}])
        except Exception as error:  # one step must not cost the others
            failed({**about, "name": "pipeline"}, error)

    def experts() -> None:
        from benchmarks.experts import rows_on_gpu

        about = {**base, "part": "experts"}
        if suite.left < EXPERTS_SECONDS:
            suite.keep([{**about, "name": "experts", "check": suite.skipped}])
            return
        try:
            suite.keep([{**about, **row} for row in rows_on_gpu(device, rounds=2)])
        except Exception as error:  # one step must not cost the others
            failed({**about, "name": "experts"}, error)

    if "pipeline" in parts:
        pipeline()
    subjects = [Subject(shape, None, device, "auto", seed=0) for shape in shapes]
    step("ceilings", subjects[0])
    for number, subject in enumerate(subjects):
        step("kernels", subject)
        step("endtoend", subject)
        subject.forget()
        if number == 0:
            step("scan", subject)
            subject.forget()
    if "experts" in parts:
        experts()


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=PARTS, default="all")
    parser.add_argument("--out", type=Path, help="folder for gpu_suite.jsonl")
    parser.add_argument("--minutes", type=float, default=8.0, help="time for everything, about (default 8)")
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    arguments = parser.parse_args(argv)
    suite = Suite(arguments.out, time.monotonic() + 60 * arguments.minutes, arguments.minutes)

    try:
        import torch

        usable = torch.cuda.is_available()
    except ImportError:
        usable = False
    if not usable:
        print("gpu_suite: no torch with a GPU that it can use here; nothing was run", file=sys.stderr)
        return 2
    from nait_fast.bench.run import devices_of, hardware_of
    from nait_fast.errors import NaitError

    try:
        (device,) = devices_of(arguments.device)
    except (NaitError, ValueError) as error:
        print(f"gpu_suite: {error}", file=sys.stderr)
        return 2
    base = {"device": str(device), "hardware": hardware_of(device)}
    parts = set(PARTS[1:]) if arguments.part == "all" else {arguments.part}
    passed = run_tests(suite, base) if "tests" in parts else True
    if passed and parts != {"tests"}:
        measure(suite, parts, arguments.shapes, device, base)
    print(tables([_short(row) for row in suite.rows]))
    failed = suite.failed()
    if failed:
        stopped = "" if passed else "; nothing was timed (--part NAME measures one part, without the tests)"
        print(f"\nfailed: {'; '.join(failed)}{stopped}")
    return int(bool(failed))


def _short(row: dict[str, Any]) -> dict[str, Any]:
    """The row without what a passed check found: that is in the file."""
    passed = row["part"] != "tests" and state_of(row) == "ok"
    return {**row, "check": "ok"} if passed else row


if __name__ == "__main__":
    sys.exit(main())
