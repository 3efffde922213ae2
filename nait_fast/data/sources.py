"""What the path or name of a pool stands for, and one reader for each kind.

A reader takes a digest, to which it adds the bytes of the file that it reads (a `hash_rows` source leaves that to
whoever goes through its rows), and yields records.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from nait_fast.data.streams import Digest, first_line, import_optional, json_list, open_stream, read_blocks
from nait_fast.errors import NaitError

_BATCH_ROWS = 1024
_BOM = b"\xef\xbb\xbf"
_LINES = (".jsonl", ".ndjson")
_COMPRESSED = (".gz", ".zst")
_HUB_NAME = re.compile(r"([A-Za-z0-9][\w.-]*/[\w.-]+)(?::([\w\[\]%:.+-]+))?")


class Record(NamedTuple):
    """A row as read: `payload` is a JSONL line (bytes) or an already decoded value; `line` is 0 if there is none."""

    file: str
    line: int
    payload: Any


_Reader = Callable[[Digest], Iterator[Record]]


@dataclass(frozen=True)
class Source:
    path: str
    kind: str
    read: _Reader
    hash_rows: bool = False


def open_source(name: str, split: str | None) -> Source:
    path = Path(name)
    head, _, tail = name.rpartition(":")
    if split is None and head and not path.exists() and Path(head).is_dir():
        path, split = Path(head), tail
    if path.is_dir():
        # dataset_info.json alone is no sign: LLaMA-Factory's folders, and ours, have a file of that name.
        if any((path / marker).exists() for marker in ("state.json", "dataset_dict.json")):
            return _open_disk(path, split)
        source = _open_folder(path)
    elif path.exists():
        source = _open_file(path)
    else:
        match = _HUB_NAME.fullmatch(name)
        if match is None or _suffix(path) or path.parent.is_dir():
            raise NaitError(f"{name}: no such file or folder; check the path")
        return _open_hub(name, match[1], split or match[2])
    if split is not None:
        raise NaitError(f"{path}: a split ({split}) is for save_to_disk folders and Hub datasets; leave it out here")
    return source


def _suffix(path: Path) -> str:
    """The suffix that tells the kind (".jsonl" for "a.jsonl.gz"), or "" for a kind that is not read."""
    plain = path.with_suffix("") if path.suffix.lower() in _COMPRESSED else path
    known = (*_LINES, ".json") if plain is not path else (*_LINES, ".json", ".parquet")
    return plain.suffix.lower() if plain.suffix.lower() in known else ""


def _open_file(path: Path) -> Source:
    suffix = _suffix(path)
    if suffix == ".parquet":
        return Source(str(path), "parquet", lambda digest: _parquet_rows(path, digest))
    if suffix == ".json":
        layout = _json_layout(path)
        if layout == "list":
            return Source(str(path), "json", lambda digest: _json_rows(path, digest))
        if layout == "object":
            return Source(str(path), "json", lambda digest: _json_object(path, digest))
    elif suffix not in _LINES:
        raise NaitError(f"{path}: not a kind of file that is read; give .jsonl, .json (also .gz, .zst) or .parquet")
    return Source(str(path), "jsonl", lambda digest: _jsonl_rows(path, digest))


def _open_folder(folder: Path) -> Source:
    files = sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    tables = [path for path in files if _suffix(path) == ".parquet"]
    texts = [path for path in files if _suffix(path) in _LINES]
    if tables and texts:
        raise NaitError(f"{folder}: holds .parquet and .jsonl files; give a folder with one kind, or one file")
    if not tables and not texts:
        raise NaitError(f"{folder}: holds no .jsonl and no .parquet files; give a file, or a folder of such files")
    read = _parquet_rows if tables else _jsonl_rows
    unused = hashlib.sha256()
    return Source(
        str(folder),
        "parquet" if tables else "jsonl",
        lambda _: chain.from_iterable(read(path, unused) for path in tables or texts),
        hash_rows=True,
    )


def _open_disk(folder: Path, split: str | None) -> Source:
    datasets = import_optional("datasets", f"{folder}: a save_to_disk folder", "nait-fast[datasets]")
    try:
        loaded = datasets.load_from_disk(str(folder))
    except Exception as error:
        raise NaitError(f"{folder}: no save_to_disk folder that datasets can load: {first_line(error)}") from None
    return _dataset_source(loaded, str(folder), "disk", split)


def _open_hub(name: str, hub_id: str, split: str | None) -> Source:
    datasets = import_optional("datasets", f"{name}: no such path, and a Hub dataset", "nait-fast[datasets]")
    try:
        loaded = datasets.load_dataset(hub_id, split=split)
    except Exception as error:
        raise NaitError(
            f"{name}: the path does not exist and is no reachable Hub dataset ({first_line(error)}); check the name"
        ) from None
    return _dataset_source(loaded, hub_id, "hub", split)


def _dataset_source(loaded: Any, name: str, kind: str, split: str | None) -> Source:
    if isinstance(loaded, dict):
        names = list(loaded)
        split = split or ("train" if "train" in names or len(names) != 1 else names[0])
        if split not in loaded:
            raise NaitError(f"{name}: has no split {split}; name one of {', '.join(names)} as {name}:SPLIT")
        loaded = loaded[split]
    elif kind == "disk" and split is not None:
        raise NaitError(f"{name}: has no splits; leave out {split}")
    label = f"{name}:{split}" if split else name
    rows = loaded.with_format(None)

    def read(_: Digest) -> Iterator[Record]:
        try:
            for batch in rows.iter(batch_size=_BATCH_ROWS):
                for values in zip(*batch.values(), strict=True):
                    yield Record(label, 0, dict(zip(batch, values, strict=True)))
        except Exception as error:  # a feature's decoder may raise anything
            raise NaitError(f"{label}: datasets cannot read it: {first_line(error)}") from None

    return Source(label, kind, read, hash_rows=True)


def _jsonl_rows(path: Path, digest: Digest) -> Iterator[Record]:
    name = str(path)
    for number, line in enumerate(open_stream(path, digest), start=1):
        if number == 1:
            line = line.removeprefix(_BOM)
        if line and not line.isspace():
            yield Record(name, number, line.removesuffix(b"\n").removesuffix(b"\r"))


def _parquet_rows(path: Path, digest: Digest) -> Iterator[Record]:
    name = str(path)
    parquet = import_optional("pyarrow.parquet", f"{name}: a Parquet file", "pyarrow")
    for _ in read_blocks(path, digest):
        pass
    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=_BATCH_ROWS):
                for row in batch.to_pylist():
                    yield Record(name, 0, row)
    except (OSError, ValueError) as error:
        raise NaitError(f"{name}: no Parquet that can be read: {first_line(error)}") from None


def _json_layout(path: Path) -> str:
    """Tell "list" ([row, …]), "object" ({"data": [row, …]}) or "lines" (JSON lines under the name .json)."""
    with open_stream(path, hashlib.sha256()) as stream:
        head = stream.read(3).removeprefix(_BOM).lstrip()
        while not head and (byte := stream.read(1)):
            head = byte.lstrip()
        if head.startswith(b"["):
            return "list"
        first = head + stream.readline()
        rest = stream.read()
    # A first line that is JSON by itself is a row, unless it is all there is and holds the rows.
    value = _json_or_none(first)
    if value is not None:
        return "object" if isinstance(value.get("data"), list) and not rest.strip() else "lines"
    return "object" if _json_or_none(first + rest) is not None else "lines"


def _json_or_none(text: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _json_object(path: Path, digest: Digest) -> Iterator[Record]:
    value = _json_or_none(open_stream(path, digest).read().removeprefix(_BOM))
    rows = value.get("data") if value else None
    if not isinstance(rows, list):
        raise NaitError(f'{path}: holds one object without a list under "data"; give a list of rows or JSON lines')
    for row in rows:
        yield Record(str(path), 0, row)


def _json_rows(path: Path, digest: Digest) -> Iterator[Record]:
    for row in json_list(path, digest):
        yield Record(str(path), 0, row)
