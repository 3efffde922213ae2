"""The files of an index under construction: shards with a note each, and at the end the manifest that joins them.

While the work goes on, `work/` holds the notes and locks; what a note tells of is whole. Several processes may write
the same shard: they write the same bytes.
"""

import heapq
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from nait_fast.errors import NaitError
from nait_fast.index import token_hashes
from nait_fast.index.duplicates import duplicate_ids
from nait_fast.index.format import FORMAT_VERSION
from nait_fast.index.reader import Index
from nait_fast.index.skipped import duplicate, lines_before
from nait_fast.storage.files import (
    atomic_file,
    checksum_of,
    read_sealed,
    sha256,
    sha256_file,
    tensor_pieces,
    write_atomic,
    write_sealed,
)
from nait_fast.storage.lock import is_held
from nait_fast.storage.names import (
    CALIBRATION,
    CODEBOOK,
    INDEX_KIND,
    MANIFEST,
    RUN,
    SKIPPED,
    WORK,
    plan_name,
    shard_name,
)
from nait_fast.storage.owned import is_in_work
from nait_fast.storage.tally import capped

_OF_SHARD = ("file", "first_row", "pool_rows", "rows", "bytes", "sha256", "xxh3")  # in the manifest
_PARTS = ("shard-*.safetensors", CODEBOOK, CALIBRATION, "plan-*.json", RUN)


def pack_ids(ids: list[str | None]) -> dict[str, np.ndarray]:
    """The tensors of a shard's ids; none of them where no sample has an id."""
    if all(value is None for value in ids):
        return {}
    encoded = [(value or "").encode(errors="surrogatepass") for value in ids]
    return {
        "ids": np.frombuffer(b"".join(encoded), dtype=np.uint8),
        "id_ends": np.cumsum([len(text) for text in encoded], dtype=np.int64),
        "id_absent": np.array([value is None for value in ids]),
    }


class IndexWriter:
    """Writes into `folder`. ``Index`` reads what ``finish`` has made."""

    def __init__(self, folder: Path):
        self.folder, self.work = folder, folder / WORK

    def begin(self) -> None:
        """Make the folder for notes and locks."""
        self.work.mkdir(exist_ok=True)

    def is_done(self, number: int) -> bool:
        """Whether the shard has been written whole."""
        return self._note(number).exists()

    def note(self, number: int) -> dict[str, Any]:
        return read_sealed(self._note(number))

    def write_shard(
        self,
        number: int,
        pool_rows: tuple[int, int],
        rows: np.ndarray,
        n_tokens: np.ndarray,
        codes: np.ndarray,
        exact: dict[str, np.ndarray],
        ids: list[str | None],
        listed: list[dict[str, Any]],
        columns: dict[str, np.ndarray],
        unread: Mapping[str, int],
        unshown: Mapping[str, int],
        hashes: np.ndarray | None,
    ) -> None:
        """``pool_rows``: first and number of the unit's rows; ``rows`` int64 [n] ascending, ``n_tokens`` int32 [n],
        ``codes`` uint8 [n, W], ``exact`` float64 [n] each, ``columns`` [n, …] as ``columns_of`` says; ``listed``: the
        unit's lines of skipped.jsonl; ``unread``, ``unshown``: how many rows hold text, by key, that is not read or
        that the template does not show; ``hashes`` int64 [n]: hashes of the rows' contents, None where they are not
        known."""
        tensors = {"codes": codes, "row": rows.astype(np.int64), "n_tokens": n_tokens.astype(np.int32), **pack_ids(ids)}
        tensors |= {f"exact.{name}": scores.astype(np.float64) for name, scores in exact.items()} | columns
        if hashes is not None:
            tensors[token_hashes.NAME] = hashes.astype(np.int64)
        pieces = tensor_pieces(tensors, {"kind": "shard", "number": number})
        write_atomic(self.folder / shard_name(number), *pieces)
        left_out = Counter(entry["reason"] for entry in listed if not entry.get("kept"))
        note = {
            "file": shard_name(number),
            "first_row": pool_rows[0],
            "pool_rows": pool_rows[1],
            "rows": len(rows),
            "bytes": sum(map(len, pieces)),
            "sha256": sha256(*pieces),
            "xxh3": checksum_of(pieces[0]),
            "tokens": int(n_tokens.sum()),
            "truncated": sum(bool(entry.get("kept")) for entry in listed),
            "reasons": dict(left_out),
            "listed": listed,
            "unread": dict(unread),
            "unshown": dict(unshown),
        }
        write_sealed(self._note(number), note)

    def check(self, numbers: Iterable[int], every_byte: bool) -> list[int]:
        """Forget notes that their shards do not bear out (another size, or other bytes); returns their numbers."""
        lost = []
        for number in numbers:
            if not self.is_done(number):
                continue
            try:
                note, path = self.note(number), self.folder / shard_name(number)
                whole = path.is_file() and path.stat().st_size == note["bytes"]
                if whole and (not every_byte or sha256_file(path) == note["sha256"]):
                    continue
            except (NaitError, KeyError, TypeError):
                pass
            self._note(number).unlink(missing_ok=True)
            lost.append(number)
        return lost

    def finish(self, head: dict[str, Any], numbers: range, before: Index | None) -> dict[str, Any]:
        """Write ``skipped.jsonl`` and the manifest, the last file of a complete index; returns the manifest.

        ``numbers``: the shards with notes; ``before``: the index that they are added to.
        """
        totals = {"rows": 0, "tokens": 0, "truncated": 0}
        reasons: Counter[str] = Counter()
        unread: dict[str, Counter[str]] = {"unread": Counter(), "unshown": Counter()}
        shards: list[dict[str, Any]] = []
        if before is not None:
            totals = {key: before.manifest[key] for key in totals}
            reasons.update(before.manifest["skipped"]["reasons"])
            for key, counts in unread.items():
                counts.update(before.manifest.get(key, {}))
            shards += before.manifest["shards"]
        for number in numbers:
            note = self.note(number)
            totals = {key: total + note[key] for key, total in totals.items()}
            reasons.update(note["reasons"])
            for key, counts in unread.items():
                counts.update(note[key])
            shards.append({k: note[k] for k in _OF_SHARD})
        skipped: dict[str, Any] = {"rows": reasons.total(), "reasons": dict(sorted(reasons.items()))}
        duplicates, digest = self._write_skipped(shards, numbers, before)
        if digest:
            skipped["sha256"] = digest
        calibration = self.folder / CALIBRATION
        manifest = {
            "kind": INDEX_KIND,
            "format_version": FORMAT_VERSION,
            **head,
            **totals,
            "duplicate_ids": duplicates,
            "skipped": skipped,
            **{key: capped(counts) for key, counts in unread.items()},
            "calibration": sha256_file(calibration) if calibration.exists() else None,
            "shards": shards,
        }
        return write_sealed(self.folder / MANIFEST, manifest)

    def replace(self, index: Index, numbers: Iterable[int]) -> dict[str, Any]:
        """Put the shards ``numbers``, made again, into the manifest of ``index``; returns the manifest."""
        manifest = {k: v for k, v in index.manifest.items() if k != "checksum"}
        for number in numbers:
            note = self.note(number)
            manifest["shards"][number] = {k: note[k] for k in _OF_SHARD}
        manifest["rows"] = sum(shard["rows"] for shard in manifest["shards"])
        return write_sealed(self.folder / MANIFEST, manifest)

    def busy(self) -> bool:
        """Whether a worker has one of the units under way."""
        return any(is_held(path) for path in self.work.glob("unit-*") if path.suffix in (".lock", ".again"))

    def sweep(self) -> None:
        """Remove what only an unfinished index needs, and what killed runs have left of it."""
        # All at once: a worker that is late must find it gone, not put a lock into what is being emptied.
        with suppress(FileNotFoundError):
            self.work.rename(self.folder / f"{WORK}.{os.getpid()}-{os.urandom(4).hex()}.tmp")
        for old in self.folder.glob(f"{WORK}.*.tmp"):
            self._remove_work(old)
        for name in (*_PARTS, SKIPPED, MANIFEST):
            for leftover in self.folder.glob(f"{name}.*.tmp"):
                leftover.unlink(missing_ok=True)

    def give_up(self, first: int, plans: range) -> None:
        """Remove an addition that was begun: shards from ``first`` on, and its plans."""
        self._remove_work(self.work)
        for path in self.folder.glob("shard-*.safetensors*"):
            if int(path.name[6:].partition(".")[0]) >= first:
                path.unlink(missing_ok=True)
        for number in plans:
            (self.folder / plan_name(number)).unlink(missing_ok=True)

    def _remove_work(self, folder: Path) -> None:
        """Remove a folder for notes and locks: what a build puts there, and the folder, where nothing else is in it."""
        with suppress(OSError):
            for entry in list(os.scandir(folder)):
                if is_in_work(entry.name):
                    with suppress(OSError):
                        os.unlink(entry.path)
            folder.rmdir()

    def _write_skipped(self, shards: list[dict[str, Any]], numbers: range, before: Index | None) -> tuple[int, str]:
        """Write the list of rows that are left out, cut, or of an id that is there already; returns the number of
        the last, and the file's SHA-256 ("" if there is nothing to list)."""
        path = self.folder / SKIPPED
        repeated = duplicate_ids([self.folder / shard["file"] for shard in shards])
        first_new, listed = (before.pool_rows, before.manifest["skipped"].get("sha256")) if before else (0, None)
        # A run killed between this file and the manifest has left lines of the new rows in it, too.
        old = lines_before(path, first_new, listed) if listed else iter(())
        fresh = (entry for number in numbers for entry in self.note(number)["listed"])
        entries = _merged(fresh, ((row, first) for row, first in repeated if row >= first_new))
        line = next(old, None) or next(entries, None)
        if line is None:
            path.unlink(missing_ok=True)
            return len(repeated), ""
        with atomic_file(path) as file:
            while line is not None:
                file.write(line)
                line = next(old, None) or next(entries, None)
        return len(repeated), sha256_file(path)

    def _note(self, number: int) -> Path:
        return self.work / f"shard-{number:05d}.json"


def _merged(listed: Iterable[dict[str, Any]], repeated: Iterable[tuple[int, int]]) -> Iterator[bytes]:
    """Lines of skipped.jsonl in the order of the rows."""
    doubles = (duplicate(row, first) for row, first in repeated)
    for entry in heapq.merge(listed, doubles, key=lambda entry: entry["row"]):
        yield (json.dumps(entry, ensure_ascii=False) + "\n").encode(errors="backslashreplace")
