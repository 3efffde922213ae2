"""Signatures: what a capability looks like, as weights over neurons that bit codes (or activations) are scored with."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from nait_fast.config import METHODS
from nait_fast.errors import NaitError
from nait_fast.index import identity, values
from nait_fast.index.codebook import Codebook
from nait_fast.index.files import pack_tensors, read_all, read_head, sha256, write_atomic
from nait_fast.index.format import CodeLayout
from nait_fast.notices import warn


@dataclass(frozen=True)
class Signature:
    """One capability under one method.

    ``tensors``: for ``nait`` ``direction`` fp32 [N]; for ``embed`` ``centroid`` and ``hidden_mean`` fp32 [H]; for bit
    methods ``planes`` uint8 [P, row_bytes] and
    ``plane_weights`` int64 [P] (score = ``meta['scale']`` · Σ_p plane_weights[p] · popcount(b & planes[p])) beside the
    float ``weights`` fp32 [N], and for contrast the ``threshold`` fp32 [N] of its codebook. ``meta``: method, reading,
    first_token, dtype, max_length, hashes of model, template and codebook, layers, widths, samples and statistics of
    the target. ``sealed``: false for one whose file an older nait_fast wrote, without checksums.
    """

    name: str
    meta: dict[str, Any]
    tensors: dict[str, np.ndarray] = field(repr=False)
    sealed: bool = True

    @property
    def method(self) -> str:
        return self.meta["method"]

    @property
    def is_bits(self) -> bool:
        """Whether its scores are popcounts of codes."""
        return "planes" in self.tensors

    @property
    def layout(self) -> CodeLayout:
        return CodeLayout.of(self.meta["widths"])

    def to_bytes(self) -> bytes:
        return pack_tensors(self.tensors, {"kind": "signature", "name": self.name, **self.meta}, self.sealed)

    @property
    def hash(self) -> str:
        """First 16 hex digits of the SHA-256 of the file."""
        return sha256(self.to_bytes())[:16]

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write ``NAME.safetensors`` into ``folder`` and return its path. Raises NaitError where a file of that name is
        no signature, which could be a model's."""
        path = Path(folder) / f"{self.name}.safetensors"
        if os.path.lexists(path):
            try:
                read_head(path, "signature")
            except NaitError:
                raise NaitError(
                    f"{path}: is in the way: it is no signature of nait_fast, and would be written over; move it, or "
                    "choose another folder"
                ) from None
        write_atomic(path, self.to_bytes())
        return path


_TENSORS = {
    "nait": {"direction": "f4"},
    "contrast": {"weights": "f4", "threshold": "f4", "planes": "u1", "plane_weights": "i8"},
    "nag": {"weights": "f4", "planes": "u1", "plane_weights": "i8"},
    "embed": {"centroid": "f4", "hidden_mean": "f4"},
}
MAX_PLANES = 64


def load_signature(path: str | os.PathLike[str]) -> Signature:
    """Read a signature file. Raises NaitError when it is missing, damaged or no signature."""
    head = read_head(path, "signature")
    tensors, meta = read_all(path, head), head.meta
    try:
        name, layout = values.name(meta["name"], "name"), values.layout(meta)
        if meta["method"] not in METHODS:
            raise ValueError(f"method: {values.short(meta['method'])}")
        _check_meta(meta)
        _check_tensors(tensors, _TENSORS[meta["method"]], layout)
    except (KeyError, TypeError, ValueError) as error:
        raise NaitError(f"{path}: not a valid signature ({error})") from None
    meta = {k: v for k, v in meta.items() if k not in ("kind", "name")}
    if not head.checksum:
        warn(
            f"{path}: a signature of an older nait_fast, without checksums: changed bytes in it go unseen; make it anew"
        )
    return Signature(name, meta, {k: np.array(v) for k, v in tensors.items()}, bool(head.checksum))


def _check_meta(meta: dict[str, Any]) -> None:
    """Raises KeyError or ValueError."""
    identity.check(meta)
    values.text(meta["reading"], "reading")
    values.count(meta["samples"], "samples", 1)
    if meta["method"] == "nait":
        for key in ("explained", "sign_margin"):
            if len([values.number(x, key) for x in values.entries(meta[key], key)]) != len(meta["layers"]):
                raise ValueError(f"{key}: not one for each layer")
        return
    if meta["method"] == "embed":
        values.digest(meta["codebook"], "codebook", 16)
        if values.count(meta["embed_layer"], "embed_layer") not in meta["layers"]:
            raise ValueError(f"embed_layer: {values.short(meta['embed_layer'])}")
        return
    values.number(meta["scale"], "scale")
    if meta["method"] == "nag":
        values.count(meta["top_k"], "top_k", 1)
    else:
        values.digest(meta["codebook"], "codebook", 16)


def _check_tensors(tensors: dict[str, np.ndarray], expected: dict[str, str], layout: CodeLayout) -> None:
    """Raises ValueError."""
    if tensors.keys() != expected.keys():
        raise ValueError(f"tensors {values.short(sorted(tensors))} instead of {', '.join(sorted(expected))}")
    planes = len(tensors["planes"]) if "planes" in tensors and tensors["planes"].ndim else 0
    hidden = tensors["centroid"].shape[:1] if "centroid" in tensors else ()
    shapes = {"planes": (planes, layout.row_bytes), "plane_weights": (planes,), "centroid": hidden,
              "hidden_mean": hidden}  # fmt: skip
    for key, dtype in expected.items():
        array = tensors[key]
        if array.dtype != np.dtype(dtype) or array.shape != shapes.get(key, (layout.n_neurons,)):
            raise ValueError(f"'{key}' does not fit")
        if not np.isfinite(array).all():
            raise ValueError(f"'{key}' holds values that are not finite")
    if "planes" in expected:
        if not 1 <= planes <= MAX_PLANES:
            raise ValueError(f"{planes} planes")
        if sum(map(abs, tensors["plane_weights"].tolist())) * layout.n_neurons >= 1 << 63:
            raise ValueError("'plane_weights' are beyond what a score can hold")


def check_fits(signature: Signature, told: Mapping[str, Any], codebook: str | None, where: str) -> None:
    """Refuse a signature whose identity, or codebook, is another than ``where`` has. Raises NaitError.

    ``told``: an index's manifest, or a session's identity.
    """
    identity.refuse(signature.meta, told, f"signature '{signature.name}'", where)
    if codebook is not None and signature.method in ("contrast", "embed") and signature.meta["codebook"] != codebook:
        raise NaitError(
            f"signature '{signature.name}' was made with another codebook ({signature.meta['codebook']}) than {where} "
            f"({codebook}): rebuild it with --codebook of that index"
        )


def signed_planes(weights: np.ndarray, n_planes: int, layout: CodeLayout) -> tuple[np.ndarray, np.ndarray, float]:
    """Quantise ``weights`` fp32 [N] to ``n_planes``-bit two's complement: (planes, plane weights, scale).

    weight ≈ scale · Σ_p plane_weights[p] · bit_p, the last plane being the sign's.
    """
    top = 2 ** (n_planes - 1) - 1
    scale = float(np.abs(weights).max()) / top or 1.0
    levels = np.rint(weights / scale).astype(np.int64)
    bits = [(levels >> p & 1).astype(bool) for p in range(n_planes)]
    plane_weights = np.array([2**p for p in range(n_planes - 1)] + [-(2 ** (n_planes - 1))], dtype=np.int64)
    return layout.pack(np.stack(bits)), plane_weights, scale


def top_m_planes(weights: np.ndarray, m: int, layout: CodeLayout) -> tuple[np.ndarray, np.ndarray, float]:
    """±1 on the ``m`` neurons of largest |weight| in each layer, 0 elsewhere: one plane for each sign."""
    bits = np.zeros((2, layout.n_neurons), dtype=bool)
    for position in range(len(layout.widths)):
        neurons = layout.neurons(position)
        layer = weights[neurons]
        strongest = np.argsort(-np.abs(layer), kind="stable")[:m]
        bits[0, neurons][strongest] = layer[strongest] > 0
        bits[1, neurons][strongest] = layer[strongest] < 0
    return layout.pack(bits), np.array([1, -1], dtype=np.int64), 1.0


def count_planes(counts: np.ndarray, layout: CodeLayout) -> tuple[np.ndarray, np.ndarray]:
    """Exact bit planes of non-negative integers ``counts`` [N]: (planes, plane weights)."""
    n_planes = max(1, int(counts.max()).bit_length())
    bits = np.stack([(counts >> p & 1).astype(bool) for p in range(n_planes)])
    return layout.pack(bits), np.array([2**p for p in range(n_planes)], dtype=np.int64)


def contrast_signature(
    name: str,
    bits: np.ndarray,
    codebook: Codebook,
    *,
    weights: str = "difference",
    planes: int = 4,
    top_m: int | None = None,
    target: dict[str, Any] | None = None,
) -> Signature:
    """w = p_target − p_pool (or the difference of log-odds), quantised (DESIGN: method contrast).

    ``bits`` bool [n, N]: the target samples' codes under ``codebook``.
    """
    assert codebook.threshold is not None
    layout, n = codebook.layout, len(bits)
    frequency = bits.mean(axis=0)
    if weights == "logodds":
        m = codebook.meta["samples"]  # add-half smoothing: no infinite weight from a small sample

        def logit(p: np.ndarray, count: int) -> np.ndarray:
            return np.log((p * count + 0.5) / ((1 - p) * count + 0.5))

        w = logit(frequency, n) - logit(codebook.frequency.astype(np.float64), m)
    else:
        w = frequency - codebook.frequency
    w = w.astype(np.float32)
    packed, plane_weights, scale = top_m_planes(w, top_m, layout) if top_m else signed_planes(w, planes, layout)
    kept = identity.kept(codebook.meta, ("reading",))
    meta = {
        "method": "contrast", **kept, "codebook": codebook.hash, "samples": n, "scale": scale, "weights": weights,
        "target": target or {},
        "quantisation": f"top_m={top_m}" if top_m else f"planes={planes}",
    }  # fmt: skip
    tensors = {"weights": w, "threshold": codebook.threshold, "planes": packed, "plane_weights": plane_weights}
    return Signature(name, meta, tensors)


def nag_signature(name: str, bits: np.ndarray, meta: dict[str, Any]) -> Signature:
    """NAG (arXiv 2604.15706): per-layer frequency profile of the target's top-K sets, normalised to 1 a layer.

    Similarity = mean over layers of the profile's mass on the sample's set. The profile is a count over n · K, the
    same n · K in every layer, so integer planes of the counts give the float ranking exactly. ``bits`` bool [n, N].
    """
    layout = CodeLayout.of(meta["widths"])
    counts = bits.sum(axis=0, dtype=np.int64)
    mass = [int(counts[layout.neurons(p)].sum()) for p in range(len(layout.widths))]
    planes, plane_weights = count_planes(counts, layout)
    scale = 1.0 / (mass[0] * len(mass))
    weights = (counts * scale).astype(np.float32)
    info = {"method": "nag", **meta, "samples": len(bits), "scale": scale}
    return Signature(name, info, {"weights": weights, "planes": planes, "plane_weights": plane_weights})
