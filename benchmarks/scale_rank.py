"""``nait-fast rank`` on an index that is larger than the memory it may take.

    python -m benchmarks.scale_rank [--rows 5000000] [--shard-rows 16384] [--work FOLDER] [--rounds 3] [--limit-mb 1000]

Makes an index of ``--rows`` × 512 B (16 layers × 256 neurons), a pool of as many tiny JSONL rows and four signatures of
four planes, then runs the verb as a process of its own: with each ``--scores``, its files in the page cache (hot) and
evicted from it (cold); within a memory limit (``--limit-mb``) that holds its page cache too, by a cgroup where one can
be made, else one of its anonymous memory (``RLIMIT_DATA``); and with a quarter, a half and all of the rows. Every scan
stands beside a plain read of the same files in the same state, by as many threads, just before it. Scans with the
checksums of all blocks stand beside scans of the same rows in an index of format 2, which has none, in one process, by
turns. First, on a smaller index, the outputs are compared with the in-memory reference of the tests: no time without
that. ``--part checksums``: that part alone.
"""

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.record import record, table

WIDTHS = [256] * 16
ROW_BYTES = 512
NAMES = ("a", "b", "c", "d")
CHUNK = 1 << 20
CHECKED_ROWS = 200_000
# A process's peak counts that of the one it was forked from: a small one starts it, and tells its seconds and KiB.
LAUNCHER = """import resource, subprocess, sys, time
started = time.perf_counter()
status = subprocess.run(sys.argv[1:]).returncode
seconds = time.perf_counter() - started
print(seconds, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss, file=sys.stderr)
sys.exit(status)"""


def _shards(rows: int, shard_rows: int) -> Iterator[dict[str, np.ndarray]]:
    """Random codes: each shard's are another stretch of the same random rows, some of their bits flipped."""
    from tests.ranking.indexes import id_tensors

    generator = np.random.default_rng(0)
    base = generator.integers(0, 256, (2 * shard_rows, ROW_BYTES), dtype=np.uint8)
    for start in range(0, rows, shard_rows):
        n = min(shard_rows, rows - start)
        first = int(generator.integers(0, shard_rows))
        flip = generator.integers(0, 256, ROW_BYTES, dtype=np.uint8)
        yield {
            "codes": base[first : first + n] ^ flip,
            "row": np.arange(start, start + n),
            "n_tokens": generator.integers(1, 512, n).astype(np.int32),
            **id_tensors([f"row-{row}" for row in range(start, start + n)]),
        }


def make(folder: Path, rows: int, shard_rows: int, version: int = 3) -> Path:
    """An index, of format ``version``, its pool and the signatures in ``folder``; kept if it is there."""
    from nait_fast.data.pool import Pool
    from nait_fast.storage.names import plan_name
    from tests.ranking.indexes import contrast, write_index

    if (folder / "index" / "manifest.json").exists():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    pool = folder / "pool.jsonl"
    with open(pool, "w", encoding="utf-8") as file:
        for start in range(0, rows, 100_000):
            file.writelines(f'{{"text":"row {row}"}}\n' for row in range(start, min(start + 100_000, rows)))
    plan = Pool(pool, format="text").plan()
    (folder / "index").mkdir(exist_ok=True)
    plan.save(folder / "index" / plan_name(0))
    dataset = {"path": str(pool), "kind": "jsonl", "format": "text", "rows": rows, "sha256": plan.sha256}
    write_index(folder / "index", _shards(rows, shard_rows), WIDTHS, datasets=[dataset], version=version)
    for seed, name in enumerate(NAMES):
        contrast(name, WIDTHS, seed).save(folder)
    os.sync()  # what is not yet on disk cannot be evicted
    return folder


def _files(folder: Path) -> list[Path]:
    return sorted((folder / "index").glob("shard-*.safetensors"))


def _evict(folder: Path) -> None:
    for path in [*_files(folder), folder / "pool.jsonl"]:
        with open(path, "rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def plain_read(folder: Path, threads: int) -> float:
    """GB/s of reading the shards into one small buffer a thread."""
    jobs = iter([(path, at) for path in _files(folder) for at in range(0, path.stat().st_size, CHUNK)])
    lock, done = threading.Lock(), [0] * threads

    def work(number: int) -> None:
        buffer = np.empty(CHUNK, dtype=np.uint8)
        while True:
            with lock:
                job = next(jobs, None)
            if job is None:
                return
            with open(job[0], "rb", buffering=0) as file:
                done[number] += os.preadv(file.fileno(), [buffer.data], job[1])

    started = time.perf_counter()
    workers = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return sum(done) / 1e9 / (time.perf_counter() - started)


class MemoryLimit:
    """A cgroup, of either version, whose processes and page cache share ``limit_mb``; ``kind`` says what it is.

    Where none can be made, a limit on anonymous memory.
    """

    def __init__(self, limit_mb: int):
        self.bytes = limit_mb << 20
        self.kind, self.group = "RLIMIT_DATA", None
        for root, name in (
            (Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes"),
            (Path("/sys/fs/cgroup"), "memory.max"),
        ):
            group = root / f"nait-fast-{os.getpid()}"
            try:
                group.mkdir()
                (group / name).write_text(str(self.bytes))
            except OSError:
                continue
            self.kind, self.group = "cgroup, page cache included", group
            return

    def enter(self) -> None:
        """Put this process under the limit."""
        if self.group is None:
            resource.setrlimit(resource.RLIMIT_DATA, (self.bytes, self.bytes))
        else:
            (self.group / "cgroup.procs").write_text(str(os.getpid()))

    def close(self) -> None:
        if self.group is not None:
            self.group.rmdir()


def plain_read_within(limit: MemoryLimit, folder: Path, threads: int) -> float:
    """``plain_read`` in a process under ``limit``."""
    code = f"from benchmarks.scale_rank import *; print(plain_read(Path({str(folder)!r}), {threads}))"
    return float(subprocess.check_output([sys.executable, "-c", code], preexec_fn=limit.enter))


def rank(folder: Path, out: Path, scores: str, limit: MemoryLimit | None = None) -> dict[str, Any]:
    """One process of the verb: its summary, with seconds of the whole and peak memory in MB."""
    command = [
        sys.executable,
        "-m",
        "nait_fast",
        "rank",
        "--index",
        str(folder / "index"),
        "--output",
        str(out),
        "--signature",
        *[str(folder / f"{name}.safetensors") for name in NAMES],
        "--scores",
        scores,
        "--device",
        "cpu",
        "--quiet",
        "--json",
    ]

    done = subprocess.run(
        [sys.executable, "-c", LAUNCHER, *command], capture_output=True, text=True, preexec_fn=limit and limit.enter
    )
    if done.returncode:
        raise SystemExit(f"rank failed:\n{done.stderr[-2000:]}")
    summary = json.loads(done.stdout.splitlines()[-1])
    seconds, peak = done.stderr.split()[-2:]
    return {**summary, "process_seconds": float(seconds), "peak_rss_mb": float(peak) / 1024}


def check(work: Path, shard_rows: int) -> dict[str, Any]:
    """Outputs of a smaller index against the in-memory reference; exits if they differ."""
    from pyarrow import parquet

    from nait_fast.config import BudgetOptions
    from nait_fast.index.reader import Index
    from nait_fast.kernels.popcount.reference import popcount_scan
    from nait_fast.methods.signature import load_signature
    from tests.ranking import naive_select

    folder = make(work / f"rows-{CHECKED_ROWS}", CHECKED_ROWS, shard_rows)
    rank(folder, folder / "out", "all")
    shards = list(Index(folder / "index").shards())
    codes, row, n_tokens = (np.concatenate([getattr(s, name) for s in shards]) for name in ("codes", "row", "n_tokens"))
    columns = []
    for name in NAMES:
        signature = load_signature(folder / f"{name}.safetensors")
        planes, weights = signature.tensors["planes"], signature.tensors["plane_weights"]
        counts = popcount_scan(codes, planes, weights, np.zeros(len(planes), dtype=np.int64), 1)
        columns.append(counts[:, 0] * signature.meta["scale"])
    scores = np.column_stack(columns)
    expected = naive_select.select(row, n_tokens, scores, BudgetOptions())
    got = parquet.read_table(folder / "out" / "scores.parquet")
    same = [np.array_equal(got[f"score.{name}"], scores[:, c]) for c, name in enumerate(NAMES)]
    same += [np.array_equal(got["rank"], expected.rank), np.array_equal(got["selected"], expected.selected)]
    lines = (folder / "out" / "selected.jsonl").read_text().splitlines()
    same.append(lines == [f'{{"text":"row {r}"}}' for r in row[expected.positions()].tolist()])
    if not all(same):
        raise SystemExit("correctness: the ranking differs from its in-memory reference; no speed is reported")
    return {"checked_rows": CHECKED_ROWS, "equal_to_reference": True}


def _row(part: str, folder: Path, runs: list[dict[str, Any]], reads: list[float], **more: Any) -> dict[str, Any]:
    size = sum(path.stat().st_size for path in _files(folder))
    rate = [size / 1e9 / run["seconds"]["scan"] for run in runs]
    return {
        "part": part,
        **more,
        "rows": runs[0]["rows_scored"],
        "row_bytes": ROW_BYTES,
        "signatures": len(NAMES),
        "planes": 4 * len(NAMES),
        "index_gb": size / 1e9,
        "gb_per_s": statistics.median(rate),
        "read_gb_per_s": statistics.median(reads),
        "of_read": statistics.median(a / b for a, b in zip(rate, reads, strict=True)),
        "scan_s": statistics.median(run["seconds"]["scan"] for run in runs),
        "process_s": statistics.median(run["process_seconds"] for run in runs),
        "stages_s": runs[-1]["seconds"],
        "peak_rss_mb": max(run["peak_rss_mb"] for run in runs),
        "rounds": len(runs),
    }


def measure(
    part: str, folder: Path, scores: str, state: str, rounds: int, threads: int, limit: MemoryLimit | None = None
) -> dict[str, Any]:
    """``rounds`` processes, each after a plain read of the same files in the same state."""
    runs, reads = [], []
    for _ in range(rounds):
        shutil.rmtree(folder / "out", ignore_errors=True)
        os.sync()  # deleting, too, keeps a disk busy
        plain_read(folder, threads)
        if state == "cold":
            _evict(folder)
        reads.append(plain_read_within(limit, folder, threads) if limit else plain_read(folder, threads))
        if state == "cold":
            _evict(folder)
        runs.append(rank(folder, folder / "out", scores, limit))
        last = runs[-1]
        print(
            f"{part} {scores} {state}: {last['peak_rss_mb']:.0f} MB, scan {last['seconds']['scan']:.2f} s, "
            f"read {reads[-1]:.1f} GB/s, whole {last['process_seconds']:.1f} s",
            file=sys.stderr,
        )
    more = {"limit_mb": limit.bytes >> 20, "limit": limit.kind} if limit else {}
    return _row(part, folder, runs, reads, scores=scores, state=state, threads=threads, **more)


def checksums(work: Path, rows: int, shard_rows: int, rounds: int) -> list[dict[str, Any]]:
    """Scans of the same rows with and without checksums by turns, hot and cold, with 4 and 16 planes: seconds, and the
    processor's seconds, which what else runs on the machine does not count in."""
    import warnings

    import xxhash

    from nait_fast.index.reader import Index
    from nait_fast.ranking.scan import scan
    from nait_fast.storage.blocks import BLOCK_BYTES
    from tests.ranking.indexes import contrast

    def hashing(size: int) -> float:
        """The processor's seconds of XXH3 over so many bytes that lie in its cache: what no way to check them saves."""
        block = np.random.default_rng(0).integers(0, 256, BLOCK_BYTES, dtype=np.uint8).data
        spent = time.process_time()
        for _ in range(size // BLOCK_BYTES):
            xxhash.xxh3_64_intdigest(block)
        return time.process_time() - spent

    folders = {3: make(work / f"rows-{rows}", rows, shard_rows), 2: make(work / f"plain-{rows}", rows, shard_rows, 2)}
    signatures, results = [contrast(name, WIDTHS, seed) for seed, name in enumerate(NAMES)], []
    for state in ("hot", "cold"):
        for some in (signatures, signatures[:1]):
            wall: dict[int, list[float]] = {2: [], 3: []}
            cpu: dict[int, list[float]] = {2: [], 3: []}
            size = sum(path.stat().st_size for path in _files(folders[3]))
            hashed = []
            for number in range(1 + rounds):
                for version in (2, 3) if number % 2 else (3, 2):
                    if state == "cold":
                        _evict(folders[version])
                    with warnings.catch_warnings():
                        warnings.simplefilter("ignore")  # format 2 has no checksums: that is what it is here for
                        index = Index(folders[version] / "index")
                    started, spent = time.perf_counter(), time.process_time()
                    scored = sum(len(block.row) for block in scan(index, some))
                    if number:  # the first compiles
                        wall[version].append(time.perf_counter() - started)
                        cpu[version].append(time.process_time() - spent)
                    assert scored == rows
                hashed.append(hashing(size))
            seconds = {version: statistics.median(wall[version]) for version in wall}
            results.append(
                {
                    "part": "checksums",
                    "state": state,
                    "rows": rows,
                    "row_bytes": ROW_BYTES,
                    "planes": 4 * len(some),
                    "index_gb": size / 1e9,
                    "gb_per_s": size / 1e9 / seconds[3],
                    "gb_per_s_without": size / 1e9 / seconds[2],
                    "seconds": seconds[3],
                    "seconds_without": seconds[2],
                    "median_of_ratios": statistics.median(a / b for a, b in zip(wall[3], wall[2], strict=True)),
                    "cpu_s": statistics.median(cpu[3]),
                    "cpu_s_without": statistics.median(cpu[2]),
                    "median_of_cpu_ratios": statistics.median(a / b for a, b in zip(cpu[3], cpu[2], strict=True)),
                    "median_of_hash_ratios": statistics.median(
                        1 + a / b for a, b in zip(hashed[1:], cpu[2], strict=True)
                    ),
                    "rounds": rounds,
                }
            )
    return results


def growth(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """A line through the process's seconds over the rows: slope, intercept, largest residual as a share."""
    x, y = np.array([r["rows"] for r in rows], dtype=float), np.array([r["process_s"] for r in rows])
    slope, intercept = np.polyfit(x, y, 1)
    residual = np.abs(slope * x + intercept - y).max() / y.max()
    return {
        "part": "growth",
        "rows": int(x.max()),
        "us_per_row": slope * 1e6,
        "intercept_s": float(intercept),
        "largest_residual_of_max": float(residual),
        "peaks_mb": [r["peak_rss_mb"] for r in rows],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=5_000_000)
    parser.add_argument("--shard-rows", type=int, default=16_384)
    parser.add_argument("--work", type=Path, help="folder for the index; kept (default: a temporary one)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--limit-mb", type=int, default=1000, help="memory of the limited runs")
    parser.add_argument("--part", choices=("all", "checksums"), default="all")
    parser.add_argument("--output", type=Path, help="folder for the result rows instead of benchmarks/results")
    arguments = parser.parse_args()
    work = arguments.work or Path(tempfile.mkdtemp())
    try:
        rows = run(work, arguments)
    finally:
        if arguments.work is None:
            shutil.rmtree(work, ignore_errors=True)
    path = record("scale_rank" if arguments.part == "all" else "scale_checksums", rows, arguments.output)
    if arguments.part == "checksums":
        ratios = [f"median_of_{of}ratios" for of in ("", "cpu_", "hash_")]
        print(table(rows, ["state", "planes", "gb_per_s", "gb_per_s_without", *ratios]))
        print(f"rows appended to {path}")
        return
    shown = ["part", "rows", "scores", "state", "gb_per_s", "read_gb_per_s", "of_read", "process_s", "peak_rss_mb"]
    print(table(rows, shown))
    print(f"rows appended to {path}")


def run(work: Path, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """All rows of results."""
    threads = len(os.sched_getaffinity(0))
    checked = check(work, arguments.shard_rows)
    print(f"against the in-memory reference: {checked}", file=sys.stderr)
    beside = checksums(work, arguments.rows // 4, arguments.shard_rows, 4 * arguments.rounds)
    if arguments.part == "checksums":
        return [{**row, **checked} for row in beside]
    folders = [
        make(work / f"rows-{n}", n, arguments.shard_rows)
        for n in (arguments.rows // 4, arguments.rows // 2, arguments.rows)
    ]
    whole, rounds, rows = folders[-1], arguments.rounds, []
    for scores in ("none", "selected", "all"):
        rows.append({**measure("rank", whole, scores, "hot", rounds, threads), **checked})
    rows.append({**measure("rank", whole, "none", "cold", rounds, threads), **checked})
    limit = MemoryLimit(arguments.limit_mb)
    try:
        rows += [measure("limited", whole, scores, "cold", rounds, threads, limit) for scores in ("none", "all")]
    finally:
        limit.close()
    sizes = [measure("size", folder, "all", "hot", rounds, threads) for folder in folders]
    return [*rows, *beside, *sizes, growth(sizes)]


if __name__ == "__main__":
    main()
