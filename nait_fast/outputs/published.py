"""Output folders behind URLs: made in a folder on this machine, and sent when they are whole.

While a command writes, an object beside the results says who it is, as the lock of a folder does, and how long ago it
was last heard of. Another object lists what is there of ours and whether it is whole. A file is sent once: what was
sent is known by its size and time here and its version there. A manifest goes last, and before files under one are
replaced it is taken away: who reads sees a whole result or none.
"""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from nait_fast.env import WORKERS
from nait_fast.errors import BadInput, Busy, Damaged, NaitError
from nait_fast.notices import warn
from nait_fast.outputs.output_folder import STAGE
from nait_fast.progress import say
from nait_fast.remote.copies import working_folder
from nait_fast.remote.places import RemotePath, stamp_of
from nait_fast.storage import lock, values
from nait_fast.storage.files import read_json, sha256_file, write_json
from nait_fast.storage.lock import FOLDER_LOCK
from nait_fast.storage.names import LOCK, MANIFEST, WORK
from nait_fast.urls import is_url

LISTING = ".nait-fast.remote.json"  # here: what was sent; there: what is there
KIND = "nait_fast remote folder"
BEAT_SECONDS, SILENT_SECONDS = 30.0, 600.0  # how often a writer is heard of; after how long it counts as dead
_LOOK_SECONDS = 1.0  # between two looks for shards that are finished
_PART_BYTES = 16 << 20  # of a file that is sent, at once
_NOT_SENT = (FOLDER_LOCK, LOCK, LISTING)


@contextmanager
def published(output: str | None, quiet: bool = True, repair: bool = False) -> Iterator[None]:
    """Inside the block a command writes into ``local_folder(output)``; where ``output`` is a URL, the results are sent
    there at its end, unless it ends in an error. ``repair``: the command makes shards again that are not there. Raises
    NaitError where that cannot be."""
    if output is None or not is_url(output):
        yield
        return
    if any(os.environ.get(world, "1") != "1" and rank in os.environ for rank, world, _ in WORKERS):
        raise BadInput(
            "several workers that were started apart share a folder of a file system",
            where=f"--output {output}",
            remedy="name one, or start one command with --workers",
        )
    place = _Published(output, quiet, repair)
    place.begin()
    try:
        with place.sending_shards():
            yield
        place.send()
    finally:
        place.end()


class _Published:
    def __init__(self, url: str, quiet: bool, repair: bool):
        self.folder = working_folder(url)
        self.place, self._quiet, self._repair = RemotePath(url), quiet, repair
        self._store, self._key = self.place.store, self.place.key.rstrip("/")
        self._lost = False  # somebody else has taken the lock
        self._there: dict[str, Any] = {}  # the listing there
        self._sent: dict[str, Any] = {}  # name -> size and time here, stamp there, SHA-256, of what is the same in both
        self._sending = threading.Lock()
        self._note = lock.note_of(None)

    # The lock.

    def begin(self) -> None:
        """Take the lock, and have here what is there. Raises NaitError."""
        with _failures(self.place):
            self._acquire()
        try:
            with _failures(self.place):
                self._meet()
        except BaseException:
            self.end()
            raise

    def _acquire(self) -> None:
        for _ in range(3):
            try:
                self._pipe(FOLDER_LOCK, self._lock_bytes(), mode="create")
                return
            except FileExistsError:
                pass
            if (held := self._read(FOLDER_LOCK)) is None:
                continue
            silent = time.time() - float(held.get("beat", 0))
            if not lock.is_gone(held) and silent < SILENT_SECONDS:
                raise Busy(
                    f"in use by {lock.described([held])}",
                    where=f"--output {self.place}",
                    remedy=f"wait until it has ended, or choose another output; it counts as dead after "
                    f"{SILENT_SECONDS / 60:.0f} minutes without a sign of life",
                )
            if self._read(FOLDER_LOCK) == held:
                self._remove(FOLDER_LOCK)
        raise Busy("several commands want it at once", where=f"--output {self.place}", remedy="run again")

    def _lock_bytes(self) -> bytes:
        return json.dumps({**self._note, "beat": time.time()}).encode()

    def end(self) -> None:
        """Give the lock back."""
        with suppress(OSError, NaitError):
            if self._is_ours():
                self._remove(FOLDER_LOCK)

    def _is_ours(self) -> bool:
        held = self._read(FOLDER_LOCK)
        return held is not None and all(held.get(key) == value for key, value in self._note.items())

    # What is there, and what is here.

    def _meet(self) -> None:
        """Have here what is there, if that is whole and has been written from elsewhere."""
        objects, there = self._objects(), self._listing()
        if there is None and (others := sorted(objects.keys() - {FOLDER_LOCK})):
            raise BadInput(
                f"holds what nait_fast did not write ({', '.join(others[:3])}{', …' if len(others) > 3 else ''})",
                where=f"--output {self.place}",
                remedy="choose another folder",
            )
        self._there = there or {"kind": KIND, "whole": False, "files": {}}
        if there is None:
            self._list()
        self.folder.mkdir(parents=True, exist_ok=True)
        with suppress(NaitError, KeyError):
            self._sent = read_json(self.folder / LISTING)["files"]
        if self._there["whole"] and not all(self._is_here(name, objects) for name in self._there["files"]):
            if any(not self._is_sent(path) for path in self._files()):
                warn(f"{self.place}: written from elsewhere since; what was begun here for it is dropped")
            _clear(self.folder)
            before, self._sent = self._sent, {}
            self._fetch_all(objects, before)

    def _is_here(self, name: str, objects: dict[str, Any]) -> bool:
        """Whether a file there is the one that was sent from here, or fetched."""
        entry = self._sent.get(name)
        return entry is not None and entry[1] == _stamp(objects.get(name)) and (self.folder / name).is_file()

    def _fetch_all(self, objects: dict[str, Any], before: dict[str, Any]) -> None:
        """``before``: what was sent from here, or fetched, the last time."""
        same = MANIFEST in before and before[MANIFEST][1] == _stamp(objects.get(MANIFEST))
        files = self._there["files"]
        say(f"fetching {self.place}: {len(files):,} files, {sum(files.values()) / 1e9:,.2f} GB", self._quiet)
        for name, size in files.items():
            if name not in objects or objects[name]["size"] != size:
                shard = name.rpartition("/")[2].startswith("shard-")
                if shard and self._repair:
                    continue
                remedy = "make it again with index --repair" if shard else "choose another folder"
                raise Damaged("is missing, or not what was written", where=f"{self.place}/{name}", remedy=remedy)
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            self.place.trying(partial(self._store.get_file, f"{self._key}/{name}", str(path)))
            self._sent[name] = [_status(path), _stamp(objects[name]), sha256_file(path)]
            if same and name in before and before[name][2] != self._sent[name][2]:
                warn(
                    f"{self.place}/{name}: its bytes are others than were sent, under the same manifest: something has "
                    "changed them (verify tells what is damaged, index --repair makes shards again)"
                )
        self._keep()

    def _listing(self) -> dict[str, Any] | None:
        listing = self._read(LISTING)
        if listing is None:
            return None
        try:
            files = {_inside(name): values.count(size, name) for name, size in listing["files"].items()}
            if listing["kind"] != KIND:
                raise ValueError("kind")
            return {"kind": KIND, "whole": bool(listing["whole"]), "files": files}
        except (KeyError, ValueError, AttributeError):
            raise self._damaged(LISTING) from None

    def _damaged(self, name: str) -> NaitError:
        remedy = "delete it together with the results, or choose another folder"
        return Damaged("not what nait_fast writes there", where=f"{self.place}/{name}", remedy=remedy)

    def _files(self) -> list[Path]:
        """What is sent, as it is here: deeper files first, a manifest after all that it tells of."""
        found = []
        for base, folders, names in os.walk(self.folder):
            folders[:] = [name for name in folders if name != STAGE and not name.startswith(WORK)]
            found += [Path(base, name) for name in names if name not in _NOT_SENT and not name.endswith(".tmp")]
        return sorted(found, key=lambda path: (path.name == MANIFEST, -len(path.parts), path))

    def _name(self, path: Path) -> str:
        return path.relative_to(self.folder).as_posix()

    def _is_sent(self, path: Path) -> bool:
        entry, status = self._sent.get(self._name(path)), _status(path)
        if entry is None or entry[0][0] != status[0]:
            return False
        if entry[0] != status and entry[2] == sha256_file(path):  # written again, to the same bytes
            entry[0] = status
        return entry[0] == status

    # Sending.

    @contextmanager
    def sending_shards(self) -> Iterator[None]:
        """Meanwhile shards are sent as they are finished, and the lock is kept alive."""
        stop = threading.Event()
        thread = threading.Thread(target=self._in_background, args=(stop,), name="nait_fast sending", daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
            self._keep()

    def _in_background(self, stop: threading.Event) -> None:
        beaten, kept = time.monotonic(), 0.0
        while not stop.wait(_LOOK_SECONDS):
            with suppress(OSError, NaitError):  # ``send`` tries again, and tells
                if time.monotonic() - beaten > BEAT_SECONDS:
                    beaten = time.monotonic()
                    self._beat()
                new = [path for path in self.folder.glob("**/shard-*.safetensors") if self._is_new(self._name(path))]
                for path in sorted(new) if not self._lost else ():
                    if stop.is_set():
                        break
                    self._send(path)
                    if time.monotonic() - kept > 1e-3 * len(self._sent):  # each time, while that costs nothing
                        kept = time.monotonic()
                        self._keep()

    def _is_new(self, name: str) -> bool:
        return name not in self._sent and name not in self._there["files"]

    def _beat(self) -> None:
        if self._is_ours():
            self._pipe(FOLDER_LOCK, self._lock_bytes())
        else:
            self._lost = True

    def send(self) -> None:
        """Send what is not there yet. Raises NaitError; then the same command sends the rest."""
        try:
            with _failures(self.place):
                self._send_all()
        except NaitError as error:
            remedy = f"the results are whole in {self.folder}; the same command sends what is missing"
            raise error.replace(remedy=remedy) from None
        finally:
            self._keep()

    def _send_all(self) -> None:
        if self._lost or not self._is_ours():
            raise Busy("another command has taken it meanwhile", where=self.place)
        files = self._files()
        objects = self._objects()
        left = [path for path in files if not self._is_there(path, objects)]
        names = {self._name(path): path.stat().st_size for path in files}
        old = [name for name in self._there["files"] if name not in names]
        if not left and not old and self._there["whole"]:
            return
        for path in left:
            name = self._name(path)
            if name in objects and name not in self._there["files"] and name not in self._sent:
                raise BadInput(
                    "is in the way: nait_fast did not write it, and would write over it", where=f"{self.place}/{name}"
                )
        self._there = {**self._there, "whole": False, "files": {**self._there["files"], **names}}
        self._list()
        for name in [MANIFEST, *(name for name in names if name.endswith(f"/{MANIFEST}"))]:
            if name in objects and name in map(self._name, left):
                self._remove(name)
        say(f"sending to {self.place}: {len(left):,} files", self._quiet)
        for path in left:
            if path.name == MANIFEST and old:
                self._remove_all(old)
                old = []
            self._send(path)
        self._remove_all(old)
        self._there = {**self._there, "whole": True, "files": names}
        self._list()

    def _is_there(self, path: Path, objects: dict[str, Any]) -> bool:
        name = self._name(path)
        return self._is_sent(path) and self._is_here(name, objects)

    def _send(self, path: Path) -> None:
        name, status, digest = self._name(path), _status(path), sha256_file(path)
        key = f"{self._key}/{name}"
        options = {"chunksize": _PART_BYTES, "max_concurrency": 4} if self.place.scheme in ("s3", "s3a") else {}
        self.place.trying(partial(self._store.put_file, str(path), key, **options))
        info = self.place.trying(partial(self._store.info, key))
        if info["size"] != status[0]:
            raise NaitError(f"{info['size']:,} bytes arrived of {status[0]:,}", where=f"{self.place}/{name}")
        with self._sending:
            self._sent[name] = [status, _stamp(info), digest]

    def _keep(self) -> None:
        with suppress(OSError, NaitError):  # spares sending, no more
            if self.folder.is_dir():
                write_json(self.folder / LISTING, {"kind": KIND, "files": self._sent})

    # Objects.

    def _objects(self) -> dict[str, dict[str, Any]]:
        """Name -> info of all that lies there."""
        try:
            found = self.place.trying(lambda: self._store.find(self._key, detail=True))
        except FileNotFoundError:
            return {}
        start = len(self._key.strip("/")) + 1
        objects = {key.strip("/")[start:]: info for key, info in found.items() if info["type"] == "file"}
        return {name: info for name, info in objects.items() if name}

    def _read(self, name: str) -> dict[str, Any] | None:
        try:
            value = json.loads(self.place.trying(partial(self._store.cat_file, f"{self._key}/{name}")))
        except FileNotFoundError:
            return None
        except ValueError:
            value = None
        if not isinstance(value, dict):
            raise self._damaged(name)
        return value

    def _pipe(self, name: str, data: bytes, mode: str = "overwrite") -> None:
        self.place.trying(lambda: self._store.pipe_file(f"{self._key}/{name}", data, mode=mode))

    def _list(self) -> None:
        self._pipe(LISTING, json.dumps(self._there, indent=1).encode())

    def _remove(self, name: str) -> None:
        with suppress(FileNotFoundError):
            self.place.trying(lambda: self._store.rm_file(f"{self._key}/{name}"))

    def _remove_all(self, names: list[str]) -> None:
        for name in names:
            self._remove(name)
            self._sent.pop(name, None)


def _inside(name: str) -> str:
    """``name``, which is of a file in a folder. Raises ValueError for what leads out of it."""
    if not isinstance(name, str) or not name or "\\" in name or not all(p.strip(".") for p in name.split("/")):
        raise ValueError(name)
    return name


def _stamp(info: dict[str, Any] | None) -> list[int] | None:
    return None if info is None else stamp_of(info)


def _status(path: Path) -> list[int]:
    status = path.stat()
    return [status.st_size, status.st_mtime_ns]


def _clear(folder: Path) -> None:
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()


@contextmanager
def _failures(place: RemotePath) -> Iterator[None]:
    """What the store refuses in one line."""
    try:
        yield
    except OSError as error:
        raise BadInput(
            f"cannot be written ({error.strerror or error})", where=f"--output {place}", remedy="check the URL"
        ) from None
