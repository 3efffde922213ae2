"""A small whole index made of arrays, with every kind of file, and the means to change one and vouch for it anew."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nait_fast.codecs.codebook import Codebook, load_codebook
from nait_fast.codecs.layout import CodeLayout
from nait_fast.data.parts import RowPlace
from nait_fast.data.plan import Plan, Unit
from nait_fast.errors import NaitError
from nait_fast.index.format import FORMAT_VERSION
from nait_fast.methods.planes import signed_planes
from nait_fast.methods.signature import Signature
from nait_fast.storage.files import checksum_of, pack_tensors, read_json, read_tensors, sha256, write_sealed
from nait_fast.storage.names import CALIBRATION, CODEBOOK, MANIFEST, SKIPPED, shard_name
from tests.ranking.indexes import id_tensors

WIDTHS = [40, 33]
LAYOUT = CodeLayout.of(WIDTHS)
SHARED = {
    "reading": "mean",
    "first_token": "exclude",
    "model": "a" * 32,
    "template": "b" * 32,
    "dtype": "float32",
    "max_length": 40,
    "layers": [0, 1],
    "widths": WIDTHS,
}
IDS = [["a", None, "é", "a", ""], ["ü", None, "b"]]
ROWS = [[0, 1, 2, 4, 5], [6, 7, 8]]
LISTED = [
    {"row": 2, "where": "p:3", "reason": "50 tokens, cut to 40", "kept": True},
    {"row": 3, "where": "p:4", "reason": "empty response"},
    {"row": 4, "where": "row 4", "reason": "its id is that of row 0", "kept": True},
    {"row": 9, "where": "p:10", "reason": "not JSON: x, column 1"},
]


def make(folder: Path) -> Path:
    """Write it: two shards, ids, exact scores, cut and skipped rows, a plan; beside it ``sums.safetensors``."""
    generator = np.random.default_rng(0)
    n = LAYOUT.n_neurons
    folder.mkdir(parents=True)
    shards = []
    for number, (rows, names) in enumerate(zip(ROWS, IDS, strict=True)):
        codes = LAYOUT.pack(generator.random((len(rows), n)) > 0.5)
        tensors = {
            "codes": codes,
            "row": np.array(rows),
            "n_tokens": np.full(len(rows), 7, np.int32),
            "exact.sums": generator.normal(size=len(rows)),
            **id_tensors(names),
        }
        data = pack_tensors(tensors, {"kind": "shard", "number": number})
        (folder / shard_name(number)).write_bytes(data)
        shards.append(
            {
                "file": shard_name(number),
                "first_row": 6 * number,
                "pool_rows": 6 - 2 * number,
                "rows": len(rows),
                "bytes": len(data),
                "sha256": sha256(data),
                "xxh3": checksum_of(data),
            }
        )
    share = generator.random(n).astype(np.float32)
    codebook = Codebook(share, {"codec": "neuron", "samples": 3, **SHARED}, share, share, share)
    codebook.save(folder)
    calibration = {"codes": codes, "row": np.array([0, 4, 7]), "finite": np.ones(3, np.uint8), "exact.sums": np.ones(3)}
    (folder / CALIBRATION).write_bytes(pack_tensors(calibration, {"kind": "calibration"}))
    listed = "".join(json.dumps(entry) + "\n" for entry in LISTED).encode()
    (folder / SKIPPED).write_bytes(listed)
    units = (Unit(0, 0, 6, 0, RowPlace(0, 1), "0" * 64), Unit(1, 6, 4, 0, RowPlace(99, 7), "1" * 64))
    Plan("/pool.jsonl", "jsonl", 10, "5" * 64, 6, ((100, 7),), units).save(folder / "plan-00.json")
    write_sealed(
        folder / MANIFEST,
        {
            "kind": "nait_fast index",
            "format_version": FORMAT_VERSION,
            "model_name": "tiny",
            "codec": "neuron",
            **SHARED,
            "template_kind": "chat",
            "max_length": 40,
            "row_bytes": LAYOUT.row_bytes,
            "codebook": codebook.hash,
            "exact": {"sums": "e" * 16},
            "rows": 8,
            "tokens": 56,
            "truncated": 1,
            "duplicate_ids": 1,
            "datasets": [{"path": "/pool.jsonl", "kind": "jsonl", "format": "text", "rows": 10, "sha256": "5" * 64}],
            "skipped": {
                "rows": 2,
                "reasons": {"empty response": 1, "not JSON: x, column 1": 1},
                "sha256": sha256(listed),
            },
            "calibration": sha256((folder / CALIBRATION).read_bytes()),
            "shards": shards,
        },
    )
    signature().save(folder.parent)
    return folder


def signature() -> Signature:
    weights = np.random.default_rng(1).normal(size=LAYOUT.n_neurons).astype(np.float32)
    planes, plane_weights, scale = signed_planes(weights, 4, LAYOUT)
    meta = {"method": "contrast", **SHARED, "codebook": "c" * 16, "samples": 8, "scale": scale}
    tensors = {"weights": weights, "threshold": weights, "planes": planes, "plane_weights": plane_weights}
    return Signature("sums", meta, tensors)


def put(folder: Path, name: str, data: bytes) -> None:
    """Write a file of the index, and into the manifest what it says of it: only the content is wrong."""
    (folder / name).write_bytes(data)
    told = read_json(folder / MANIFEST)
    if name == CODEBOOK:
        told["codebook"] = sha256(data)[:16]
    elif name == CALIBRATION:
        told["calibration"] = sha256(data)
    elif name == SKIPPED:
        told["skipped"]["sha256"] = sha256(data)
    else:
        shard = next(shard for shard in told["shards"] if shard["file"] == name)
        shard |= {"bytes": len(data), "sha256": sha256(data), "xxh3": checksum_of(data) or "0" * 16}
    seal(folder / MANIFEST, told)


def check_codebook_damage(index: Path, scratch: Path, name: str, value: float) -> None:
    """A codebook without the tensor ``name``, with it in another shape, or with ``value`` as its last entry is refused
    in one line. ``scratch``: folder for the damaged file."""
    tensors, meta = read_tensors(index / CODEBOOK, "codebook")
    for change in ("missing", "shape", "value"):
        held = {key: np.array(tensor) for key, tensor in tensors.items()}
        if change == "missing":
            del held[name]
        elif change == "shape":
            held[name] = held[name][..., None]
        else:
            held[name].reshape(-1)[-1] = value
        (scratch / CODEBOOK).write_bytes(pack_tensors(held, meta))
        with pytest.raises(NaitError, match=r"codebook\.safetensors: not a valid codebook"):
            load_codebook(scratch)


def seal(path: Path, value: dict[str, Any]) -> None:
    write_sealed(path, {key: entry for key, entry in value.items() if key != "checksum"})
