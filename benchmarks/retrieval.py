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
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.record import record, table
from nait_fast import api
from nait_fast.evaluation.retrieval import r_precision
from nait_fast.index.reader import Index
from nait_fast.methods.planes import top_m_planes
from nait_fast.methods.signature import Signature, load_signature
from nait_fast.ranking.scan import scan
from nait_fast.ranking.spearman import spearman


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


def pool_parser(about: str | None) -> argparse.ArgumentParser:
    """The options of a measurement on a stratified sample of a pool."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--dataset", required=True, type=Path)
    parser.add_argument("--target", required=True, nargs="+", metavar="NAME=FILE")
    parser.add_argument("--rows", type=int, default=3040)
    parser.add_argument("--max-length", type=int, default=384)
    parser.add_argument("--seed", type=int, default=0)
    return parser


def _top_m(signature: Signature, m: int) -> Signature:
    planes, plane_weights, scale = top_m_planes(signature.tensors["weights"], m, signature.layout)
    tensors = {**signature.tensors, "planes": planes, "plane_weights": plane_weights}
    return replace(signature, meta={**signature.meta, "scale": scale, "quantisation": f"top_m={m}"}, tensors=tensors)


@dataclass(frozen=True)
class Ranked:
    """``row`` and ``lengths`` [n] of an index, ``scores`` float64 [n, C] of the targets ``names``."""

    row: np.ndarray
    lengths: np.ndarray
    scores: np.ndarray
    names: list[str]

    def rows(self, method: str, own: np.ndarray) -> list[dict]:
        """One result row a target. ``own``: the source of each row of the pool."""
        out = []
        for name, scores in zip(self.names, self.scores.T, strict=True):
            relevant = own[self.row] == name
            out.append(
                {
                    "method": method,
                    "target": name,
                    "r_precision": r_precision(scores, relevant),
                    "relevant": int(relevant.sum()),
                    "rows": len(scores),
                    "spearman_with_length": round(spearman(scores, self.lengths), 3),
                }
            )
        return out

    def with_other(self, other: "Ranked") -> "Ranked":
        """The sums of both z-scores, as ``--combine mean`` ranks."""
        z = [(r.scores - r.scores.mean(axis=0)) / r.scores.std(axis=0) for r in (self, other)]
        return Ranked(self.row, self.lengths, z[0] + z[1], self.names)


def ranked(index: Index, signatures: list[Signature]) -> Ranked:
    blocks = list(scan(index, signatures))
    names = [signature.name.removesuffix("-mean") for signature in signatures]
    columns = ([b.row for b in blocks], [b.n_tokens for b in blocks], [b.scores for b in blocks])
    return Ranked(*map(np.concatenate, columns), names)


def main() -> None:
    parser = pool_parser(__doc__)
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
    told = api.build_index(
        dataset=str(pool), **common, score=exact, output=str(work / "index"), seed=arguments.seed, embed="last"
    )
    print("index:", told)
    index = Index(work / "index")
    contrast = signatures("contrast", method="contrast", codebook=str(work / "index"))
    top_64 = [_top_m(signature, 64) for signature in contrast]
    embed = signatures("embed", method="embed", codebook=str(work / "index"))
    nag = signatures("nag", method="nag")
    api.build_index(dataset=str(pool), **common, codec="nag", output=str(work / "index-nag"))
    by_bits, by_embedding = ranked(index, contrast), ranked(index, embed)
    rows = (
        ranked(index, nait).rows("nait, drift", own)
        + ranked(index, mean).rows("nait, mean", own)
        + by_bits.rows("contrast, 4 planes", own)
        + ranked(index, top_64).rows("contrast, ±1 top-64", own)
        + ranked(Index(work / "index-nag"), nag).rows("nag, top-20", own)
        + by_embedding.rows("embed, last layer", own)
        + by_bits.with_other(by_embedding).rows("contrast + embed", own)
    )
    for row in rows:
        row |= {"model": Path(arguments.model).name, "max_length": arguments.max_length, "seed": arguments.seed}
    path = record("retrieval", rows)
    print(table(rows, ["method", "target", "r_precision", "relevant", "rows", "spearman_with_length"]))
    print(f"{time.perf_counter() - started:.0f} s; rows appended to {path.name}")


if __name__ == "__main__":
    main()
