"""Is the cost of an index pass linear in tokens, and does its memory stay flat?

    python -m benchmarks.scale_index --model MODEL --dataset POOL.jsonl[.gz] [--rows 64 128 256 512]

Indexes the first rows of POOL, as many as each size says, under one codebook, in an order that mixes the sizes,
``--rounds`` times, and fits seconds = a + b · tokens to the fastest run of each size (others on a shared machine only
ever add to it), with residuals; all runs are recorded, each with the process's memory after it.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.growth import resident
from benchmarks.pools import lines_of
from benchmarks.record import record, table
from nait_fast.config import IndexOptions
from nait_fast.extract.indexing import IndexBuild, open_pool
from nait_fast.extract.session import Session, open_session
from nait_fast.storage.files import make_folder
from nait_fast.workers.worker import index_pool


def linear_fit(x: np.ndarray, y: np.ndarray) -> dict[str, float]:
    """Least squares y = a + b · x: a, b, R² and the largest residual relative to y."""
    b, a = np.polyfit(x, y, 1)
    residual = y - (a + b * x)
    spread = ((y - y.mean()) ** 2).sum()
    return {
        "intercept": float(a),
        "slope": float(b),
        "r2": float(1 - (residual**2).sum() / spread),
        "max_relative_residual": float(np.abs(residual / y).max()),
    }


def run(session: Session, options: IndexOptions) -> tuple[int, float]:
    """(tokens, seconds) of one index pass, from opening the pool to the manifest."""
    folder = make_folder(options.output)
    started = time.perf_counter()
    build = IndexBuild(session, open_pool(options, folder), options, folder)
    manifest = index_pool(build)
    return manifest["tokens"], time.perf_counter() - started


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--dataset", required=True, type=Path)
    parser.add_argument("--rows", type=int, nargs="+", default=[64, 128, 256, 512])
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--output", type=Path, help="folder for the rows (default: results of this hardware)")
    arguments = parser.parse_args()
    lines = lines_of(arguments.dataset)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)

        def options(pool: Path, output: str, **more: Any) -> IndexOptions:
            return IndexOptions(model=arguments.model, dataset=str(pool), output=str(folder / output), **more)

        first = folder / "calibration.jsonl"
        first.write_bytes(b"".join(lines[-32:]))
        made = options(first, "codebook", calibration_size=32)
        session = open_session(made, made, quiet=True)
        run(session, made)
        points = []
        for turn in range(arguments.rounds):
            for n in sorted(arguments.rows, reverse=bool(turn % 2)):
                pool = folder / f"{n}.jsonl"
                pool.write_bytes(b"".join(lines[:n]))
                tokens, seconds = run(session, options(pool, f"{n}-{turn}", codebook=made.output, shard_rows=64))
                points.append((tokens, seconds))
                rows.append(
                    {
                        "rows": n,
                        "round": turn,
                        "tokens": tokens,
                        "seconds": round(seconds, 3),
                        "tokens_per_s": round(tokens / seconds, 1),
                        "rss_mb": round(resident(), 1),
                    }
                )
                print(rows[-1], file=sys.stderr)
    fastest = {tokens: min(s for t, s in points if t == tokens) for tokens, _ in points}
    fit = linear_fit(*np.array(sorted(fastest.items()), dtype=float).T)
    record("scale_index", [{"points": rows, **fit}], arguments.output)
    print(table(rows, ["rows", "round", "tokens", "seconds", "tokens_per_s", "rss_mb"]))
    print(
        f"seconds = {fit['intercept']:.2f} + {fit['slope'] * 1e6:.1f}e-6 · tokens, R² {fit['r2']:.5f}, "
        f"residuals up to {fit['max_relative_residual']:.1%}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
