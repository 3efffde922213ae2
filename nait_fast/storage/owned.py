"""Which files in a folder are an index's own: what a build may write over, and what it must leave alone."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path

from nait_fast.errors import BadInput, Damaged, NaitError
from nait_fast.remote.places import Place
from nait_fast.storage.files import is_other_tensors, read_head, read_json
from nait_fast.storage.names import (
    CALIBRATION,
    CODEBOOK,
    INDEX_KIND,
    MANIFEST,
    PLAN_KIND,
    RUN,
    SKIPPED,
    WHITENING,
    WORK,
)

EVENTS = "events.jsonl"
_KINDS = {CODEBOOK: "codebook", CALIBRATION: "calibration", WHITENING: "whitening"}
_SHARD = re.compile(r"shard-\d{5,}\.safetensors")
_PLAN = re.compile(r"plan-(\d{2,}|next)\.json")
_LOG = re.compile(r"log(-\d+)?\.json")
_TEMPORARY = r"(\.\d+-[0-9a-f]{8}\.tmp)?"
_IN_WORK = re.compile(rf"(shard-\d{{5,}}\.json|unit-\d{{5,}}\.(lock|again|failed)){_TEMPORARY}")
_WORK_LEFT = re.compile(rf"{WORK}\.\d+-[0-9a-f]{{8}}\.tmp")


def is_name(name: str) -> bool:
    """Whether an index's build may write or delete a file or folder of this name in its folder."""
    fixed = (MANIFEST, CODEBOOK, CALIBRATION, WHITENING, SKIPPED, RUN, WORK, EVENTS)
    return name in fixed or any(pattern.fullmatch(name) for pattern in (_SHARD, _PLAN, _LOG))


def is_in_work(name: str) -> bool:
    """Whether a file of this name in the folder for notes and locks is one of a build."""
    return _IN_WORK.fullmatch(name) is not None


def check_folder(folder: Path, flag: str = "--output") -> None:
    """Raises NaitError where something is in the way of an index's build in ``folder``: of a name that a build writes
    or deletes, but not of a build's making."""
    begun = is_begun(folder)
    if not begun and os.path.lexists(folder / RUN):
        raise Damaged(
            "not what nait_fast writes there", where=folder / RUN, remedy="choose another folder or delete this one"
        )
    if not begun and os.path.lexists(folder / MANIFEST):
        raise BadInput(f"holds something else ({MANIFEST} without {RUN})", where=folder, remedy="choose another folder")
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        path = Path(entry.path)
        if _WORK_LEFT.fullmatch(entry.name) or entry.name == WORK:
            ours = entry.is_dir(follow_symlinks=False) and all(is_in_work(inner.name) for inner in os.scandir(path))
        elif is_name(entry.name):
            ours = entry.is_file(follow_symlinks=False) and _is_ours(path, begun)
        else:
            continue
        if not ours:
            raise BadInput(
                "is in the way: nait_fast did not write it, and an index of that folder would write over it",
                where=path,
                remedy=f"move it, or choose another {flag}",
            )


def is_begun(folder: Place) -> bool:
    """Whether the folder is an index's, finished or not: ``run.json``, written first of all, says so."""
    try:
        run = read_json(folder / RUN)
    except NaitError:
        return False
    return isinstance(run.get("identity"), dict) and isinstance(run.get("datasets"), list)


def _is_ours(path: Path, begun: bool) -> bool:
    """``begun``: in an index's folder, files that no other program can read are taken by their names: ours, damaged."""
    if path.name == SKIPPED and begun and _lists_skipped(path.parent):
        return True
    check = _LINES.get(path.name)
    if check is not None:
        return check(_head(path))
    if path.suffix == ".safetensors":
        if begun:
            return not is_other_tensors(path)
        try:
            read_head(path, _KINDS.get(path.name, "shard"))
        except NaitError:
            return False
        return True
    try:
        content = read_json(path)
    except NaitError:
        return begun and _LOG.fullmatch(path.name) is None
    if path.name == MANIFEST or _PLAN.fullmatch(path.name):
        return content.get("kind") == (INDEX_KIND if path.name == MANIFEST else PLAN_KIND)
    return path.name == RUN or {"config", "environment"} <= {*content}


def _lists_skipped(folder: Path) -> bool:
    """Whether the manifest vouches for a list of rows left out."""
    try:
        skipped = read_json(folder / MANIFEST).get("skipped")
    except NaitError:
        return False
    return isinstance(skipped, dict) and "sha256" in skipped


def _head(path: Path) -> bytes:
    """The first line, as far as it matters."""
    with open(path, "rb") as file:
        return file.readline(1 << 20)


def _skipped(line: bytes) -> bool:
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        return False
    return isinstance(entry, dict) and {"row", "where", "reason"} <= entry.keys()


def _event(line: bytes) -> bool:
    start = b'{"time": '
    return line.startswith(start) or start.startswith(line)  # a full disk may have cut it


_LINES: dict[str, Callable[[bytes], bool]] = {SKIPPED: _skipped, EVENTS: _event}
