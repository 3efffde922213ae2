"""How well each type that ``--embed rds`` keeps ranks as float32 does.

    python -m benchmarks.rds_fidelity --model DIR --dataset POOL.jsonl.gz --target NAME=FILE … --scratch DIR
        [--rows 3040] [--dtype bfloat16]

Cosines of rows with ``--queries`` samples of each target, plain (method rds) and after PCA with whitening (method
crds), rows kept as each type against rows in float32, the queries being float32 in both: Spearman and the overlap of
the best tenth, a query at a time. What rds costs in the pass: benchmarks.pass_cost.
"""

import argparse
from pathlib import Path

import numpy as np
import torch

from benchmarks.pools import described, pool_parser, stratified
from benchmarks.record import record, table
from nait_fast.config import RDS_TYPES, DataOptions, ModelOptions
from nait_fast.data.pool import Pool
from nait_fast.data.prefixes import shared_prefixes
from nait_fast.data.tokenize import Encoded
from nait_fast.extract.session import Session, encode_all, open_session
from nait_fast.extract.sinks import Collect, rds_parts
from nait_fast.index.format import rds_vectors
from nait_fast.ranking.spearman import spearman

COMPONENTS = (128, 512)
TOP = 0.1


def vectors(session: Session, encoded: list[Encoded]) -> torch.Tensor:
    """e fp32 [n, H]."""
    sink = Collect(len(encoded), session.layout, ("rds",))
    session.run(encoded, sink, ("rds",), shared_prefixes(encoded))
    return sink.rds


def normalised(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def whitening(pool: np.ndarray, components: int) -> tuple[np.ndarray, np.ndarray]:
    """(mean [H], projection [H, components]) of the pool's PCA with whitening."""
    mean = pool.mean(axis=0)
    _, s, directions = np.linalg.svd(pool - mean, full_matrices=False)
    return mean, directions[:components].T * (np.sqrt(len(pool) - 1) / s[:components])


def scores(pool: np.ndarray, queries: np.ndarray, components: int) -> np.ndarray:
    """Cosines [Q, n]; after PCA with whitening, fitted to ``pool``, where ``components`` is not 0."""
    if components:
        mean, projection = whitening(pool, components)
        pool, queries = (pool - mean) @ projection, (queries - mean) @ projection
    return normalised(queries) @ normalised(pool).T


def agreement(got: np.ndarray, expected: np.ndarray) -> dict[str, float]:
    k = max(1, int(TOP * got.shape[1]))
    tops = [(set(np.argsort(-a)[:k]), set(np.argsort(-b)[:k])) for a, b in zip(got, expected, strict=True)]
    overlaps = [len(a & b) / k for a, b in tops]
    correlations = [spearman(a, b) for a, b in zip(got, expected, strict=True)]
    return {
        "spearman": round(float(np.mean(correlations)), 6),
        "worst": round(float(np.min(correlations)), 6),
        "overlap": round(float(np.mean(overlaps)), 4),
        "worst_overlap": round(float(np.min(overlaps)), 4),
    }


def main() -> None:
    parser = pool_parser(__doc__)
    parser.add_argument("--dtype", default="auto", help="of the model")
    parser.add_argument("--queries", type=int, default=64, help="samples of each target")
    parser.add_argument("--scratch", type=Path, required=True, help="folder for the sampled pool")
    arguments: argparse.Namespace = parser.parse_args()
    torch.set_num_threads(1)
    arguments.scratch.mkdir(parents=True, exist_ok=True)
    path = arguments.scratch / "pool.jsonl"
    path.write_bytes(b"".join(stratified(arguments.dataset, arguments.rows, arguments.seed)))
    model = ModelOptions(model=arguments.model, dtype=arguments.dtype)
    session = open_session(model, DataOptions(max_length=arguments.max_length))
    _, encoded = encode_all(session.encoder, Pool(str(path)))
    about = described(arguments, "max_length", "seed") | {"dtype": session.model.precision}
    rows = []
    targets = dict(text.split("=", 1) for text in arguments.target)
    samples = [encode_all(session.encoder, Pool(file))[1][: arguments.queries] for file in targets.values()]
    queries = {name: vectors(session, some).double().numpy() for name, some in zip(targets, samples, strict=True)}
    pool = vectors(session, encoded)
    exact = pool.double().numpy()
    for dtype in RDS_TYPES[:2]:
        parts = {name: values.numpy() for name, values in rds_parts(pool, dtype).items()}
        kept = rds_vectors(parts).astype(np.float64)
        for components in (0, *(c for c in COMPONENTS if c < len(exact))):
            for name, some in queries.items():
                case = {"case": "fidelity", "type": dtype, "components": components, "target": name}
                found = agreement(scores(kept, some, components), scores(exact, some, components))
                rows.append({**about, **case, "rows": len(exact), "queries": len(some), **found})
    columns = ["type", "components", "target", "rows", "queries", "spearman", "worst", "overlap", "worst_overlap"]
    print(table(rows, columns))
    print(record("rds_fidelity", rows))


if __name__ == "__main__":
    main()
