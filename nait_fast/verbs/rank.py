"""``rank``: an index and signatures in, the chosen rows out; needs no model."""

import time
from pathlib import Path
from typing import Any

import numpy as np

from nait_fast.config import BudgetOptions, RankOptions
from nait_fast.data.pool import Pool
from nait_fast.env import environment
from nait_fast.errors import NaitError
from nait_fast.index.files import make_folder, read_json, sha256_file, write_sealed
from nait_fast.index.format import MANIFEST
from nait_fast.index.reader import Index
from nait_fast.ranking import export
from nait_fast.ranking.scan import scan
from nait_fast.ranking.select import check_budget, select, spearman
from nait_fast.ranking.signature import Signature, load_signature

SELECTION = "nait_fast selection"  # `kind` in a selection's manifest


def pool_of(index: Index, dataset: str | None) -> Pool:
    """The pool that ``index`` was made from, checked to be the same data. Raises NaitError."""
    told = index.manifest["dataset"]
    pool = Pool(dataset or told["path"], format=told["format"], skip_bad_rows=True)
    try:
        info = pool.scan()
    except NaitError as error:
        raise NaitError(f"{error} (the pool of index {index.folder}; if it has moved, pass --dataset)") from None
    if info.sha256 != told["sha256"]:
        raise NaitError(f"{pool.path}: is not the data that index {index.folder} was made from (SHA-256 differs)")
    return pool


def selection_folder(path: str) -> Path:
    """The folder of a selection, made if need be; never one that holds an index. Raises NaitError."""
    folder = make_folder(path)
    manifest = folder / MANIFEST
    if manifest.exists() and read_json(manifest).get("kind") != SELECTION:
        raise NaitError(f"--output {path}: holds an index or something else ({MANIFEST}); choose another folder")
    return folder


def rank_index(
    index: Index,
    signatures: list[Signature],
    options: BudgetOptions,
    seed: int,
    folder: Path,
    pool: Pool,
    device: str = "auto",
) -> dict[str, Any]:
    """Score, select and write the outputs into ``folder``; returns what the manifest says of it."""
    if Path(pool.path).resolve() == (folder / export.SELECTED).resolve():
        raise NaitError(f"{pool.path}: the pool would be overwritten by the selection; choose another --output")
    started = time.perf_counter()
    blocks = list(scan(index, signatures, device))
    scan_seconds = time.perf_counter() - started
    rows = np.concatenate([b.row for b in blocks])
    n_tokens = np.concatenate([b.n_tokens for b in blocks])
    scores = np.concatenate([b.scores for b in blocks])
    selection = select(rows, n_tokens, scores, options, seed)
    chosen = selection.positions()
    wanted = dict.fromkeys(rows.tolist())
    for sample in pool.samples():
        if sample.row in wanted:
            wanted[sample.row] = sample.id
    names = [s.name for s in signatures]
    selected_hash = export.write_selected(folder / export.SELECTED, pool, rows[chosen])
    export.write_scores(folder / export.SCORES, rows, list(wanted.values()), n_tokens, names, scores, selection)
    with open(folder / export.SELECTED, "rb") as file:
        export.write_dataset_info(folder / export.DATASET_INFO, pool.scan(), file.readline())
    return {
        "method": [s.method for s in signatures],
        "reading": [s.meta["reading"] for s in signatures],
        "targets": names,
        "signatures": {s.name: s.hash for s in signatures},
        "rows_read": index.manifest["dataset"]["rows"],
        "rows_scored": len(rows),
        "rows_skipped": index.manifest["skipped"],
        "rows_truncated": index.manifest["truncated"],
        "rows_selected": len(chosen),
        "tokens_selected": int(n_tokens[chosen].sum()),
        "spearman_with_length": {
            name: round(value, 4) if np.isfinite(value := spearman(scores[:, c], n_tokens)) else None
            for c, name in enumerate(names)
        },
        "scan_seconds": round(scan_seconds, 4),
        "files": {
            export.SELECTED: selected_hash,
            **{name: sha256_file(folder / name) for name in (export.SCORES, export.DATASET_INFO)},
        },
    }


def write_manifest(
    folder: Path, verb: str, config: dict[str, Any], index: Index, told: dict[str, Any]
) -> dict[str, Any]:
    """``manifest.json`` of a selection; returns it."""
    kept = ("model", "model_name", "template", "template_kind", "codebook", "layers", "max_length", "dataset")
    manifest = {
        "kind": SELECTION, "verb": verb, **told,
        **{key: index.manifest[key] for key in kept if key in index.manifest},
        "config": config, "environment": environment(),
    }  # fmt: skip
    return write_sealed(folder / MANIFEST, manifest)


def run(options: RankOptions, quiet: bool = False) -> dict[str, Any]:
    """Rank an index; returns a summary."""
    check_budget(options)
    folder = selection_folder(options.output)
    index = Index(options.index)
    check_budget(options, index.rows)
    signatures = [load_signature(path) for path in options.signature]
    told = rank_index(index, signatures, options, options.seed, folder, pool_of(index, options.dataset), options.device)
    write_manifest(folder, "rank", options.to_mapping(), index, told)
    return {"output": str(folder), **told}
