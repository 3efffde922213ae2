"""The folder of an index under construction: whose it is, what is in it already, and when it is complete."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nait_fast.compatibility import OLD, is_old, value_of
from nait_fast.data.plan import Plan
from nait_fast.data.prefixes import SCHEME as PREFIXES
from nait_fast.errors import BadInput, Busy, Damaged, Mismatch, NaitError
from nait_fast.index.format import FORMAT_VERSION
from nait_fast.index.reader import Index
from nait_fast.index.run_file import read_run, write_run
from nait_fast.index.verify import shard_problem
from nait_fast.index.writer import IndexWriter
from nait_fast.notices import warn
from nait_fast.storage.files import sha256_file
from nait_fast.storage.lock import Lock
from nait_fast.storage.names import CALIBRATION, CODEBOOK, LOCK, MANIFEST, NEXT_PLAN, RUN, WORK, plan_name, shard_name

# Entry of an index's identity -> the flags that decide it, where it is not called as they are.
_FLAGS = {"precision": "--dtype", "calibration": "--codebook, --calibration-size or --seed"}
BEFORE_TRIALS = "blocked"  # the form of fp32 products in an index whose run.json names none
MOST_TRIES = 2  # a shard that proves damaged again when it has been made anew so often is not mended by a third time


class IndexFolder:
    """``identity``: every option that decides the index's bytes; ``dataset``: the pool, as the manifest will say it;
    ``products``: the form in which fp32 products are made, where there is a choice. The one of the process that begins
    the index stays that of all others.

    A new folder becomes that of this index; one begun with the same identity and dataset is gone on with; a complete
    one gets another dataset with ``append``, and has its damaged shards done again with ``repair``. An addition that
    was begun and that nobody is at gives way to another one.

    first_unit, first_row: the number of the dataset's first shard, and of its first row; added: it is not the first;
    complete: it is in the index already; products: the index's form; todo: the shards to make, done ones of an earlier
    run included.
    """

    def __init__(
        self,
        path: Path,
        identity: dict[str, Any],
        dataset: dict[str, Any],
        plan: Plan,
        append: bool,
        repair: bool,
        products: str | None = None,
    ):
        self.path, self.writer, self._dataset = path, IndexWriter(path), dataset
        self._lost: Counter[int] = Counter()  # how often a shard has proved damaged
        with self.lock():
            (path / NEXT_PLAN).unlink(missing_ok=True)
            run = self._run("--append" if append else "--repair" if repair else "")
            self._index = Index(path) if run and (path / MANIFEST).exists() else None
            complete_ones = [] if self._index is None else self._index.datasets
            self.complete = dataset in complete_ones
            datasets = self._enter(run, complete_ones, identity, append, repair)
            self.added = datasets.index(dataset) > 0
            self.first_row = sum(d["rows"] for d in datasets[: datasets.index(dataset)])
            entries = [] if self._index is None else self._index.entries
            self.first_unit = sum(entry.first_row < self.first_row for entry in entries)
            self.units = range(self.first_unit, self.first_unit + len(plan.units))
            self._damaged = self._to_repair() if repair else []
            self.products = run.get("products", BEFORE_TRIALS if run else products) if products else None
            if not self.complete or self._damaged:
                identity = run.get("identity", identity)
                form = {} if self.products is None else {"products": self.products}
                if run and run.get("prefixes") != PREFIXES:
                    warn(f"{path}: begun when shared prefixes were chosen otherwise: what is added differs by rounding")
                prefixes = run.get("prefixes") if run else PREFIXES
                write_run(path, {**run, "identity": identity, "datasets": datasets, "prefixes": prefixes, **form})
                self.writer.begin()
                plan.save(path / plan_name(datasets.index(dataset)))
        self.todo = self._damaged if self.complete else list(self.units)
        self.writer.check(self.todo, every_byte=False)
        self._resumed = [number for number in self.todo if self.is_done(number)]

    def lock(self, on_wait: Callable[[], None] = lambda: None) -> Lock:
        """What one process at a time may do: with it. ``on_wait`` is called while another one has it."""
        return Lock(self.path / LOCK, on_wait)

    def _run(self, flag: str) -> dict[str, Any]:
        """What the folder was begun with; empty for a new one. Raises NaitError for a folder of something
        else, and for a new one where ``flag`` needs an index."""
        path = self.path / RUN
        if not path.exists():
            if (self.path / MANIFEST).exists():
                raise BadInput(
                    f"holds something else ({MANIFEST} without {RUN})", where=self.path, remedy="choose another folder"
                )
            if flag:
                raise BadInput(f"{self.path} holds no index", where=flag, remedy="leave the flag out to make one")
            for name in (CODEBOOK, CALIBRATION, WORK, shard_name(0)):
                if (self.path / name).exists():
                    raise Damaged(
                        f"left behind by an index whose {RUN} is gone, of whatever pool: it is not built upon",
                        where=self.path / name,
                        remedy="delete it or choose another folder",
                    )
            return {}
        run = read_run(self.path)
        datasets = run.get("datasets")
        if not isinstance(run.get("identity"), dict) or not isinstance(datasets, list) or not datasets:
            raise Damaged(
                "not what nait_fast writes there", where=path, remedy="choose another folder or delete this one"
            )
        if run.get("format_version") != FORMAT_VERSION and (flag or not (self.path / MANIFEST).exists()):
            raise Mismatch(
                "begun by an older nait_fast, whose shards have no checksums",
                where=f"{flag and flag + ': '}{self.path}",
                remedy="index the pool again into another folder",
            )
        return run

    def _enter(
        self, run: dict[str, Any], complete_ones: list[Any], identity: dict[str, Any], append: bool, repair: bool
    ) -> list[Any]:
        """The datasets of the folder, this one among them. Raises NaitError where it does not fit.

        ``complete_ones``: those of the index that is there; none before it is finished.
        """
        if not run:
            return [self._dataset]
        begun = run["datasets"]
        if append or repair or self._dataset != begun[0]:  # the codebook is the index's, whatever it was made from
            identity = {**identity, "calibration": run["identity"].get("calibration")}
        self._refuse_changes(run["identity"], identity)
        adding = begun[len(complete_ones) :] if complete_ones else []
        if repair:
            if not self.complete:
                raise Mismatch(
                    f"{self._dataset['path']} is no dataset of a complete index in {self.path}", where="--repair"
                )
            if adding and self.writer.busy():
                raise Busy(
                    f"{adding[0]['path']} is being added to {self.path}", where="--repair", remedy="wait for that"
                )
            return begun
        if self._dataset in begun:
            return begun
        if not append:
            last = begun[-1]
            now = self._dataset
            changed = [f"{k} {last.get(k)} -> {now.get(k)}" for k in {**now, **last} if last.get(k) != now.get(k)]
            raise Mismatch(
                f"holds an index made otherwise: dataset ({', '.join(changed[:3])})",
                where=self.path,
                remedy="choose another folder or delete it (to a complete index, --append adds the data)",
            )
        if not complete_ones:
            raise BadInput(
                f"the index {self.path} is not finished", where="--append", remedy="rerun its own command first"
            )
        if adding:
            if self.writer.busy():
                raise Busy(
                    f"{adding[0]['path']} is being added to {self.path}", where="--append", remedy="wait for that"
                )
            assert self._index is not None
            self.writer.give_up(len(self._index.entries), range(len(complete_ones), len(begun)))
        return [*complete_ones, self._dataset]

    def _refuse_changes(self, before: dict[str, Any], now: dict[str, Any]) -> None:
        changed = [k for k in sorted({*before, *now}) if before.get(k) != now.get(k)]
        if "precision" in changed:  # the cause comes first, and says what its class would
            changed = ["precision", *(k for k in changed if k not in ("precision", "dtype"))]
        if changed and isinstance(before.get("model"), str) and is_old(before):
            raise Mismatch(
                f"holds an index that was made {OLD}", where=self.path, remedy="choose another folder or delete it"
            )
        if changed:
            what = ", ".join(f"{_FLAGS.get(k, k)} ({value_of(before, k)} -> {value_of(now, k)})" for k in changed[:3])
            raise Mismatch(
                f"holds an index made otherwise: {what}", where=self.path, remedy="choose another folder or delete it"
            )

    def claim_exact(self, exact: dict[str, str]) -> None:
        """Fix which exact scores the shards hold (name -> signature hash); NaitError if others were begun."""
        run = read_run(self.path)
        self._refuse_changes(run.get("exact", exact), exact)
        if "exact" not in run:
            write_run(self.path, {**run, "exact": exact})

    def claimed(self) -> frozenset[str]:
        """Which of codebook and calibration the run has fixed; none while they are still to be made, whatever lies in
        the folder. Raises NaitError where one is not what it was."""
        files = read_run(self.path).get("files", {})
        for name, before in files.items():
            if not (self.path / name).exists() or sha256_file(self.path / name) != before:
                raise Damaged(
                    f"its {name} has changed since the index was begun",
                    where=self.path,
                    remedy="delete the folder and rebuild it",
                )
        return frozenset(files)

    def claim_files(self, names: list[str]) -> None:
        """Fix the codebook and calibration, ``names`` of them, that every shard rests on; NaitError where one is not
        what it was."""
        if not self.claimed() and names:
            files = {name: sha256_file(self.path / name) for name in names}
            write_run(self.path, {**read_run(self.path), "files": files})

    @property
    def codebook_hash(self) -> str | None:
        """That of the index which is added to or repaired."""
        return self._index.codebook_hash if self._index else None

    def is_done(self, number: int) -> bool:
        """Whether the shard has been written whole."""
        return self.writer.is_done(number)

    @property
    def is_swept(self) -> bool:
        """Whether the folder for notes is gone, as it is with the finished index."""
        return not self.writer.work.exists()

    def is_settled(self, number: int) -> bool:
        """Whether the shard is done, or the whole index."""
        return self.is_done(number) or self.is_swept

    def _to_repair(self) -> list[int]:
        assert self._index is not None
        damaged = [n for n, entry in enumerate(self._index.entries) if shard_problem(self._index, entry)]
        elsewhere = [n for n in damaged if n not in self.units]
        if elsewhere and len(elsewhere) == len(damaged):
            raise Mismatch(
                f"{self._index.entries[elsewhere[0]].path} is damaged, but comes from another dataset",
                where="--repair",
                remedy="name that one with --dataset",
            )
        return [n for n in damaged if n in self.units]

    def finish(self, head: dict[str, Any]) -> dict[str, Any] | None:
        """Write the manifest, unless another worker has; None if a unit is to be done (again) before that."""
        with self.lock():
            try:
                return self._made() or self._finish(head)
            except NaitError:  # without locks another worker may have been at it in the same moment
                if (manifest := self._made()) is not None:
                    return manifest
                raise

    def _made(self) -> dict[str, Any] | None:
        """The manifest, where it says of this dataset what it shall."""
        if not (self.path / MANIFEST).exists():
            return None
        index = Index(self.path)
        if self._dataset not in index.datasets:
            return None
        if any(shard_problem(index, index.entries[number]) for number in self._damaged):
            return None
        # Left by a run that was killed just before, or by this one's repair, whose last unit may still hold its lock.
        over = not self.writer.busy() or (self.todo and all(map(self.is_done, self.todo)))
        if over and index.datasets == read_run(self.path)["datasets"]:
            self.writer.sweep()
        return index.manifest

    def _finish(self, head: dict[str, Any]) -> dict[str, Any] | None:
        lost = {*self.writer.check(self._resumed, every_byte=True), *self.writer.check(self.todo, every_byte=False)}
        self._lost.update(lost)
        for number in sorted(lost):
            if self._lost[number] > MOST_TRIES:
                raise Damaged(
                    f"missing or damaged again, {MOST_TRIES} times after it was made anew",
                    where=self.path / shard_name(number),
                    remedy="check the disk and what else writes there, then run the same command again",
                )
        if not self.writer.work.is_dir():
            raise Damaged(
                "is gone while this command worked there; something has deleted it",
                where=self.writer.work,
                remedy="run the same command again",
            )
        if lost or not all(map(self.is_done, self.todo)):
            return None
        if self._damaged:
            manifest = self.writer.replace(Index(self.path), self._damaged)
        else:
            datasets = [*(self._index.datasets if self._index else []), self._dataset]
            manifest = self.writer.finish({**head, "datasets": datasets}, self.units, self._index)
        self.writer.sweep()
        return manifest
