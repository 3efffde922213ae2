"""What Ray costs: one index pass by two local workers and by two Ray actors, in turn, as whole processes.

    python -m benchmarks.scale_ray --model MODEL --dataset POOL.jsonl[.gz] [--rows 2000] [--rounds 1]

Each run is the command as a user gives it, from its start to its exit: Ray's includes starting Ray on this machine. All
indexes must be the same bytes, or nothing is recorded. The row's ``overhead`` is the median of ray / local - 1 over the
rounds.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.pools import lines_of
from benchmarks.record import record, table
from nait_fast.storage.files import sha256_file

WORKERS = 2


def timed(arguments: list[str]) -> float:
    """Seconds of a whole process. Raises RuntimeError with its last words where it fails."""
    started = time.perf_counter()
    done = subprocess.run([sys.executable, "-m", "nait_fast", *arguments], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    return time.perf_counter() - started


def digest(folder: Path) -> list[str]:
    """SHA-256 of the files that make up an index, by name."""
    return [sha256_file(path) for path in sorted([*folder.glob("*.safetensors"), folder / "manifest.json"])]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--dataset", required=True, type=Path)
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--max-length", type=int, default=384)
    parser.add_argument("--output", type=Path, help="folder for the rows (default: results of this hardware)")
    arguments = parser.parse_args()
    lines = lines_of(arguments.dataset, arguments.rows)
    seconds: dict[str, list[float]] = {"local": [], "ray": []}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pool = folder / "pool.jsonl"
        pool.write_bytes(b"".join(lines))
        first: list[str] | None = None
        for turn in range(arguments.rounds):
            for engine in sorted(seconds, reverse=bool(turn % 2)):
                out = folder / f"{engine}-{turn}"
                given = [
                    "index",
                    "--model",
                    arguments.model,
                    "--dataset",
                    str(pool),
                    "--output",
                    str(out),
                    "--engine",
                    engine,
                    "--workers",
                    str(WORKERS),
                    "--shard-rows",
                    "128",
                    "--calibration-size",
                    "128",
                    "--max-length",
                    str(arguments.max_length),
                ]
                seconds[engine].append(round(timed(given), 2))
                print(engine, seconds[engine][-1], file=sys.stderr)
                first = first or digest(out)
                if digest(out) != first:
                    print("the indexes differ: nothing is recorded", file=sys.stderr)
                    return 1
    ratios = [ray / local for ray, local in zip(seconds["ray"], seconds["local"], strict=True)]
    row: dict[str, Any] = {
        "model": Path(arguments.model).name,
        "rows": len(lines),
        "workers": WORKERS,
        "seconds": seconds,
        "overhead": round(median(ratios) - 1, 4),
        "identical": True,
        "ray": version("ray"),
    }
    record("scale_ray", [row], arguments.output)
    print(table([row], ["rows", "workers", "seconds", "overhead"]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
