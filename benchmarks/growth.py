"""Memory over many shapes: an index of many tiny rows, and a Scorer called many times, each with its own batch.

    python -m benchmarks.growth [--rows 200000] [--calls 4000]

Each in a process of its own, on a tiny random model: what grows is not the model. Resident memory is read from the
process itself, along the way.
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from benchmarks.record import record, table

WORDS = ["the", "cat", "has", "ten", "red", "apples", "and", "gave", "five", "of", "them", "to", "its", "old", "friend"]


def resident() -> float:
    """Megabytes of this process in memory now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e6


def sample(generator: random.Random, words: int) -> dict[str, str]:
    said = [generator.choice(WORDS) for _ in range(generator.randint(1, words))]
    return {"instruction": " ".join(said), "output": " ".join(reversed(said))}


def index(model: str, work: Path, rows: int) -> list[float]:
    """MB, once a second, of the verb on ``rows`` rows of up to 6 words."""
    import nait_fast

    generator, pool = random.Random(0), work / "pool.jsonl"
    with open(pool, "w") as file:
        for _ in range(rows):
            file.write(json.dumps(sample(generator, 6)) + "\n")
    memory, done = [], threading.Event()

    def watch() -> None:
        while not done.wait(1.0):
            memory.append(resident())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        nait_fast.build_index(model=model, dataset=pool, output=work / "index")
    finally:
        done.set()
        watcher.join()
    return memory


def scorer(model: str, work: Path, calls: int) -> list[float]:
    """MB after each hundred of ``calls`` calls, each with 1 to 8 samples of up to 200 words."""
    import nait_fast

    generator = random.Random(0)
    for name, words in (("pool", 40), ("target", 40)):
        lines = [json.dumps(sample(generator, words)) for _ in range(64)]
        (work / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    nait_fast.build_index(model=model, dataset=work / "pool.jsonl", output=work / "index", calibration_size=64)
    nait_fast.build_signature(model=model, target=[f"t={work / 'target.jsonl'}"], codebook=work / "index", output=work)
    scoring = nait_fast.Scorer(model=model, signatures=[work / "t.safetensors"])
    memory = []
    for call in range(calls):
        scoring.score([sample(generator, 200) for _ in range(generator.randint(1, 8))])
        if call % 100 == 99:
            memory.append(resident())
    return memory


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="folder of a tiny model")
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--calls", type=int, default=4000)
    parser.add_argument("--part", choices=("index", "scorer"), help="for one process: only this, printed")
    parser.add_argument("--output", type=Path, help="folder for the result rows instead of benchmarks/results")
    arguments = parser.parse_args()
    if arguments.part:
        with tempfile.TemporaryDirectory() as work:
            part, number = (index, arguments.rows) if arguments.part == "index" else (scorer, arguments.calls)
            print(json.dumps(part(arguments.model, Path(work), number)))
        return
    rows: list[dict[str, Any]] = []
    for part, number in (("index", arguments.rows), ("scorer", arguments.calls)):
        started = time.perf_counter()
        command = [sys.executable, "-m", "benchmarks.growth", *sys.argv[1:], "--part", part]
        ran = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        seen = json.loads(ran.stdout.splitlines()[-1])
        tenths = [round(seen[min(len(seen) - 1, len(seen) * i // 10)], 1) for i in range(11)]
        memory = {"mb_at_tenths": tenths, "first_tenth_mb": tenths[1], "last_mb": tenths[-1], "peak_mb": max(seen)}
        rows.append({"part": part, "number": number, "seconds": time.perf_counter() - started, **memory})
    path = record("growth", rows, arguments.output)
    print(table(rows, ["part", "number", "seconds", "first_tenth_mb", "last_mb", "peak_mb"]))
    print(f"rows appended to {path}")


if __name__ == "__main__":
    main()
