"""The streaming loader alone on a million rows, beside the tokenizer's bare ``encode_batch`` on the same texts.

    python -m benchmarks.scale_loader --model MODEL --dataset POOL.jsonl[.gz] [--rows 1000000]

A pool of ``--rows`` rows is made by repeating POOL's. First the loader's tokens of 2,000 rows are compared with the
tokenizer's own call on each row's text, one at a time; without that there is no time. Then, in turn, in ``--rounds``
parts of the pool: ``encode_batch`` on the part's texts, rendered beforehand, in batches of 1,000 (reading, parsing,
rendering and conversion cost it nothing); then the loader on the same part, from the file to windows of token arrays.
Resident memory is read after each part. Padding: what is wasted by a model that pads a batch to its longest sample
(packed forwards pad nothing), within windows of --shard-rows rows, at the token budgets of a CPU and of a GPU.
"""

import argparse
import gc
import itertools
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.growth import resident
from benchmarks.pools import lines_of
from benchmarks.record import record, table
from nait_fast.data.batching import make_batches
from nait_fast.data.loader import Loader, Window
from nait_fast.data.plan import Unit
from nait_fast.data.pool import Pool, check
from nait_fast.data.template import Template
from nait_fast.data.tokenize import Encoder
from nait_fast.extract.engine import BATCH_TOKENS, MAX_PADDING
from nait_fast.models.load import load_tokenizer

CHECKED = 2000
BATCH = 1000


def make_pool(source: Path, target: Path, rows: int) -> None:
    """``rows`` rows of ``source``, over and over, with ids of their own."""
    parsed = [json.loads(line) for line in lines_of(source)]
    with open(target, "w", encoding="utf-8") as file:
        for number, row in zip(range(rows), itertools.cycle(parsed), strict=False):
            file.write(json.dumps({**row, "id": f"{number}"}, ensure_ascii=False) + "\n")


def texts_of(pool: Pool, fmt: str, encoder: Encoder, units: list[Unit]) -> list[str]:
    reader = pool.reader()
    samples = [check(record.payload, fmt, row)[1] for unit in units for row, record in reader.unit(unit)]
    return encoder.prepare(samples).texts


def windows(pool: Pool, fmt: str, encoder: Encoder, units: list[Unit]) -> Any:
    remaining = iter(units)
    loader = Loader(pool, fmt, encoder, lambda: next(remaining, None))
    try:
        yield from loader
    finally:
        loader.close()


def differing(pool: Pool, fmt: str, encoder: Encoder) -> int:
    """Rows among the first whose tokens are not those of the tokenizer's own call on their text."""
    units = list(pool.plan().units[: -(-CHECKED // pool.unit_rows)])
    wrong, tokenizer = 0, encoder.tokenizer
    texts = iter(texts_of(pool, fmt, encoder, units))
    for window in windows(pool, fmt, encoder, units):
        for encoded in window.encoded:
            ids = tokenizer(next(texts), add_special_tokens=False)["input_ids"][: encoder.max_length]
            wrong += encoded.ids.tolist() != ids
    return wrong


class Padding:
    """Tokens, and tokens with padding, of batches under a budget."""

    def __init__(self, budget: int):
        self.budget, self.tokens, self.padded, self.batches = budget, 0, 0, 0

    def add(self, window: Window) -> None:
        for batch in make_batches(window.encoded, np.zeros(0, dtype=np.int32), self.budget, MAX_PADDING):
            lengths = [len(window.encoded[i].ids) for i in batch.items]
            self.tokens += sum(lengths)
            self.padded += max(lengths) * len(lengths)
            self.batches += 1

    @property
    def waste(self) -> float:
        return 1 - self.tokens / self.padded


def measure(pool: Pool, fmt: str, encoder: Encoder, rounds: int) -> dict[str, Any]:
    backend = encoder.tokenizer.backend_tokenizer
    units = pool.plan().units
    shares = [list(units[i * len(units) // rounds : (i + 1) * len(units) // rounds]) for i in range(rounds)]
    paddings = {device: Padding(budget) for device, budget in BATCH_TOKENS.items()}
    ratios, bare_rates, rates, memory, tokens, done = [], [], [], [], 0, 0
    gc.collect()
    gc.freeze()  # as a worker does
    for part in shares:
        rows = sum(unit.rows for unit in part)
        texts = texts_of(pool, fmt, encoder, part)
        started = time.perf_counter()
        for i in range(0, len(texts), BATCH):
            backend.encode_batch(texts[i : i + BATCH], add_special_tokens=False)
        bare = time.perf_counter() - started
        del texts
        gc.collect()
        counting = 0.0
        started = time.perf_counter()
        for window in windows(pool, fmt, encoder, part):
            mark = time.perf_counter()
            for padding in paddings.values():
                padding.add(window)
            tokens += sum(len(e.ids) for e in window.encoded)
            counting += time.perf_counter() - mark
        # The consumer's own counting holds up the loader only once its queue is full: not subtracted, but told.
        loaded = time.perf_counter() - started
        done += rows
        ratios.append(bare / loaded)
        bare_rates.append(rows / bare)
        rates.append(rows / loaded)
        memory.append(round(resident(), 1))
        print(
            f"{done:>9,} rows: encode_batch {rows / bare:,.0f}, loader {rows / loaded:,.0f} rows/s "
            f"({bare / loaded:.0%}); counting {counting:.1f} s; {memory[-1]:,.0f} MB",
            file=sys.stderr,
        )
    x = np.arange(len(memory) // 2, len(memory))
    slope = float(np.polyfit(x, np.array(memory)[x], 1)[0]) if len(x) > 1 else 0.0
    return {
        "rows": done,
        "tokens": tokens,
        "rounds": rounds,
        "encode_batch_rows_per_s": round(float(np.median(bare_rates))),
        "loader_rows_per_s": round(float(np.median(rates))),
        "ratio": round(float(np.median(ratios)), 3),
        "ratio_min": round(min(ratios), 3),
        "ratio_max": round(max(ratios), 3),
        "padding_waste": {device: round(padding.waste, 4) for device, padding in paddings.items()},
        "tokens_a_batch": {device: round(padding.tokens / padding.batches) for device, padding in paddings.items()},
        "rss_mb": memory,
        "rss_slope_mb_per_part": round(slope, 2),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--dataset", required=True, type=Path)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--max-length", type=int, default=512)
    parser.add_argument("--shard-rows", type=int, default=2048)
    parser.add_argument("--work", type=Path, help="folder for the pool (default: a temporary one)")
    parser.add_argument("--output", type=Path, help="folder for the rows (default: results of this hardware)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.work) as folder:
        path = Path(folder) / "pool.jsonl"
        make_pool(options.dataset, path, options.rows)
        tokenizer = load_tokenizer(options.model)
        encoder = Encoder(tokenizer, Template("auto", tokenizer), options.max_length)
        pool = Pool(path, unit_rows=options.shard_rows)
        started = time.perf_counter()
        pool.plan()
        planned = time.perf_counter() - started
        fmt = pool.detect()
        if wrong := differing(pool, fmt, encoder):
            print(
                f"{wrong} of {CHECKED} rows have other tokens than the tokenizer gives: nothing is timed",
                file=sys.stderr,
            )
            return 1
        row = {
            "pool_mb": round(path.stat().st_size / 1e6),
            "plan_seconds": round(planned, 2),
            "checked_rows": CHECKED,
            **measure(pool, fmt, encoder, options.rounds),
        }
    record("scale_loader", [row], options.output)
    columns = ["rows", "encode_batch_rows_per_s", "loader_rows_per_s", "ratio", "plan_seconds", "padding_waste"]
    print(table([row], columns))
    return 0


if __name__ == "__main__":
    sys.exit(main())
