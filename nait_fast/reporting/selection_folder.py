"""A selection's folder: its manifest, and the index and signatures behind it where they are still to be found."""

import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nait_fast.config import RULES, SCORES
from nait_fast.errors import BadInput, Damaged, NaitError
from nait_fast.index.reader import Index
from nait_fast.methods import method_of
from nait_fast.methods.foreign import METHOD as FOREIGN
from nait_fast.methods.signature import Signature, load_signature, signature_files
from nait_fast.outputs.fetched import local_copy
from nait_fast.ranking.selection_files import DROPPED_BY, KIND, QUALITY, SELECTED
from nait_fast.ranking.selection_files import SCORES as SCORES_FILE
from nait_fast.ranking.sources import check_index
from nait_fast.rules.constraints import CONSTRAINTS, constraint_of
from nait_fast.storage import values
from nait_fast.storage.files import read_json, read_sealed, sha256_file
from nait_fast.storage.names import MANIFEST, RUN
from nait_fast.urls import is_url

MATCHED = "matched"  # the one way with length that a manifest names, as it makes other scores


@dataclass(frozen=True)
class SelectionFolder:
    """A selection. ``index``: None where it is gone or has changed; ``signatures``: what was scored, one a target,
    in their order, but for those whose scores are another tool's; or none where one is missing; ``files``: those of
    the signatures, by name; ``notes``: what a reader should know of that."""

    folder: Path
    manifest: dict[str, Any]
    targets: list[str]
    methods: list[str]
    index: Index | None
    signatures: list[Signature]
    files: dict[str, Path]
    notes: list[str] = field(default_factory=list)

    @property
    def rows(self) -> int:
        """Rows that were scored."""
        return self.manifest["rows_scored"]

    @property
    def rule(self) -> str:
        """The rule that rows were scored by."""
        return self.manifest.get("rule", RULES[0])

    @property
    def matched(self) -> bool:
        """Whether targets were held against rows of the pool as long as their samples."""
        return "length" in self.manifest

    @property
    def warnings(self) -> list[str]:
        """What was said when it was made."""
        return self.manifest.get("warnings", [])

    @property
    def passed(self) -> list[str]:
        """Names of the constraints."""
        return [line["constraint"] for line in self.manifest.get("constraints", [])]

    @property
    def reordered(self) -> bool:
        """Whether selected.jsonl has another order than the ranks'."""
        return any(constraint_of(name).reorders for name in self.passed if name in CONSTRAINTS)

    @property
    def by_score(self) -> bool:
        """Whether scores alone decided, each row by its own."""
        return self.rule != "roundrobin" and not {"quality", "constraints"} & self.manifest.keys()

    @property
    def more_columns(self) -> dict[str, str]:
        """What scores.parquet tells where more than scores decided: column -> type; nothing where they alone did."""
        more = {QUALITY: "double"} if "quality" in self.manifest else {}
        return more | ({DROPPED_BY: "string"} if "constraints" in self.manifest else {})

    def file(self, name: str) -> Path:
        """The selection's file ``name``. Raises NaitError where it is not the one that the manifest tells of."""
        return _checked(self.folder, self.manifest, name)

    def check_unchanged(self) -> None:
        """Raises NaitError where the folder holds another selection by now: what was read may be of both."""
        try:
            same = read_sealed(self.folder / MANIFEST) == self.manifest
            for name in self.manifest["files"].keys() & {SELECTED, SCORES_FILE} if same else ():
                self.file(name)
        except NaitError:
            same = False
        if not same:
            raise Damaged("has changed while it was read", where=self.folder, remedy="run again once that has ended")

    @property
    def config(self) -> dict[str, Any]:
        return self.manifest["config"]


def open_selection(path: str | os.PathLike[str]) -> SelectionFolder:
    """Open the folder that ``select`` or ``rank`` wrote. Raises NaitError where it is none, or damaged."""
    folder = local_copy(path)
    if not folder.is_dir():
        raise BadInput("no such folder", where=path, remedy="give one that select or rank wrote")
    place = folder / MANIFEST
    if not place.exists() and ((folder / "index" / RUN).exists() or (folder / RUN).exists()):
        raise BadInput("is no finished selection", where=path, remedy="give its command again")
    if not place.exists() or read_json(place).get("kind") != KIND:
        raise BadInput("not a selection", where=path, remedy="give a folder that select or rank wrote")
    manifest = read_sealed(place)
    try:
        _check(manifest)
    except (KeyError, TypeError, ValueError) as error:
        raise Damaged(f"not a valid manifest ({error})", where=place, remedy="select or rank again") from None
    _checked(folder, manifest, SELECTED)
    notes: list[str] = []
    index = _index(folder, manifest, notes)
    files: dict[str, Path] = {}
    signatures = _signatures(folder, manifest, index, notes, files)
    targets, methods = manifest["targets"], manifest["method"]
    return SelectionFolder(folder, manifest, targets, methods, index, signatures, files, notes)


def _checked(folder: Path, manifest: dict[str, Any], name: str) -> Path:
    path, again = folder / name, f"{manifest['verb']} again"
    if not path.is_file():
        raise Damaged("no such file, though the manifest names it", where=path, remedy=again)
    if sha256_file(path) != manifest["files"].get(name):
        raise Damaged("its bytes have changed since it was written (SHA-256 differs)", where=path, remedy=again)
    return path


def _check(manifest: dict[str, Any]) -> None:
    """Raises KeyError, TypeError or ValueError where an entry that is used is not what was ever written."""
    targets = [values.name(name, "targets") for name in values.entries(manifest["targets"], "targets")]
    methods = [values.text(name, "method") for name in values.entries(manifest["method"], "method")]
    if not targets or len(set(targets)) != len(targets) or len(methods) != len(targets):
        raise ValueError(f"targets: {values.short(targets)}")
    for key in ("rows_read", "rows_scored", "rows_selected", "tokens_selected"):
        values.count(manifest[key], key)
    if not 1 <= manifest["rows_selected"] <= manifest["rows_scored"] <= manifest["rows_read"]:
        raise ValueError(f"rows_selected: {values.short(manifest['rows_selected'])}")
    if manifest["verb"] not in ("select", "rank"):
        raise ValueError(f"verb: {values.short(manifest['verb'])}")
    if manifest["scores"] not in SCORES:
        raise ValueError(f"scores: {values.short(manifest['scores'])}")
    if manifest.get("rule", RULES[0]) not in RULES:
        raise ValueError(f"rule: {values.short(manifest['rule'])}")
    if manifest.get("length", MATCHED) != MATCHED:
        raise ValueError(f"length: {values.short(manifest['length'])}")
    for key in ("config", "signatures", "files", "environment", "rows_skipped", "spearman_with_length"):
        values.mapping(manifest[key], key)
    for name in targets:
        values.digest(manifest["signatures"][name], "signatures", 16)
        if manifest["spearman_with_length"][name] is not None:
            values.number(manifest["spearman_with_length"][name], "spearman_with_length")
    values.count(manifest["rows_skipped"]["rows"], "rows_skipped")
    for reason in values.mapping(manifest["rows_skipped"]["reasons"], "rows_skipped").values():
        values.count(reason, "rows_skipped")
    for dataset in values.entries(manifest["datasets"], "datasets"):
        values.text(dataset["path"], "datasets")
        values.count(dataset["rows"], "datasets")
    for key in ("model", "model_name", "template", "template_kind"):
        values.text(manifest[key], key)
    for taken in values.mapping(manifest.get("turns", {}), "turns").values():
        values.count(taken["rows"], "turns")
        values.count(taken["tokens"], "turns")
    for warning in values.entries(manifest.get("warnings", []), "warnings"):
        values.text(warning, "warnings")
    for line in values.entries(manifest.get("constraints", []), "constraints"):
        values.text(line["constraint"], "constraints")
        values.count(line["dropped"], "constraints")
    if "quality" in manifest:
        quality = values.mapping(manifest["quality"], "quality")
        values.text(quality["column"], "quality")
        values.text(quality["scale"], "quality")
        values.number(quality["weight"], "quality")


def _candidates(path: Any, folder: Path) -> Iterator[Path]:
    """Where a path of the manifest may be: it may be relative to where the command ran, which nobody wrote down."""
    if isinstance(path, str) and is_url(path):
        with suppress(NaitError):
            yield local_copy(path)
    elif isinstance(path, str) and path:
        yield from (Path(path), folder / path, folder.parent / path)


def _index(folder: Path, manifest: dict[str, Any], notes: list[str]) -> Index | None:
    named = manifest["config"].get("index")
    places = [folder / "index"] if manifest["verb"] == "select" else list(_candidates(named, folder))
    place = next((p for p in places if (p / MANIFEST).exists()), None)
    again = "select" if manifest["verb"] == "select" else "rank"
    if place is None:
        shown = "index" if manifest["verb"] == "select" else named
        notes.append(
            f"The index ({shown}) is not where it was: what needs the samples' codes is left out. To have it, put it "
            f"back or run {again} again."
        )
        return None
    try:
        index = Index(place)
    except NaitError as error:
        notes.append(f"The index cannot be read ({error}): what needs the samples' codes is left out.")
        return None
    same = index.datasets == manifest["datasets"] and index.rows == manifest["rows_scored"]
    same = same and manifest.get("index", index.manifest["checksum"]) == index.manifest["checksum"]
    if not same or index.manifest["model"] != manifest["model"]:
        notes.append(
            f"The index at {place} has changed since this selection was made: what needs the samples' codes is left "
            f"out. Run {again} again to have it."
        )
        return None
    return index


def _signature_files(places: Iterable[Path]) -> Iterator[Path]:
    """The files ``places``, and those in the folders among them."""
    for place in places:
        with suppress(NaitError):
            yield from signature_files(place)


def _signatures(
    folder: Path, manifest: dict[str, Any], index: Index | None, notes: list[str], files: dict[str, Path]
) -> list[Signature]:
    """One for each target that is not another tool's, or none: those of a name and a hash that the manifest tells,
    matched where they were. ``files`` gets the file of each."""
    named = manifest["config"].get("signature")
    places = [p for path in (named if isinstance(named, list) else []) for p in _candidates(path, folder)]
    if manifest["verb"] == "select":
        places = [folder]
    by_name: dict[str, Signature] = {}
    why: list[str] = []
    for place in _signature_files(places):
        try:
            signature = load_signature(place)
        except NaitError as error:
            why.append(str(error))  # another of the places may hold it; if none does, that is told below
            continue
        if manifest["signatures"].get(signature.name) == signature.hash:
            by_name[signature.name], files[signature.name] = signature, place
    methods = dict(zip(manifest["targets"], manifest["method"], strict=True))
    if foreign := [name for name, method in methods.items() if method == FOREIGN.name]:
        notes.append(
            f"Which layers and neurons made the scores of {', '.join(foreign)} is not told: {FOREIGN.layers_untold}"
        )
    ours = [name for name in methods if name not in foreign]
    missing = [name for name in ours if name not in by_name]
    if missing:
        notes.append(
            f"The signature of {missing[0]} is not where it was, or has changed{''.join(f' ({w})' for w in why[:1])}: "
            "which layers and neurons decided cannot be told."
        )
        return []
    signatures = [by_name[name] for name in ours]
    if index is not None:
        try:
            check_index(index, signatures)
            if "length" in manifest:
                signatures = [method_of(signature.method).matched(signature, index) for signature in signatures]
        except NaitError as error:
            notes.append(f"The signatures do not fit the index ({error}).")
            return []
    return signatures
