"""The engine against an independent implementation that runs one sample at a time through forward hooks.

    python -m benchmarks.exactness --model FILE.gguf --dataset POOL.jsonl.gz [--rows 300] [--max-length 384]

Compared: the readings of every layer (relative error of the vector of a sample and layer), exact NAIT scores and their
order, bits and how far from its threshold a differing bit lies; then the engine against itself with other batches, in
another order, and without the shared prefix.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.pools import lines_of
from benchmarks.record import record
from nait_fast.config import DataOptions, ModelOptions
from nait_fast.data.formats import detect, parse
from nait_fast.data.prefixes import shared_prefixes
from nait_fast.data.tokenize import Encoded
from nait_fast.extract.session import Session, open_session
from nait_fast.extract.sinks import Collect, Encode, Sink, Tee
from nait_fast.methods.nait import nait_signature
from nait_fast.models.linear import TORCH
from nait_fast.models.product_trial import Products
from nait_fast.ranking.spearman import spearman
from tests import naive

READINGS = ("drift", "mean", "up_abs")


def engine_readings(
    session: Session, encoded: list[Encoded], prefix: bool = True, beside: Sink | None = None
) -> dict[str, np.ndarray]:
    """Readings [n, L, J] of the engine (layers of one width); ``beside``: a sink that takes them, too."""
    collected = Collect(len(encoded), session.layout, READINGS)
    sink = collected if beside is None else Tee((collected, beside))
    session.run(encoded, sink, READINGS, shared_prefixes(encoded) if prefix else [])
    n_layers = len(session.layout.widths)
    return {name: values.numpy().reshape(len(encoded), n_layers, -1) for name, values in collected.readings.items()}


def target_of(n: int) -> slice:
    """Which of ``n`` samples are the target."""
    return slice(0, max(2, n // 4))


def exact_scores(session: Session, encoded: list[Encoded]) -> Encode:
    """A sink of the index pass, for the direction of a target: its ``exact`` are NAIT scores float64 [n] by reading."""
    target = encoded[target_of(len(encoded))]
    drifts = engine_readings(session, target)["drift"].reshape(len(target), session.layout.n_neurons)
    direction = torch.from_numpy(nait_signature("t", drifts, session.identity()).tensors["direction"])
    directions = {name: (name, direction) for name in ("drift", "mean")}
    return Encode(len(encoded), session.layout, None, directions=directions)


def sample_layer_errors(got: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """‖got − expected‖ / ‖expected‖ for each sample and layer [n, L]; 0 where both vanish (a one-token drift)."""
    error = np.linalg.norm(got - expected, axis=-1)
    norm = np.linalg.norm(expected, axis=-1)
    return np.where(norm > 0, error / np.where(norm > 0, norm, 1), np.where(error > 0, np.inf, 0))


def relative_error(got: np.ndarray, expected: np.ndarray) -> float:
    """The largest of ``sample_layer_errors``."""
    return float(sample_layer_errors(got, expected).max())


Readings = dict[str, np.ndarray]


def independent(model: Any, encoded: list[Encoded]) -> Readings:
    """Readings float64 [n, L, J] of tests/naive.py in the model's own precision."""
    pooled = [naive.pooled(model, [int(i) for i in e.ids]) for e in encoded]
    return {name: np.stack([np.asarray(p[name]) for p in pooled]) for name in READINGS}


def against_fp64(exact: Readings, **fp32: Readings) -> dict[str, Any]:
    """Errors of the readings of each fp32 implementation against fp64, over the rows that fp64 has."""
    n = len(exact["mean"])
    out: dict[str, Any] = {"fp64_rows": n}
    for name in READINGS:
        for label, readings in fp32.items():
            errors = sample_layer_errors(readings[name][:n].astype(np.float64), exact[name])
            out[f"fp64_max_error_{label}_{name}"] = float(errors.max())
            out[f"fp64_mean_error_{label}_{name}"] = float(errors.mean())
    return out


def _of_readings(mine: Readings, theirs: Readings) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for name in READINGS:
        got = mine[name].astype(np.float64)
        errors = sample_layer_errors(got, theirs[name])
        whole = sample_layer_errors(got.reshape(len(got), 1, -1), theirs[name].reshape(len(got), 1, -1))
        out[f"relative_error_{name}"] = float(errors.max())
        out[f"share_above_1e-5_{name}"] = float((errors > 1e-5).mean())
        out[f"relative_error_of_a_sample_{name}"] = float(whole.max())
    return out


def _difference(got: np.ndarray, expected: np.ndarray) -> dict[str, Any]:
    """``own``: the largest error of a sample relative to its own score (scores cross zero); ``norm``: of all, in the
    2-norm; ``spread``: the largest in standard deviations of the scores."""
    error = np.abs(got - expected)
    return {
        "own": float((error / np.abs(expected)).max()),
        "own_above_1e-4": int((error > 1e-4 * np.abs(expected)).sum()),
        "norm": float(np.linalg.norm(error) / np.linalg.norm(expected)),
        "spread": float(error.max() / expected.std()),
        "same_order": bool((np.argsort(-got) == np.argsort(-expected)).all()),
        "spearman": spearman(got, expected),
    }


def _of_scores(mine: Readings, theirs: Readings, exact: Readings | None) -> dict[str, Any]:
    """Exact NAIT scores; ``mine``: the engine's, float64 [n] by reading; ``exact``: the independent run in fp64.

    Keys: nait_<reading>_<measure> engine against the independent fp32 run, nait_fp64_<who>_<reading>_<measure> the
    engine and that run against fp64.
    """
    target = target_of(len(theirs["drift"]))

    def expected(readings: Readings, reading: str) -> np.ndarray:
        return naive.nait_scores(readings[reading], naive.principal_directions(readings["drift"][target]))

    pairs: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for reading, engine in mine.items():
        fp32 = expected(theirs, reading)
        pairs[f"nait_{reading}"] = engine, fp32
        if exact is not None:
            fp64 = expected(exact, reading)
            pairs |= {f"nait_fp64_engine_{reading}": (engine, fp64), f"nait_fp64_independent_{reading}": (fp32, fp64)}
    return {f"{key}_{name}": value for key, pair in pairs.items() for name, value in _difference(*pair).items()}


def compare(
    session: Session, rows: list[dict[str, Any]], calibration: int = 512, fp64_rows: int = 0, torch_linear: bool = True
) -> dict[str, Any]:
    """Run both on ``rows``; thresholds are the independent means over the first ``calibration`` rows.

    ``torch_linear``: the engine with torch's own linear, too, instead of oneDNN's.
    """
    samples = [parse(row, detect(row) or "alpaca", i) for i, row in enumerate(rows)]
    encoded = [e for e in session.encoder.encode(samples) if isinstance(e, Encoded)]
    scores = exact_scores(session, encoded)
    mine = engine_readings(session, encoded, beside=scores)
    theirs = independent(session.model.body, encoded)
    exact = independent(naive.as_double(session.model.body), encoded[:fp64_rows]) if fp64_rows else None
    out: dict[str, Any] = {"rows": len(encoded), "tokens": sum(len(e.ids) for e in encoded)}
    out |= _of_readings(mine, theirs)
    out |= _of_scores(scores.exact, theirs, exact if fp64_rows >= len(encoded) else None)
    fp32 = {"engine": mine, "independent": theirs}
    if torch_linear:
        plain_products = replace(session, model=replace(session.model, products=Products(TORCH)))
        fp32["engine_torch_linear"] = plain = engine_readings(plain_products, encoded)
        out |= {f"torch_linear_{key}": value for key, value in _of_readings(plain, theirs).items()}
    if exact is not None:
        out |= against_fp64(exact, **fp32)

    tau = theirs["mean"][:calibration].mean(axis=0).astype(np.float32)
    sigma = theirs["mean"][:calibration].std(axis=0)
    differ = (mine["mean"] > tau) != (theirs["mean"] > tau)
    distance = np.abs(theirs["mean"] - tau) / np.maximum(sigma, 1e-30)
    out |= {
        "bits": int(differ.size),
        "bits_differing": int(differ.sum()),
        "bits_differing_beyond_1e-6_sigma": int((differ & (distance > 1e-6)).sum()),
        "bits_worst_distance_sigma": float(distance[differ].max()) if differ.any() else 0.0,
    }

    other = Session(session.model, session.encoder, session.first_token, batch_tokens=333)
    backwards = {name: values[::-1] for name, values in engine_readings(other, encoded[::-1]).items()}
    alone = engine_readings(session, encoded, prefix=False)
    for label, again in (("other_batches_and_order", backwards), ("without_prefix", alone)):
        errors = [relative_error(again[k].astype(np.float64), mine[k].astype(np.float64)) for k in READINGS]
        out[f"{label}_relative_error"] = max(errors)
        out[f"{label}_bits_differing"] = int(((again["mean"] > tau) != (mine["mean"] > tau)).sum())
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--dataset", required=True, type=Path)
    parser.add_argument("--rows", type=int, default=300)
    parser.add_argument("--max-length", type=int, default=384)
    parser.add_argument("--fp64-rows", type=int, default=300, help="first rows to run in fp64 too (all: scores too)")
    arguments = parser.parse_args()
    rows = [json.loads(line) for line in lines_of(arguments.dataset, arguments.rows)]
    data = DataOptions(max_length=arguments.max_length)
    session = open_session(ModelOptions(model=arguments.model), data, quiet=True)
    result = compare(session, rows, fp64_rows=arguments.fp64_rows)
    record("exactness", [{"model": Path(arguments.model).name, "max_length": arguments.max_length, **result}])
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
