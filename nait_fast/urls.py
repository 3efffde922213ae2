"""URLs as text: what is one, and what of it may be shown or written down.

A URL may hold a name and password before its host, and the query of a presigned one is a key to the file. Neither ever
goes into a message, a manifest or any other file: these have what ``shown`` leaves.
"""

import re
from pathlib import Path
from typing import Any

CUT = "?…"  # in place of a query
WEB = ("http", "https")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
_IN_TEXT = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://(?:[^\s'\"<>?#]*\?…|[^\s'\"<>]+)")
_QUERY = re.compile(r"[?#]")


def is_url(name: str) -> bool:
    """Whether ``name`` begins as URLs do; no path with a drive's letter does."""
    return _SCHEME.match(name) is not None


def scheme_of(url: str) -> str:
    return url.partition("://")[0].lower()


def path_of(url: str) -> str:
    """What stands behind the scheme, without a query: the host or bucket, and the path there."""
    rest = url.partition("://")[2]
    return _QUERY.split(rest, maxsplit=1)[0] if scheme_of(url) in WEB else rest


def shown(url: str) -> str:
    """``url`` without what may be secret: name and password, and of web addresses the query (``CUT``)."""
    scheme, rest = scheme_of(url), path_of(url)
    query = CUT if rest != url.partition("://")[2] else ""
    host, slash, path = rest.partition("/")
    if "@" in path and re.search(r":[^@]*[^0-9@]", host):  # a password with a slash in it
        host, slash, path = f"{host}/{path}".rpartition("@")[2].partition("/")
    name, at, after = host.rpartition("@")
    if at and (scheme in WEB or ":" in name):  # elsewhere a name alone says where: abfs://container@account
        host = after
    return f"{scheme}://{host}{slash}{path}{query}"


def joined(folder: Any, name: str) -> str:
    """A file of a folder, which may be a URL."""
    return f"{shown(str(folder)).rstrip('/')}/{name}" if is_url(str(folder)) else str(Path(folder) / name)


def without_secrets(text: str) -> str:
    """``text`` with every URL in it as ``shown``."""
    return _IN_TEXT.sub(lambda match: shown(match[0]), text) if "://" in text else text


def all_without_secrets(value: Any) -> Any:
    """A plain value (mapping, list, text or number) as it may be written down: all texts ``without_secrets``."""
    if isinstance(value, str):
        return without_secrets(value)
    if isinstance(value, dict):
        return {key: all_without_secrets(item) for key, item in value.items()}
    return [all_without_secrets(item) for item in value] if isinstance(value, (list, tuple)) else value
