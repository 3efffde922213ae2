"""Results behind URLs, read from copies on this machine.

What lies beside an index's shards is fetched when the folder is opened, into a folder of that state of it; a shard when
it is first read, kept by its SHA-256. Copies are of no use to anybody else: those that were not read for longest give
way when the disk is nearly full, and all may be deleted.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

from nait_fast.errors import BadInput, Damaged
from nait_fast.outputs.recognise import CLAIM, CONFIG
from nait_fast.remote.copies import copy_place, shards_folder
from nait_fast.remote.places import RemotePath
from nait_fast.storage.files import sha256_file
from nait_fast.storage.lock import Lock
from nait_fast.storage.names import MANIFEST, RUN
from nait_fast.storage.owned import is_name
from nait_fast.urls import WEB, is_url

_INNER = ("index", "signatures", "evaluation", "validation")  # folders in that of a selection
_BESIDE = (
    *(CLAIM, CONFIG, "report.html", "evaluation.json", "evaluation.md", "validation.json"),
    *("comparison.json", "comparison.md"),
)
_KEPT_FREE = 0.05  # share of the disk


def local_copy(name: str | os.PathLike[str]) -> Path:
    """The file or folder of results ``name`` on this machine: a path as it is; of a URL, a copy, of a folder without
    its shards. Raises NaitError."""
    if not is_url(os.fspath(name)):
        return Path(name)
    place = RemotePath(os.fspath(name))
    with _failures(place):
        if not place.exists():
            remedy = "check the URL, and whose credentials are in use"
            raise BadInput("no such file or folder", where=place, remedy=remedy)
        if not place.is_dir():
            beside = [] if place.scheme in WEB else [place.parent / name for name in (RUN, CONFIG)]
            return _copied(place, {file.name: file for file in (place, *beside) if file.is_file()}) / place.name
        files = _results_in(place)
        if not files:
            raise BadInput("holds no results of nait_fast, or none that are finished", where=place)
        return _copied(place, files)


def holds_results(url: str) -> bool:
    """Whether a URL names results, as far as names tell. Raises NaitError."""
    place = RemotePath(url)
    with _failures(place):
        return bool(_results_in(place)) if place.is_dir() else place.exists() and place.suffix == ".safetensors"


def fetch_shard(source: RemotePath, size: int, sha256: str) -> Path:
    """The copy of a shard of ``size`` bytes. Raises NaitError where it is not that shard."""
    path = shards_folder() / sha256 / source.name
    with suppress(OSError):
        if path.stat().st_size == size:
            os.utime(path)  # read a moment ago
            return path
    path.parent.mkdir(parents=True, exist_ok=True)
    with Lock(path.with_name(f"{path.name}.lock")), _failures(source):
        if not path.exists():
            _make_room(size)
            new = path.with_name(f"{path.name}.tmp")
            source.trying(lambda: source.store.get_file(source.key, str(new)))
            if new.stat().st_size != size or sha256_file(new) != sha256:
                new.unlink()
                raise Damaged(
                    "is not the shard that the manifest tells of", where=source, remedy="wait until nobody writes there"
                )
            os.replace(new, path)
    return path


def forget_shard(sha256: str) -> None:
    """Remove the copy of a shard, so that it is fetched anew: for who must know what lies there now."""
    with suppress(OSError):
        shutil.rmtree(shards_folder() / sha256)


def _results_in(folder: RemotePath) -> dict[str, RemotePath]:
    """Name -> place of the results in a folder, but for shards, and of the folders in it that a selection has."""
    files = {path.name: path for path in folder.iterdir() if path.is_file() and _is_result(path.name)}
    if MANIFEST in files:
        files |= {name: folder / name for name in _named_by(files[MANIFEST]) if (folder / name).is_file()}
    for inner in map(folder.__truediv__, _INNER) if files else ():
        if inner.is_dir():
            inside = (path for path in inner.iterdir() if path.is_file() and _is_result(path.name))
            files |= {f"{inner.name}/{path.name}": path for path in inside}
    return files


def _is_result(name: str) -> bool:
    if name.startswith("shard-"):
        return False
    return is_name(name) or name in _BESIDE or name.endswith(".safetensors")


def _named_by(manifest: RemotePath) -> list[str]:
    """The files that a selection's manifest names."""
    try:
        files = json.loads(manifest.read_bytes())["files"]
    except (ValueError, KeyError, TypeError):
        return []
    names = files if isinstance(files, dict) else {}
    return [name for name in names if name.strip(".") and "/" not in name and "\\" not in name]


def _copied(place: RemotePath, files: dict[str, RemotePath]) -> Path:
    """The folder with copies of ``files``; that of ``place`` itself, or that it lies in."""
    state = json.dumps([str(place), sorted((name, file.stamp()) for name, file in files.items())])
    version = hashlib.sha256(state.encode()).hexdigest()[:16]
    folder = copy_place(str(place) if place.is_dir() else str(place).rpartition("/")[0], version)
    for name, file in files.items():
        path = folder / name
        if path.is_file() and path.stat().st_size == file.size:
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        new = path.with_name(f"{path.name}.{os.getpid()}.tmp")
        file.trying(partial(file.store.get_file, file.key, str(new)))
        os.replace(new, path)
    return folder


def _make_room(size: int) -> None:
    """Delete the shards that were not read for longest, until one of ``size`` bytes fits."""
    root = shards_folder()
    copies = sorted(root.glob("*/*.safetensors"), key=lambda path: path.stat().st_mtime)
    while copies:
        total, _, free = shutil.disk_usage(root)
        if free - size > _KEPT_FREE * total:
            return
        with suppress(OSError):
            shutil.rmtree(copies.pop(0).parent)


@contextmanager
def _failures(place: RemotePath) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise BadInput(f"cannot be read ({error.strerror or error})", where=place) from None
