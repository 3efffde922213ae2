"""Training runs one after another, each kept as soon as it is done: a rerun does what is missing.

Processes may share the work: a run that another holds is left to it.
"""

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def digest(value: Any) -> str:
    """16 hexadecimal digits over a value that JSON can hold."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def read_runs(path: Path) -> list[dict[str, Any]]:
    """Finished runs, JSON lines; a last line that was cut short by a kill is left out."""
    rows = []
    for line in path.read_bytes().splitlines() if path.exists() else []:  # a character may be cut, too
        try:
            rows.append(json.loads(line))
        except ValueError:
            continue
    return rows


def line_of(row: Mapping[str, Any]) -> bytes:
    """``row`` as it stands in the file."""
    return json.dumps(row, ensure_ascii=False).encode() + b"\n"


def append_run(path: Path, row: dict[str, Any]) -> None:
    """Add ``row`` to the file, on the disk when this returns; a line that was cut short by a kill is ended first."""
    with open(path, "ab+") as file:
        if file.tell():
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                file.write(b"\n")
        file.write(line_of(row))
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def claimed(folder: Path, name: str) -> Iterator[bool]:
    """Whether the run ``name`` is this process's while the block lasts; the end of a process ends its claim."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / f"{name}.lock", "w", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield False
            return
        yield True
