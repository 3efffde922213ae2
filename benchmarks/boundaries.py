"""What stands between two units of an index: how long the main thread waits where a shard is written before the next
unit begins, and in the background; and what the statistics of a calibration sample cost.

    python -m benchmarks.boundaries --work DIR [--rows 2000] [--rounds 5] [--write]

Random codes of LLaMA-2-7B's size (44,032 bytes a row), random readings of its 32 × 11,008 neurons, 512 samples.
'copied' is what was done before: kept rows copied, packed by the safetensors library, joined behind the sealed header,
hashed, written and synced, in the main thread. 'pieces' is the same from the tensors' own memory, there, too.
'background': what ``put`` waits, the shard before it having been written while the main thread waited ``--unit``
seconds for something else. Statistics: NumPy's own of the whole sample, and by blocks; that all bytes are the same is
checked first. Medians of wall seconds and of CPU-seconds, in turn.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import save

from benchmarks.record import record, table
from nait_fast.extract.calibrate import mean_of, statistics_of
from nait_fast.storage.blocks import seal
from nait_fast.storage.files import pack_tensors, sha256, tensor_pieces, write_atomic
from nait_fast.workers.background_writer import BackgroundWriter

ROW_BYTES, LAYERS, WIDTH, SAMPLES = 44_032, 32, 11_008, 512


def timed(do: Callable[[], object]) -> tuple[float, float]:
    """(wall, CPU) seconds of ``do``."""
    wall, cpu = time.perf_counter(), time.process_time()
    do()
    return time.perf_counter() - wall, time.process_time() - cpu


def row(part: str, arm: str, runs: list[tuple[float, float]], **more: Any) -> dict[str, Any]:
    wall, cpu = (round(statistics.median(seconds), 4) for seconds in zip(*runs, strict=True))
    return {"part": part, "arm": arm, **more, "seconds": wall, "cpu_s": cpu, "runs": [round(w, 4) for w, _ in runs]}


def shards(work: Path, rows: int, rounds: int, unit: float) -> list[dict[str, Any]]:
    codes = np.random.default_rng(0).integers(0, 256, (rows, ROW_BYTES), dtype=np.uint8)
    finite, meta = np.ones(rows, dtype=bool), {"kind": "shard", "number": 0}
    # What the header says is the same for both ways: it is made once, so that only the library's part is timed anew.
    header = bytes(tensor_pieces({"codes": codes}, meta)[0])

    def copied() -> str:
        kept = np.ascontiguousarray(codes[finite])
        packed = save({"codes": kept}, metadata={"nait_fast": "x"})
        start = 8 + int.from_bytes(packed[:8], "little")
        data = b"".join([seal(header)[0], memoryview(packed)[start:]])
        write_atomic(work / "shard", data)
        return sha256(data)

    def pieces() -> str:
        parts = tensor_pieces({"codes": codes}, meta)
        write_atomic(work / "shard", *parts)
        return sha256(*parts)

    def write() -> None:
        pieces()

    assert copied() == pieces() == sha256(pack_tensors({"codes": codes}, meta))
    runs: dict[str, list[tuple[float, float]]] = {"copied": [], "pieces": [], "background": []}
    writer = BackgroundWriter()
    for _ in range(rounds):
        runs["copied"].append(timed(copied))
        runs["pieces"].append(timed(pieces))
        writer.put(0, write)
        time.sleep(unit)  # the model's turn: a device's work, which takes no CPU
        runs["background"].append(timed(lambda: writer.put(1, lambda: None)))
        writer.wait()
    writer.close()
    (work / "shard").unlink()
    return [row("stall a unit", arm, each, rows=rows, row_bytes=ROW_BYTES) for arm, each in runs.items()]


def calibration(rounds: int) -> list[dict[str, Any]]:
    generator = torch.Generator().manual_seed(0)
    mean = torch.empty(SAMPLES, LAYERS * WIDTH).normal_(generator=generator)
    drift = torch.empty(SAMPLES, LAYERS * WIDTH, dtype=torch.float64).normal_(generator=generator)
    rows = np.arange(SAMPLES)

    def whole() -> list[np.ndarray]:
        values = mean.numpy()[rows]
        threshold = values.mean(axis=0, dtype=np.float64).astype(np.float32)
        frequency = (values > threshold).mean(axis=0).astype(np.float32)
        scale = values.std(axis=0, dtype=np.float64).astype(np.float32)
        return [threshold, frequency, scale, drift.numpy()[rows].mean(axis=0, dtype=np.float64).astype(np.float32)]

    def blocks() -> list[np.ndarray]:
        return [*statistics_of(mean, rows), mean_of(drift, rows)]

    assert all(a.tobytes() == b.tobytes() for a, b in zip(whole(), blocks(), strict=True))
    runs: dict[str, list[tuple[float, float]]] = {"whole": [], "blocks": []}
    for _ in range(rounds):
        runs["whole"].append(timed(whole))
        runs["blocks"].append(timed(blocks))
    return [row("calibration's statistics", arm, each, samples=SAMPLES) for arm, each in runs.items()]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.boundaries", description=__doc__)
    parser.add_argument("--work", required=True, type=Path)
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--unit", type=float, default=1.0)
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    rows = shards(arguments.work, arguments.rows, arguments.rounds, arguments.unit) + calibration(arguments.rounds)
    # Beside others at work, CPU-seconds are firmer than seconds.
    rows = [{**each, "load": round(os.getloadavg()[0], 1), "threads": torch.get_num_threads()} for each in rows]
    print(table(rows, ["part", "arm", "seconds", "cpu_s"]))
    if arguments.write:
        print(record("boundaries", rows))


if __name__ == "__main__":
    main()
