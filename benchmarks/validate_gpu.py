"""The cells of the table that matter most, at ten times its tokens, on a GPU within twelve minutes.

    python -m benchmarks.validate_gpu --weights DIR --dataset POOL --target NAME=FILE ... --work DIR
        [--minutes 12] [--processes 8] [--rows 12080] [--output DIR]

Weights as ``benchmarks.travelling_weights`` packs them (two files of 46 MiB: where 64 MiB travel with a call, carry one
of them with a first call that does nothing, and the rest with the second). Readings are captured and orders made by one
process; then ``--processes`` of them train in bf16, all layers adapted, and take runs from one plan, seed by seed, most
important first, until the time is up: each finished run is a row of its own, so what is cut off leaves the others.

By estimate, from the recorded ablation on an H100 (20 s a run of 65,536 tokens, eight processes at once; so 31 s here,
3.9 s a run): indexes 2 minutes, then about 150 runs in 10. Check, tops and removed are 206: the third seed may be cut
off. ``--processes 16`` where the device has room.
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path

import torch

from benchmarks.travelling_weights import unpack

STAGES = ("check", "tops", "removed", "claim", "controls")
TRAINING = ["--layers", "0", "--lr", "5e-4", "--batch-tokens", "3200", "--pack-tokens", "16384"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    place = parser.add_mutually_exclusive_group(required=True)
    place.add_argument("--weights", type=Path, help="folder of benchmarks.travelling_weights")
    place.add_argument("--model", type=Path, help="or a model as it is")
    add("--dataset", type=Path, required=True)
    add("--target", nargs="+", required=True, metavar="NAME=FILE")
    add("--mix", nargs="+", default=["gsm8k", "code_alpaca", "roleplay"])
    add("--work", type=Path, required=True)
    add("--output", type=Path, help="folder for the rows (default: results of this hardware)")
    add("--minutes", type=float, default=12)
    add("--processes", type=int, default=8)
    add("--rows", type=int, default=12080)
    add("--samples", type=int, default=64)
    add("--held-out", type=int, default=64)
    add("--tokens", type=int, default=102_400)
    add("--batch-tokens", type=int, default=3200)
    add("--max-length", type=int, default=384)
    arguments = parser.parse_args()
    started, end = time.monotonic(), time.monotonic() + 60 * arguments.minutes
    arguments.work.mkdir(parents=True, exist_ok=True)
    model = arguments.model
    if model is None:
        model = arguments.work / "SmolLM2-135M-Instruct"
        if not (model / "config.json").exists():
            unpack(arguments.weights, model, torch.bfloat16)
    command = [sys.executable, "-m", "benchmarks.validate_table", "--model", str(model)]
    for name in ("dataset", "work", "rows", "samples", "held_out", "tokens", "max_length"):
        command += [f"--{name.replace('_', '-')}", str(getattr(arguments, name))]
    command += ["--target", *arguments.target, "--mix", *arguments.mix]
    command += ["--output", str(arguments.output)] if arguments.output else []
    subprocess.run([*command, "--part", "index"], check=True, timeout=max(1, end - time.monotonic()))
    print(f"indexes: {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
    training = [*TRAINING, "--batch-tokens", str(arguments.batch_tokens)]
    workers = [
        subprocess.Popen([*command, "--part", "train", "--stages", *STAGES, *training])
        for _ in range(arguments.processes)
    ]
    status = 0
    try:
        for worker in workers:
            status |= worker.wait(timeout=max(1, end - time.monotonic()))
    except subprocess.TimeoutExpired:
        print("the time is up: the rows that are there are kept", file=sys.stderr)
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()
    subprocess.run([*command, "--part", "report"], check=True)
    return status


if __name__ == "__main__":
    sys.exit(main())
