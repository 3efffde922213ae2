"""``nait-fast rank`` by rule roundrobin, of many target samples, over large indexes of neuron bits.

    python -m benchmarks.rules [--rows 1000000] [--row-bytes 512] [--queries 128] [--work FOLDER] [--rounds 3]

Makes an index of random codes (each row one of 64 centres with a quarter of its bits turned), a codebook and a
signature of as many samples, then runs the verb as a process of its own, by each rule, a tenth of the rows. Beside it,
in turns, what else could answer: FAISS's exact binary index (Hamming distances, codes in memory, the k best of each
query that a tenth takes if no two queries want the same row), and the plain way, fp32 products of unpacked bits and a
partial sort. First, on a smaller index, the order is compared with that of the whole sorted matrix: no time without.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.record import record, table
from benchmarks.scale_rank import LAUNCHER
from nait_fast.codecs.codebook import Codebook
from nait_fast.codecs.layout import CodeLayout
from nait_fast.data.pool import Pool
from nait_fast.methods.contrast import contrast_signature
from nait_fast.storage.files import read_json, sha256_file, write_sealed
from nait_fast.storage.names import CODEBOOK, MANIFEST, plan_name

CENTRES = 64
SHARD_ROWS = 16_384
CHECKED_ROWS = 3000
TURNED = 2  # a bit is turned where so many random ones are all set: a quarter
CHUNK = 4096


def codes_like(centres: np.ndarray, n: int, generator: np.random.Generator) -> np.ndarray:
    """uint8 [n, W]: each a random one of ``centres`` [C, W], bits turned."""
    noise = generator.integers(0, 256, (TURNED, n, centres.shape[1]), dtype=np.uint8)
    return centres[generator.integers(0, len(centres), n)] ^ np.bitwise_and.reduce(noise)


def make(folder: Path, rows: int, row_bytes: int, queries: int) -> Path:
    """An index, its pool and ``t.safetensors`` in ``folder``; kept if they are there."""
    from tests.ranking.indexes import IDENTITY, id_tensors, write_index

    if (folder / "t.safetensors").exists():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    pool, generator = folder / "pool.jsonl", np.random.default_rng(0)
    pool.write_text("".join(f'{{"text":"row {row}"}}\n' for row in range(rows)))
    plan = Pool(pool, format="text").plan()
    (folder / "index").mkdir(exist_ok=True)
    plan.save(folder / "index" / plan_name(0))
    dataset = {"path": str(pool), "kind": "jsonl", "format": "text", "rows": rows, "sha256": plan.sha256}
    widths = [row_bytes // 2] * 16
    layout = CodeLayout.of(widths)
    centres = generator.integers(0, 256, (CENTRES, row_bytes), dtype=np.uint8)

    def shards() -> Iterator[dict[str, np.ndarray]]:
        for start in range(0, rows, SHARD_ROWS):
            n = min(SHARD_ROWS, rows - start)
            yield {
                "codes": codes_like(centres, n, generator),
                "row": np.arange(start, start + n),
                "n_tokens": generator.integers(1, 512, n).astype(np.int32),
                **id_tensors([None] * n),
            }

    write_index(folder / "index", shards(), widths, datasets=[dataset])
    some = layout.unpack(codes_like(centres, 2000, generator))
    numbers = np.zeros(layout.n_neurons, np.float32)
    meta = {"codec": "neuron", **IDENTITY, "layers": list(range(16)), "widths": widths, "samples": len(some)}
    codebook = Codebook(frequency=some.mean(axis=0, dtype=np.float32), meta=meta, threshold=numbers, scale=numbers + 1)
    codebook.save(folder / "index")
    manifest = {k: v for k, v in read_json(folder / "index" / MANIFEST).items() if k != "checksum"}
    manifest["codebook"] = sha256_file(folder / "index" / CODEBOOK)[:16]
    write_sealed(folder / "index" / MANIFEST, manifest)
    samples = codes_like(centres[: CENTRES // 4], queries, generator)  # a target is like some of the pool
    signature = contrast_signature("t", layout.unpack(samples), codebook)
    signature.tensors.update({"samples": samples, "lengths": np.full(queries, 100, np.int32)})
    signature.save(folder)
    return folder


def ranked(folder: Path, rule: str, output: Path, *more: str) -> tuple[float, float, dict[str, Any]]:
    """(seconds of the process, its greatest memory in MB, the selection's manifest)."""
    verb = ["rank", "--index", folder / "index", "--signature", folder / "t.safetensors", "--rule", rule]
    asked = [*verb, "--output", output, "--export", "dataflex", "--overwrite", "--quiet", *more]
    command = [sys.executable, "-m", "nait_fast", *map(str, asked)]
    done = subprocess.run([sys.executable, "-c", LAUNCHER, *command], capture_output=True, text=True, check=True)
    seconds, kib = done.stderr.split()[-2:]
    return float(seconds), float(kib) / 1024, json.loads((output / MANIFEST).read_text())


def matrix(folder: Path) -> np.ndarray:
    """Similarities float64 [queries, rows] as rule roundrobin has them, all of them."""
    from nait_fast.index.reader import Index
    from nait_fast.methods.signature import load_signature
    from nait_fast.ranking.scan import similarities

    index, signature = Index(folder / "index"), load_signature(folder / "t.safetensors")
    return np.concatenate([block for _, block in similarities(index, [signature])]).T


def check(work: Path, row_bytes: int, queries: int) -> None:
    """Raises SystemExit unless the verb's order is that of the whole sorted matrix, similarities against plain fp64."""
    from nait_fast.index.reader import Index
    from nait_fast.methods.signature import load_signature
    from tests.rules.test_round_robin import by_definition

    folder = make(work / f"checked-{row_bytes}-{queries}", CHECKED_ROWS, row_bytes, queries)
    index, signature = Index(folder / "index"), load_signature(folder / "t.safetensors")
    centre = np.rint(index.codebook.frequency.astype(float) * 4095) / 4095
    codes = np.concatenate([np.array(shard.codes) for shard in index.shards()])
    ours, rows = (index.layout.unpack(c) - centre for c in (signature.tensors["samples"], codes))
    plain = ours @ rows.T / np.outer(np.linalg.norm(ours, axis=1), np.linalg.norm(rows, axis=1))
    lines = matrix(folder)
    ranked(folder, "roundrobin", folder / "chosen")
    order = np.load(folder / "chosen" / "top_indices.npy")[:, 0].tolist()
    wanted = [row for row, _ in by_definition(lines, [queries], len(order))]
    if order != wanted or np.abs(plain - lines).max() > 1e-9:
        raise SystemExit("the order is not the definition's")


def by_faiss(codes: np.ndarray, samples: np.ndarray, k: int) -> float:
    """Seconds of the ``k`` nearest of each sample by FAISS, codes in memory."""
    import faiss

    index = faiss.IndexBinaryFlat(codes.shape[1] * 8)
    index.add(codes)
    started = time.perf_counter()
    index.search(samples, k)
    return time.perf_counter() - started


def by_products(codes: np.ndarray, samples: np.ndarray, k: int) -> float:
    """Seconds of the same by fp32 products of unpacked bits, and a partial sort of each chunk's scores."""
    ours = np.unpackbits(samples, axis=1, bitorder="little").astype(np.float32).T
    started, best = time.perf_counter(), np.full((0, len(samples)), -np.inf, np.float32)
    for start in range(0, len(codes), CHUNK):
        rows = np.unpackbits(codes[start : start + CHUNK], axis=1, bitorder="little").astype(np.float32)
        best = np.concatenate([best, rows @ ours])
        if len(best) > k:
            best = np.partition(best, len(best) - k, axis=0)[-k:]
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--row-bytes", type=int, default=512)
    parser.add_argument("--queries", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--work", type=Path)
    arguments = parser.parse_args()
    work, n = arguments.work or Path(tempfile.mkdtemp()), arguments.rows
    check(work, arguments.row_bytes, min(arguments.queries, 16))
    folder = make(work / f"{n}x{arguments.row_bytes}-{arguments.queries}", n, arguments.row_bytes, arguments.queries)
    from nait_fast.index.reader import Index
    from nait_fast.methods.signature import load_signature

    codes = np.concatenate([np.array(shard.codes) for shard in Index(folder / "index").shards()])
    samples = load_signature(folder / "t.safetensors").tensors["samples"]
    k = max(1, n // 10 // arguments.queries)
    of: dict[str, list[dict[str, Any]]] = {}
    for _ in range(arguments.rounds):
        for rule in ("roundrobin", "max", "centroid"):
            seconds, memory, told = ranked(folder, rule, folder / "chosen", "--scores", "none")
            stages = {f"{stage}_seconds": told["seconds"][stage] for stage in ("prepare", "scan", "select")}
            of.setdefault(f"rank --rule {rule}", []).append({"seconds": seconds, "peak_mb": memory, **stages})
        of.setdefault(f"FAISS IndexBinaryFlat, k={k}", []).append({"seconds": by_faiss(codes, samples, k)})
        of.setdefault(f"fp32 products, k={k}", []).append({"seconds": by_products(codes, samples, k)})
    rows = []
    for what, runs in of.items():
        median = {key: round(statistics.median(run[key] for run in runs), 3) for key in runs[0]}
        rate = round(n / median["seconds"])
        about = {"rows": n, "row_bytes": arguments.row_bytes, "queries": arguments.queries}
        rows.append({"what": what, **about, **median, "rows_per_second": rate, "rounds": len(runs)})
    path = record("rules", rows)
    print(table(rows, ["what", "rows", "row_bytes", "queries", "seconds", "rows_per_second", "peak_mb"]))
    print(f"rows appended to {path.name}")


if __name__ == "__main__":
    main()
