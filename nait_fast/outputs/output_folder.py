"""Output folders: one command at a time writes there, and only over what nait_fast itself has written.

A folder's claim, a small sealed file, says of each file of ours what it was when it was finished. What a command
writes lies in a folder of its own until all is there, and is claimed before it takes its place: a run that is killed
leaves the results before it as they were, and a file that comes there later is not taken for ours. Any other file is
somebody else's: one with a name that we would write or delete is refused, all others are left alone.
"""

from __future__ import annotations

import os
import re
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from nait_fast.errors import Damaged, Mismatch, NaitError
from nait_fast.notices import warn
from nait_fast.outputs.inputs import check_folders, check_inputs
from nait_fast.outputs.recognise import CLAIM, CONFIG, Recognise, State, foreign, is_plain, refuse
from nait_fast.remote.places import Place, RemotePath
from nait_fast.storage.files import make_folder, read_sealed, sha256_file, write_sealed
from nait_fast.storage.lock import FOLDER_LOCK, OutputLock, is_held
from nait_fast.storage.names import LOCK, RUN
from nait_fast.storage.owned import is_begun, is_name
from nait_fast.urls import is_url

STAGE = ".nait-fast.new"  # in an output: what is being written
KIND = "nait_fast output"
_TEMPORARY = re.compile(r"(?P<name>.+)\.\d+-[0-9a-f]{8}\.tmp")  # of files.atomic_file
_CONFIG_SECONDS = 60.0  # no temporary file of it is written for so long
# files, next: name -> sha256 and question, of files that are there, and of those about to take their place; staged:
# names that may lie in the folder of what is being written
_BLANK: dict[str, Any] = {"files": {}, "next": {}, "asked": None, "staged": []}


class Output:
    """An output folder; with ``with``, this command's alone.

    ``names``: the files that the command may write or delete in it. ``recognise``: what a file is that no claim tells
    of. ``inputs``: (flag, path) of what the command reads. ``overwrite``: replace results of ours that have changed
    or answer another question. ``lock``: false for a folder within one that is locked.

    Entering raises NaitError, before anything is written, where another command is at it, where a file is in the way,
    and where an input would be written over; it removes the temporary files that killed runs have left.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        names: Iterable[str],
        *,
        recognise: Recognise = foreign,
        inputs: Iterable[tuple[str, str]] = (),
        overwrite: bool = False,
        flag: str = "--output",
        lock: bool = True,
    ):
        self.folder = make_folder(path, flag)
        self.names = list(dict.fromkeys(names))
        self._recognise, self._inputs, self._overwrite, self._flag = recognise, list(inputs), overwrite, flag
        output_lock = OutputLock(self.folder / FOLDER_LOCK, f"{flag} {path}", alone=self._sweep)
        self._lock = output_lock if lock else None
        self._claim: dict[str, Any] = _BLANK
        self._questions: dict[str, str | None] = {}
        self._seen: dict[str, tuple[int, ...]] = {}  # what was checked
        self._begun: tuple[int, int] | None = None  # the folder that was made for what is written

    def __enter__(self) -> Output:
        check_folders(self.folder, self._inputs, self._flag)
        if self._lock is not None:
            self._lock.acquire()
        try:
            self._claim = _load_claim(self.folder)
            check_inputs(self.folder, self.names.__contains__, self._inputs, self._flag)
            for name in self.names:
                self._check(name)
        except BaseException:
            self._leave()
            raise
        return self

    def _leave(self) -> None:
        """Give the lock back without having been here."""
        if self._lock is not None:
            self._lock.leave()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is not None and issubclass(kind, (Exception, KeyboardInterrupt)) and self._begun is not None:
                self._give_up()
        finally:
            if self._lock is not None:
                self._lock.release()

    def _give_up(self) -> None:
        """Take away what was written for ``done``, which will not come: a full disk has its room back."""
        with suppress(OSError, NaitError):
            if _place_of(self.stage) == self._begun and self._clear() is None:
                if any(self._claim[key] for key in ("files", "next", "asked")):
                    self._save({**self._claim, "staged": []})
                else:
                    (self.folder / CLAIM).unlink()
        self._begun = None

    def _sweep(self) -> None:
        claim = _load_claim(self.folder)
        sweep(self.folder, {*self.names, *claim["files"], CLAIM}.__contains__)

    def _check(self, name: str) -> None:
        path = self.folder / name
        if not os.path.lexists(path):
            return
        status = os.lstat(path)
        if self._seen.get(name) == (seen := (status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)):
            return
        self._seen[name] = seen
        state, self._questions[name] = self._state(name, path)
        refuse(path, state, self._overwrite, self._flag)

    def _state(self, name: str, path: Path) -> tuple[State, str | None]:
        if not is_plain(path):
            return State.FOREIGN, None
        claims = [entries[name] for entries in (self._claim["next"], self._claim["files"]) if name in entries]
        if not claims:
            return self._recognise(path)
        digest = sha256_file(path)
        of = [entry["of"] for entry in claims if entry["sha256"] == digest]
        return (State.WHOLE, of[0]) if of else (State.OURS, claims[-1]["of"])

    @property
    def asked(self) -> str | None:
        """What the results in the folder were asked with, as ``done`` was told; None where there are none."""
        return self._claim["asked"] if self.holds_results else None

    @property
    def holds_results(self) -> bool:
        return any(value is not None for value in self._questions.values())

    def check_question(self, of: str, what: str, names: Iterable[str] | None = None) -> None:
        """Raises NaitError where a result that is there answers another question than ``of``, unless it may be
        replaced. ``what``: what differs, in words."""
        questions = self._questions if names is None else {name: self._questions.get(name) for name in names}
        other = [name for name, value in questions.items() if value is not None and value != of]
        if other and not self._overwrite:
            raise Mismatch(
                f"holds another result ({what})",
                where=self.folder / other[0],
                remedy=f"choose another {self._flag}, or pass --overwrite to replace it",
            )

    @property
    def stage(self) -> Path:
        """The folder that ``begin`` has made."""
        return self.folder / STAGE

    def begin(self) -> Path:
        """The folder to write the files in; ``done`` puts them in their places. Raises NaitError where something has
        come in the way meanwhile."""
        for name in self.names:
            self._check(name)
        stage = self.stage
        if os.path.lexists(stage):
            if not self._claim["staged"] or stage.is_symlink() or not stage.is_dir():
                refuse(stage, State.FOREIGN, None, self._flag)
            if (other := self._clear()) is not None:
                refuse(other, State.FOREIGN, None, self._flag)
        # What an earlier run had put in place when it was killed is no longer about to come: it is there.
        came = {n: e for n, e in self._claim["next"].items() if self._is_there(n, e)}
        files = {**self._claim["files"], **came}
        self._save({**self._claim, "files": files, "next": {}, "staged": sorted(self.names)})
        with _failures_named(stage):
            stage.mkdir()
            self._begun = _place_of(stage)
        return stage

    def _is_there(self, name: str, entry: Mapping[str, str]) -> bool:
        path = self.folder / name
        return os.path.lexists(path) and is_plain(path) and sha256_file(path) == entry["sha256"]

    def _clear(self) -> Path | None:
        """Remove the folder of what is written, as the claim tells of it; what else lies in it stays, and the first of
        that is returned."""
        for entry in sorted(os.scandir(self.stage), key=lambda entry: entry.name):
            match = _TEMPORARY.fullmatch(entry.name)
            name = entry.name if match is None else match["name"]
            if name not in self._claim["staged"] or not entry.is_file(follow_symlinks=False):
                return Path(entry.path)
            with _failures_named(Path(entry.path)):
                os.unlink(entry.path)
        with _failures_named(self.stage):
            self.stage.rmdir()
        return None

    def done(self, of: str | Mapping[str, str], asked: str | None = "") -> None:
        """All is written: the files take their places, those of an earlier run that were not written now are removed.
        ``of``: the question that the files answer, or that of each name; ``asked``: what the folder as a whole was
        asked (by default, what it was before). Raises NaitError where something has come in the way meanwhile."""
        stage, new = self.stage, {}
        if self._begun is None or _place_of(stage) != self._begun:
            raise Damaged(
                "was taken away while it was written to; the results are as they were", where=stage, remedy="run again"
            )
        for name in self.names:
            self._check(name)  # somebody may have put a file there meanwhile
            if os.path.lexists(path := stage / name):
                if not is_plain(path):
                    refuse(path, State.FOREIGN, None, self._flag)
                new[name] = {"sha256": sha256_file(path), "of": of if isinstance(of, str) else of[name]}
        asked = self._claim["asked"] if asked == "" else asked
        self._save({**self._claim, "next": new, "asked": asked})
        for name in self.names:
            self._check(name)
            with _failures_named(self.folder / name):
                if name in new:
                    os.replace(stage / name, self.folder / name)
                else:
                    (self.folder / name).unlink(missing_ok=True)  # of an earlier run: it would not fit the rest
        others = {n: e for n, e in self._claim["files"].items() if n not in self.names and (self.folder / n).exists()}
        try:
            stage.rmdir()
        except OSError:
            warn(f"{stage}: holds what nait_fast did not write; move it, or the next command is refused this folder")
        self._begun = None
        self._save({**_BLANK, "files": dict(sorted({**others, **new}.items())), "asked": asked})

    def _save(self, claim: dict[str, Any]) -> None:
        write_sealed(self.folder / CLAIM, {"kind": KIND, **claim})
        self._claim = claim


@contextmanager
def removed_if_empty(output: str | None) -> Iterator[None]:
    """Where the block ends in an error, an ``output`` that was not there before it goes again, unless something is in
    it."""
    made = output is not None and not is_url(output) and not os.path.lexists(output)
    try:
        yield
    except NaitError:
        if made:
            with suppress(OSError, ValueError):
                _remove_empty(Path(str(output)))
        raise


def _remove_empty(folder: Path) -> None:
    """Remove a folder that holds nothing but such folders and locks that nobody has; OSError where it holds more."""
    for inner in list(folder.iterdir()):
        if inner.is_dir() and not inner.is_symlink():
            _remove_empty(inner)
        elif inner.name in (FOLDER_LOCK, LOCK) and not is_held(inner):
            inner.unlink()
    folder.rmdir()


@contextmanager
def _failures_named(path: Path) -> Iterator[None]:
    """Whatever the system refuses in one line."""
    try:
        yield
    except OSError as error:
        raise NaitError(
            f"{path}: cannot be written, moved or removed ({error.strerror or error}); mend that and run again"
        ) from None


def _place_of(folder: Path) -> tuple[int, int] | None:
    """Which folder this is; None where there is none, or a link to one."""
    try:
        status = os.lstat(folder)
    except OSError:
        return None
    return (status.st_dev, status.st_ino) if stat.S_ISDIR(status.st_mode) else None


def _load_claim(folder: Place) -> dict[str, Any]:
    path = folder / CLAIM
    if not (path.exists() if isinstance(path, RemotePath) else os.path.lexists(path)):
        return _BLANK
    try:
        claim = read_sealed(path)
        files, new = (
            {str(name): {"sha256": str(e["sha256"]), "of": str(e["of"])} for name, e in claim[key].items()}
            for key in ("files", "next")
        )
        asked = None if claim["asked"] is None else str(claim["asked"])
        if claim["kind"] != KIND:
            raise KeyError("kind")
        return {"files": files, "next": new, "asked": asked, "staged": [str(name) for name in claim["staged"]]}
    except (NaitError, KeyError, TypeError, AttributeError):
        raise Damaged(
            "damaged",
            where=path,
            remedy=(
                "it tells which files there are of nait_fast: choose another folder, or delete it "
                "together with the results"
            ),
        ) from None


def own_names(folder: Place) -> Callable[[str], bool]:
    """Which names in ``folder`` are of results of nait_fast. Raises NaitError where the claim of these is damaged."""
    claim = _load_claim(folder)
    names = {*claim["files"], *claim["next"]}
    begun = (folder / RUN).is_file() and is_begun(folder)
    return lambda name: name in names or name in (CLAIM, FOLDER_LOCK) or (begun and is_name(name))


def sweep(folder: Path, ours: Callable[[str], bool]) -> None:
    """Remove the temporary files of names that are ``ours``: for who has the folder alone, when nobody writes."""
    for entry in list(os.scandir(folder)):
        match = _TEMPORARY.fullmatch(entry.name)
        if match is None or not entry.is_file(follow_symlinks=False):
            continue
        # The command line writes its options when the lock has been given back: one may be done with them just now.
        with suppress(FileNotFoundError):
            old = match["name"] == CONFIG and time.time() - os.stat(entry.path).st_mtime > _CONFIG_SECONDS
            if old or ours(match["name"]):
                os.unlink(entry.path)
