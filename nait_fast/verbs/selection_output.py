"""The folder of a selection as an output: which files it has, what they answer, what was there before."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nait_fast.config import BudgetOptions, ConstraintOptions
from nait_fast.data.row_conventions import CONVENTIONS
from nait_fast.errors import BadInput, NaitError
from nait_fast.notices import warn
from nait_fast.outputs.recognise import HTML, State, damaged, question, seal_of
from nait_fast.ranking.exports import WRITERS
from nait_fast.ranking.selection_files import DROPPED, KIND, REPORT, SCORES, SELECTED
from nait_fast.ranking.similarity_files import names_of
from nait_fast.remote.copies import local_folder, named
from nait_fast.reporting.formatting import count, listed
from nait_fast.storage import values
from nait_fast.storage.files import make_folder, read_json, read_sealed, sha256_file
from nait_fast.storage.names import MANIFEST, RUN


def selection_folder(path: str) -> Path:
    """The folder of a selection, made if need be; never one that holds an index. Raises NaitError."""
    folder = make_folder(local_folder(path))
    other = None
    if (folder / RUN).exists():
        other = RUN
    elif (folder / MANIFEST).exists() and read_json(folder / MANIFEST).get("kind") != KIND:
        other = MANIFEST
    if other is not None:
        raise BadInput(
            f"holds an index or something else ({other})", where=f"--output {path}", remedy="choose another folder"
        )
    return folder


_ALWAYS = (SELECTED, SCORES, DROPPED, *(file for file, _ in WRITERS.values()))


def names_in(manifest: Mapping[str, Any]) -> list[str]:
    """Files that the ``manifest`` of a selection may name. Raises KeyError and ValueError for no valid one."""
    targets = values.mapping(manifest["signatures"], "signatures")
    return [*_ALWAYS, *names_of([values.name(target, "signatures") for target in targets])]


def selection_names(folder: Path, targets: Sequence[str]) -> list[str]:
    """Files of a selection for ``targets`` in ``folder``, and of the one that is there, whose targets may be others;
    the manifest, which tells of the rest, takes its place last."""
    try:
        manifest = read_sealed(folder / MANIFEST)
        before = [name for name in names_in(manifest) if name in manifest["files"]]
    except (NaitError, KeyError, TypeError, ValueError):
        before = []
    return [*dict.fromkeys([*_ALWAYS, *names_of(targets), *before]), MANIFEST]


def answers(signatures: Mapping[str, str], datasets: Sequence[Mapping[str, Any]]) -> str:
    """The question that a selection answers: which targets' signatures (name -> hash), of which rows."""
    read = ((dataset["sha256"], {k: dataset[k] for k in CONVENTIONS if k in dataset}) for dataset in datasets)
    return question([dict(signatures), [[digest, said] if said else digest for digest, said in read]])


def recognise(path: Path) -> tuple[State, str | None]:
    """What a file in a selection's folder is, by the selection's manifest."""
    place = path.parent / MANIFEST
    try:
        manifest = read_json(place)
        if manifest.get("kind") != KIND:
            return State.FOREIGN, None
        of = answers(manifest["signatures"], manifest["datasets"])
        if path == place:
            read_sealed(place)
            return State.WHOLE, of
        if path.name not in manifest["files"]:
            return State.FOREIGN, None
        return (State.WHOLE if sha256_file(path).startswith(manifest["files"][path.name]) else State.OURS), of
    except (NaitError, KeyError, TypeError, ValueError, AttributeError):
        return (damaged(path, KIND) if path == place else State.FOREIGN), None


def selection_in(folder: Path) -> dict[str, Any] | None:
    """The manifest of the selection that is in the folder; None where there is none, or a damaged one."""
    try:
        manifest = read_sealed(folder / MANIFEST)
        names_in(manifest)
        return manifest
    except (NaitError, KeyError, TypeError, ValueError):
        return None


def warn_of_replaced(before: Mapping[str, Any] | None, manifest: Mapping[str, Any], folder: Path, asked: bool) -> None:
    """Say so where another selection was in the ``folder`` before that of ``manifest``, or more files of it; ``asked``:
    that it shall give way."""
    if before is None:
        return
    other = (before["signatures"], before["files"][SELECTED]) != (manifest["signatures"], manifest["files"][SELECTED])
    gone = [name for name in before["files"] if name not in manifest["files"]]
    was, now = before["config"], manifest["config"]
    chosen_by = [f"--{name.replace('_', '-')} {_shown(was[name])}" for name in _CHOOSING if _differs(was, now, name)]
    were = "was" if len(gone) == 1 else "were"
    if other and not asked:
        how = f" by {', '.join(chosen_by)}" if chosen_by else ""
        lost = f"; its {listed(gone)} {were} removed" if gone else ""
        warn(
            f"{named(folder)}: took the place of another selection{how} ({count(before['rows_selected'], 'row')})"
            f"{lost}; another --output keeps both"
        )
    elif gone and not asked:
        warn(f"{named(folder)}: {listed(gone)} of the selection before, which was of the same rows, {were} removed")
    page = folder / REPORT
    if other and page.is_file() and seal_of(page, HTML) is not None:
        warn(f"{page}: tells of the selection that was here before; write it anew: nait-fast report {named(folder)}")


_CHOOSING = [field.name for kind in (BudgetOptions, ConstraintOptions) for field in dataclasses.fields(kind)]


def _differs(was: Mapping[str, Any], now: Mapping[str, Any], name: str) -> bool:
    return was.get(name) not in (None, False, [], now.get(name))


def _shown(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)
