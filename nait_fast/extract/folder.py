"""The folder of an index under construction: whose it is, what is in it already, and when it is complete."""

from pathlib import Path
from typing import Any

from nait_fast.data.plan import Plan
from nait_fast.errors import NaitError
from nait_fast.index.files import read_json, sha256_file, write_json
from nait_fast.index.format import CALIBRATION, CODEBOOK, MANIFEST, RUN, plan_name
from nait_fast.index.lock import Lock
from nait_fast.index.reader import Index
from nait_fast.index.verify import shard_problem
from nait_fast.index.writer import IndexWriter


class IndexFolder:
    """``identity``: every option that decides the index's bytes; ``dataset``: the pool, as the manifest will say it.

    A new folder becomes that of this index; one begun with the same identity and dataset is gone on with; a complete
    one gets another dataset with ``append``, and has its damaged shards done again with ``repair``.

    first_unit, first_row: the number of the dataset's first shard, and of its first row; added: it is not the first;
    complete: there is an index of all datasets; todo: the shards to make, done ones of an earlier run included.
    """

    def __init__(
        self, path: Path, identity: dict[str, Any], dataset: dict[str, Any], plan: Plan, append: bool, repair: bool
    ):
        self.path, self.writer = path, IndexWriter(path)
        with self.lock():
            datasets = self._enter(identity, dataset, append)
            number = len(datasets) if dataset not in datasets else datasets.index(dataset)
            if number == len(datasets):
                datasets = [*datasets, dataset]
            self._datasets, self.added = datasets, number > 0
            self._index = Index(path) if (path / MANIFEST).exists() else None
            told = [] if self._index is None else self._index.datasets
            if number < len(datasets) - 1 and len(told) < len(datasets):
                raise NaitError(
                    f"{path}: {datasets[-1]['path']} is being added to it; finish that first (its --append command)"
                )
            self.first_row = sum(d["rows"] for d in datasets[:number])
            shards = [] if self._index is None else self._index.entries
            self.first_unit = sum(entry.first_row < self.first_row for entry in shards)
            self.units = range(self.first_unit, self.first_unit + len(plan.units))
            self.complete = self._index is not None and told == datasets
            run = read_json(path / RUN) if (path / RUN).exists() else {}
            self._damaged = self._to_repair() if self.complete and repair else []
            if not self.complete or self._damaged:
                write_json(path / RUN, {**run, "identity": identity, "datasets": datasets})
                self.writer.begin()
                plan.save(path / plan_name(number))
        self.todo = self._damaged if self.complete else list(self.units)
        self.writer.check(self.todo, every_byte=False)
        self._resumed = [number for number in self.todo if self.is_done(number)]

    def lock(self) -> Lock:
        """What one process at a time may do: with it."""
        return Lock(self.path)

    def _enter(self, identity: dict[str, Any], dataset: dict[str, Any], append: bool) -> list[dict[str, Any]]:
        """The datasets that the folder has so far. Raises NaitError where this one does not fit."""
        run_path, there = self.path / RUN, (self.path / MANIFEST).exists()
        if not run_path.exists():
            if there:
                raise NaitError(f"{self.path}: holds something else ({MANIFEST} without {RUN}); choose another folder")
            if append:
                raise NaitError(f"--append: {self.path} holds no index; leave the flag out to make one")
            return []
        run = read_json(run_path)
        before, datasets = run.get("identity"), run.get("datasets")
        if not isinstance(before, dict) or not isinstance(datasets, list) or not datasets:
            raise NaitError(f"{run_path}: not what nait_fast writes there; choose another folder or delete this one")
        self._refuse_changes(before, identity)
        if dataset in datasets:
            return datasets
        if not append:
            last = datasets[-1]
            changed = [f"{k} {last.get(k)} -> {dataset.get(k)}" for k in dataset if last.get(k) != dataset.get(k)]
            raise NaitError(
                f"{self.path}: holds an index made otherwise: dataset ({', '.join(changed[:3])}); choose another "
                "folder or delete it (to a complete index, --append adds the data)"
            )
        if not there or Index(self.path).datasets != datasets:
            raise NaitError(f"--append: the index {self.path} is not finished; rerun its own command first")
        return datasets

    def _refuse_changes(self, before: dict[str, Any], now: dict[str, Any]) -> None:
        changed = [k for k in sorted({*before, *now}) if before.get(k) != now.get(k)]
        if changed:
            what = ", ".join(f"{k} ({before.get(k)} -> {now.get(k)})" for k in changed[:3])
            raise NaitError(f"{self.path}: holds an index made otherwise: {what}; choose another folder or delete it")

    def claim_exact(self, exact: dict[str, str]) -> None:
        """Fix which exact scores the shards hold (name -> signature hash); NaitError if others were begun."""
        run = read_json(self.path / RUN)
        self._refuse_changes(run.get("exact", exact), exact)
        if "exact" not in run:
            write_json(self.path / RUN, {**run, "exact": exact})

    def claim_files(self) -> None:
        """Fix the codebook and calibration that every shard rests on; NaitError where one is not what it was."""
        run = read_json(self.path / RUN)
        now = {name: sha256_file(self.path / name) for name in (CODEBOOK, CALIBRATION) if (self.path / name).exists()}
        changed = [name for name, before in run.get("files", now).items() if now.get(name) != before]
        if changed:
            raise NaitError(
                f"{self.path}: its {changed[0]} has changed since the index was begun; delete the folder and rebuild it"
            )
        if "files" not in run:
            write_json(self.path / RUN, {**run, "files": now})

    @property
    def codebook_hash(self) -> str | None:
        """That of the index which is added to or repaired."""
        return self._index.codebook_hash if self._index else None

    def is_done(self, number: int) -> bool:
        return self.writer.is_done(number)

    def _to_repair(self) -> list[int]:
        assert self._index is not None
        damaged = [n for n, entry in enumerate(self._index.entries) if shard_problem(self._index, entry)]
        elsewhere = [n for n in damaged if n not in self.units]
        if elsewhere and len(elsewhere) == len(damaged):
            raise NaitError(
                f"--repair: {self._index.entries[elsewhere[0]].path} is damaged, but comes from another dataset; "
                "name that one with --dataset"
            )
        return [n for n in damaged if n in self.units]

    def finish(self, head: dict[str, Any]) -> dict[str, Any] | None:
        """Write the manifest; None if a shard of an earlier run proves damaged: its unit is to be done again."""
        with self.lock():
            if (self.path / MANIFEST).exists() and not self._damaged:
                index = Index(self.path)
                if index.datasets == self._datasets:  # another worker was faster
                    self.writer.sweep()
                    return index.manifest
            if self.writer.check(self._resumed, every_byte=True):
                return None
            full = {**head, "datasets": self._datasets}
            if self._damaged:
                assert self._index is not None
                manifest = self.writer.replace(self._index, self._damaged)
            else:
                manifest = self.writer.finish(full, self.units, self._index)
            self.writer.sweep()
            return manifest
