"""Writes an index shard by shard, so that a killed run goes on where it stopped."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from nait_fast.errors import NaitError
from nait_fast.index.files import (
    pack_tensors,
    read_json,
    sha256,
    sha256_file,
    write_atomic,
    write_json,
    write_sealed,
)
from nait_fast.index.format import FORMAT_VERSION, MANIFEST, SKIPPED, shard_name

RUN = "run.json"


class IndexWriter:
    """An index folder under construction.

    ``identity``: everything that decides the index's bytes. A folder begun with another identity is refused.
    """

    def __init__(self, folder: Path, identity: dict[str, Any]):
        self.folder, self.identity = folder, identity
        run = folder / RUN
        if run.exists():
            before = read_json(run)
            self._refuse_changes({k: v for k, v in before.items() if k != "exact"}, identity)
        elif (folder / MANIFEST).exists():
            raise NaitError(f"{folder}: holds something else ({MANIFEST} without {RUN}); choose another folder")
        else:
            write_json(run, identity)

    def _refuse_changes(self, before: dict[str, Any], now: dict[str, Any]) -> None:
        changed = [k for k in sorted({*before, *now}) if before.get(k) != now.get(k)]
        if changed:
            what = ", ".join(f"{k} ({before.get(k)} -> {now.get(k)})" for k in changed[:3])
            raise NaitError(f"{self.folder}: holds an index made otherwise: {what}; choose another folder or delete it")

    def claim_exact(self, exact: dict[str, str]) -> None:
        """Fix which exact scores the shards hold (name -> signature hash); NaitError if others were begun."""
        run = read_json(self.folder / RUN)
        self._refuse_changes(run.get("exact", exact), exact)
        write_json(self.folder / RUN, {**run, "exact": exact})

    def is_complete(self) -> bool:
        return (self.folder / MANIFEST).exists()

    def has_shard(self, number: int) -> bool:
        """The shard was written whole by an earlier run."""
        note = self._note(number)
        if not note.exists():
            return False
        path = self.folder / shard_name(number)
        return path.exists() and sha256_file(path) == read_json(note)["sha256"]

    def write_shard(
        self,
        number: int,
        rows: np.ndarray,
        n_tokens: np.ndarray,
        codes: np.ndarray,
        exact: dict[str, np.ndarray],
        truncated: int,
        skipped: list[dict[str, Any]],
    ) -> None:
        """``rows`` int64 [n] ascending, ``n_tokens`` int32 [n], ``codes`` uint8 [n, W], ``exact`` float64 [n] each."""
        tensors = {"codes": codes, "row": rows.astype(np.int64), "n_tokens": n_tokens.astype(np.int32)}
        tensors |= {f"exact.{name}": scores.astype(np.float64) for name, scores in exact.items()}
        data = pack_tensors(tensors, {"kind": "shard", "number": number})
        write_atomic(self.folder / shard_name(number), data)
        note = {
            "file": shard_name(number), "rows": len(rows), "tokens": int(n_tokens.sum()), "truncated": truncated,
            "bytes": len(data), "sha256": sha256(data), "skipped": skipped,
        }  # fmt: skip
        write_json(self._note(number), note)

    def finish(self, manifest: dict[str, Any], n_shards: int, skipped: list[dict[str, Any]]) -> dict[str, Any]:
        """Write ``skipped.jsonl`` and the manifest, the last file of a complete index; returns the manifest."""
        import json

        notes = [read_json(self._note(i)) for i in range(n_shards)]
        skipped = sorted(skipped + [s for note in notes for s in note["skipped"]], key=lambda s: s["row"])
        told = {"rows": len(skipped), "reasons": dict(Counter(s["reason"] for s in skipped))}
        if skipped:
            lines = "".join(json.dumps(s, ensure_ascii=False) + "\n" for s in skipped).encode(errors="backslashreplace")
            write_atomic(self.folder / SKIPPED, lines)
            told["sha256"] = sha256(lines)
        full = {
            "kind": "nait_fast index",
            "format_version": FORMAT_VERSION,
            **manifest,
            "rows": sum(note["rows"] for note in notes),
            "tokens": sum(note["tokens"] for note in notes),
            "truncated": sum(note["truncated"] for note in notes),
            "skipped": told,
            "shards": [{k: note[k] for k in ("file", "rows", "bytes", "sha256")} for note in notes],
        }
        full = write_sealed(self.folder / MANIFEST, full)
        self.sweep()
        return full

    def sweep(self) -> None:
        """Remove what only an unfinished index needs."""
        for note in self.folder.glob("shard-*.json"):
            note.unlink()

    def _note(self, number: int) -> Path:
        return self.folder / f"shard-{number:05d}.json"
