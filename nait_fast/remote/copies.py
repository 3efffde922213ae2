"""Where on this machine results for a URL are made, and copies of results behind one are kept: in folders of the user's
cache, by the URL's own name."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path, PurePath
from urllib.parse import quote, unquote

from nait_fast.env import CACHE, cache_folder
from nait_fast.errors import BadInput
from nait_fast.urls import WEB, is_url, path_of, scheme_of, shown

_OUTPUTS, _COPIES, _SHARDS = "outputs", "results", "shards"
_READ_ONLY = (*WEB, "hf")


def working_folder(url: str, flag: str = "--output") -> Path:
    """The folder on this machine in which results for ``url`` are made. Raises NaitError where none are written there,
    or nothing is kept."""
    where, scheme = f"{flag} {shown(url)}", scheme_of(url)
    if scheme in _READ_ONLY:
        hub = "; --push-to-hub sends a selection to the Hub" if scheme == "hf" else ""
        raise BadInput(
            f"nothing is written to {scheme}://", where=where, remedy=f"name a folder, or s3://… or gs://…{hub}"
        )
    parts = _parts(url)
    if len(parts) < 2 or not all(part.strip(".") for part in parts):
        raise BadInput("names no folder in a bucket", where=where, remedy=f"write {scheme}://BUCKET/FOLDER")
    base = cache_folder()
    if base is None:
        raise BadInput(
            f"results are made on this machine before they are sent, and {CACHE} allows no folder for that",
            where=where,
            remedy=f"unset {CACHE}, or set it to a folder",
        )
    return Path(base, _OUTPUTS, scheme, *parts)


def _parts(url: str) -> list[str]:
    return [quote(part, safe=" @+=,") for part in path_of(shown(url)).strip("/").split("/")]


def shards_folder() -> Path:
    """Where copies of shards are kept, each in a folder of its SHA-256. Raises NaitError where nothing is."""
    return _folder_for_copies(_SHARDS)


def _folder_for_copies(name: str) -> Path:
    base = cache_folder()
    if base is None:
        raise BadInput(
            "results behind a URL are read from copies on this machine, and it allows no folder for them",
            where=CACHE,
            remedy="unset it, or set it to a folder",
        )
    return base / name


def copy_place(url: str, version: str) -> Path:
    """The folder for copies of what the folder behind ``url`` held in one ``version`` of it. Raises NaitError."""
    parts = _parts(url)
    if not all(part.strip(".") for part in parts):
        raise BadInput("names no folder", where=shown(url))
    return Path(_folder_for_copies(_COPIES), version, scheme_of(url), *parts)


def origin_of(path: PurePath) -> str | None:
    """The URL of which a file or folder is a copy; None for any other."""
    base = cache_folder()
    if base is None or not path.is_relative_to(base / _COPIES):
        return None
    return _url_of(path.relative_to(base / _COPIES).parts[1:])


def _url_of(parts: Sequence[str]) -> str | None:
    return f"{parts[0]}://{'/'.join(map(unquote, parts[1:]))}" if len(parts) > 1 else None


def local_folder(path: str | os.PathLike[str], flag: str = "--output") -> Path:
    """A folder for results as it is on this machine: of a URL, the one in which they are made. Raises NaitError."""
    name = os.fspath(path)
    return working_folder(name, flag) if is_url(name) else Path(name)


def refuse_url(path: str | os.PathLike[str] | None, flag: str = "--output") -> None:
    """Raises NaitError for a URL, where something is written that is not sent."""
    if path is not None and is_url(os.fspath(path)):
        raise BadInput(
            "is a URL, and this is written on this machine only", where=f"{flag} {path}", remedy="name a path here"
        )


def with_urls(text: str) -> str:
    """``text`` with the URL of each copy in place of its path here."""
    base = cache_folder()
    if base is None or str(base) not in text:
        return text
    copy = re.compile(re.escape(str(base / _COPIES)) + "/[^\\s'\":;,]*")
    return copy.sub(lambda match: origin_of(Path(match[0])) or match[0], text)


def named(path: PurePath) -> str:
    """What a file or folder of results is called: of one that is made for a URL, or a copy of one there, the URL."""
    base = cache_folder()
    if base is not None and path.is_relative_to(base / _OUTPUTS):
        return _url_of(path.relative_to(base / _OUTPUTS).parts) or str(path)
    return origin_of(path) or str(path)
