"""Opens a complete index: its manifest, checked, and its shards, mapped."""

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from nait_fast import compatibility
from nait_fast.codecs import CODECS, codec_of
from nait_fast.codecs.codebook import Codebook, load_codebook
from nait_fast.codecs.layout import read_code_layout
from nait_fast.config import NLL, RDS_TYPES
from nait_fast.errors import BadInput, Damaged
from nait_fast.index import ids, token_hashes
from nait_fast.index.format import FORMAT_VERSION, READ_VERSIONS, columns_of
from nait_fast.notices import warn
from nait_fast.outputs.fetched import fetch_shard, local_copy
from nait_fast.remote.copies import named, origin_of
from nait_fast.remote.places import RemotePath
from nait_fast.storage import values
from nait_fast.storage.blocks import Tensor
from nait_fast.storage.files import map_tensors, read_head, read_json, read_sealed, sha256_file
from nait_fast.storage.names import CODEBOOK, INDEX_KIND, MANIFEST, shard_name


@dataclass(frozen=True)
class ShardEntry:
    """What the manifest says of a shard: ``rows`` samples out of the pool's rows from ``first_row`` on, ``pool_rows``
    of them, the others being skipped. ``number`` counts the shards; ``checksum``: of the file's header, "" in an
    index of format 2; ``source``: where it lies, if not on this machine."""

    place: Path
    first_row: int
    pool_rows: int
    rows: int
    bytes: int
    sha256: str
    number: int
    checksum: str
    source: RemotePath | None = None

    @property
    def path(self) -> Path:
        """Its file, fetched where it lies elsewhere. Raises NaitError."""
        return self.place if self.source is None else fetch_shard(self.source, self.bytes, self.sha256)


def check_rows(entry: ShardEntry, row: np.ndarray) -> None:
    """Raises NaitError where ``row`` int64 [n], consecutive ones of a shard, do not ascend within its unit."""
    if len(row) and (row[0] < entry.first_row or row[-1] >= entry.first_row + entry.pool_rows):
        raise Damaged("rows beyond those of its unit", where=entry.path, remedy="rebuild the index")
    if (row[1:] <= row[:-1]).any():
        raise Damaged("rows that do not ascend: one is there twice", where=entry.path, remedy="rebuild the index")


class Shard:
    """Arrays mapped from one file, the bytes of each checked as it is first asked for: whatever is read raises
    NaitError where they have changed."""

    def __init__(self, entry: ShardEntry, layout: Mapping[str, Tensor], exact: Iterable[str], columns: Iterable[str]):
        self.path, self._entry, self._layout = entry.path, entry, layout
        self._exact, self._columns = tuple(exact), tuple(columns)
        self._mapped = map_tensors(entry.path, layout)

    def _checked(self, name: str) -> np.ndarray:
        self._layout[name].check_all(self._mapped[name], self.path)
        return self._mapped[name]

    @cached_property
    def codes(self) -> np.ndarray:
        """uint8 [n, W]."""
        return self._checked("codes")

    @cached_property
    def row(self) -> np.ndarray:
        """int64 [n], ascending, of the shard's unit."""
        row = self._checked("row")
        check_rows(self._entry, np.array(row))
        return row

    @cached_property
    def n_tokens(self) -> np.ndarray:
        """int32 [n]."""
        return self._checked("n_tokens")

    @cached_property
    def exact(self) -> dict[str, np.ndarray]:
        """Exact scores float64 [n] by name."""
        return {name: self._checked(f"exact.{name}") for name in self._exact}

    @cached_property
    def columns(self) -> dict[str, np.ndarray]:
        """What comes with the codes, [n, …] by name."""
        return {name: self._checked(name) for name in self._columns}

    @cached_property
    def contents(self) -> np.ndarray | None:
        """Hashes int64 [n] of what the rows hold; None in a shard that has none."""
        return self._checked(token_hashes.NAME) if token_hashes.NAME in self._layout else None

    def ids(self) -> list[str | None]:
        """The samples' ids, None where a row of the pool has none. Raises NaitError where they are damaged."""
        return ids.decode(self.raw_ids(), self.path)

    def raw_ids(self) -> list[bytes | None]:
        """``ids`` as they are stored."""
        tensors = {name: self._checked(name) for name in ids.NAMES if name in self._layout}
        return ids.split(tensors, self._entry.rows, self.path)

    def take(self, places: np.ndarray) -> dict[str, np.ndarray]:
        """Copies of ``codes`` and ``columns`` at ascending ``places`` int64; only blocks that hold one are read."""
        out = {}
        for name in ("codes", *self._columns):
            tensor, array = self._layout[name], self._mapped[name]
            if tensor.digests:
                for block in np.unique(places // tensor.block_rows).tolist():
                    tensor.check(block, array[slice(*tensor.rows_of(block))].reshape(-1).view(np.uint8).data, self.path)
            out[name] = np.array(array[places])
        return out


class Index:
    """A complete index: its folder, that of a ``select`` that made it, or the URL of either. Raises NaitError when it
    is missing, unfinished or damaged."""

    def __init__(self, folder: str | os.PathLike[str]):
        self.folder = local_copy(folder)
        self.derived: dict[Any, Any] = {}  # what has been worked out of its rows, so that nobody does it twice
        path = self.folder / MANIFEST
        if not self.folder.is_dir():
            raise BadInput("no such index folder", where=folder)
        if not path.exists():
            raise BadInput(
                f"no {MANIFEST}: not an index, or one that is not finished (rerun its command)", where=folder
            )
        manifest = read_json(path)
        if manifest.get("kind") != INDEX_KIND and (self.folder / "index" / MANIFEST).exists():
            self.folder = self.folder / "index"  # of select's output
            path = self.folder / MANIFEST
            manifest = read_json(path)
        if manifest.get("kind") != INDEX_KIND:
            raise BadInput("not the manifest of an index", where=path)
        version = manifest.get("format_version")
        if type(version) is not int or version not in READ_VERSIONS:
            raise BadInput(
                f"format version {values.short(version)}, this nait_fast reads {' and '.join(map(str, READ_VERSIONS))}",
                where=path,
                remedy="index the pool again",
            )
        self.manifest: dict[str, Any] = read_sealed(path)
        self.version: int = version
        self.origin = origin_of(self.folder)  # the URL that the folder is a copy of
        if self.version < FORMAT_VERSION:
            warn(
                f"{folder}: an index of format {self.version}, whose shards have no checksums: changed bytes in them "
                "go unseen until nait-fast verify; index the pool again, or merge it into a new one"
            )
        try:
            self._take(self.manifest)
        except (KeyError, TypeError, ValueError) as error:
            raise Damaged(f"not a valid manifest ({error})", where=path) from None

    def _take(self, manifest: dict[str, Any]) -> None:
        """The manifest's entries. Raises ValueError, KeyError or TypeError where they are not what was ever written."""
        self.layout = read_code_layout(manifest)
        compatibility.check(manifest)
        for key in ("codec", "reading", "model_name", "template_kind"):
            values.text(manifest[key], key)
        if manifest["codec"] not in CODECS:
            raise ValueError(f"codec: {values.short(manifest['codec'])}")
        codec = codec_of(manifest["codec"])
        self.code_layout = codec.code_layout(self.layout.widths)
        if manifest["row_bytes"] != self.code_layout.row_bytes:
            raise ValueError("row_bytes")
        for key in ("format_version", "row_bytes", "rows", "tokens", "truncated", "duplicate_ids", "max_length"):
            values.count(manifest[key], key)
        codec.check_entries(manifest, self.layout)
        if "embedding" in manifest:
            values.at_most(manifest["embedding"], "embedding", values.MAX_NEURONS, 1)
        if "rds" in manifest:
            if manifest["rds"] not in RDS_TYPES:
                raise ValueError(f"rds: {values.short(manifest['rds'])}")
            values.at_most(manifest["rds_width"], "rds_width", values.MAX_NEURONS, 1)
            values.digest(manifest["rds_model"], "rds_model", 32)
        if "nll" in manifest:
            if manifest["nll"] not in NLL[1:]:
                raise ValueError(f"nll: {values.short(manifest['nll'])}")
            values.digest(manifest["nll_model"], "nll_model", 32)
        self.columns = columns_of(manifest)
        if manifest["codebook"] is not None or codec.calibrates:
            values.digest(manifest["codebook"], "codebook", 16)
        if manifest["calibration"] is not None:
            values.digest(manifest["calibration"], "calibration")
        for name, digest in values.mapping(manifest["exact"], "exact").items():
            values.digest(digest, values.name(name, "exact"), 16)
        skipped = values.mapping(manifest["skipped"], "skipped")
        for number in values.mapping(skipped["reasons"], "skipped").values():
            values.count(number, "skipped")
        for key in ("unread", "unshown"):  # absent from indexes of old
            for number in values.mapping(manifest.get(key, {}), key).values():
                values.count(number, key)
        if "positions" in manifest:
            values.count(manifest["positions"], "positions", 1)
        if manifest.get("template_date") is not None:
            values.text(manifest["template_date"], "template_date")
        if "sha256" in skipped:
            values.digest(skipped["sha256"], "skipped")
        starts = self._take_datasets(values.entries(manifest["datasets"], "datasets"))
        self.entries = self._take_shards(values.entries(manifest["shards"], "shards"))
        self.rows: int = manifest["rows"]
        if sum(entry.rows for entry in self.entries) != self.rows:
            raise ValueError(f"the shards' rows do not add up to {self.rows}")
        if self.rows + values.count(skipped["rows"], "skipped") != self.pool_rows:
            raise ValueError(f"{self.rows} rows and {skipped['rows']} skipped ones, but {self.pool_rows} were read")
        if not starts <= {entry.first_row for entry in self.entries}:
            raise ValueError("a dataset begins within a shard")

    def _take_datasets(self, datasets: list[Any]) -> set[int]:
        """The first row of each."""
        starts, self.pool_rows = set(), 0
        for dataset in datasets:
            for key in ("path", "kind", "format", "sha256"):
                values.text(dataset[key], f"datasets, {key}")
            starts.add(self.pool_rows)
            self.pool_rows += values.count(dataset["rows"], "datasets, rows", 1)
        if not datasets:
            raise ValueError("it names no dataset")
        return starts

    def _take_shards(self, shards: list[Any]) -> list[ShardEntry]:
        entries, first_row = [], 0
        for number, shard in enumerate(shards):
            if shard["file"] != shard_name(number):
                raise ValueError(f"shard {number} is called {values.short(shard['file'])}, not {shard_name(number)}")
            start, pool_rows, rows, size = (
                values.count(shard[key], f"shard {number}, {key}")
                for key in ("first_row", "pool_rows", "rows", "bytes")
            )
            if start != first_row or rows > pool_rows:
                raise ValueError(f"shard {number}: {rows} of {pool_rows} rows from {start} on, not from {first_row}")
            digest = values.digest(shard["sha256"], f"shard {number}, sha256")
            checksum = values.digest(shard["xxh3"], f"shard {number}, xxh3", 16) if self.version > 2 else ""
            name = shard_name(number)
            source = None if self.origin is None else RemotePath(f"{self.origin}/{name}")
            entry = ShardEntry(self.folder / name, start, pool_rows, rows, size, digest, number, checksum, source)
            first_row += entry.pool_rows
            entries.append(entry)
        if first_row != self.pool_rows:
            raise ValueError(f"shards of {first_row} rows, but {self.pool_rows} were read")
        return entries

    @property
    def name(self) -> str:
        """What messages call it: its folder, or its URL."""
        return named(self.folder)

    @property
    def datasets(self) -> list[dict[str, Any]]:
        """The pools behind the index, in order: path, kind, format, rows, sha256. Their rows are numbered through."""
        return self.manifest["datasets"]

    @property
    def codebook(self) -> Codebook:
        """The one that the codes were made with. Raises NaitError where another is in its place."""
        codebook = load_codebook(self.folder, vouched=True)
        if self.codebook_hash is None or not sha256_file(self.folder / CODEBOOK).startswith(self.codebook_hash):
            raise Damaged(
                "is not the one that the index was made with", where=self.folder / CODEBOOK, remedy="rebuild the index"
            )
        return codebook

    @property
    def codebook_hash(self) -> str | None:
        return self.manifest["codebook"]

    @property
    def exact(self) -> dict[str, str]:
        """Names of exact scores in the shards -> hash of the signature they were made with."""
        return self.manifest["exact"]

    def shards(self) -> Iterator[Shard]:
        """The shards in order, mapped, each checked against the manifest; their bytes as they are read."""
        for entry in self.entries:
            yield self.open(entry)

    def open(self, entry: ShardEntry) -> Shard:
        """One shard, mapped. Raises NaitError where it is not as the manifest says."""
        return Shard(entry, self.layout_of(entry), self.exact, self.columns)

    def layout_of(self, entry: ShardEntry) -> dict[str, Tensor]:
        """Where a shard's tensors lie in its file, for readers that do not map it. Raises NaitError as ``open``."""
        path, rows = entry.path, entry.rows
        if not path.exists():
            raise Damaged("no such file", where=path)
        if path.is_file() and path.stat().st_size != entry.bytes:
            raise Damaged(
                f"{path.stat().st_size} bytes, expected {entry.bytes}: truncated or damaged",
                where=path,
                remedy="rebuild it with index --repair",
            )
        layout, meta, checksum = read_head(path, "shard", entry.checksum)
        if meta.get("number") != entry.number:
            other = values.short(meta.get("number"))
            raise Damaged(f"is another shard (number {other})", where=path, remedy="rebuild it with index --repair")
        if checksum != entry.checksum and self.version > 2:
            raise Damaged(
                "is not the shard that the manifest tells of (checksum differs)",
                where=path,
                remedy="rebuild it with index --repair",
            )
        expected: dict[str, tuple[str, tuple[int, ...]]] = {
            "codes": ("u1", (rows, self.code_layout.row_bytes)),
            "row": ("<i8", (rows,)),
            "n_tokens": ("<i4", (rows,)),
        }
        expected |= {f"exact.{name}": ("<f8", (rows,)) for name in self.exact}
        expected |= {name: (dtype, (rows, *shape)) for name, (dtype, shape) in self.columns.items()}
        if token_hashes.NAME in layout:
            expected[token_hashes.NAME] = ("<i8", (rows,))
        if "ids" in layout:
            expected |= {
                "ids": ("u1", layout["ids"].shape[:1]),
                "id_ends": ("<i8", (rows,)),
                "id_absent": ("?", (rows,)),
            }
        for key, (dtype, shape) in expected.items():
            if key not in layout or layout[key].dtype != np.dtype(dtype) or layout[key].shape != shape:
                raise Damaged(
                    f"tensor '{key}' is missing or has another shape",
                    where=path,
                    remedy="rebuild it with index --repair",
                )
        if more := sorted(layout.keys() - expected.keys()):
            raise Damaged(
                f"tensor {more[0]!r} does not belong there", where=path, remedy="rebuild it with index --repair"
            )
        return layout

    def verify(self) -> list[str]:
        """Check every byte, and that every row of the pool is there once; returns a line for each problem."""
        from nait_fast.index.verify import problems_of  # which opens indexes, too

        return [str(problem) for problem in problems_of(self)]
