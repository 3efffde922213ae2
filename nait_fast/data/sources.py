"""What the path or name of a pool stands for: its kind, and the parts that hold its rows."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nait_fast.data.parts import BOM, JsonRows, Lines, ParquetFile, Part, Table, json_object, json_or_none
from nait_fast.data.streams import first_line, import_optional, json_list, open_stream
from nait_fast.errors import NaitError

_LINES = (".jsonl", ".ndjson")
_COMPRESSED = (".gz", ".zst")
_HUB_NAME = re.compile(r"([A-Za-z0-9][\w.-]*/[\w.-]+)(?::([\w\[\]%:.+-]+))?")


@dataclass(frozen=True)
class Source:
    """kind: "jsonl", "json", "parquet", "disk" (a save_to_disk folder) or "hub"."""

    path: str
    kind: str
    parts: tuple[Part, ...]


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
        return Source(str(path), "parquet", (ParquetFile(path),))
    if suffix == ".json":
        layout = _json_layout(path)
        if layout != "lines":
            return Source(str(path), "json", (JsonRows(path, json_list if layout == "list" else json_object),))
    elif suffix not in _LINES:
        raise NaitError(f"{path}: not a kind of file that is read; give .jsonl, .json (also .gz, .zst) or .parquet")
    return Source(str(path), "jsonl", (Lines(path),))


def _open_folder(folder: Path) -> Source:
    files = sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    broken = [path for path in folder.iterdir() if path.is_symlink() and not path.exists()]
    if broken:
        raise NaitError(f"{broken[0]}: a link to nothing; mend or remove it")
    tables = [path for path in files if _suffix(path) == ".parquet"]
    texts = [path for path in files if _suffix(path) in _LINES]
    if tables and texts:
        raise NaitError(f"{folder}: holds .parquet and .jsonl files; give a folder with one kind, or one file")
    if not tables and not texts:
        raise NaitError(f"{folder}: holds no .jsonl and no .parquet files; give a file, or a folder of such files")
    if tables:
        return Source(str(folder), "parquet", tuple(ParquetFile(path) for path in tables))
    return Source(str(folder), "jsonl", tuple(Lines(path) for path in texts))


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
    return Source(label, kind, (Table(loaded.with_format(None), label),))


def _json_layout(path: Path) -> str:
    """Tell "list" ([row, …]), "object" ({"data": [row, …]}) or "lines" (JSON lines under the name .json)."""
    with open_stream(path, hashlib.sha256()) as stream:
        head = stream.read(3).removeprefix(BOM).lstrip()
        while not head and (byte := stream.read(1)):
            head = byte.lstrip()
        if head.startswith(b"["):
            return "list"
        first = head + stream.readline()
        rest = stream.read()
    # A first line that is JSON by itself is a row, unless it is all there is and holds the rows.
    value = json_or_none(first)
    if value is not None:
        return "object" if isinstance(value.get("data"), list) and not rest.strip() else "lines"
    return "object" if json_or_none(first + rest) is not None else "lines"
