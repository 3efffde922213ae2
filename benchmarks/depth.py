"""What the first layers alone retrieve, and how far they rank as all of them do.

    python -m benchmarks.depth --model DIR --dataset POOL.jsonl.gz --target NAME=FILE ... --work DIR
        [--rows 3040] [--samples 64] [--depths 1/6 1/3 1/2 2/3 5/6 1] [--dtype auto] [--part index|table|all]

A target's NAME is its own source. Readings of the model are captured once (benchmarks.remembered); for each depth the
verbs index and signature run on those of its layers. Beside each target stand its halves, every other sample: how alike
two draws of a target rank. rds and crds read what comes out of all layers and have no depth.
"""

import argparse
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from transformers import AutoConfig

from benchmarks.pools import described, lines_of, pool_parser, write_pool
from benchmarks.record import record, table
from benchmarks.remembered import remembering, sign_by_both_readings
from nait_fast import Index, api, selection_of
from nait_fast.evaluation.comparison import top_overlap
from nait_fast.models.load import locate
from nait_fast.ranking.spearman import spearman

METHODS = ("contrast", "nag", "embed", "nait, drift", "nait, mean")
HALVES = ("a", "b")
TOP = 0.1


def write_inputs(arguments: argparse.Namespace) -> list[str]:
    """The pool, and each target's first samples and their halves, as files of the work folder; returns NAME=FILE of the
    targets."""
    work = write_pool(arguments).parent
    targets = {}
    for text in arguments.target:
        name, _, file = text.partition("=")
        lines = lines_of(Path(file), arguments.samples)
        targets |= {name: lines} | {f"{name}.{half}": lines[place::2] for place, half in enumerate(HALVES)}
    for name, lines in targets.items():
        (work / f"{name}.jsonl").write_bytes(b"".join(lines))
    return [f"{name}={work / name}.jsonl" for name in targets]


def read_layers(model: str) -> int:
    """Decoder layers of ``model``, by its configuration."""
    source, extra = locate(model)
    return AutoConfig.from_pretrained(source, **extra).get_text_config(decoder=True).num_hidden_layers


def make(arguments: argparse.Namespace, targets: list[str], count: int, folder: Path) -> None:
    """Both indexes of the pool by the first ``count`` layers, and the signatures of every method."""
    common: dict[str, Any] = {
        "model": arguments.model,
        "max_length": arguments.max_length,
        "dtype": arguments.dtype,
        "layers": f"0-{count - 1}" if count > 1 else "0",
        "quiet": False,
    }
    signing: dict[str, Any] = {**common, "target": targets}
    indexing = {**common, "dataset": str(arguments.work / "pool.jsonl"), "workers": 1}
    bits = str(folder / "index")
    exact = sign_by_both_readings(signing, folder)
    api.build_index(**indexing, embed="last", exact=exact, output=bits, seed=arguments.seed)
    api.build_index(**indexing, codec="nag", output=str(folder / "index-nag"))
    for method in ("contrast", "embed", "nag"):
        codebook = None if method == "nag" else bits
        api.build_signature(**signing, method=method, codebook=codebook, output=str(folder / method))


def scores_of(folder: Path, method: str, name: str) -> np.ndarray:
    """float64 [n], in the pool's order, of target ``name``."""
    kind, _, reading = method.partition(", ")
    file = folder / kind / f"{name}{'-' * bool(reading)}{reading}.safetensors"
    index = Index(folder / ("index-nag" if kind == "nag" else "index"))
    order = selection_of(index, file, top_k=index.rows)
    return order.scores[np.argsort(order.rows), 0]


def measured(work: Path, depths: Sequence[tuple[str, int]], names: Sequence[str]) -> Iterator[dict[str, Any]]:
    """One result row for each target, method and depth; the last depth is the whole model."""
    sources = np.array([json.loads(line)["source"] for line in lines_of(work / "pool.jsonl")])
    for name in names:
        for method in METHODS:
            whole = scores_of(work / str(depths[-1][1]), method, name)
            for depth, count in depths:
                scores = scores_of(work / str(count), method, name)
                relevant = sources[np.argsort(-scores, kind="stable")] == name
                halves = [scores_of(work / str(count), method, f"{name}.{half}") for half in HALVES]
                yield {
                    "target": name,
                    "method": method,
                    "depth": depth,
                    "layers": count,
                    "rows": len(scores),
                    "relevant": int(relevant.sum()),
                    "r_precision": round(float(relevant[: relevant.sum()].mean()), 4),
                    "spearman_with_all": round(spearman(scores, whole), 4),
                    "top10_with_all": round(top_overlap(scores, whole, TOP), 4),
                    "halves_spearman": round(spearman(*halves), 4),
                    "halves_top10": round(top_overlap(*halves, TOP), 4),
                }


def lines(rows: Sequence[Mapping[str, Any]]) -> str:
    """The table of docs/methods.md for the rows of one model."""
    names = list(dict.fromkeys(row["target"] for row in rows))
    shown: dict[tuple[str, str], dict[str, str]] = {}
    for row in rows:
        depth = f"{row['depth']} ({row['layers']})"
        line = shown.setdefault((row["method"], depth), {"method": row["method"], "depth (layers)": depth})
        line[row["target"]] = (
            f"{row['r_precision']:.3f}; {row['spearman_with_all']:.3f}, {row['top10_with_all']:.2f}; "
            f"{row['halves_spearman']:.3f}"
        )
    first = rows[0]
    return (
        f"**The first layers alone**, {first['model']} ({first['dtype']}), {first['rows']:,} samples, targets of "
        f"{first['samples']} samples: R-precision of a target's own source; Spearman and overlap of the best tenth "
        "with the scores by all layers; Spearman of the scores by the target's two halves.\n\n"
        f"{table(list(shown.values()), ['method', 'depth (layers)', *names])}\n"
    )


def main() -> None:
    parser = pool_parser(__doc__)
    parser.add_argument("--work", type=Path, required=True, help="keep the indexes and signatures here")
    parser.add_argument("--samples", type=int, default=64, help="of each target")
    parser.add_argument("--depths", nargs="+", default=["1/6", "1/3", "1/2", "2/3", "5/6", "1"])
    parser.add_argument("--dtype", default="auto", help="of the model")
    parser.add_argument("--part", choices=("index", "table", "all"), default="all")
    arguments = parser.parse_args()
    targets, layers = write_inputs(arguments), read_layers(arguments.model)
    depths = [(depth, math.ceil(Fraction(depth) * layers)) for depth in arguments.depths]
    if arguments.part != "table":
        with remembering(arguments.work / "readings", arguments.rows + 100 + arguments.samples * len(targets)):
            for _, count in reversed(depths):  # all layers first: what they give is remembered
                make(arguments, targets, count, arguments.work / str(count))
    if arguments.part == "index":
        return
    names = [text.partition("=")[0] for text in arguments.target]
    about = described(arguments, "dtype", "max_length", "seed", "samples")
    rows = [about | row for row in measured(arguments.work, depths, names)]
    path = record("depth", rows)
    print(lines(rows))
    print(f"rows appended to {path.name}")


if __name__ == "__main__":
    main()
