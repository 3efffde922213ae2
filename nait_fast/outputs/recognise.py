"""Whether a file in an output folder is ours and as we wrote it; files that say so themselves, in a last comment."""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from typing import Any

from nait_fast.errors import BadInput, Damaged
from nait_fast.storage.files import sha256

CLAIM = ".nait-fast.json"
CONFIG = "config.yaml"
_KIND_BYTES = 64  # the first entry of a sealed file is its kind


class State(Enum):
    """What a file in an output folder is."""

    WHOLE = "ours, as it was written"
    OURS = "of our form, but nobody knows what it was written as, or it has changed"
    FOREIGN = "somebody else's"


Recognise = Callable[[Path], tuple[State, "str | None"]]  # a file without an entry in a claim -> state, its question


def question(value: Any) -> str:
    """A short digest of what a result answers."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode(errors="replace")).hexdigest()[:16]


def foreign(path: Path) -> tuple[State, str | None]:
    """``Recognise`` for files that have no form of their own."""
    return State.FOREIGN, None


def damaged(path: Path, kind: str) -> State:
    """What a sealed file that cannot be read as one of ``kind`` is: ours where its beginning says so."""
    try:
        with open(path, "rb") as file:
            return State.OURS if kind.encode() in file.read(_KIND_BYTES) else State.FOREIGN
    except OSError:
        return State.FOREIGN


def is_plain(path: Path) -> bool:
    """Whether ``path`` is a file, and no link to one."""
    return stat.S_ISREG(os.lstat(path).st_mode)


def refuse(path: Path, state: State, overwrite: bool | None, flag: str = "--output") -> None:
    """Raises NaitError where a file that is there may not be written over; ``overwrite``: None where the command has no
    such option."""
    if state is State.FOREIGN:
        raise BadInput(
            "is in the way: nait_fast did not write it, and would write over it",
            where=path,
            remedy=f"move it, or choose another {flag}",
        )
    if state is State.OURS and not overwrite:
        remedy = f"move it, or choose another {flag}"
        remedy += "" if overwrite is None else "; --overwrite replaces it"
        raise Damaged("is not as nait_fast wrote it last", where=path, remedy=remedy)


Marks = tuple[str, str]  # what begins and ends a comment
HTML: Marks = ("<!-- ", " -->")
YAML: Marks = ("# ", "")


def sealed(data: bytes, of: str, marks: Marks) -> bytes:
    """A file that vouches for itself: ``data``, and in a comment behind it what it answers and its SHA-256."""
    data += b"" if data.endswith(b"\n") else b"\n"
    head = data + f"{marks[0]}nait_fast {of} ".encode()
    return head + f"{sha256(head)}{marks[1]}\n".encode()


def seal_of(path: Path, marks: Marks) -> tuple[State, str | None] | None:
    """What the seal of a file says; None for a file without one."""
    data = path.read_bytes()
    line = data[:-1].rpartition(b"\n")[2]
    match = re.fullmatch(
        re.escape(marks[0]).encode() + rb"nait_fast (\S+) ([0-9a-f]{64})" + re.escape(marks[1]).encode(), line
    )
    if match is None:
        return None
    head = data[: len(data) - 1 - len(marks[1]) - 64]
    return (State.WHOLE if sha256(head) == match[2].decode() else State.OURS), match[1].decode(errors="replace")
