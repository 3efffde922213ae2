"""What a command reads must not be what it writes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from nait_fast.config import split_target
from nait_fast.errors import BadInput
from nait_fast.options import Options, flag_of
from nait_fast.outputs.recognise import CLAIM
from nait_fast.urls import is_url

_READ = (
    "dataset",
    "target",
    "model",
    "tokenizer",
    "codebook",
    "exact",
    "index",
    "signature",
    "foreign_scores",
    "selection",
    "held_out",
    "general",
    "evaluation",
    "validation",
    "decontaminate",
    "decontaminate_codes",
)
_NAMED = ("target", "held_out", "foreign_scores")  # as NAME=FILE
_MOST_INPUTS = 100_000  # files of a folder that is read; beyond that a name is not looked up


def inputs_of(options: Options) -> list[tuple[str, str]]:
    """(flag, path) of what a command with these options reads."""
    inputs = []
    for name in _READ:
        value = getattr(options, name, None)
        for item in value if isinstance(value, tuple) else (value,):
            if item:
                inputs.append((flag_of(name), split_target(item)[1] if name in _NAMED else str(item)))
    quality = getattr(options, "quality", None) or ""
    return [*inputs, ("--quality", quality.rpartition("#")[0])] if "#" in quality else inputs


def check_inputs(
    folder: Path, ours: Callable[[str], bool], inputs: Iterable[tuple[str, str]], flag: str = "--output"
) -> None:
    """Raises NaitError where a file that is read is one that may be written or deleted: a name in ``folder`` that is
    ``ours``, whatever links or spelling lead there."""
    written = {_place(Path(entry.path)): entry.path for entry in os.scandir(folder) if ours(entry.name)}
    if not written:
        return
    for given, path, source in _sources(inputs):
        for file in _files_of(source, _place(folder)):
            if (place := _place(file)) is not None and place in written:
                raise BadInput(
                    f"would be written over, but {given} {path} reads it",
                    where=written[place],
                    remedy=f"choose another {flag}",
                )


def check_folders(folder: Path, inputs: Iterable[tuple[str, str]], flag: str = "--output") -> None:
    """Raises NaitError where ``folder``, an output, is itself one that is read. Before anything is put there."""
    for given, _, source in _sources(inputs):
        if source.is_dir() and _place(source) == _place(folder):
            raise BadInput(
                f"is the folder that {given} reads: what is written there would be read as a part of it",
                where=f"{flag} {folder}",
                remedy="choose another folder",
            )


def _sources(inputs: Iterable[tuple[str, str]]) -> Iterator[tuple[str, str, Path]]:
    """(flag, what was given, path) of those inputs that lie on this machine."""
    for given, path in inputs:
        if is_url(path):
            continue
        source = Path(path)
        if _place(source) is None and ":" in path:  # FOLDER:SPLIT
            source = Path(path.rpartition(":")[0])
        if _place(source) is not None:
            yield given, path, source


def _place(path: Path) -> tuple[int, int] | None:
    """What a path leads to, however it is written; None where there is nothing."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    return status.st_dev, status.st_ino


def _files_of(source: Path, output: tuple[int, int] | None) -> Iterator[Path]:
    """The files under ``source``, those of the output folder and of other outputs in it left out."""
    if not source.is_dir():
        yield source
        return
    number = 0
    for base, folders, files in os.walk(source):
        folders[:] = [f for f in folders if _place(Path(base, f)) != output and not Path(base, f, CLAIM).exists()]
        for file in files:
            number += 1
            if number > _MOST_INPUTS:
                return
            yield Path(base, file)
