"""``inspect`` and ``verify``: what a file or folder is, and whether it is whole."""

from pathlib import Path
from typing import Any

from nait_fast.data.pool import Pool
from nait_fast.errors import NaitError
from nait_fast.index.files import read_json, read_sealed, sha256_file
from nait_fast.index.format import CODEBOOK, MANIFEST
from nait_fast.index.reader import Index
from nait_fast.ranking.signature import Signature, load_signature
from nait_fast.verbs.rank import SELECTION

_OF_SELECTION = (
    "kind", "verb", "method", "targets", "rows_read", "rows_scored", "rows_skipped", "rows_selected", "tokens_selected",
    "spearman_with_length", "dataset", "template_kind",
)  # fmt: skip
_OF_INDEX = (
    "kind", "codec", "reading", "rows", "tokens", "truncated", "skipped", "row_bytes", "model", "template_kind",
    "max_length", "codebook", "exact", "dataset",
)  # fmt: skip


def inspect(path: str) -> dict[str, Any]:
    """Summary of an index, a selection, a signature or a pool. Raises NaitError."""
    place = Path(path)
    if place.is_dir() and (place / MANIFEST).exists():
        manifest = read_json(place / MANIFEST)
        if manifest.get("kind") == SELECTION:
            return {"path": path, **{k: manifest[k] for k in _OF_SELECTION if k in manifest}}
        index = Index(place)
        shards = [s["bytes"] for s in index.manifest["shards"]]
        return {"path": path, **{k: index.manifest[k] for k in _OF_INDEX if k in index.manifest},
                "layers": len(index.layout.widths), "neurons": index.layout.n_neurons, "shards": len(shards),
                "bytes": sum(shards)}  # fmt: skip
    if place.suffix == ".safetensors" and place.name != CODEBOOK:
        return {"path": path, "kind": "nait_fast signature", **_describe(load_signature(place))}
    pool = Pool(path, skip_bad_rows=True)
    info = pool.scan()
    first = next(pool.samples())
    turns = [f"{m.role}: {m.content[:80]}" for m in first.messages] or [(first.text or str(first.input_ids))[:80]]
    return {"path": path, "kind": f"pool ({info.kind})", "format": info.format, "rows": info.rows, "usable": info.good,
            "skipped": [f"{s.where}: {s.reason}" for s in info.skipped[:20]], "first_sample": turns}  # fmt: skip


def _describe(signature: Signature) -> dict[str, Any]:
    meta = {k: v for k, v in signature.meta.items() if k not in ("widths", "layers", "explained", "sign_margin")}
    out = {"name": signature.name, "hash": signature.hash, **meta, "layers": len(signature.meta["layers"])}
    if signature.method == "nait":
        out["uncertain_signs"] = sum(m < 2 for m in signature.meta["sign_margin"])
    return out


def verify(path: str) -> dict[str, Any]:
    """Check every byte of an index or a selection (with its index and signatures). Raises NaitError on any problem."""
    place = Path(path)
    if not place.is_dir():
        raise NaitError(f"{path}: no such folder")
    manifest = read_json(place / MANIFEST)
    problems, files, rows = [], 0, 0
    selection = manifest.get("kind") == SELECTION
    if selection:
        manifest = read_sealed(place / MANIFEST)
        expected = {place / name: digest for name, digest in manifest["files"].items()}
        if manifest["verb"] == "select":
            kept = place / "signatures"
            expected |= {kept / f"{name}.safetensors": digest for name, digest in manifest["signatures"].items()}
        for file, digest in expected.items():
            if not file.is_file():
                problems.append(f"{file}: is missing")
            elif not sha256_file(file).startswith(digest):
                problems.append(f"{file}: its bytes have changed (SHA-256 differs)")
        files, place = len(expected), place / "index"
    if not selection or manifest["verb"] == "select":
        index = Index(place)
        problems += index.verify()
        files, rows = files + len(index.manifest["shards"]), index.rows
    if problems:
        more = f" (and {len(problems) - 1} more problems)" if len(problems) > 1 else ""
        raise NaitError(problems[0] + more)
    return {"path": path, "ok": True, "files": files, "rows": rows}
