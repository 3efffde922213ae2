"""Files and folders behind URLs, with as much of ``pathlib.Path`` as whoever reads a pool needs."""

from __future__ import annotations

import hashlib
import io
import os
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from functools import cached_property, total_ordering
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from nait_fast.errors import BadInput, NaitError, first_line, missing_extra
from nait_fast.progress import say
from nait_fast.remote.retrying import ASKING_TRIES, TRIES, as_os_error, is_final, wait_before
from nait_fast.urls import CUT, WEB, is_url, path_of, scheme_of, shown

# Scheme -> (package that fsspec needs for it, our extra that brings it).
_PACKAGES = {
    "s3": ("s3fs", "s3"),
    "s3a": ("s3fs", "s3"),
    "gs": ("gcsfs", "gcs"),
    "gcs": ("gcsfs", "gcs"),
    "http": ("aiohttp", "http"),
    "https": ("aiohttp", "http"),
    "hf": ("huggingface_hub", ""),
}
# What tells one version of a file from another, the surest first; each store knows some of them.
_VERSIONS = (
    "generation",
    "ETag",
    "etag",
    "blob_id",
    "xet_hash",
    "Content-MD5",
    "Digest",
    "LastModified",
    "Last-Modified",
    "last_modified",
    "updated",
    "mtime",
    "modified",
    "created",
)
_SILENT = 5.0  # after so many without an answer it is said
_SILENCE_SECONDS = 60  # of a server, after which its connection counts as cut

T = TypeVar("T")


def place_of(name: str | os.PathLike[str]) -> Path | RemotePath:
    """What a path or URL names, whether it is there or not. Raises NaitError for a URL that nothing can read."""
    name = os.fspath(name)
    if not is_url(name):
        return Path(name)
    if scheme_of(name) == "file":
        return Path("/" + path_of(name).lstrip("/"))
    return RemotePath(name)


@total_ordering
class RemotePath:
    """A file or folder behind a URL. ``str`` is what may be shown of it; only ``url`` may hold secrets.

    What is asked of the store raises OSError as for a path, its text without secrets, or NaitError; a connection that
    fails is tried again. What the store said of a file is kept: of one in a folder, what the folder's listing says.
    """

    def __init__(self, url: str, store: Any = None):
        if url.endswith(CUT):
            raise BadInput(
                "its query, which may have been a key to it, was not kept",
                where=url,
                remedy="give the whole URL again (a pool's with --dataset)",
            )
        scheme = scheme_of(url)
        rest = url.partition("://")[2]
        self.url = f"{scheme}://{rest if scheme in WEB else rest.rstrip('/')}"
        self.scheme, self._store = scheme, store
        self._path = PurePosixPath("/" + path_of(self.url).strip("/"))

    def __str__(self) -> str:
        return shown(self.url)

    def __repr__(self) -> str:
        return f"RemotePath({str(self)!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RemotePath) and self.url == other.url

    def __lt__(self, other: RemotePath) -> bool:
        return self._path.parts < other._path.parts

    def __hash__(self) -> int:
        return hash(self.url)

    @property
    def name(self) -> str:
        return self._path.name

    @property
    def suffix(self) -> str:
        return self._path.suffix

    @property
    def parent(self) -> RemotePath:
        return RemotePath(self.url.rstrip("/").rpartition("/")[0], self._store)

    def __truediv__(self, name: str) -> RemotePath:
        path = RemotePath(f"{self.url.rstrip('/')}/{name}", self._store)
        if "/" not in name and self.is_dir():
            path.info = self._entries.get(name)
        return path

    def relative_to(self, folder: RemotePath) -> PurePosixPath:
        return self._path.relative_to(folder._path)

    @property
    def store(self) -> Any:
        """The fsspec file system. Raises NaitError where there is none for the scheme, or its package is missing."""
        if self._store is None:
            self._store = _store_of(self.url)
        return self._store

    @property
    def key(self) -> str:
        """What the file system calls it."""
        return self.store._strip_protocol(self.url)

    @cached_property
    def info(self) -> dict[str, Any] | None:
        """What the store says of it; None where nothing is there."""
        return self.asked()

    def asked(self) -> dict[str, Any] | None:
        """``info``, asked anew."""
        named = {"refresh": True} if self.scheme == "hf" else {}
        try:
            return self.trying(lambda: self.store.info(self.key, **named), ASKING_TRIES)
        except FileNotFoundError:
            return None

    def trying(self, ask: Callable[[], T], tries: int = TRIES) -> T:
        """What ``ask`` returns, asked again where the connection failed. Raises OSError."""
        began, told = time.monotonic(), False
        for attempt in range(tries):
            try:
                return ask()
            except NaitError:
                raise
            except Exception as error:  # every store raises errors of its own
                if is_final(error) or attempt == tries - 1:
                    raise as_os_error(error) from None
                if not told and (told := time.monotonic() - began > _SILENT):
                    say(f"{self}: no answer ({as_os_error(error).strerror}); trying on")
                time.sleep(wait_before(attempt))
        raise AssertionError("no tries")

    def exists(self) -> bool:
        return self.info is not None

    def is_dir(self) -> bool:
        return self.scheme not in WEB and self.info is not None and self.info.get("type") == "directory"

    def is_file(self) -> bool:
        return self.info is not None and self.info.get("type") == "file"

    def is_symlink(self) -> bool:
        return False

    def _there(self) -> dict[str, Any]:
        if self.info is None:
            raise FileNotFoundError(2, "No such file or directory", str(self))
        return self.info

    @property
    def size(self) -> int | None:
        """In bytes; None where the server does not say it. Raises OSError for no file."""
        size = self._there().get("size")
        return None if size is None else int(size)

    @property
    def sha256(self) -> str | None:
        """The SHA-256 of the file's bytes, where the store vouches for it: the Hub does of its large files."""
        lfs = (self.info or {}).get("lfs") if self.scheme == "hf" else None
        return getattr(lfs, "sha256", None)

    def stat(self) -> os.stat_result:
        """Of which only ``st_size`` says something."""
        return os.stat_result((0, 0, 0, 0, 0, 0, self.size or 0, 0, 0, 0))

    def stamp(self, anew: bool = False) -> list[int]:
        """Numbers that change when the file does: its size, and its version or date; none where the store tells
        neither. ``anew``: as it is now. Raises OSError where it is gone."""
        info = self.asked() if anew else self.info
        if info is None:
            raise FileNotFoundError(2, "No such file or directory", str(self))
        return stamp_of(info, self.info or {})

    @cached_property
    def _entries(self) -> dict[str, dict[str, Any]]:
        """Name -> info, of what lies in the folder."""
        try:
            entries = self.trying(lambda: self.store.ls(self.key, detail=True), ASKING_TRIES)
        except FileNotFoundError:
            return {}
        folder = self.key.strip("/")  # some stores list a folder in itself
        places = {entry["name"].strip("/"): entry for entry in entries}
        return {place.rpartition("/")[2]: entry for place, entry in places.items() if place != folder}

    def iterdir(self) -> Iterator[RemotePath]:
        """What lies in the folder. Raises OSError."""
        return (self / name for name in self._entries)

    def open(self, mode: str = "rb", buffering: int = io.DEFAULT_BUFFER_SIZE) -> io.BufferedReader:
        """The file's bytes. Raises OSError."""
        from nait_fast.remote.reading import RemoteFile

        assert mode == "rb"
        return io.BufferedReader(RemoteFile(self), max(1, buffering))

    def read_bytes(self) -> bytes:
        with self.open() as file:
            return file.read()


Place = Path | RemotePath


def stamp_of(info: dict[str, Any], before: dict[str, Any] | None = None) -> list[int]:
    """``RemotePath.stamp`` by what a store says of a file, to be held against what it said ``before``."""
    before = info if before is None else before
    told_by = next((key for key in _VERSIONS if before.get(key)), None)
    if told_by is None:
        return []
    version = info.get(told_by) or before[told_by]  # some listings say more than what is said of one file
    version = version.timestamp() if isinstance(version, datetime) else version
    size, digest = info.get("size"), hashlib.sha256(str(version).encode()).hexdigest()
    return [-1 if size is None else int(size), int(digest[:15], 16)]


def _store_of(url: str) -> Any:
    import fsspec

    scheme = scheme_of(url)
    named: dict[str, Any] = {"use_listings_cache": False}
    package, extra = _PACKAGES.get(scheme, ("", ""))
    try:
        if scheme in WEB:
            import aiohttp

            # Bytes as they are stored, and as long as some come: fsspec's default ends every download after 5 minutes.
            timeout = aiohttp.ClientTimeout(total=None, sock_connect=_SILENCE_SECONDS, sock_read=_SILENCE_SECONDS)
            named = {
                "client_kwargs": {"auto_decompress": False, "timeout": timeout},
                "headers": {"Accept-Encoding": "identity"},
                "encoded": "%" in url,
            }
        return fsspec.filesystem(scheme, **named)
    except ImportError as error:
        if package:
            raise missing_extra(package, extra, f"{scheme}:// needs {package}", shown(url)) from None
        raise BadInput(first_line(error, kind=False), where=shown(url), remedy="install that") from None
    except ValueError:
        known = "s3://, gs://, hf://datasets/…, https://"
        raise BadInput(f"{scheme}:// is nothing that is read", where=shown(url), remedy=f"give {known}") from None
