"""The whole ``index`` command where the model is no limit: rows a second from JSONL to shards on disk.

    python -m benchmarks.scale_command [--rows 200000] [--device cpu]

A model of one layer and 32 neurons, random weights, runs on made-up short rows of Alpaca's format (about 60 tokens with
its template): what is left is numbering, reading, rendering, tokenising, batching, packing, hashing and writing, each
row's part of them. Beside it, in the same run, the loader alone on the same file, from bytes to token arrays.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.record import record, table
from benchmarks.scale_loader import windows
from nait_fast.bench.command_stages import measure_commands
from nait_fast.bench.shapes import Shape
from nait_fast.bench.synthetic import save_model, write_rows
from nait_fast.data.pool import Pool
from nait_fast.data.template import Template
from nait_fast.data.tokenize import Encoder
from nait_fast.models.load import load_tokenizer

MODEL = Shape("one layer of 32 neurons", "llama", 1, 16, 32, 2, 1, 8192)
RESPONSES = 0.35  # of Alpaca's length


def measure(rows: int, device: str, work: Path) -> list[dict[str, Any]]:
    """The command's row, then the loader's."""
    model = work / "model"
    save_model(MODEL, model, torch.device("cpu"), torch.float32)
    options = ["--device", device, "--max-length", "256", "--batch-tokens", "16384"]
    command = list(measure_commands(str(model), work, rows, 0, options, RESPONSES, only=("index",)))
    path = work / "loaded.jsonl"
    write_rows(path, rows, 0, RESPONSES)
    tokenizer = load_tokenizer(str(model))
    encoder = Encoder(tokenizer, Template("alpaca", tokenizer), 256, MODEL.vocabulary)
    began, before = time.perf_counter(), time.process_time()
    pool = Pool(str(path))
    units = list(pool.plan().units)
    tokens = sum(len(e.ids) for window in windows(pool, pool.detect(), encoder, units) for e in window.encoded)
    spent, cpu = time.perf_counter() - began, time.process_time() - before
    loader = {"name": "loader alone", "rows": rows, "seconds": spent, "cpu_seconds": cpu, "tokens": tokens}
    made = [{"part": "command", "model": MODEL.name, "device": device, **row} for row in [*command, loader]]
    for row in made:
        if "seconds" in row:
            row |= {"rows_per_s": rows / row["seconds"], "rows_per_cpu_s": rows / row["cpu_seconds"]}
    return made


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--output", type=Path, help="folder for the rows (default: results of this hardware)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        rows = measure(arguments.rows, arguments.device, Path(made))
    failed = [row for row in rows if row.get("check", "ok").startswith("failed")]
    print(table(rows, ["name", "rows", "seconds", "cpu_seconds", "rows_per_cpu_s", "peak_rss_mb", "stages"]))
    if failed:
        print(failed[0]["check"], file=sys.stderr)
        return 1
    print(f"rows appended to {record('scale_command', rows, arguments.output)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
