"""Signatures: what a capability looks like, as weights over neurons that bit codes (or activations) are scored with."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from nait_fast import compatibility
from nait_fast.codecs.chosen import CHOSEN, check_chosen
from nait_fast.codecs.layout import CodeLayout, read_code_layout
from nait_fast.errors import BadInput, Damaged, Mismatch, NaitError
from nait_fast.methods import METHODS, method_of
from nait_fast.notices import warn
from nait_fast.outputs.fetched import local_copy
from nait_fast.storage import values
from nait_fast.storage.files import pack_tensors, read_all, read_head, sha256, write_atomic
from nait_fast.storage.names import CODEBOOK

SAMPLES, LENGTHS = "samples", "lengths"  # what a signature may keep of each target sample, and its tokens


@dataclass(frozen=True)
class Signature:
    """One capability under one method.

    ``tensors``: for ``nait`` ``direction`` fp32 [N]; for ``embed`` ``centroid`` and ``hidden_mean`` fp32 [H]; for bit
    methods ``planes`` uint8 [P, row_bytes] and ``plane_weights`` int64 [P] (score = ``meta['scale']`` · Σ_p
    plane_weights[p] · popcount(b & planes[p])) beside the float ``weights`` fp32 [N], and for contrast the
    ``threshold`` fp32 [N] of its codebook. One that keeps its target's samples has ``samples``, uint8 [S, row_bytes]
    (codes) or fp32 [S, H], and ``lengths`` int32 [S], their tokens. ``chosen`` int32 [N], where experts' neurons are:
    each one's number in its layer. ``meta``: method, reading, first_token, dtype, max_length, hashes of model, template
    and codebook, layers, widths, samples and statistics of the target. ``sealed``: false for one whose file an older
    nait_fast wrote, without checksums.
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
    def is_direction(self) -> bool:
        """Whether its scores are sums of a reading's projections, which only a model gives exactly."""
        return "direction" in self.tensors

    @property
    def samples(self) -> int:
        """How many target samples it keeps, for rules that ask each."""
        return len(self.tensors[SAMPLES]) if SAMPLES in self.tensors else 0

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
                raise BadInput(
                    "is in the way: it is no signature of nait_fast, and would be written over",
                    where=path,
                    remedy="move it, or choose another folder",
                ) from None
        write_atomic(path, self.to_bytes())
        return path


def check_names(signatures: Sequence[Signature], where: str = "") -> None:
    """Raises NaitError where two of ``signatures``, as ``where`` asks for, have one name: their scores go by it."""
    names = [signature.name for signature in signatures]
    if len(set(names)) != len(names):
        what = f"two signatures have the name '{max(names, key=names.count)}'"
        raise BadInput(what, where=where, remedy="give each a name of its own", join=": ")


def require_samples(signature: Signature, where: str) -> None:
    """Raises NaitError where a signature, as ``where`` asks for, does not keep its target's samples."""
    if not signature.samples:
        kept = method_of(signature.method).sample is not None
        raise BadInput(
            f"signature '{signature.name}' does not keep its target's samples",
            where=where,
            remedy="make it again with --keep-samples" if kept else "leave it out, or use another method",
        )


MAX_PLANES = 64


def load_signature(path: str | os.PathLike[str]) -> Signature:
    """Read a signature file. Raises NaitError when it is missing, damaged or no signature."""
    path = local_copy(path)
    head = read_head(path, "signature")
    tensors, meta = read_all(path, head), head.meta
    try:
        name, layout = values.name(meta["name"], "name"), read_code_layout(meta)
        if meta["method"] not in METHODS:
            raise ValueError(f"method: {values.short(meta['method'])}")
        compatibility.check(meta)
        values.text(meta["reading"], "reading")
        values.count(meta["samples"], "samples", 1)
        method = method_of(meta["method"])
        method.check_meta(meta)
        check_chosen(tensors, meta, layout)
        expected = dict(method.tensors)
        if method.sample is not None and SAMPLES in tensors:
            expected |= {SAMPLES: method.sample, LENGTHS: ("i4", "S")}
        _check_tensors({k: v for k, v in tensors.items() if k != CHOSEN}, expected, layout)
        if SAMPLES in tensors and len(tensors[SAMPLES]) != meta["samples"]:
            raise ValueError(f"{len(tensors[SAMPLES])} samples, of {meta['samples']}")
    except (KeyError, TypeError, ValueError) as error:
        raise Damaged(f"not a valid signature ({error})", where=path) from None
    meta = {k: v for k, v in meta.items() if k not in ("kind", "name")}
    if not head.checksum:
        warn(
            f"{path}: a signature of an older nait_fast, without checksums: changed bytes in it go unseen; make it anew"
        )
    return Signature(name, meta, {k: np.array(v) for k, v in tensors.items()}, bool(head.checksum))


def load_signatures(given: Sequence["Signature | str | os.PathLike[str]"]) -> list[Signature]:
    """Signatures, those of files, and those of folders: of signatures, or of a selection that made them. Raises
    NaitError."""
    several = ([one] if isinstance(one, Signature) else map(load_signature, signature_files(one)) for one in given)
    return [signature for some in several for signature in some]


def signature_files(name: str | os.PathLike[str]) -> list[Path]:
    """The file ``name``, or those in a folder, as ``load_signatures`` takes them. Raises NaitError for an empty one."""
    path = local_copy(name)
    if not path.is_dir():
        if path.exists() and path.suffix != ".safetensors":  # as samples are, of which one is to be made
            remedy = f"make one: nait-fast signature --target NAME={name}, then name its NAME.safetensors"
            raise BadInput("is no signature", where=path, remedy=remedy)
        return [path]
    folder = path / "signatures" if (path / "signatures").is_dir() else path
    files = sorted(file for file in folder.glob("*.safetensors") if file.name != CODEBOOK)
    if not files:
        raise BadInput("no signature in this folder", where=path, remedy="name a NAME.safetensors file")
    return files


def _check_tensors(tensors: dict[str, np.ndarray], expected: Mapping[str, tuple[str, str]], layout: CodeLayout) -> None:
    """Raises ValueError for others than ``expected``, a method's."""
    if tensors.keys() != expected.keys():
        raise ValueError(f"tensors {values.short(sorted(tensors))} instead of {', '.join(sorted(expected))}")
    lengths = {"N": layout.n_neurons, "W": layout.row_bytes}
    for key, (dtype, axes) in expected.items():
        array = tensors[key]
        if array.dtype != np.dtype(dtype) or array.ndim != len(axes):
            raise ValueError(f"'{key}' does not fit")
        if any(lengths.setdefault(axis, length) != length for axis, length in zip(axes, array.shape, strict=True)):
            raise ValueError(f"'{key}' does not fit")
        if not np.isfinite(array).all():
            raise ValueError(f"'{key}' holds values that are not finite")
    if "planes" in expected:
        if not 1 <= len(tensors["planes"]) <= MAX_PLANES:
            raise ValueError(f"{len(tensors['planes'])} planes")
        if sum(map(abs, tensors["plane_weights"].tolist())) * layout.n_neurons >= 1 << 63:
            raise ValueError("'plane_weights' are beyond what a score can hold")


def check_fits(signature: Signature, other: Mapping[str, Any], codebook: str | None, where: str) -> None:
    """Refuse a signature whose identity, or codebook, is another than ``where`` has. Raises NaitError.

    ``other``: an index's manifest, or a session's identity; ``codebook``: the hash of that index's, None where there
    is none to agree with.
    """
    compatibility.refuse(signature.meta, other, f"signature '{signature.name}'", where)
    of_codebook = method_of(signature.method).of_codebook
    if codebook is not None and of_codebook and signature.meta["codebook"] != codebook:
        raise Mismatch(
            f"signature '{signature.name}' was made with another codebook ({signature.meta['codebook']}) than {where} "
            f"({codebook})",
            remedy="rebuild it with --codebook of that index",
            join=": ",
        )
