"""Retrieval of a target's own source: does a ranking put the rows of the target's kind first?

    python -m benchmarks.retrieval --model MODEL --dataset POOL --target NAME=FILE ... [--rows 3040]

POOL is JSONL with a ``source`` label; a target's NAME is its own source. A subset of the pool, stratified by source,
is indexed once per codec; R-precision (share of own rows among the best R, R = how many there are) is reported for
every method and target, with the Spearman correlation of the score with length.
"""

import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.pools import described, pool_parser, stratified
from benchmarks.record import record, table
from nait_fast import api
from nait_fast.evaluation.retrieval import r_precision
from nait_fast.index.reader import Index
from nait_fast.methods.planes import top_m_planes
from nait_fast.methods.signature import Signature, load_signature
from nait_fast.ranking.scan import scan
from nait_fast.ranking.spearman import spearman
from nait_fast.storage.files import make_folder


def _top_m(signature: Signature, m: int) -> Signature:
    planes, plane_weights, scale = top_m_planes(signature.tensors["weights"], m, signature.layout)
    tensors = {**signature.tensors, "planes": planes, "plane_weights": plane_weights}
    return replace(signature, meta={**signature.meta, "scale": scale, "quantisation": f"top_m={m}"}, tensors=tensors)


@dataclass(frozen=True)
class RankedTargets:
    """``row`` and ``lengths`` [n] of an index, ``scores`` float64 [n, C] of the targets ``names``."""

    row: np.ndarray
    lengths: np.ndarray
    scores: np.ndarray
    names: list[str]

    def rows(self, method: str, sources: np.ndarray) -> list[dict]:
        """One result row a target. ``sources``: where each row of the pool is from."""
        out = []
        for name, scores in zip(self.names, self.scores.T, strict=True):
            relevant = sources[self.row] == name
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

    def with_other(self, other: "RankedTargets") -> "RankedTargets":
        """The sums of both z-scores, as ``--combine mean`` ranks."""
        z = [(r.scores - r.scores.mean(axis=0)) / r.scores.std(axis=0) for r in (self, other)]
        return RankedTargets(self.row, self.lengths, z[0] + z[1], self.names)


def every_method(
    work: Path, model: str, pool: str, targets: Sequence[str], max_length: int, seed: int
) -> dict[str, tuple[Index, list[Signature]]]:
    """Method -> an index of ``pool`` and the signatures that rank it, of ``targets`` (NAME=FILE).

    Signatures that ``work`` holds from an earlier run are not made again.
    """
    common: dict[str, Any] = {"model": model, "max_length": max_length}
    names = [text.partition("=")[0] for text in targets]

    def signatures(method: str, **options: Any) -> list[Signature]:
        files = [work / method / f"{name}.safetensors" for name in names]
        if not all(file.exists() for file in files):
            api.build_signature(target=list(targets), **common, method=method, **options, output=str(work / method))
        return [load_signature(file) for file in files]

    drift = signatures("nait")
    mean = [replace(s, name=f"{s.name}-mean", meta={**s.meta, "reading": "mean"}) for s in drift]
    for signature in mean:  # the same directions, projected on the other reading
        signature.save(make_folder(str(work / "nait-mean")))
    exact = sorted(str(p) for folder in ("nait", "nait-mean") for p in (work / folder).glob("*.safetensors"))
    bits, sets = work / "index", work / "index-nag"
    api.build_index(dataset=pool, **common, exact=exact, embed="last", output=str(bits), seed=seed)
    api.build_index(dataset=pool, **common, codec="nag", output=str(sets))
    return {
        "contrast": (Index(bits), signatures("contrast", codebook=str(bits))),
        "nait-drift": (Index(bits), drift),
        "nait-mean": (Index(bits), mean),
        "nag": (Index(sets), signatures("nag")),
        "embed": (Index(bits), signatures("embed", codebook=str(bits))),
    }


def ranked(index: Index, signatures: list[Signature]) -> RankedTargets:
    blocks = list(scan(index, signatures))
    names = [signature.name.removesuffix("-mean") for signature in signatures]
    columns = ([b.row for b in blocks], [b.n_tokens for b in blocks], [b.scores for b in blocks])
    return RankedTargets(*map(np.concatenate, columns), names)


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
    sources = np.array([json.loads(line)["source"] for line in lines])
    made = every_method(work, arguments.model, str(pool), arguments.target, arguments.max_length, arguments.seed)
    index, contrast = made["contrast"]
    top_64 = [_top_m(signature, 64) for signature in contrast]
    by_bits, by_embedding = ranked(index, contrast), ranked(*made["embed"])
    rows = (
        ranked(*made["nait-drift"]).rows("nait, drift", sources)
        + ranked(*made["nait-mean"]).rows("nait, mean", sources)
        + by_bits.rows("contrast, 4 planes", sources)
        + ranked(index, top_64).rows("contrast, ±1 top-64", sources)
        + ranked(*made["nag"]).rows("nag, top-20", sources)
        + by_embedding.rows("embed, last layer", sources)
        + by_bits.with_other(by_embedding).rows("contrast + embed", sources)
    )
    for row in rows:
        row |= described(arguments, "max_length", "seed")
    path = record("retrieval", rows)
    print(table(rows, ["method", "target", "r_precision", "relevant", "rows", "spearman_with_length"]))
    print(f"{time.perf_counter() - started:.0f} s; rows appended to {path.name}")


if __name__ == "__main__":
    main()
