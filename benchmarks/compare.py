"""Whole-process comparisons, side by side in one run.

    python -m benchmarks.compare index --model FILE.gguf --dataset POOL.jsonl.gz [--rows 256]
        [--template alpaca] [--max-length 384]
    python -m benchmarks.compare demo [--before FOLDER]
    python -m benchmarks.compare scan [--rows 200000] [--row-bytes 5760]

``index``: tokens served per second, padding not counted, and peak memory of ``nait-fast index`` in fp32 and bf16 beside
what one writes with transformers and hooks (``baseline.py``: padded batches of 8, one sample at a time, and the strong
one, in both dtypes) and beside NAG's extraction loop, in turn, ``--rounds`` times, every other round backwards;
``--before FOLDER``: the index command of an earlier commit's checkout, too. The bits of the fp32 index are checked
against the hooks' features first. ``demo``: the seconds of ``nait-fast demo`` by stage. ``scan``: GB of codes per
second beside FAISS and NumPy, with this machine's read bandwidth measured in the same loop. Rows go to
``benchmarks/results/<hardware>/``.
"""

import argparse
import json
import multiprocessing
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.pools import lines_of
from benchmarks.record import record, table

OURS, HALF, BEFORE = "nait-fast index", "nait-fast index, bf16", "nait-fast index, before"
DEMO, DEMO_BEFORE = "nait-fast demo", "nait-fast demo, before"


def _child(command: list[str], folder: Path | None = None) -> tuple[dict[str, Any], float, float, float]:
    """Run ``command`` in ``folder``; (its last line of JSON, seconds, peak resident MB, processor seconds)."""
    started = time.perf_counter()
    with tempfile.TemporaryFile() as out:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.PIPE, cwd=folder)
        error = process.stderr.read() if process.stderr else b""
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise SystemExit(f"{' '.join(command[:4])} failed:\n{error.decode()[-2000:]}")
        out.seek(0)
        summary = json.loads(out.read().decode().strip().splitlines()[-1])
    spent = time.perf_counter() - started
    return summary, spent, usage.ru_maxrss / 1024, usage.ru_utime + usage.ru_stime


def _check_bits(
    index_folder: Path, model: str, dataset: Path, max_length: int, template: str, rows: int = 32
) -> dict[str, Any]:
    """The index's bits against the baseline's features under the index's own thresholds; exits if they disagree."""
    from benchmarks import baseline
    from nait_fast.index.reader import Index

    index = Index(index_folder)
    codebook = index.codebook
    loaded, tokenizer = (
        baseline.load(str(Path(model).parent), gguf=Path(model).name)
        if model.endswith(".gguf")
        else baseline.load(model)
    )
    samples = baseline.tokenise(tokenizer, baseline.read_rows(str(dataset), rows), max_length, template)
    features, _, _ = baseline.run_baseline(loaded, tokenizer, samples, batch_size=8, features=True)
    features = np.asarray(features, dtype=np.float64).reshape(len(samples), -1)
    assert codebook.scale is not None
    shard = next(index.shards())
    bits = index.layout.unpack(np.array(shard.codes[: len(samples)]))
    differ = bits != (features > codebook.threshold)
    distance = np.abs(features - codebook.threshold) / np.maximum(codebook.scale, 1e-12)
    worst = float(distance[differ].max()) if differ.any() else 0.0
    if worst > 1e-3:
        raise SystemExit(f"correctness: a bit {worst:.1e}·σ away from its threshold differs; no speed is reported")
    return {"checked_bits": int(differ.size), "differing_bits": int(differ.sum()), "worst_distance_sigma": worst}


def commit_of(folder: Path) -> str:
    """The commit that is checked out in ``folder``."""
    command = ["git", "-C", str(folder), "rev-parse", "--short=12", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def compare_index(arguments: argparse.Namespace) -> None:
    work = Path(tempfile.mkdtemp())
    folder, gguf = arguments.model, []
    if arguments.model.endswith(".gguf"):
        folder, gguf = str(Path(arguments.model).parent), ["--gguf", Path(arguments.model).name]
    dataset = work / "pool.jsonl"
    dataset.write_bytes(b"".join(lines_of(arguments.dataset, arguments.rows)))
    given = ["--dataset", str(dataset), "--max-length", str(arguments.max_length), "--template", arguments.template]
    theirs = ["--model", folder, *gguf, *given, "--rows", str(arguments.rows)]
    python = [sys.executable, "-m"]
    ours = [*python, "nait_fast", "index", "--model", arguments.model, *given, "--json", "--output"]
    hooks, half = [*python, "benchmarks.baseline", *theirs], ["--dtype", "bfloat16"]
    tools: dict[str, list[str]] = {
        OURS: [*ours, str(work / "index"), "--dtype", "float32"],
        HALF: [*ours, str(work / "index-half"), *half],
        **({BEFORE: [*ours, str(work / "index-before")]} if arguments.before else {}),
        "hooks, sorted batches, body only": [*hooks, "--strong"],
        "hooks, sorted batches, body only, bf16": [*hooks, "--strong", *half],
        "hooks, padded batches of 8": [*hooks, "--batch-size", "8"],
        "hooks, padded batches of 8, bf16": [*hooks, "--batch-size", "8", *half],
        "hooks, one sample at a time": [*hooks, "--batch-size", "1"],
        "NAG-style loop, batches of 8": [*python, "benchmarks.nag_style", *theirs],
    }
    for tool in arguments.without:
        del tools[tool]
    measured: dict[str, list[dict[str, Any]]] = {tool: [] for tool in tools}
    checked: dict[str, Any] = {}
    for number in range(arguments.rounds):
        in_turn = list(tools.items())
        for tool, command in in_turn if number % 2 == 0 else reversed(in_turn):
            for made in work.glob("index*") if tool in (OURS, HALF, BEFORE) else ():
                if str(made) in command:
                    shutil.rmtree(made)
            summary, seconds, peak, cpu = _child(command, arguments.before if tool == BEFORE else None)
            rate = summary["tokens_per_s"]
            served = summary.get("tokens_served") or summary.get("real_tokens") or summary["tokens"]
            # An earlier commit's index says only what was served.
            run = summary["tokens_run"] if "tokens_served" in summary else summary.get("real_tokens")
            row = {"tokens_served": served, "tokens_run": run}
            row |= {"tokens_per_s": rate, "process_seconds": seconds, "process_cpu_s": cpu, "peak_rss_mb": peak}
            measured[tool].append(row)
            print(f"{tool}: {rate:,.0f} tokens/s, {peak:,.0f} MB, {seconds:.0f} s in all", file=sys.stderr)
        if not checked:
            # In a process of its own: a child's peak memory starts at what its parent holds.
            with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
                about = work / "index", arguments.model, dataset, arguments.max_length, arguments.template
                job = pool.submit(_check_bits, *about)
                checked = job.result()
            print(f"bits against the hooks' features: {checked}", file=sys.stderr)
    rows = []
    for tool, runs in measured.items():
        pairs = zip(measured[OURS], runs, strict=True)
        ratios = [mine["tokens_per_s"] / run["tokens_per_s"] for mine, run in pairs]
        rows.append(
            {
                "tool": tool,
                "tokens_per_s": statistics.median(r["tokens_per_s"] for r in runs),
                "nait_fast_is": statistics.median(ratios),
                "nait_fast_is_min": min(ratios),
                "peak_rss_mb": max(r["peak_rss_mb"] for r in runs),
                "process_seconds": statistics.median(r["process_seconds"] for r in runs),
                "process_cpu_s": statistics.median(r["process_cpu_s"] for r in runs),
                "tokens_served": runs[0]["tokens_served"],
                "tokens_run": runs[0]["tokens_run"],
                "rounds": len(runs),
                "rows": arguments.rows,
                "max_length": arguments.max_length,
                "template": arguments.template,
                "model": Path(arguments.model).name,
                **(checked if tool == OURS else {}),
                **({"before": commit_of(arguments.before)} if tool == BEFORE else {}),
            }
        )
    path = record("compare", [{"part": "index", **row} for row in rows])
    print(table(rows, ["tool", "tokens_per_s", "nait_fast_is", "nait_fast_is_min", "peak_rss_mb", "process_seconds"]))
    print(f"rows appended to {path}")


def compare_demo(arguments: argparse.Namespace) -> None:
    """Seconds of the demo, stage by stage, in turn with those of the commit before."""
    folders = {DEMO: None, **({DEMO_BEFORE: arguments.before} if arguments.before else {})}
    rows = []
    for _ in range(arguments.rounds):
        for tool, folder in folders.items():
            with tempfile.TemporaryDirectory() as made:
                command = [sys.executable, "-m", "nait_fast", "demo", "--json", "--output", str(Path(made) / "demo")]
                told, seconds, peak, cpu = _child(command, folder)
            row = {"tool": tool, "process_seconds": seconds, "process_cpu_s": cpu, "peak_rss_mb": peak}
            row |= {f"{stage}_s": spent for stage, spent in told["seconds"].items()}
            rows.append(row | {"tokens_per_s": told["tokens_per_s"]})
            rows[-1] |= {"before": commit_of(folder)} if folder else {}
            print(f"{tool}: {seconds:.0f} s", file=sys.stderr)
    path = record("compare", [{"part": "demo", **row} for row in rows])
    print(table(rows, [name for name in rows[0] if name != "before"]))
    print(f"rows appended to {path}")


def _reader() -> Callable[[np.ndarray], int]:
    import numba

    @numba.njit(parallel=True)
    def read(words):
        total = np.uint64(0)
        for i in numba.prange(words.shape[0]):
            row = np.uint64(0)
            for w in range(words.shape[1]):
                row += words[i, w]
            total += row
        return total

    return read


def compare_scan(arguments: argparse.Namespace) -> None:
    import faiss

    from nait_fast.kernels.popcount import cpu, reference

    generator = np.random.default_rng(0)
    n, width = arguments.rows, arguments.row_bytes
    codes = generator.integers(0, 256, (n, width), dtype=np.uint8)
    planes = generator.integers(0, 256, (16, width), dtype=np.uint8)
    weights, owners = np.array([1, 2, 4, -8] * 4, dtype=np.int64), np.repeat(np.arange(4), 4)
    sample = codes[:2000]
    if not np.array_equal(
        cpu.popcount_scan(sample, planes, weights, owners, 4),
        reference.popcount_scan(sample, planes, weights, owners, 4),
    ):
        raise SystemExit("correctness: the scan differs from its reference; no speed is reported")
    flat = faiss.IndexBinaryFlat(width * 8)
    flat.add(codes)
    read = _reader()
    words = codes.view(np.uint64)
    zeros = np.zeros(16, dtype=np.int64)

    def ours(q: int) -> Callable[[], Any]:
        return lambda: cpu.popcount_scan(codes, planes[:q], weights[:q], zeros[:q], 1)

    jobs: dict[str, Callable[[], Any]] = {"plain read": lambda: read(words)}
    for q in (1, 4, 16):
        jobs[f"nait_fast scan, {q} planes"] = ours(q)
        jobs[f"FAISS IndexBinaryFlat, {q} queries"] = lambda q=q: flat.search(planes[:q], 100)
    jobs["NumPy bitwise_count, 1 plane"] = lambda: reference.popcount_scan(codes, planes[:1], weights[:1], zeros[:1], 1)
    seconds: dict[str, list[float]] = {name: [] for name in jobs}
    for round_number in range(arguments.rounds + 1):
        for name, job in jobs.items():
            time.sleep(0.2)  # the threads of the job before spin on for a while, and would take this one's cores
            started = time.perf_counter()
            job()
            if round_number:  # the first round compiles and warms up
                seconds[name].append(time.perf_counter() - started)
    rows = []
    for name, times in seconds.items():
        rate, read_rate = (n * width / statistics.median(t) / 1e9 for t in (times, seconds["plain read"]))
        q25, _, q75 = statistics.quantiles(times, n=4)
        rows.append(
            {
                "tool": name,
                "gb_per_s": rate,
                "of_read": rate / read_rate,
                "median_s": statistics.median(times),
                "q25_s": q25,
                "q75_s": q75,
                "rows": n,
                "row_bytes": width,
                "rounds": len(times),
            }
        )
    path = record("compare", [{"part": "scan", "faiss": faiss.__version__, **row} for row in rows])
    print(table(rows, ["tool", "gb_per_s", "of_read", "median_s", "q25_s", "q75_s"]))
    print(f"rows appended to {path}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = parser.add_subparsers(dest="part", required=True)
    index = parts.add_parser("index")
    index.add_argument("--model", required=True)
    index.add_argument("--dataset", required=True, type=Path)
    index.add_argument("--rows", type=int, default=256)
    index.add_argument("--max-length", type=int, default=384)
    index.add_argument("--template", choices=("chat", "alpaca"), default="chat")
    index.add_argument("--rounds", type=int, default=2)
    index.add_argument("--before", type=Path, metavar="FOLDER", help="an earlier commit's checkout, measured beside")
    index.add_argument("--without", nargs="+", default=[], metavar="TOOL", help="leave these out, by their names")
    demo = parts.add_parser("demo")
    demo.add_argument("--rounds", type=int, default=2)
    demo.add_argument("--before", type=Path, metavar="FOLDER", help="an earlier commit's checkout, measured beside")
    scan = parts.add_parser("scan")
    scan.add_argument("--rows", type=int, default=200_000)
    scan.add_argument("--row-bytes", type=int, default=5760)
    scan.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    {"index": compare_index, "demo": compare_demo, "scan": compare_scan}[arguments.part](arguments)


if __name__ == "__main__":
    main()
