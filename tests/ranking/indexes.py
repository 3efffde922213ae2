"""Indexes and signatures that fit them, made of arrays: no model, no index pass."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nait_fast.codecs.layout import CodeLayout
from nait_fast.index.format import FORMAT_VERSION
from nait_fast.methods.planes import signed_planes
from nait_fast.methods.signature import Signature
from nait_fast.storage.files import checksum_of, pack_tensors, sha256, write_sealed
from nait_fast.storage.names import MANIFEST, shard_name

IDENTITY = {
    "model": "a" * 32,
    "template": "b" * 32,
    "reading": "mean",
    "first_token": "exclude",
    "dtype": "float32",
    "max_length": 512,
}
CODEBOOK = "c" * 16


def id_tensors(ids: Sequence[str | None]) -> dict[str, np.ndarray]:
    """The tensors that hold ``ids`` [n] in a shard."""
    encoded = [(name or "").encode() for name in ids]
    return {
        "ids": np.frombuffer(b"".join(encoded), dtype=np.uint8),
        "id_ends": np.cumsum([len(name) for name in encoded], dtype=np.int64),
        "id_absent": np.array([name is None for name in ids], dtype=bool),
    }


def write_index(
    folder: Path,
    shards: Iterable[dict[str, np.ndarray]],
    widths: Sequence[int],
    *,
    exact: dict[str, str] | None = None,
    datasets: list[dict[str, Any]] | None = None,
    version: int = FORMAT_VERSION,
    truncated: int = 0,
) -> Path:
    """Write an index of ``shards``, dicts of tensors: codes, row, n_tokens and, as wished, ids and exact scores. One of
    ``version`` 2 has no checksums."""
    folder.mkdir(parents=True, exist_ok=True)
    entries, rows, tokens, first = [], 0, 0, 0
    for number, tensors in enumerate(shards):
        data = pack_tensors(tensors, {"kind": "shard", "number": number}, version > 2)
        (folder / shard_name(number)).write_bytes(data)
        row = tensors["row"]
        end = int(row[-1]) + 1 if len(row) else first
        entries.append(
            {
                "file": shard_name(number),
                "first_row": first,
                "pool_rows": end - first,
                "rows": len(row),
                "bytes": len(data),
                "sha256": sha256(data),
            }
        )
        if version > 2:
            entries[-1]["xxh3"] = checksum_of(data)
        rows, tokens, first = rows + len(row), tokens + int(tensors["n_tokens"].sum()), end
    layout = CodeLayout.of(widths)
    pool = {"path": "pool.jsonl", "kind": "jsonl", "format": "text", "rows": first, "sha256": ""}
    manifest = {
        "kind": "nait_fast index",
        "format_version": version,
        "codec": "neuron",
        **IDENTITY,
        "model_name": "tiny",
        "template_kind": "chat",
        "layers": list(range(len(widths))),
        "widths": list(layout.widths),
        "row_bytes": layout.row_bytes,
        "codebook": CODEBOOK,
        "calibration": None,
        "exact": exact or {},
        "datasets": datasets or [pool],
        "rows": rows,
        "tokens": tokens,
        "truncated": truncated,
        "duplicate_ids": 0,
        "skipped": {"rows": first - rows, "reasons": {}},
        "shards": entries,
    }
    write_sealed(folder / MANIFEST, manifest)
    return folder


def contrast(name: str, widths: Sequence[int], seed: int, planes: int = 4) -> Signature:
    """A contrast signature with random weights."""
    layout = CodeLayout.of(widths)
    weights = np.random.default_rng(seed).standard_normal(layout.n_neurons).astype(np.float32)
    packed, plane_weights, scale = signed_planes(weights, planes, layout)
    meta = {
        "method": "contrast",
        **IDENTITY,
        "codebook": CODEBOOK,
        "layers": list(range(len(widths))),
        "widths": list(widths),
        "samples": 8,
        "scale": scale,
    }
    tensors = {"weights": weights, "threshold": np.zeros_like(weights), "planes": packed}
    return Signature(name, meta, {**tensors, "plane_weights": plane_weights})


def nait(name: str, widths: Sequence[int]) -> Signature:
    """A nait signature; its scores are whatever the index holds as ``exact.NAME``."""
    n, per_layer = CodeLayout.of(widths).n_neurons, [0.5] * len(widths)
    meta = {
        "method": "nait",
        **IDENTITY,
        "layers": list(range(len(widths))),
        "widths": list(widths),
        "samples": 8,
        "explained": per_layer,
        "sign_margin": per_layer,
        "codebook": None,
    }
    return Signature(name, meta, {"direction": np.ones(n, dtype=np.float32)})
