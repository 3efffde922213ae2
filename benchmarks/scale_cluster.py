"""docs/scale.md's plan, simulated: LLaMA-3-8B over 100 M samples on 64 GPUs, by the engine's own rules.

    python -m benchmarks.scale_cluster [--samples 100e6] [--gpus 64] [--seeds 5] [--output FOLDER]
    python -m benchmarks.scale_cluster --render docs/scale.md

Simulated: the rate of a GPU is assumed; one H100 has since reached 590 TFLOP/s (docs/kernels.md). Start: one worker
numbers the rows; each reads the plan, loads the model, saves the plan under the folder's lock, looks for every unit's
note; one calibrates, the others wait. Pass: free workers take units; a killed one loses that under way, which is free
at once (a lost node's, once the file system gives up its locks), and comes back. Finish, one thread: notes, repeated
ids, manifest. The host's work is timed here, with the package's own functions. Not simulated: a file system that slows
down under load, failures outside the pass.
"""

import argparse
import hashlib
import heapq
import re
import sys
import tempfile
import time
import timeit
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.record import RESULTS, newest, record, table
from nait_fast.bench.lengths import sample_lengths
from nait_fast.codecs.layout import CodeLayout
from nait_fast.data.parts import RowPlace
from nait_fast.data.plan import Plan, Unit, load_plan
from nait_fast.index import duplicates
from nait_fast.index.writer import pack_ids
from nait_fast.storage.files import pack_tensors, read_sealed, write_atomic, write_sealed
from nait_fast.storage.names import shard_name

LAYERS, HIDDEN, NEURONS, HEADS, KV_HEADS, HEAD = 32, 4096, 14336, 32, 8, 128  # LLaMA-3-8B (its config.json)
LAYOUT = CodeLayout.of([NEURONS] * LAYERS)
MATMUL = 650e12  # FLOP/s, bf16, H100 (docs/kernels.md, "Rates used")
MAX_LENGTH, CALIBRATION_ROWS = 512, 512
# Llama 3 report (arXiv 2407.21783, section 3.3.4): unexpected interruptions in 54 days of 16,384 H100; 58.7% of them
# are the GPU's, which cost one worker here; all others are taken to cost a whole node of 8.
MTBF_SECONDS = 54 * 86400 * 16384 / 419  # of one GPU
GPU_SHARE, NODE = 0.587, 8
SIZES, MULTIPLES = (256, 1024, 2048, 4096, 8192, 16384, 65536), (1, 10, 100)

Failures = list[tuple[float, int, int]]  # (second, first worker hit, workers hit: 1 or a node's)


@dataclass(frozen=True)
class Setting:
    """The plan, and what is assumed (seconds and bytes/s)."""

    samples: int = 100_000_000
    gpus: int = 64
    shard_rows: int = 16384  # chosen in docs/scale.md; the engine's default is 2,048
    multiple: float = 1.0  # of the failure rate
    share: float = 0.6  # of MATMUL that the device reaches
    spread: float = 0.05  # sigma of the workers' lognormal speed
    restart: float = 60.0  # until a killed process is started again
    node_restart: float = 600.0  # until a spare node takes a lost one's place
    node_locks: float = 90.0  # until a file system gives up the locks of a lost client (NFS 4: its lease)
    model_load: float = 60.0  # 15 GB of weights at 0.25 GB/s for each worker
    metadata: float = 0.3e-3  # a look at a name on a shared file system
    write_rate: float = 1e9  # of one worker
    unit_host: float = 0.1  # device drained, two files synced, locks

    @property
    def units(self) -> int:
        return -(-self.samples // self.shard_rows)


@dataclass
class Run:
    """done [units]: how often; again [workers]: when last started; seconds of all workers; tail: end - first idle."""

    done: np.ndarray
    again: np.ndarray
    worked: float = 0.0
    needed: float = 0.0
    lost: float = 0.0
    down: float = 0.0
    failures: int = 0  # that hit a worker
    end: float = 0.0
    tail: float = 0.0


def sample_flops(lengths: np.ndarray) -> np.ndarray:
    """Operations of the body's forward over each sample, as the engine runs it: no LM head, and the last layer's down
    projection left out. 2·W·k + 4·L·H·k(k + 1)/2, see ``nait_fast.bench.shapes.forward_flops``; the 24 tokens that the
    samples share count each time (the engine runs them once a unit)."""
    k = lengths.astype(np.float64)
    attention = HIDDEN * HEAD * (2 * HEADS + 2 * KV_HEADS)
    weights = LAYERS * (attention + 3 * HIDDEN * NEURONS) - HIDDEN * NEURONS
    return 2.0 * weights * k + 4.0 * LAYERS * HEADS * HEAD * k * (k + 1) / 2


def failures_of(setting: Setting, horizon: float, generator: np.random.Generator) -> Failures:
    """Poisson processes, so times between failures are exponential: of each GPU and of each node, up to ``horizon``."""
    failures: Failures = []
    for share, size in ((GPU_SHARE, 1), (1 - GPU_SHARE, NODE)):
        n = generator.poisson(horizon * setting.gpus * setting.multiple * share / MTBF_SECONDS)
        first = generator.integers(-(-setting.gpus // size), size=n) * size
        failures += [(float(t), int(w), size) for t, w in zip(generator.random(n) * horizon, first, strict=True)]
    return failures


def simulate(
    seconds: np.ndarray,
    host: float,
    speeds: np.ndarray,
    starts: np.ndarray,
    failures: Failures,
    down: tuple[float, float],
    locks: float,
) -> Run:
    """The pass. ``seconds`` [units]: on the device at speed 1; ``host``: of each unit on the host, the device idle;
    ``speeds``, ``starts`` [workers]; ``down``: from a process's or a node's failure to the next unit; ``locks``: until
    a lost node's units are free. Which free unit a worker takes does not matter: what others have not begun is free."""
    run, fresh, first_idle = Run(np.zeros(len(seconds), np.int64), starts.copy()), 0, np.inf
    free = [(float(t), w) for w, t in enumerate(starts)]
    heapq.heapify(free)
    given_back: list[tuple[float, int]] = []  # (when it is free again, unit)
    idle: list[int] = []
    hits = [sorted((t, n > 1) for t, first, n in failures if first <= w < first + n) for w in range(len(starts))]
    while free:
        now, worker = heapq.heappop(free)
        if given_back and given_back[0][0] <= now:
            unit = heapq.heappop(given_back)[1]
        elif fresh < len(seconds):
            unit, fresh = fresh, fresh + 1
        elif given_back:
            heapq.heappush(free, (given_back[0][0], worker))
            continue
        else:
            first_idle = min(first_idle, now)
            idle.append(worker)
            continue
        while hits[worker] and hits[worker][0][0] <= now:  # it was down, or waited: nothing more is lost
            hits[worker].pop(0)
        fails, of_node = hits[worker][0] if hits[worker] else (np.inf, False)
        length = float(seconds[unit] / speeds[worker] + host)
        worked = min(length, fails - now)
        run.worked += worked
        if worked == length:
            run.done[unit] += 1
            run.needed, run.end = run.needed + length, max(run.end, now + length)
            heapq.heappush(free, (now + length, worker))
            continue
        run.failures, run.lost, run.down = run.failures + 1, run.lost + worked, run.down + down[of_node]
        run.again[worker] = fails + down[of_node]
        heapq.heappush(free, (fails + down[of_node], worker))
        heapq.heappush(given_back, (fails + locks * of_node, unit))
        if idle:  # whoever waited takes it
            heapq.heappush(free, (max(now, given_back[0][0]), idle.pop()))
    run.tail = max(0.0, run.end - first_idle)
    return run


def ends(setting: Setting, host: dict[str, float], device_s: float) -> tuple[np.ndarray, dict[str, float]]:
    """When each worker takes its first unit [gpus], and the seconds of what goes before and after the pass; ``host``:
    see ``measure``; ``device_s``: of one sample."""
    units, number = setting.units, setting.samples / host["number_rate"]
    load, save = units * host["plan_load"], units * host["plan_save"]
    at = number + save + load * np.arange(setting.gpus) + setting.model_load
    for worker in range(setting.gpus):  # each saves the plan in turn
        at[worker] = max(at[worker], at[worker - 1] if worker else 0.0) + save
    at += 4 * units * setting.metadata  # notes: looked for by check, for the list of resumed ones, by progress (twice)
    rows = min(setting.samples, CALIBRATION_ROWS * setting.shard_rows)  # a drawn row's unit is read whole
    calibrate = rows / host["number_rate"] + CALIBRATION_ROWS * device_s
    starts = np.maximum(at, at.min() + calibrate)
    passes = -(-setting.samples // duplicates.HASHES_AT_ONCE)
    opened = (1 + passes) * units * 3 * setting.metadata
    ids = setting.samples * ((1 + passes) * host["id_read"] + passes * host["id_hash"]) + opened
    notes = units * (2 * (host["note_read"] + setting.metadata) + 4 * setting.metadata)  # read, looked for, removed
    return starts, {
        "number_s": number,
        "calibrate_s": calibrate,
        "start_s": float(starts.max()),
        "id_passes": passes,
        "ids_s": ids,
        "notes_s": notes,
        "finish_s": ids + notes,
    }


def predict(setting: Setting, host: dict[str, float], seed: int, failures: Failures | None = None) -> dict[str, float]:
    """One run of ``setting``: a row's figures."""
    generator = np.random.default_rng(seed)
    lengths, rate, units = sample_lengths(1 << 18, 0, MAX_LENGTH), MATMUL * setting.share, setting.units
    flops, shard = sample_flops(lengths), setting.shard_rows * LAYOUT.row_bytes
    rows = np.full(units, setting.shard_rows)
    rows[-1] = setting.samples - setting.shard_rows * (units - 1)
    # A unit's operations: the sum over its rows, normal by the central limit theorem.
    work = rows * flops.mean() + np.sqrt(rows) * flops.std() * generator.standard_normal(units)
    speeds = np.exp(setting.spread * generator.standard_normal(setting.gpus))
    ideal = float(work.sum()) / (rate * setting.gpus)
    if failures is None:
        failures = failures_of(setting, 4 * ideal + 1e5, generator)
    starts, times = ends(setting, host, float(flops.mean()) / rate)
    host_s = setting.unit_host + shard * (1 / host["pack_rate"] + 1 / host["hash_rate"] + 1 / setting.write_rate)
    plan_and_notes = host["plan_load"] + host["plan_save"] + host["note_read"] + 4 * setting.metadata
    back = setting.model_load + units * plan_and_notes
    down = (setting.restart + back, setting.node_restart + back)
    run = simulate(work / rate, host_s, speeds, starts, failures, down, setting.node_locks)
    length = run.end - float(starts.min())
    # Whoever finishes hashes once more the shards that it found when it was started again; any worker may be the one.
    all_s = setting.samples * LAYOUT.row_bytes / host["hash_rate"]
    rehash = float(np.mean((run.again - starts) / length)) * all_s
    times["finish_s"] += rehash
    whole, tokens = run.end + times["finish_s"], setting.samples * float(lengths.mean())
    return {
        **times,
        "ideal_s": ideal,
        "pass_s": length,
        "tail_s": run.tail,
        "rehash_s": rehash,
        "rehash_all_s": all_s,
        "whole_s": whole,
        "unit_s": float(work.mean()) / rate + host_s,
        "host_s": host_s,
        "back_s": back,
        "failures": run.failures,
        "lost_s": run.lost,
        "down_s": run.down,
        "tokens": tokens,
        "flops": flops.mean(),
        "hit_s": (run.lost + run.down) / max(1, run.failures),
        "gpu_tokens_per_s": tokens / ideal / setting.gpus,
        "rows_per_s": setting.samples / length,
        "write_gb_per_s": setting.samples * LAYOUT.row_bytes / length / 1e9,
        "expected": length * setting.gpus * setting.multiple / MTBF_SECONDS,
        "shard_mb": shard / 1e6,
        "ideal_h": ideal / 3600,
        "whole_h": whole / 3600,
        "gpu_h": whole * setting.gpus / 3600,
        "of_pass": ideal / length,
        "of_whole": ideal / whole,
    }


def _timed(call: Callable[[], Any]) -> float:
    """Of the processor, the least of five: others on a shared machine only ever add to it."""
    return min(timeit.repeat(call, number=1, repeat=5, timer=time.process_time))


def measure(units: int, ids: int = 200_000) -> dict[str, float]:
    """What the host does, timed with the package's own functions; bytes of an entry of the manifest and of the plan."""
    digest, size, costs = hashlib.sha256(b"").hexdigest(), 2048 * LAYOUT.row_bytes, {}
    parts = tuple(Unit(n, 2048 * n, 2048, 0, RowPlace(1_175_000 * n, 2048 * n + 1), digest) for n in range(units))
    plan = Plan("pool.jsonl", "jsonl", 2048 * units, digest, 2048, ((0, 0),), parts)
    shards = [
        {"file": shard_name(n), "first_row": 2048 * n, "pool_rows": 2048, "rows": 2048, "bytes": size, "sha256": digest}
        for n in range(units)
    ]
    tensors = {"row": np.arange(ids), **pack_ids([f"sample-{n:09d}" for n in range(ids)])}
    codes = {"codes": np.zeros((2048, LAYOUT.row_bytes), np.uint8)}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        costs["plan_save"] = _timed(lambda: plan.save(folder / "plan")) / units
        costs["plan_load"] = _timed(lambda: load_plan(folder / "plan")) / units
        costs["plan_bytes"] = (folder / "plan").stat().st_size / units
        write_sealed(folder / "manifest", {"shards": shards})
        costs["manifest_read"] = _timed(lambda: read_sealed(folder / "manifest")) / units
        costs["manifest_bytes"] = (folder / "manifest").stat().st_size / units
        write_sealed(folder / "note", {**shards[-1], "listed": [{"where": f"pool.jsonl:{n}"} for n in range(50)]})
        costs["note_read"] = _timed(lambda: [read_sealed(folder / "note") for _ in range(100)]) / 100
        write_atomic(folder / "ids", pack_tensors(tensors, {"kind": "shard"}))
        read = duplicates._ids(folder / "ids")[1]
        costs["id_read"] = _timed(lambda: duplicates._ids(folder / "ids")) / ids
        costs["id_hash"] = _timed(lambda: duplicates._hashes(read)) / ids
    packed = pack_tensors(codes, {"kind": "shard"})
    costs["pack_rate"] = size / _timed(lambda: pack_tensors(codes, {"kind": "shard"}))
    costs["hash_rate"] = size / _timed(lambda: hashlib.sha256(packed).digest())
    costs |= {
        f"{key}_us": 1e6 * costs[key] for key in ("manifest_read", "plan_load", "note_read", "id_read", "id_hash")
    }
    return costs | {"pack_gb": costs["pack_rate"] / 1e9, "hash_gb": costs["hash_rate"] / 1e9}


def sweep(setting: Setting, host: dict[str, float], seeds: int) -> list[dict[str, Any]]:
    """Rows of mean figures over ``seeds`` (four times as many from 2,048 rows a unit on: small units take the time, and
    vary little): sizes at failure rates; one failure against the same seed without; other rates and numbers of GPUs."""
    rows = []

    def add(part: str, at: Setting, runs: list[dict[str, float]], **more: Any) -> None:
        mean = {key: float(f"{np.mean([run[key] for run in runs]):.6g}") for key in runs[0]}
        rows.append({"part": part, **vars(at), "units": at.units, "seeds": len(runs), **more, **mean})

    for size in SIZES:
        each = range(seeds if size < 2048 else 4 * seeds)
        for multiple in MULTIPLES:
            at = replace(setting, shard_rows=size, multiple=multiple)
            add("sweep", at, [predict(at, host, seed) for seed in each])
        at = replace(setting, shard_rows=size)
        calm = [predict(at, host, seed, []) for seed in each]
        times = [run["start_s"] + run["pass_s"] * (seed + 0.5) / (len(each) + 1) for seed, run in enumerate(calm)]
        for hit in (1, NODE):
            runs = [predict(at, host, seed, [(when, 0, hit)]) for seed, when in enumerate(times)]
            later = [a["whole_s"] - a["rehash_s"] - b["whole_s"] for a, b in zip(runs, calm, strict=True)]
            add("one", at, runs, hit=hit, later_s=round(float(np.mean(later)), 3))
    for gpus, share in (
        (8, 0.6),
        (setting.gpus, 0.9),
        (setting.gpus, 0.6),
        (setting.gpus, 0.35),
        (512, 0.6),
        (4096, 0.6),
    ):
        at = replace(setting, gpus=gpus, share=share)
        add("other", at, [predict(at, host, 0, [])])
    return rows


def shown_rows() -> list[dict[str, Any]]:
    """The newest rows of the plan: of its pass, and of its ranking (``scale_cluster_rank``)."""
    names = ("scale_cluster", "scale_cluster_rank")
    return [row for name in names for row in newest(sorted(RESULTS.glob(f"*/{name}.jsonl"))[0])]


def render(text: str, rows: list[dict[str, Any]]) -> str:
    """``text``, its tables made anew of ``rows``: each lies between ``<!-- table KEY=VALUE,… …: HEAD=CELL | … -->``,
    which says what rows it shows and how, and ``<!-- end -->``."""

    def made(match: re.Match[str]) -> str:
        wanted = [term.split("=") for term in match[1].split()]
        columns = dict(column.split("=") for column in match[2].split(" | "))
        chosen = [row for row in rows if all(str(row.get(key)) in values.split(",") for key, values in wanted)]
        shown = [{head: cell.format_map(row) for head, cell in columns.items()} for row in chosen]
        return f"<!-- table {match[1]}: {match[2]} -->\n{table(shown, list(columns))}\n<!-- end -->"

    return re.sub(r"<!-- table ([^:]*): (.*?) -->\n.*?<!-- end -->", made, text, flags=re.DOTALL)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=float, default=100e6)
    parser.add_argument("--gpus", type=int, default=64)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--output", type=Path, help="folder for the rows (default: results of this hardware)")
    parser.add_argument("--render", type=Path, help="write the newest rows' tables into this document, no run")
    arguments = parser.parse_args()
    if arguments.render:
        rows = shown_rows()
        arguments.render.write_text(render(arguments.render.read_text(), rows))
        return 0
    setting = Setting(int(arguments.samples), arguments.gpus)
    host, loader = measure(setting.units), newest(sorted(RESULTS.glob("*/scale_loader.jsonl"))[0])[-1]
    host["number_rate"] = loader["rows"] / loader["plan_seconds"]
    rows = [{"part": "host", **host, **vars(setting)}, *sweep(setting, host, arguments.seeds)]
    print(record("scale_cluster", rows, arguments.output))
    return 0


if __name__ == "__main__":
    sys.exit(main())
