"""Scores of every pool row for every target by every method, made through nait_fast and kept."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.ablation_data import digest
from nait_fast import api
from nait_fast.config import DataOptions, ModelOptions
from nait_fast.data.batching import make_batches
from nait_fast.data.tokenize import Encoded
from nait_fast.extract.session import Session, encode_rows, open_session
from nait_fast.index.files import make_folder
from nait_fast.index.reader import Index
from nait_fast.models.linear import onednn_linear
from nait_fast.models.pack import Pack
from nait_fast.models.packed import ATTENTION, packed_attention_on, packed_forward
from nait_fast.ranking.scan import scan
from nait_fast.ranking.signature import Signature, load_signature

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
    api.build_index(dataset=dataset, **common, score=exact, output=str(index), seed=seed)
    api.build_index(dataset=dataset, **common, codec="nag", output=str(nag))
    out: dict[tuple[str, str], np.ndarray] = {}
    for method, where, made in (
        ("contrast", index, signatures("contrast", codebook=str(index))),
        ("nait-drift", index, drift),
        ("nait-mean", index, mean),
        ("nag", nag, signatures("nag")),
    ):
        scores = np.concatenate([block.scores for block in scan(Index(where), made)])
        out |= {(name, method): scores[:, c] for c, name in enumerate(targets)}
    out |= {(name, "embed"): scores for name, scores in _embed(model, pool, targets, max_length).items()}
    return out


def _embed(model: str, pool: Rows, targets: Mapping[str, Rows], max_length: int) -> dict[str, np.ndarray]:
    # Until nait_fast has a method of that name; then a line of the loop above takes its place.
    session = open_session(ModelOptions(model=model), DataOptions(max_length=max_length), quiet=True)
    vectors = mlp_inputs(session, encode_rows(session.encoder, pool)[1])
    return {
        name: centred_cosine(vectors, mlp_inputs(session, encode_rows(session.encoder, rows)[1]))
        for name, rows in targets.items()
    }


def centred_cosine(pool: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Cosine float64 [n] of ``pool`` [n, H] with the mean of ``target`` [m, H], both less the pool's mean."""
    centre = pool.mean(axis=0, dtype=np.float64)
    x, query = pool - centre, target.mean(axis=0, dtype=np.float64) - centre
    norms = np.linalg.norm(x, axis=1) * np.linalg.norm(query)
    return x @ query / np.where(norms == 0, 1, norms)


def mlp_inputs(session: Session, encoded: Sequence[Encoded]) -> np.ndarray:
    """fp32 [n, H]: of each sample the mean over its tokens, the first excluded, of the last layer's MLP input."""
    body: Any = session.model.body
    seen: list[torch.Tensor] = []
    out = np.zeros((len(encoded), body.config.hidden_size), dtype=np.float32)
    hook = session.model.specs[-1].module.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    try:
        with torch.inference_mode(), onednn_linear(body), packed_attention_on(body, ATTENTION):
            for batch in make_batches(encoded, np.zeros(0, dtype=np.int32), session.batch_tokens or 2048):
                ids = [encoded[i].ids for i in batch.items]
                pack = Pack([len(x) for x in ids])
                packed_forward(body, torch.from_numpy(np.concatenate(ids)).long().to(session.model.device), pack)
                states = seen.pop().float().reshape(-1, out.shape[1]).split(list(pack.lengths))
                for item, x in zip(batch.items, states, strict=True):
                    out[item] = (x[1:] if len(x) > 1 else x).mean(dim=0).cpu().numpy()
    finally:
        hook.remove()
    return out
