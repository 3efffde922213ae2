"""Scores of every pool row for every target by every method, made through nait_fast and kept."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.ablation_data import digest
from nait_fast import api
from nait_fast.index.reader import Index
from nait_fast.methods.signature import Signature, load_signature
from nait_fast.ranking.scan import scan
from nait_fast.storage.files import make_folder

METHODS = ("contrast", "nait-drift", "nait-mean", "nag", "embed")
Rows = Sequence[dict[str, Any]]


def score_file(work: Path, model: str, pool: Rows, targets: Mapping[str, Rows], max_length: int, seed: int) -> Path:
    """Where these scores are kept: another pool, target or length has another file."""
    key = digest([Path(model).name, list(pool), {n: list(rows) for n, rows in targets.items()}, max_length, seed])
    return work / f"scores-{key}.npz"


def all_scores(
    work: Path, model: str, pool: Rows, targets: Mapping[str, Rows], max_length: int, seed: int
) -> dict[tuple[str, str], np.ndarray]:
    """(target, method) -> float64 [n] over ``pool``; ``targets``: the rows that signatures are made of."""
    path = score_file(work, model, pool, targets, max_length, seed)
    if not path.exists():
        made = _make(make_folder(path.with_suffix("")), model, pool, targets, max_length, seed)
        np.savez(path, **{f"{target}/{method}": scores for (target, method), scores in made.items()})
    with np.load(path) as file:
        return {(name.partition("/")[0], name.partition("/")[2]): file[name] for name in file.files}


def _make(
    work: Path, model: str, pool: Rows, targets: Mapping[str, Rows], max_length: int, seed: int
) -> dict[tuple[str, str], np.ndarray]:
    def write(name: str, rows: Rows) -> str:
        (work / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        return str(work / f"{name}.jsonl")

    dataset = write("pool", pool)
    named = [f"{name}={write(name, rows)}" for name, rows in targets.items()]
    common = {"model": model, "max_length": max_length}

    def signatures(method: str, **options: Any) -> list[Signature]:
        files = [work / method / f"{name}.safetensors" for name in targets]
        if not all(file.exists() for file in files):
            api.build_signature(target=named, **common, method=method, **options, output=str(work / method))
        return [load_signature(file) for file in files]

    drift = signatures("nait")
    mean = [replace(s, name=f"{s.name}-mean", meta={**s.meta, "reading": "mean"}) for s in drift]
    for signature in mean:  # the same directions, projected on the other reading
        signature.save(make_folder(str(work / "nait-mean")))
    exact = sorted(str(p) for folder in ("nait", "nait-mean") for p in (work / folder).glob("*.safetensors"))
    index, nag = work / "index", work / "index-nag"
    api.build_index(dataset=dataset, **common, score=exact, embed="last", output=str(index), seed=seed)
    api.build_index(dataset=dataset, **common, codec="nag", output=str(nag))
    out: dict[tuple[str, str], np.ndarray] = {}
    for method, where, made in (
        ("contrast", index, signatures("contrast", codebook=str(index))),
        ("nait-drift", index, drift),
        ("nait-mean", index, mean),
        ("nag", nag, signatures("nag")),
        ("embed", index, signatures("embed", codebook=str(index))),
    ):
        scores = np.concatenate([block.scores for block in scan(Index(where), made)])
        out |= {(name, method): scores[:, c] for c, name in enumerate(targets)}
    return out
