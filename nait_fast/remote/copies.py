"""Where on this machine what lies behind a URL is worked on: a folder of the user's cache, whose name is the URL's."""

from __future__ import annotations

import os
from pathlib import Path, PurePath
from urllib.parse import quote, unquote

from nait_fast.env import CACHE, cache_folder
from nait_fast.errors import BadInput
from nait_fast.urls import WEB, is_url, path_of, scheme_of, shown

_OUTPUTS = "outputs"
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
    parts = path_of(shown(url)).strip("/").split("/")
    if len(parts) < 2 or not all(part.strip(".") for part in parts):
        raise BadInput("names no folder in a bucket", where=where, remedy=f"write {scheme}://BUCKET/FOLDER")
    base = cache_folder()
    if base is None:
        raise BadInput(
            f"results are made on this machine before they are sent, and {CACHE} allows no folder for that",
            where=where,
            remedy=f"unset {CACHE}, or set it to a folder",
        )
    return Path(base, _OUTPUTS, scheme, *(quote(part, safe=" @+=,") for part in parts))


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


def named(path: PurePath) -> str:
    """What a file or folder of results is called: of one that is made for a URL, the URL."""
    base = cache_folder()
    if base is None or not path.is_relative_to(base / _OUTPUTS):
        return str(path)
    scheme, *parts = path.relative_to(base / _OUTPUTS).parts
    return f"{scheme}://{'/'.join(map(unquote, parts))}"
