"""Retrieval of a target's own source: does a ranking put the rows of the target's kind first?

    python -m benchmarks.retrieval --model MODEL --dataset POOL --target NAME=FILE ... [--rows 3040]

POOL is JSONL with a ``source`` label; a target's NAME is its own source. A subset of the pool, stratified by source,
is indexed once per codec; R-precision (share of own rows among the best R, R = how many there are) is reported for
every method and target, with the Spearman correlation of the score with length.
"""

import argparse
import gzip
import json
import tempfile
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.record import record, table
from nait_fast import api
from nait_fast.index.reader import Index
from nait_fast.ranking.scan import scan
from nait_fast.ranking.signature import Signature, load_signature, top_m_planes
from nait_fast.ranking.spearman import spearman
from nait_fast.ranking.topk import order


def stratified(dataset: Path, n: int, seed: int) -> list[bytes]:
    """About ``n`` lines, each source in its share of the pool, in the pool's order."""
    opener = gzip.open if dataset.suffix == ".gz" else open
    with opener(dataset, "rb") as file:
        lines = [line for line in file if line.strip()]
    sources = [json.loads(line)["source"] for line in lines]
    generator = np.random.default_rng(seed)
    keep: list[int] = []
    for source, count in sorted(Counter(sources).items()):
        members = np.flatnonzero([s == source for s in sources])
        keep += generator.choice(members, size=max(1, round(n * count / len(lines))), replace=False).tolist()
    return [lines[i] for i in sorted(keep)]


def r_precision(scores: np.ndarray, relevant: np.ndarray) -> float:
    """Share of relevant rows among the best R."""
    best = order(np.arange(len(scores)), scores)[: int(relevant.sum())]
    return float(relevant[best].mean())


def _top_m(signature: Signature, m: int) -> Signature:
    planes, plane_weights, scale = top_m_planes(signature.tensors["weights"], m, signature.layout)
    tensors = {**signature.tensors, "planes": planes, "plane_weights": plane_weights}
    return replace(signature, meta={**signature.meta, "scale": scale, "quantisation": f"top_m={m}"}, tensors=tensors)


def _rank(index: Index, signatures: list[Signature], method: str, own: np.ndarray) -> list[dict]:
    blocks = list(scan(index, signatures))
    rows, scores = np.concatenate([b.row for b in blocks]), np.concatenate([b.scores for b in blocks])
    lengths = np.concatenate([b.n_tokens for b in blocks])
    out = []
    for c, signature in enumerate(signatures):
        name = signature.name.removesuffix("-mean")
        out.append({"method": method, "target": name, "r_precision": r_precision(scores[:, c], own[rows] == name),
                    "relevant": int((own[rows] == name).sum()), "rows": len(rows),
                    "spearman_with_length": round(spearman(scores[:, c], lengths), 3)})  # fmt: skip
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--dataset", required=True, type=Path)
    parser.add_argument("--target", required=True, nargs="+", metavar="NAME=FILE")
    parser.add_argument("--rows", type=int, default=3040)
    parser.add_argument("--max-length", type=int, default=384)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, help="keep the intermediate files here")
    arguments = parser.parse_args()
    started = time.perf_counter()
    work = arguments.work or Path(tempfile.mkdtemp())
    work.mkdir(parents=True, exist_ok=True)
    lines = stratified(arguments.dataset, arguments.rows, arguments.seed)
    pool = work / "pool.jsonl"
    pool.write_bytes(b"".join(lines))
    own = np.array([json.loads(line)["source"] for line in lines])
    common = {"model": arguments.model, "max_length": arguments.max_length}
    names = [t.partition("=")[0] for t in arguments.target]

    def signatures(folder: str, **options: Any) -> list[Signature]:
        files = [work / folder / f"{name}.safetensors" for name in names]
        if not all(f.exists() for f in files):  # --work keeps what an earlier run has made
            api.build_signature(target=arguments.target, **common, **options, output=str(work / folder))
        return [load_signature(f) for f in files]

    nait = signatures("nait", method="nait")
    mean = []
    (work / "nait-mean").mkdir(exist_ok=True)
    for signature in nait:  # the same directions, projected on the other reading
        other = replace(signature, name=f"{signature.name}-mean", meta={**signature.meta, "reading": "mean"})
        other.save(work / "nait-mean")
        mean.append(other)
    exact = sorted(str(p) for folder in ("nait", "nait-mean") for p in (work / folder).glob("*.safetensors"))
    told = api.build_index(dataset=str(pool), **common, score=exact, output=str(work / "index"), seed=arguments.seed,
                           embed="last")  # fmt: skip
    print("index:", told)
    index = Index(work / "index")
    contrast = signatures("contrast", method="contrast", codebook=str(work / "index"))
    top_64 = [_top_m(signature, 64) for signature in contrast]
    embed = signatures("embed", method="embed", codebook=str(work / "index"))
    nag = signatures("nag", method="nag")
    api.build_index(dataset=str(pool), **common, codec="nag", output=str(work / "index-nag"))
    rows = (
        _rank(index, nait, "nait, drift", own)
        + _rank(index, mean, "nait, mean", own)
        + _rank(index, contrast, "contrast, 4 planes", own)
        + _rank(index, top_64, "contrast, ±1 top-64", own)
        + _rank(Index(work / "index-nag"), nag, "nag, top-20", own)
        + _rank(index, embed, "embed, last layer", own)
    )
    for row in rows:
        row |= {"model": Path(arguments.model).name, "max_length": arguments.max_length, "seed": arguments.seed}
    path = record("retrieval", rows)
    print(table(rows, ["method", "target", "r_precision", "relevant", "rows", "spearman_with_length"]))
    print(f"{time.perf_counter() - started:.0f} s; rows appended to {path.name}")


if __name__ == "__main__":
    main()
