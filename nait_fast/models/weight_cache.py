"""Keeps hashes of checkpoints' weights in the user's cache folder, so that a model is hashed once, not at each load.

An entry belongs to the files of a checkpoint by path, size, times and inode, to the names, types, shapes and some
values of the weights that came of them, and to the libraries that read them. It is a help only: one that cannot be
written, read or trusted is none. The environment variable ``NAIT_FAST_CACHE`` names another folder, or turns this off:
``off``.
"""

import hashlib
import json
import os
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nait_fast.env import cache_folder, installed

SCHEME = 1  # of what is hashed, and how
SETTLED_NS = 2_000_000_000  # a file changed later than this before it is read may change again unseen
_READ = (".safetensors", ".bin", ".pt", ".pth", ".gguf", ".json", ".py")
_LIBRARIES = ("torch", "transformers", "safetensors", "gguf", "accelerate", "peft")


def weights_folder() -> Path | None:
    """Where entries are kept; None: nowhere."""
    base = cache_folder()
    return None if base is None else base / "weights"


def stamps_of(*sources: Path) -> list[list[Any]] | None:
    """[path, size, mtime, ctime, inode] of each file that a checkpoint is read from: of each of ``sources`` itself, or
    those in that folder; an adapter's comes last. None where that is not all there is to read, or they were changed
    just now."""
    try:
        folders = [sorted(source.iterdir()) if source.is_dir() else [source] for source in sources]
        if any(file.name == "adapter_config.json" for file in folders[0]):  # its base model lies elsewhere
            return None
        files = [file for folder in folders for file in folder if file.suffix in _READ and file.is_file()]
        if any(b"/" in _part_names(file) for file in files if file.name.endswith(".index.json")):
            return None  # parts in other folders
        stats = [(file.resolve(), file.stat()) for file in files]
    except OSError:
        return None
    if not stats or max(stat.st_mtime_ns for _, stat in stats) > time.time_ns() - SETTLED_NS:
        return None
    return [[str(path), s.st_size, s.st_mtime_ns, s.st_ctime_ns, s.st_ino] for path, s in stats]


def checkpoint_stamps(name: str) -> list[list[Any]] | None:
    """As ``stamps_of``, of every file beside those that are read: of a model or a tokenizer, by its folder, file or Hub
    id. None also where it is not here yet."""
    path = checkpoint_of(name)
    stamps = None if path is None else stamps_of(path)
    if path is None or stamps is None:
        return None
    beside = sorted(path.iterdir()) if path.is_dir() else []
    return stamps + [[str(file), (status := file.stat()).st_size, status.st_mtime_ns] for file in beside]


def _part_names(file: Path) -> bytes:
    """The names of the files that hold a model's parts, as its index tells."""
    try:
        return "\n".join(map(str, set(json.loads(file.read_bytes())["weight_map"].values()))).encode()
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return b"/"


def checkpoint_of(source: str) -> Path | None:
    """The file or folder that a folder, GGUF file or Hub id is read from; None where the Hub's is not here yet."""
    path = Path(source).expanduser()
    if path.exists():
        return path
    try:
        from huggingface_hub import try_to_load_from_cache

        config = try_to_load_from_cache(source, "config.json")
    except (ImportError, ValueError, OSError):  # ValueError: no valid id
        return None
    return Path(config).parent if isinstance(config, str) else None


@dataclass(frozen=True)
class CacheEntry:
    """The place of the hash of weights that are read from ``sources`` (folders or files) as they were at ``stamps``."""

    sources: tuple[Path, ...]
    stamps: list[list[Any]]

    @classmethod
    def of(cls, *names: str) -> "CacheEntry | None":
        """To be made before the files are read; None where nothing can be kept. ``names``: of the model, and of an
        adapter of it."""
        if weights_folder() is None:
            return None
        paths = tuple(path for name in names if (path := checkpoint_of(name)) is not None)
        stamps = stamps_of(*paths) if len(paths) == len(names) else None
        return None if stamps is None else cls(paths, stamps)

    def _file(self, sample: str) -> Path | None:
        folder = weights_folder()
        libraries = [installed(name) for name in _LIBRARIES]
        key = hashlib.sha256(json.dumps([SCHEME, self.stamps, libraries, sample]).encode())
        return folder / f"{key.hexdigest()}.json" if folder else None

    def get(self, sample: str) -> str | None:
        """The hash, if it is kept. ``sample``: of the names, types, shapes and some values of the weights."""
        file = self._file(sample)
        try:
            stored = json.loads(file.read_bytes()) if file else {}
            return stored["weights"] if stored == _sealed(str(stored["weights"])) else None
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return None

    def put(self, sample: str, weights: str) -> None:
        """Keep the hash, unless the files have changed since."""
        file = self._file(sample)
        if file is None or stamps_of(*self.sources) != self.stamps:
            return
        with suppress(OSError):
            file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor, temporary = tempfile.mkstemp(dir=file.parent)
            try:
                with open(descriptor, "w") as out:
                    json.dump(_sealed(weights), out)
                os.replace(temporary, file)
            finally:
                with suppress(FileNotFoundError):
                    os.unlink(temporary)


def _sealed(weights: str) -> dict[str, str]:
    return {"weights": weights, "checksum": hashlib.sha256(weights.encode()).hexdigest()}
