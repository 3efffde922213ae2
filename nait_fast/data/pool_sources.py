"""What the path or name of a pool stands for: its kind, and the parts that hold its rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from nait_fast.data import hub
from nait_fast.data.delimited import DELIMITERS
from nait_fast.data.folders import LINES, kind_of, pool_files
from nait_fast.data.json_rows import json_layout, json_list, json_object
from nait_fast.data.parts import DatasetTable, Delimited, JsonRows, Lines, ParquetFile, PoolPart
from nait_fast.data.streams import import_optional
from nait_fast.errors import BadInput, first_line
from nait_fast.remote.places import Place, RemotePath, place_of
from nait_fast.urls import is_url, path_of


@dataclass(frozen=True)
class Source:
    """kind: "jsonl", "json", "csv", "parquet", "disk" (a save_to_disk folder) or "hub"."""

    path: str
    kind: str
    parts: tuple[PoolPart, ...]


def open_source(name: str) -> Source:
    """What ``name`` stands for: a file, a folder, a Hub id; the last two may end in ":SPLIT" or in ":CONFIG:SPLIT".
    Files and folders may lie behind URLs. Raises OSError and NaitError."""
    path, split = _in_folder(name)
    if path.is_dir():
        # dataset_info.json alone is no sign: LLaMA-Factory's folders, and ours, have a file of that name.
        if any((path / marker).exists() for marker in ("state.json", "dataset_dict.json")):
            return _open_disk(path, split)
        return _open_folder(path, split)
    if path.exists():
        return _open_file(path)
    if isinstance(path, RemotePath):
        raise BadInput("no such file or folder", where=path, remedy="check the URL, and whose credentials are in use")
    parts = hub.parts_of(name)
    if parts is None or kind_of(path) or path.parent.is_dir():
        raise BadInput("no such file or folder", where=name, remedy="check the path")
    loaded, hub_id, split = hub.load(name, *parts)
    return _dataset_source(loaded, hub_id, "hub", split)


def _in_folder(name: str) -> tuple[Place, str | None]:
    """(path, which split of it) that ``name`` stands for; a configuration's is CONFIG/SPLIT, as its files' folders."""
    whole = path = place_of(name)
    head, split = name, ""
    while not path.exists():
        head, _, tail = head.rpartition(":")
        split = f"{tail}/{split}" if split else tail
        if not head or (
            is_url(name) and not (is_url(head) and "/" in path_of(head))
        ):  # a colon of the scheme, the host
            return whole, None
        path = place_of(head)
    return (path, split or None) if path.is_dir() else (whole, None)


def is_here(name: str) -> bool:
    """Whether ``name`` can only stand for a file or folder of this machine; else it may be of the Hub."""
    if is_url(name):
        return False
    path, _ = _in_folder(name)
    return path.exists() or hub.parts_of(name) is None or bool(kind_of(path)) or path.parent.is_dir()


def _open_file(path: Place) -> Source:
    suffix = kind_of(path)
    if suffix == ".parquet":
        return Source(str(path), "parquet", (ParquetFile(path),))
    if suffix in DELIMITERS:
        return Source(str(path), "csv", (Delimited(path, DELIMITERS[suffix]),))
    if suffix == ".json":
        layout = json_layout(path)
        if layout != "lines":
            return Source(str(path), "json", (JsonRows(path, json_list if layout == "list" else json_object),))
    elif suffix not in LINES:
        raise BadInput(
            "not a kind of file that is read",
            where=path,
            remedy="give .jsonl, .json, .csv, .tsv (each also .gz, .zst) or .parquet",
        )
    return Source(str(path), "jsonl", (Lines(path),))


def _open_folder(folder: Place, split: str | None) -> Source:
    files = pool_files(folder, split)
    if len({kind_of(path) == ".parquet" for path in files.paths}) > 1:
        raise BadInput(
            "holds .parquet and .jsonl or .json files", where=folder, remedy="give a folder with one kind, or one file"
        )
    sources = [_open_file(path) for path in files.paths]
    kind = next((source.kind for source in sources if source.kind != "jsonl"), "jsonl")
    return Source(files.label, kind, tuple(part for source in sources for part in source.parts))


def _open_disk(folder: Place, split: str | None) -> Source:
    if isinstance(folder, RemotePath):
        raise BadInput(
            "a save_to_disk folder, which is read on this machine only",
            where=folder,
            remedy="copy it here, or save its data as Parquet",
        )
    datasets = import_optional("datasets", "a save_to_disk folder", folder, "datasets")
    try:
        loaded = datasets.load_from_disk(str(folder))
    except Exception as error:
        raise BadInput(
            f"no save_to_disk folder that datasets can load: {first_line(error, kind=False)}", where=folder
        ) from None
    return _dataset_source(loaded, str(folder), "disk", split)


def _dataset_source(loaded: Any, name: str, kind: str, split: str | None) -> Source:
    if isinstance(loaded, dict):
        names = list(loaded)
        split = split or ("train" if "train" in names else names[0] if len(names) == 1 else None)
        if split not in loaded:
            what = "holds several splits" if split is None else f"has no split {split}"
            raise BadInput(what, where=name, remedy=f"name one of {', '.join(names)} as {name}:SPLIT")
        loaded = loaded[split]
    elif kind == "disk" and split is not None:
        raise BadInput("has no splits", where=name, remedy=f"leave out {split}")
    label = f"{name}:{split}" if split else name
    return Source(label, kind, (DatasetTable(loaded.with_format("arrow"), label),))
