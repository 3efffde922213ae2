"""Which files of a folder are a pool's: those of one split, and what else lies there is named."""

from __future__ import annotations

import fnmatch
import os
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePath, PurePosixPath
from typing import Any

from nait_fast.data.delimited import DELIMITERS
from nait_fast.data.formats import detect
from nait_fast.data.json_rows import json_layout, json_or_none
from nait_fast.errors import BadInput
from nait_fast.notices import warn
from nait_fast.outputs.output_folder import own_names
from nait_fast.outputs.recognise import CLAIM
from nait_fast.remote.places import Place, RemotePath
from nait_fast.storage.names import RUN

LINES = (".jsonl", ".ndjson")
COMPRESSED = (".gz", ".zst")
_MOST_FILES, _MOST_FOLDERS = 100_000, 4  # looked at; folders below one another
# Names by which `datasets` tells the splits of files that no README assigns.
_SPLITS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "dev", "val"),
    "test": ("test", "testing", "eval", "evaluation"),
}
_WORDS = {word: split for split, words in _SPLITS.items() for word in words}
_SHARD = re.compile(r"(.+?)-\d{5}-of-\d{5}")
# Files that come with data and hold none: descriptions, settings, pictures, what tools leave behind.
_BESIDE_NAMES = (
    "readme",
    "license",
    "licence",
    "notice",
    "citation",
    "changelog",
    "_success",
    "dataset_info.json",
    "dataset_infos.json",
    "dataset_dict.json",
    "state.json",
)
_BESIDE_SUFFIXES = (
    ".md",
    ".rst",
    ".html",
    ".py",
    ".yaml",
    ".yml",
    ".toml",
    ".png",
    ".jpg",
    ".jpeg",
    ".gif",
    ".svg",
    ".pdf",
    ".ipynb",
    ".crc",
    ".md5",
    ".sha256",
    ".lock",
    ".tmp",
)


@dataclass(frozen=True)
class Files:
    """The files that a pool is read from, in the order of their names. label: the folder, with the split if chosen."""

    label: str
    paths: tuple[Place, ...]


def kind_of(place: Place) -> str:
    """The suffix that tells the kind (".jsonl" for "a.jsonl.gz"), or "" for a kind that is not read."""
    path = PurePosixPath(place.name)
    plain = path.with_suffix("") if path.suffix.lower() in COMPRESSED else path
    suffixes = (*LINES, ".json", *DELIMITERS) if plain is not path else (*LINES, ".json", *DELIMITERS, ".parquet")
    return plain.suffix.lower() if plain.suffix.lower() in suffixes else ""


def pool_files(folder: Place, split: str | None) -> Files:
    """The files of ``folder`` that are read as one pool: its own or, where it has none, those of the folders in it.

    Files of several splits are refused unless ``split`` ("train", "train+test") says which. Warns of data that is
    passed over. Raises NaitError.
    """
    _refuse_results(folder)
    top, written = _not_ours(_entries(folder))
    direct = _data_among(top, folder, _not_delimited)
    below, more = _not_ours(path for path in _below(folder) if path.parent != folder)
    paths = direct or _data_among(below, folder, _not_delimited)
    if not paths:  # tables of text lie beside data that they describe
        direct = _data_among(top, folder)
        paths = direct or _data_among(below, folder)
    if passed := [path for path in [*written, *([] if direct else more)] if _is_data(path)]:
        warn(f"{folder}: {_named(passed, folder)} {_are(passed)} passed over: results of nait_fast, no pool")
    if not paths:
        here = f" (but {_named(some, folder)})" if (some := [*top, *below]) else ""
        raise BadInput(
            f"holds no .jsonl and no .parquet, .json, .csv or .tsv files of rows{here}",
            where=folder,
            remedy="give a file, or a folder of such files",
        )
    if direct and (deeper := [path for path in below if _is_data(path)]):
        warn(
            f"{folder}: {_named(deeper, folder)} in folders below {_are(deeper)} not read; give that folder to read it"
        )
    if described := _described(folder):
        warn(
            f"{folder}: its dataset_info.json describes {_listed(described)}: all files are read, as one pool; give "
            "one file for one of them"
        )
    assigned = _assigned(folder)
    labels = _labels(folder, paths, assigned)
    if split is not None:
        return _chosen(folder, split, labels)
    named = sorted({label for label in labels.values() if label}, key=lambda label: (_word_in(label) != "train", label))
    if len(named) > 1:
        raise BadInput(
            f"holds files of several splits or folders ({_listed(named)})",
            where=folder,
            remedy=f"name what to read: {folder}:{named[0]}, or {folder}:{'+'.join(named[:2])}",
        )
    if named and "" in labels.values() and _word_in(named[0]) != "train":
        some = [path for path, label in labels.items() if label]
        warn(
            f"{folder}: {_named(some, folder)} {_are(some)} read, too, though named as split {named[0]}; "
            f"{folder}:{named[0]} reads that alone"
        )
    elif named and assigned and (some := [path for path, label in labels.items() if not label]):
        them = "it" if len(some) == 1 else "them"
        warn(
            f"{folder}: {_named(some, folder)} {_are(some)} read, too, though README.md gives {them} no split; "
            f"{folder}:{named[0]} leaves {them} out"
        )
    return Files(str(folder), tuple(paths))


def _chosen(folder: Place, split: str, labels: dict[Place, str]) -> Files:
    splits = sorted({label for label in labels.values() if label})
    for wanted in split.split("+"):
        if wanted not in splits:
            which = f"name one of {_listed(splits)}" if splits else f"its files name none; leave out :{split}"
            raise BadInput(f"has no split {wanted}", where=folder, remedy=which)
    paths = tuple(path for path, label in labels.items() if label in split.split("+"))
    return Files(f"{folder}:{split}", paths)


def _refuse_results(folder: Place) -> None:
    """An index or a selection is no pool: its rows would be there twice."""
    path = folder / "manifest.json"
    try:
        value = json_or_none(path.read_bytes()) if path.is_file() and path.stat().st_size < 1 << 24 else None
    except OSError:
        return
    kind = str((value or {}).get("kind", ""))
    if kind.startswith("nait_fast "):
        remedy = "give its selected.jsonl" if kind.endswith("selection") else "give the pool itself"
        raise BadInput(f"is a {kind}, no pool", where=folder, remedy=remedy)


def _entries(folder: Place) -> list[Place]:
    files: list[Place] = []
    entries: Iterable[Place] = folder.iterdir()
    for path in sorted(entries, key=lambda path: path.name):
        if path.is_symlink() and not path.exists():
            raise BadInput("a link to nothing", where=path, remedy="mend or remove it")
        if path.is_file():
            files.append(path)
    return files


def _below(folder: Place) -> Iterator[Place]:
    """Files in the folders below, in the order of their names; hidden folders and what is very deep are left out."""
    seen = 0
    for files in _remote_files(folder) if isinstance(folder, RemotePath) else _local_files(folder):
        for path in files:
            seen += 1
            if seen > _MOST_FILES:
                warn(f"{folder}: holds more than {_MOST_FILES:,} files; those after the first are passed over")
                return
            yield path


def _local_files(folder: Path) -> Iterator[list[Place]]:
    """Those of each folder, of one before those of the folders in it."""
    for place, folders, files in os.walk(folder):
        depth = len(Path(place).relative_to(folder).parts)
        folders[:] = sorted(name for name in folders if not name.startswith(".")) if depth < _MOST_FOLDERS else []
        yield [Path(place, name) for name in sorted(files)]


def _remote_files(folder: RemotePath, depth: int = 0) -> Iterator[list[Place]]:
    entries = sorted(folder.iterdir())
    yield [path for path in entries if path.is_file()]
    for path in entries:
        if path.is_dir() and not path.name.startswith(".") and depth < _MOST_FOLDERS:
            yield from _remote_files(path, depth + 1)


def _not_ours(paths: Iterable[Place]) -> tuple[list[Place], list[Place]]:
    """(files that are not results of nait_fast, those that are): an output may lie in the pool's folder, but its rows
    would be there twice."""
    others: list[Place] = []
    ours: list[Place] = []
    is_result: dict[Place, Callable[[str], bool]] = {}
    paths = list(paths)
    told = {path.parent for path in paths if path.name in (CLAIM, RUN)}
    for path in paths:
        folder = path.parent
        if folder not in is_result:
            is_result[folder] = own_names(folder) if folder in told else lambda name: False
        (ours if is_result[folder](path.name) else others).append(path)
    return others, ours


def _is_data(path: Place) -> bool:
    return bool(kind_of(path)) and not path.name.startswith(".") and path.name.lower() not in _BESIDE_NAMES


def _not_delimited(path: Place) -> bool:
    return kind_of(path) not in DELIMITERS


def _data_among(
    files: Iterable[Place], folder: Place, wanted: Callable[[Place], bool] = lambda path: True
) -> list[Place]:
    """The files that are read, of those ``wanted``; the others are named, but for those that hold no data by their
    names."""
    data_files, over = [], []
    for path in files:
        if wanted(path) and _is_data(path) and not _is_description(path):
            data_files.append(path)
        elif path.name.lower() not in _BESIDE_NAMES and (kind_of(path) or not _is_beside(path)):
            over.append(path)
    if data_files and over:
        warn(
            f"{folder}: {_named(over, folder)} {_are(over)} passed over: no rows that are read (.jsonl, .json, also "
            ".gz, .zst; .parquet; where none of these are .csv and .tsv)"
        )
    return data_files


def _is_description(path: Place) -> bool:
    """A `.json` file that is one object and no row, with no list under "data": settings or statistics."""
    if path.suffix.lower() != ".json" or path.stat().st_size > 1 << 20:
        return False  # if it has no rows, reading it will tell
    if json_layout(path) == "list" or (value := json_or_none(path.read_bytes())) is None:
        return False
    return not isinstance(value.get("data"), list) and detect(value) is None


def _is_beside(path: Place) -> bool:
    name = path.name.lower()
    return name.startswith((".", *_BESIDE_NAMES)) or path.suffix.lower() in _BESIDE_SUFFIXES or not path.stat().st_size


def _described(folder: Place) -> list[str]:
    """The datasets that LLaMA-Factory's description of its data folder names, if they are several."""
    path = folder / "dataset_info.json"
    if not path.is_file() or path.stat().st_size > 1 << 24:
        return []
    entries = json_or_none(path.read_bytes()) or {}
    local = [name for name, entry in entries.items() if isinstance(entry, dict) and "file_name" in entry]
    return local if len(local) > 1 else []


def _labels(folder: Place, paths: Iterable[Place], assigned: list[tuple[str, str]]) -> dict[Place, str]:
    """The split of each file, "" if there is none: as ``assigned`` by the README, else by the file's name; behind the
    folder's name where data lies in several."""
    paths = list(paths)
    places = {path.parent for path in paths}
    labels = {}
    for path in paths:
        inside = _inside(path, folder)
        if by_readme := next((split for glob, split in assigned if _fits(inside.as_posix(), glob)), None):
            labels[path] = by_readme
            continue
        split = _split_of(path.name)
        if len(places) > 1:
            labels[path] = "/".join(part for part in (inside.parent.as_posix(), split) if part)
        else:
            labels[path] = split or next((word for part in inside.parts[:-1] if (word := _word_in(part))), "")
    return labels


def _inside(path: Place, folder: Place) -> PurePath:
    return path.relative_to(folder)  # type: ignore[arg-type] # both lie on this machine, or neither


def _fits(path: str, glob: str) -> bool:
    """``**/`` stands for any folders, or for none."""
    return fnmatch.fnmatchcase(path, glob) or ("**/" in glob and fnmatch.fnmatchcase(path, glob.replace("**/", "")))


def _split_of(name: str) -> str:
    stem = name.split(".")[0]
    if shard := _SHARD.fullmatch(stem):
        return shard[1] if _word_in(shard[1]) else ""
    return _word_in(stem)


def _word_in(name: str) -> str:
    words = re.split(r"[-._/ \d]+", name.lower())
    return next((_WORDS[word] for word in words if word in _WORDS), "")


def _assigned(folder: Place) -> list[tuple[str, str]]:
    """(glob, split) of each file pattern in the front matter of the folder's README.md, as the Hub defines it; a
    split of one of several configurations is "configuration/split"."""
    import yaml

    try:
        with (folder / "README.md").open("rb") as file:
            text = file.read(1 << 18).decode(errors="replace").replace("\r\n", "\n")
    except OSError:  # most have none
        return []
    head = text.split("\n---", 1)[0].removeprefix("---") if text.startswith("---") else ""
    try:
        front_matter = yaml.safe_load(head)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        why = (str(error).splitlines() or [type(error).__name__])[0][:160]
        warn(f"{folder / 'README.md'}: its front matter cannot be read ({why}): splits are told by the files' names")
        return []
    configs = [config for config in _list_of(front_matter, "configs") if isinstance(config, dict)]
    patterns = []
    for config in configs:
        data_files = config.get("data_files")
        for entry in data_files if isinstance(data_files, list) else [data_files]:
            split, globs = (entry.get("split"), entry.get("path")) if isinstance(entry, dict) else ("train", entry)
            label = f"{config.get('config_name')}/{split}" if len(configs) > 1 else str(split)
            patterns += [
                (glob, label) for glob in (globs if isinstance(globs, list) else [globs]) if isinstance(glob, str)
            ]
    return patterns


def _list_of(value: Any, key: str) -> list[Any]:
    items = value.get(key) if isinstance(value, dict) else None
    return items if isinstance(items, list) else []


def _listed(names: list[str]) -> str:
    return ", ".join([*names[:6], "…"] if len(names) > 6 else names)


def _named(paths: list[Place], folder: Place) -> str:
    names = [_inside(path, folder).as_posix() for path in paths[:3]]
    return ", ".join(names) + (f" and {len(paths) - 3} more" if len(paths) > 3 else "")


def _are(paths: list[Place]) -> str:
    return "is" if len(paths) == 1 else "are"
