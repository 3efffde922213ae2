"""The command line end to end: ``index``, ``signature`` and ``rank`` as a user runs them, each a process of its own, on
made-up rows (``synthetic.py``) with a model of random weights or a real one; where their time goes.

Stages of ``index`` are those that its log tells, and ``outside``, what the process took besides. Where the log has
none, as that of several workers, they are taken from the events: until the first unit begins, the units, and what is
behind the last one.
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from nait_fast.bench.checks import failure
from nait_fast.bench.shapes import SHAPES
from nait_fast.bench.synthetic import save_model, write_rows
from nait_fast.models.load import pick_dtype
from nait_fast.progress import say

TARGET_ROWS = 64
FRACTION = 0.1
POLL_SECONDS = 0.05
OF_THE_PASS = ("tokens_served", "tokens_run", "shared_prefix_tokens", "padding_waste")  # of a command without workers
IMPORTS = "import torch, transformers, nait_fast.verbs.index, nait_fast.extract.session"


class _Failed(Exception):
    """A command ended with another status than 0: its last words."""


@dataclass(frozen=True)
class Ran:
    """A command that ended well: ``summary``, its last line of JSON, where it printed any; seconds by the clock and of
    processors; the most MB that it had resident."""

    summary: dict[str, Any]
    seconds: float
    cpu_seconds: float
    peak_rss_mb: float


def _children_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def run_command(command: Sequence[str]) -> Ran:
    """Run a process to its end. Raises _Failed."""
    root = Path(__file__).resolve().parents[2]
    paths = os.pathsep.join(filter(None, (str(root), os.environ.get("PYTHONPATH"))))
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        began, before, peak = time.perf_counter(), _children_seconds(), 0.0
        process = subprocess.Popen(command, stdout=out, stderr=err, env={**os.environ, "PYTHONPATH": paths})
        while process.poll() is None:
            peak = max(peak, peak_of_process(process.pid))
            time.sleep(POLL_SECONDS)
        seconds = time.perf_counter() - began
        err.seek(0)
        if process.returncode:
            raise _Failed(err.read().decode(errors="replace").strip()[-300:] or f"status {process.returncode}")
        out.seek(0)
        lines = out.read().decode().splitlines()
    return Ran(json.loads(lines[-1]) if lines else {}, seconds, _children_seconds() - before, peak)


def peak_of_process(pid: int) -> float:
    """MB that a running process has had resident at most; 0 where the system does not tell. (What ``wait`` reports
    begins at what the parent held.)"""
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace")
        return float(status.partition("VmHWM:")[2].split()[0]) / 1024
    except (OSError, IndexError):
        return 0.0


def stages_of(index: Path, began: float, seconds: float) -> dict[str, float]:
    """Seconds by stage of the ``index`` command that wrote the folder ``index`` from ``began`` (since 1970) on."""
    log = index / "log.json"  # not of workers that torchrun started, each of which has its own
    stages = json.loads(log.read_text(encoding="utf-8")).get("stages") if log.exists() else None
    if not stages:
        events = [json.loads(line) for line in (index / "events.jsonl").read_text(encoding="utf-8").splitlines()]
        first = next(event["time"] for event in events if event["event"] == "begin")
        last = max(event["time"] for event in events)
        stages = {"before the first unit": first - began, "units": last - first}
    return {**stages, "outside": seconds - sum(stages.values())}


def measure_commands(
    model: str,
    work: Path,
    rows: int,
    seed: int = 0,
    index_options: Sequence[str] = (),
    responses: float = 1.0,
    signatures: int = 1,
    only: Collection[str] = (),
    quiet: bool = True,
) -> Iterator[dict[str, Any]]:
    """A row a command (``only`` those of these names), in the empty folder ``work``, of ``model`` (a folder, GGUF file
    or Hub id) on ``rows`` made-up rows, whose outputs are ``responses`` times as long as Alpaca's; ``index_options`` go
    to ``signature``, too."""
    write_rows(work / "pool.jsonl", rows, seed, responses)
    targets = [work / f"target{number}.jsonl" for number in range(signatures)]
    for number, target in enumerate(targets):
        write_rows(target, TARGET_ROWS, seed + 1 + number, responses)
    python = [sys.executable, "-m", "nait_fast"]
    both = ["--model", model, "--template", "alpaca", *index_options]
    index, sigs, ranked = work / "index", work / "signatures", work / "ranked"
    pool = ["--dataset", str(work / "pool.jsonl")]
    files = [str(sigs / f"{target.stem}.safetensors") for target in targets]
    commands = {
        "import": [sys.executable, "-c", IMPORTS],
        "index": [*python, "index", *both, *pool, "--output", str(index), "--json"],
        "signature": [
            *(*python, "signature", *both, "--target", *map(str, targets)),
            *("--codebook", str(index), "--output", str(sigs), "--json"),
        ],
        "rank": [
            *(*python, "rank", "--index", str(index), "--signature", *files, *pool, "--fraction", str(FRACTION)),
            *("--output", str(ranked), "--scores", "selected", "--json"),
        ],
    }
    about = {"rows": rows, "responses": responses, "index_options": " ".join(index_options), "signatures": signatures}
    for name, command in commands.items():
        if only and name not in only:
            continue
        say(f"bench: {name}", quiet)
        began = time.time()
        try:
            ran = run_command(command)
        except _Failed as failed:
            yield {"name": name, **about, "check": f"failed: {failed}"}
            return
        summary, seconds = ran.summary, ran.seconds
        measured = {"seconds": seconds, "cpu_seconds": ran.cpu_seconds, "peak_rss_mb": ran.peak_rss_mb}
        row: dict[str, Any] = {"name": name, **about, **measured, "check": "ok: ended"}
        if name == "index":
            row["stages"] = {stage: round(taken, 3) for stage, taken in stages_of(index, began, seconds).items()}
            row |= {key: summary[key] for key in ("tokens", *OF_THE_PASS) if key in summary}
            row |= {"rows_per_s": rows / seconds, "tokens_per_s": summary["tokens"] / seconds}
            row["pass_tokens_per_s"] = summary.get("tokens_per_s")
            row["index_mb"] = sum(f.stat().st_size for f in index.rglob("*") if f.is_file()) / 1e6
        elif name == "rank":
            row["rows_per_s"] = rows / seconds
        yield row


def measure_cli(
    shape: str,
    model: str | None,
    device: torch.device,
    dtype: str,
    rows: int,
    max_length: int,
    seed: int = 0,
    quiet: bool = True,
) -> Iterator[dict[str, Any]]:
    """Rows of ``model``, or of ``shape`` with random weights, made and saved first."""
    with tempfile.TemporaryDirectory(prefix="nait-fast-bench-") as made:
        work = Path(made)
        try:
            if model is None:
                say(f"bench: saving {shape} with random weights", quiet)
                began = time.perf_counter()
                save_model(SHAPES[shape], work / "model", device, pick_dtype(dtype, device), seed)
                model, spent = str(work / "model"), time.perf_counter() - began
                yield {"name": "random weights saved", "seconds": spent, "check": "ok: before the commands"}
                if device.type == "cuda":
                    torch.cuda.empty_cache()
            options = ["--device", str(device), "--dtype", dtype, "--max-length", str(max_length)]
            yield from measure_commands(model, work, rows, seed, options, quiet=quiet)
        except Exception as error:  # one part must not cost the others
            yield {"name": "commands", "check": failure(error)}
