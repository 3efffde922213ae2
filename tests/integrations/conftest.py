"""What the adapters' tests share: signatures of the tiny model, rows, and their scores by the API."""

from dataclasses import dataclass

import numpy as np
import pytest

import nait_fast
from tests.conftest import make_rows, write_jsonl

BATCH = 64
KEYS = ("instruction", "input", "output")
BAD = {"instruction": "a", "input": "", "output": " ", "source": "none", "id": "bad"}


def score(model: str, signatures: list[str], samples: list[dict], batch: int = BATCH) -> np.ndarray:
    """float64 [n, 2] by the API, in batches of ``batch``, as a host makes them."""
    scorer = nait_fast.Scorer(model, signatures)
    return np.concatenate([scorer.score(samples[i : i + batch]) for i in range(0, len(samples), batch)])


@dataclass(frozen=True)
class Made:
    """``scores``: float64 [200, 2] of ``rows`` by the API in one call; ``batched``: in batches of ``BATCH``."""

    model: str
    signatures: list[str]
    names: list[str]
    rows: list[dict]
    scores: np.ndarray
    batched: np.ndarray


@pytest.fixture(scope="session")
def made(tmp_path_factory, tiny_model: str) -> Made:
    folder = tmp_path_factory.mktemp("adapters")
    rows = make_rows(200)
    pool = write_jsonl(folder / "pool.jsonl", rows[:40])
    targets = []
    for name in ("sums", "texts"):
        file = write_jsonl(folder / f"{name}.jsonl", [r for r in make_rows(24, seed=1) if r["source"] == name])
        targets.append(f"{name}={file}")
    index = folder / "index"
    nait_fast.build_index(model=tiny_model, dataset=pool, calibration_size=20, output=index)
    nait_fast.build_signature(model=tiny_model, target=targets, codebook=index, output=folder)
    signatures = [str(folder / f"{name}.safetensors") for name in ("sums", "texts")]
    one_call = score(tiny_model, signatures, rows, len(rows))
    batched = score(tiny_model, signatures, rows)
    return Made(tiny_model, signatures, ["score.sums", "score.texts"], rows, one_call, batched)
