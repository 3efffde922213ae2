"""The codebook: per-neuron thresholds and the pool's own statistics, taken from a calibration sample of the pool."""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from nait_fast import compatibility
from nait_fast.codecs import CODECS, codec_of
from nait_fast.codecs.chosen import CHOSEN, check_chosen
from nait_fast.codecs.layout import CodeLayout, read_code_layout
from nait_fast.errors import BadInput, Damaged, Mismatch
from nait_fast.notices import warn
from nait_fast.outputs.fetched import local_copy
from nait_fast.storage import values
from nait_fast.storage.files import pack_tensors, read_all, read_head, sha256, write_atomic
from nait_fast.storage.names import CODEBOOK, MANIFEST

_TENSORS = ("frequency", "threshold", "scale", "drift_mean")  # [N] each
HIDDEN_MEAN = "hidden_mean"


class CodebookPart(Protocol):
    """What a codebook holds for its codec."""

    def tensors(self) -> dict[str, np.ndarray]:
        """As the file holds it."""


@dataclass(frozen=True)
class Codebook:
    """All arrays fp32 [N], N = neurons of all captured layers, layer after layer.

    ``threshold`` τ: mean of ``reading`` over the calibration sample; ``scale`` σ: its standard deviation;
    ``frequency``: share of the sample whose bit is set (p_pool); ``drift_mean``: mean drift of the sample (for nait's
    ``sign=contrast``); ``part``: what the codec needs beside, its centre being ``threshold``; ``hidden_mean`` fp32 [H]:
    mean over the sample of the hidden state behind embeddings; ``chosen`` int32 [N]: each neuron's number in its layer,
    where experts' neurons are chosen. ``meta``: codec, reading, first_token, dtype,
    max_length, hashes of model and template, layers, widths, samples, and embed_layer with embeddings. ``sealed``:
    false for one whose file an older nait_fast wrote, without checksums.
    """

    frequency: np.ndarray
    meta: dict[str, Any]
    threshold: np.ndarray
    scale: np.ndarray | None = None
    drift_mean: np.ndarray | None = None
    part: CodebookPart | None = None
    hidden_mean: np.ndarray | None = None
    chosen: np.ndarray | None = None
    sealed: bool = True

    @property
    def layout(self) -> CodeLayout:
        return CodeLayout.of(self.meta["widths"])

    def to_bytes(self) -> bytes:
        names = (*_TENSORS, HIDDEN_MEAN, CHOSEN)
        arrays = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        arrays |= {} if self.part is None else self.part.tensors()
        return pack_tensors(arrays, {"kind": "codebook", **self.meta}, self.sealed)

    @property
    def hash(self) -> str:
        """First 16 hex digits of the SHA-256 of the file."""
        return sha256(self.to_bytes())[:16]

    def save(self, folder: Path) -> None:
        write_atomic(folder / CODEBOOK, self.to_bytes())


def load_codebook(path: str | os.PathLike[str], vouched: bool = False) -> Codebook:
    """Read a codebook file, or that of the folder of an index or of a selection that made one. ``vouched``: its hash is
    known elsewhere, so that one without checksums is no worry. Raises NaitError."""
    path = local_copy(path)
    places = [path / CODEBOOK, path / "index" / CODEBOOK] if path.is_dir() else [path]
    file = next((place for place in places if place.exists()), places[0])
    if path.is_dir() and not file.exists() and any((place.parent / MANIFEST).exists() for place in places):
        what = "holds no codebook: the codec of this index calibrates nothing"
        raise BadInput(what, where=path, remedy="leave --codebook out, and name its method, as --method nag")
    head = read_head(file, "codebook")
    tensors, meta = read_all(file, head), {k: v for k, v in head.meta.items() if k != "kind"}
    try:
        layout, layers = read_code_layout(meta), meta["layers"]
        n = layout.n_neurons
        compatibility.check(meta)
        for key in ("codec", "reading"):
            values.text(meta[key], key)
        values.count(meta["samples"], "samples", 2)
        if missing := {"frequency", "threshold", "scale"} - tensors.keys():
            raise ValueError(f"{min(missing)} is missing")
        if meta["codec"] not in CODECS:
            raise ValueError(f"codec: {values.short(meta['codec'])}")
        codec = codec_of(meta["codec"])
        part = codec.part_of(tensors, layout)
        tensors = {k: v for k, v in tensors.items() if k not in codec.tensors}
        if (HIDDEN_MEAN in tensors) != ("embed_layer" in meta) or meta.get("embed_layer", layers[0]) not in layers:
            raise ValueError(f"embed_layer: {values.short(meta.get('embed_layer'))}")
        check_chosen(tensors, meta, layout)
        chosen = tensors.pop(CHOSEN, None)
        for name, array in tensors.items():
            fits = array.ndim == 1 and len(array) > 0 if name == HIDDEN_MEAN else array.shape == (n,)
            if name not in (*_TENSORS, HIDDEN_MEAN) or array.dtype != np.float32 or not fits:
                raise ValueError(f"{name!r} does not fit the layers")
            if not np.isfinite(array).all() or (name == "frequency" and (array.min() < 0 or array.max() > 1)):
                raise ValueError(f"{name!r} holds impossible values")
    except (KeyError, TypeError, ValueError) as error:
        raise Damaged(f"not a valid codebook ({error})", where=file) from None
    if not head.checksum and not vouched:
        warn(f"{file}: a codebook of an older nait_fast, without checksums: changed bytes in it go unseen")
    arrays = {name: np.array(array) for name, array in {**tensors, CHOSEN: chosen}.items() if array is not None}
    return Codebook(meta=meta, part=part, sealed=bool(head.checksum), **arrays)


def check_codebook(
    codebook: Codebook, here: Mapping[str, Any], where: str, remedy: str, more: Iterable[str] = ()
) -> None:
    """Refuse a codebook of another identity than ``here``, a session's, or another of ``more``. Raises NaitError."""
    if compatibility.is_old(codebook.meta):
        raise Mismatch(f"was made {compatibility.OLD}", where=where, remedy="index that pool again")
    key = compatibility.difference(codebook.meta, here, more)
    if key is not None:
        theirs, mine = (values.short(compatibility.value_of(meta, key)) for meta in (codebook.meta, here))
        what = f"made with another {compatibility.name_of(key)} ({theirs}, here {mine})"
        raise Mismatch(what, where=where, remedy=remedy)
