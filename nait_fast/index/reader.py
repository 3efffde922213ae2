"""Opens an index for ranking and checks it."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nait_fast.errors import NaitError
from nait_fast.index.codebook import Codebook, load_codebook
from nait_fast.index.files import read_json, read_sealed, read_tensors, sha256_file
from nait_fast.index.format import CODEBOOK, CODECS, FORMAT_VERSION, MANIFEST, SKIPPED, CodeLayout


@dataclass(frozen=True)
class Shard:
    """Arrays mapped from one file: ``codes`` uint8 [n, W], ``row`` int64 [n], ``n_tokens`` int32 [n], ``exact``."""

    codes: np.ndarray
    row: np.ndarray
    n_tokens: np.ndarray
    exact: dict[str, np.ndarray]


class Index:
    """A complete index on disk. Raises NaitError when it is missing, unfinished or damaged."""

    def __init__(self, folder: str | os.PathLike[str]):
        self.folder = Path(folder)
        if not self.folder.is_dir():
            raise NaitError(f"{folder}: no such index folder")
        if not (self.folder / MANIFEST).exists():
            raise NaitError(f"{folder}: no {MANIFEST}: not an index, or one that is not finished (rerun its command)")
        self.manifest: dict[str, Any] = read_json(self.folder / MANIFEST)
        if self.manifest.get("kind") != "nait_fast index":
            raise NaitError(f"{self.folder / MANIFEST}: not the manifest of an index")
        if self.manifest.get("format_version") != FORMAT_VERSION:
            raise NaitError(
                f"{folder}: format version {self.manifest.get('format_version')}, this nait_fast reads {FORMAT_VERSION}"
            )
        self.manifest = read_sealed(self.folder / MANIFEST)
        try:
            self.layout = CodeLayout.of(self.manifest["widths"])
            if self.manifest["codec"] not in CODECS or self.manifest["row_bytes"] != self.layout.row_bytes:
                raise ValueError("codec or row_bytes")
            self._shards = [(str(s["file"]), int(s["rows"]), int(s["bytes"]), str(s["sha256"]))
                            for s in self.manifest["shards"]]  # fmt: skip
            self.rows = int(self.manifest["rows"])
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise NaitError(f"{self.folder / MANIFEST}: not a valid manifest ({error})") from None
        if any(Path(name).name != name for name, *_ in self._shards):
            raise NaitError(f"{self.folder / MANIFEST}: a shard's name is no plain file name")

    @property
    def codebook(self) -> Codebook:
        return load_codebook(self.folder)

    @property
    def codebook_hash(self) -> str | None:
        return self.manifest.get("codebook")

    @property
    def exact(self) -> dict[str, str]:
        """Names of exact scores in the shards -> hash of the signature they were made with."""
        return self.manifest.get("exact", {})

    def shards(self) -> Iterator[Shard]:
        """The shards in order, mapped, each checked against the manifest (sizes and shapes, not every byte)."""
        for name, rows, size, _ in self._shards:
            yield self._open(self.folder / name, rows, size)

    def _open(self, path: Path, rows: int, size: int) -> Shard:
        if path.is_file() and path.stat().st_size != size:
            raise NaitError(f"{path}: {path.stat().st_size} bytes, expected {size}: truncated or damaged; rebuild it")
        tensors, _ = read_tensors(path, "shard")
        expected = {
            "codes": ("u1", (rows, self.layout.row_bytes)),
            "row": ("<i8", (rows,)),
            "n_tokens": ("<i4", (rows,)),
        }
        expected |= {f"exact.{name}": ("<f8", (rows,)) for name in self.exact}
        for key, (dtype, shape) in expected.items():
            if key not in tensors or tensors[key].dtype != np.dtype(dtype) or tensors[key].shape != shape:
                raise NaitError(f"{path}: tensor '{key}' is missing or has another shape; rebuild the shard")
        exact = {name: tensors[f"exact.{name}"] for name in self.exact}
        return Shard(tensors["codes"], tensors["row"], tensors["n_tokens"], exact)

    def verify(self) -> list[str]:
        """Check every byte of every shard and that no row occurs twice; returns the problems found."""
        problems, last = [], -1
        for name, rows, size, digest in self._shards:
            path = self.folder / name
            try:
                shard = self._open(path, rows, size)
                if sha256_file(path) != digest:
                    raise NaitError(f"{path}: its bytes have changed (SHA-256 differs); rebuild it")
            except NaitError as error:
                problems.append(str(error))
                continue
            steps = np.diff(shard.row, prepend=last)
            if rows and (steps <= 0).any():
                problems.append(f"{path}: rows are not strictly ascending: a row is there twice or misplaced")
            last = int(shard.row[-1]) if rows else last
            if last >= self.manifest["dataset"]["rows"]:
                problems.append(f"{path}: row {last} is beyond the pool's {self.manifest['dataset']['rows']} rows")
        if sum(rows for _, rows, _, _ in self._shards) != self.rows:
            problems.append(f"{self.folder / MANIFEST}: the shards' rows do not add up to {self.rows}")
        read, skipped = self.manifest["dataset"]["rows"], self.manifest["skipped"]["rows"]
        if self.rows + skipped != read:
            problems.append(f"{self.folder}: {self.rows} rows and {skipped} skipped ones, but {read} were read")
        for beside, known in ((CODEBOOK, self.codebook_hash), (SKIPPED, self.manifest["skipped"].get("sha256"))):
            file = self.folder / beside
            if known and not file.is_file():
                problems.append(f"{file}: is missing; rebuild the index")
            elif known and not sha256_file(file).startswith(known):
                problems.append(f"{file}: has changed since the index was made (SHA-256 differs); rebuild the index")
        return problems
