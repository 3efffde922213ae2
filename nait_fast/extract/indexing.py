"""Builds an index: what the folder is to hold, calibration, then the pool unit by unit.

Every step is deterministic and leaves whole files, so that several workers may do it at once and a killed run goes on:
``IndexBuild`` of another process, or of a later one, finds what is there and continues.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nait_fast.codecs.chosen import CHOSEN, RANDOM, VARIANCE, digest_of
from nait_fast.codecs.codebook import Codebook, load_codebook
from nait_fast.config import IndexOptions
from nait_fast.data.loader import Window
from nait_fast.data.plan import Plan, Unit, load_plan, stamps_of
from nait_fast.data.pool import Pool
from nait_fast.data.prefixes import shared_prefixes
from nait_fast.data.row_conventions import make_conventions
from nait_fast.data.tokenize import Encoded
from nait_fast.data.unread import counted
from nait_fast.errors import BadInput, Damaged, Mismatch, NaitError, is_out_of_memory
from nait_fast.extract.calibrate import device_for, sample_of, spread_samples
from nait_fast.extract.index_folder import IndexFolder
from nait_fast.extract.moments import Moments
from nait_fast.extract.representation import Representation
from nait_fast.extract.session import OnBatch, Session, Terms
from nait_fast.extract.sinks import Collect, Encode, Placed, Sink
from nait_fast.index.calibration import load_calibration
from nait_fast.index.run_file import read_run
from nait_fast.index.token_hashes import hashes_of
from nait_fast.outputs.fetched import local_copy
from nait_fast.progress import Progress, say
from nait_fast.storage.files import tensor_pieces, write_atomic
from nait_fast.storage.lock import Lock
from nait_fast.storage.names import CALIBRATION, CODEBOOK, LOCK, NEXT_PLAN, RUN

KEPT_PLAN_ROWS = 100_000  # from here on a plan is kept before it is known which dataset of the index it is of

Directions = Mapping[str, tuple[str, np.ndarray, str]]  # name -> (reading, direction fp32 [N], signature hash)


@dataclass
class RunUnit:
    """A unit that has gone through the model, and is yet to be written: its ``encoded`` samples, their codes and scores
    in ``sink``, some of them maybe still on their way from the device, and the lines of skipped.jsonl ``listed`` so
    far. ``calibrated``: of which samples the calibration has the codes, and at which of its places."""

    window: Window
    encoded: list[Encoded]
    listed: list[dict[str, Any]]
    sink: Encode
    calibrated: dict[int, int]


def open_pool(options: IndexOptions, folder: Path) -> Pool:
    """The pool of `options`, planned; a plan that an earlier run left in `folder` is used if the files are the same."""
    pool = Pool(
        options.dataset,
        format=options.format,
        skip_bad_rows=options.skip_bad_rows,
        unit_rows=options.shard_rows,
        conventions=make_conventions(options.roles, options.ignore, options.columns),
    )
    with Lock(folder / LOCK):  # several workers: one goes through the pool, the others use its plan
        earlier = _known_plan(pool, folder)
        plan = pool.plan(earlier)
        if earlier is None and plan.rows >= KEPT_PLAN_ROWS:
            plan.save(folder / NEXT_PLAN)
    pool.check_columns()
    return pool


def _known_plan(pool: Pool, folder: Path) -> Plan | None:
    for path in sorted(folder.glob("plan-*.json")):
        try:
            plan = load_plan(path)
        except NaitError:
            continue
        same = (plan.kind, plan.unit_rows) == (pool.source.kind, pool.unit_rows)
        if same and any(plan.stamps) and plan.stamps == stamps_of(pool.source):
            return plan
    return None


def _held(folder: Path) -> Codebook | None:
    """The codebook of the index in ``folder``; None where it has none that can be read."""
    try:
        return load_codebook(folder, vouched=True)
    except NaitError:  # what is wrong with the folder is told with what it holds
        return None


def _form_beside(codebook: Path, otherwise: str) -> tuple[str, Path]:
    """(form of the fp32 products of the index whose ``codebook`` that is, its folder): both are to be one."""
    folder = codebook if codebook.is_dir() else codebook.parent
    with suppress(NaitError):  # somebody else's file
        if (folder / RUN).exists():
            return read_run(folder).get("products", otherwise), folder
    return otherwise, folder


def representation_of(session: Terms, options: IndexOptions, folder: Path, given: Codebook | None) -> Representation:
    """What the index in ``folder`` is to keep; ``given``: the codebook of ``--codebook``. Raises NaitError for options
    that do not fit each other, the model or the codebook."""
    if options.append and options.repair:
        raise BadInput("one at a time, --repair first", where="--append and --repair")
    if options.append and options.codebook:
        raise BadInput("the index has its codebook already", where="--append", remedy="leave --codebook out")
    return Representation(session, options, given, _held(folder) if options.append or options.repair else None)


class IndexBuild:
    """One index under construction: ``codebook``, ``prepare``, ``run_unit`` and ``write_unit`` for each, ``finish``.

    ``exact_readings``: the readings of the exact scores that ``prepare`` will be asked for; ``with_drift``: the
    codebook shall also hold the pool's mean drift (nait's ``sign=contrast``). Raises NaitError for a folder that holds
    something else, naming what differs.
    """

    def __init__(
        self,
        session: Session,
        pool: Pool,
        options: IndexOptions,
        folder: Path,
        *,
        exact_readings: frozenset[str] = frozenset(),
        with_drift: bool = False,
    ):
        self.session, self.pool, self.options = session, pool, options
        self._given = load_codebook(options.codebook) if options.codebook else None
        self.representation = representation_of(session, options, folder, self._given)
        self._exact_readings = exact_readings
        self.calibrate_on = self.representation.readings | exact_readings | ({"drift"} if with_drift else set())
        plan = pool.plan()
        self.format = pool.detect()
        self.description = {
            **self.representation.description,
            "template_kind": session.encoder.template.kind,
            "template_date": session.encoder.template.date,
        }
        identity = {
            **self.description,
            "too_long": options.too_long,
            "shard_rows": pool.unit_rows,
            "precision": session.model.precision,
            "batch_tokens": session.batch_tokens,
            "calibration": self._given.hash
            if self._given
            else [options.calibration_size, options.seed, *sorted(self.calibrate_on)],
        }
        dataset = {
            "path": str(Path(pool.path).resolve()) if Path(pool.path).exists() else pool.path,
            "kind": plan.kind,
            "format": self.format,
            "rows": plan.rows,
            "sha256": plan.sha256,
            **pool.conventions.described(),
        }
        products = session.model.products
        if options.codebook and products.choice and not products.forced:
            self._take(*_form_beside(local_copy(options.codebook), products.form))
            products = session.model.products
        form = products.form if products.choice else None
        self.folder = IndexFolder(folder, identity, dataset, plan, options.append, options.repair, form)
        if self.folder.products != form:
            assert self.folder.products is not None
            self._take(self.folder.products, folder)
        say(
            f"{pool.path}: {plan.kind}, format {self.format}, {plan.rows:,} rows; "
            f"template {session.encoder.template.kind}",
            session.quiet,
        )
        spread = spread_samples(pool, self.format, session.encoder) if self.folder.todo else []
        self.prefixes = shared_prefixes(spread)
        self.mean_tokens = sum(len(e.ids) for e in spread) / max(1, len(spread))  # of a row, about
        self._collected: Collect | None = None
        self._sample: list[Encoded] = []
        self.tokens, self.run_tokens, self.seconds = 0, 0, 0.0

    def _take(self, form: str, folder: Path) -> None:
        """Make fp32 products in the ``form`` of the index in ``folder``; said where it is not the one told at load."""
        model = self.session.model
        if form != model.products.form:
            self.session.model = dataclasses.replace(model, products=model.products.as_begun(form, folder))
            self.session.model.products.tell(model.precision, self.session.quiet)

    def codebook(self, on_batch: OnBatch | None = None) -> Codebook | None:
        """The codebook: given, left by an earlier run, or calibrated now. None for a codec without."""
        path = self.folder.path
        if not self.representation.codec.calibrates:
            return None
        claimed = self.folder.claimed()
        if self._given is not None:
            if CODEBOOK not in claimed and not self.folder.complete:
                self._given.save(path)
            return self._given
        if CODEBOOK in claimed:
            made = load_codebook(path, vouched=True)
            self.session.choose(made.chosen, made.meta["widths"])
            return made
        if self.folder.added or self.folder.complete:
            raise Damaged(f"its {CODEBOOK} or {CALIBRATION} is missing", where=path, remedy="rebuild the index")
        self._sample = sample_of(
            self.pool, self.format, self.session.encoder, self.options.calibration_size, self.options.seed
        )
        if self.session.must_choose:
            self._choose(on_batch)
        readings = sorted(self.calibrate_on)
        n, layout = len(self._sample), self.session.layout
        kept_on = device_for(n, layout, readings, self.session.model.body)
        try:
            self._collected = Collect(n, layout, readings, kept_on)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            raise NaitError(
                f"no memory for the readings of a calibration sample of {n}",
                where=f"device {kept_on}",
                remedy="stop what else runs there, or lower --calibration-size",
            ) from None
        self._run_sample("calibrate", self.session, self._collected, readings, on_batch)
        by = VARIANCE if self._keeps_varied else RANDOM
        made = self.representation.codebook_of(self._collected, self.session.chosen, by)
        made.save(path)
        return made

    def _choose(self, on_batch: OnBatch | None) -> None:
        """Choose the neurons of experts that are kept: of each layer those whose reading varies most over the
        calibration sample, where exact scores are wanted or the codec says so, else a random sample."""
        model, every = self.session.model, self.session.of_all_neurons()
        kept = list(zip(model.widths, model.places(), strict=True))
        if self._keeps_varied:
            reading = min(self._exact_readings, default=self.representation.reading)
            moments = Moments(every.layout, reading)
            self._run_sample("choose neurons", every, moments, [reading], on_batch)
            chosen = [first + moments.most_varied(i, width) for i, (width, (first, _)) in enumerate(kept)]
        else:
            generator = np.random.default_rng(self.options.seed)
            chosen = [first + np.sort(generator.permutation(count)[:width]) for width, (first, count) in kept]
        self.session.choose(np.concatenate(chosen).astype(np.int32), model.widths)

    @property
    def _keeps_varied(self) -> bool:
        return self.representation.codec.keeps_varied or bool(self._exact_readings)

    def _run_sample(
        self, label: str, session: Session, sink: Sink, readings: Sequence[str], on_batch: OnBatch | None
    ) -> None:
        progress = Progress(len(self._sample), label, session.quiet, sum(len(e.ids) for e in self._sample))

        def on_calibrated(samples: int, tokens: int) -> None:
            progress.add(samples, tokens)
            if on_batch is not None:
                on_batch(samples, tokens)

        try:
            self._run(session, self._sample, sink, readings, on_calibrated)
        except KeyboardInterrupt:
            done = f"{progress.samples:,} of {len(self._sample):,} samples"
            raise KeyboardInterrupt(
                f"stopped while calibrating ({label}, {done}), of which nothing is kept: the same command begins there"
            ) from None
        self.count(progress)

    def _run(
        self,
        session: Session,
        encoded: Sequence[Encoded],
        sink: Sink,
        readings: Sequence[str],
        on_batch: OnBatch | None,
    ) -> None:
        before = session.run_tokens  # others may have run targets with it
        session.run(encoded, sink, readings, self.prefixes, on_batch)
        self.run_tokens += session.run_tokens - before

    def prepare(self, directions: Directions | None = None, on_batch: OnBatch | None = None) -> None:
        """Fix the exact scores, and load what every unit needs: the codebook and the calibration sample's codes."""
        directions = directions or {}
        # One worker calibrates, the others wait and find its files.
        with self.folder.lock(lambda: on_batch(0, 0) if on_batch else None):
            codebook = (
                self.codebook(on_batch) if self._collected is None else load_codebook(self.folder.path, vouched=True)
            )
            exact = {name: digest for name, (_, _, digest) in directions.items()}
            self.folder.claim_exact(exact)
            self._directions = {name: (r, torch.from_numpy(v)) for name, (r, v, _) in directions.items()}
            assert all(len(v) == self.session.layout.n_neurons for _, v in self._directions.values()), "other neurons"
            self._codebook = codebook
            made = self._collected is not None
            self._calibration = self._calibrated()
            self.folder.claim_files([CODEBOOK] * (codebook is not None) + [CALIBRATION] * made)
        if codebook is not None and self.folder.codebook_hash not in (None, codebook.hash):
            if self._given is not None:
                raise Mismatch(
                    f"not the one that the index {self.folder.path} was made with",
                    where=f"--codebook {self.options.codebook}",
                    remedy="leave it out",
                )
            raise Damaged(
                f"its {CODEBOOK} has changed since the index was made", where=self.folder.path, remedy="rebuild it"
            )
        self._head = {
            "model_name": self.session.model.name,
            **self.description,
            **({} if self.session.chosen is None else {CHOSEN: digest_of(self.session.chosen)}),
            "row_bytes": self.representation.layout.row_bytes,
            "codebook": codebook.hash if codebook else None,
            "exact": exact,
            **({} if self.session.positions is None else {"positions": self.session.positions}),
        }

    def finish(self) -> dict[str, Any] | None:
        """The manifest, written now if no other worker has; None if a shard of an earlier run proves damaged and is to
        be done again."""
        return self.folder.finish(self._head)

    def count(self, progress: Progress) -> None:
        """Add a stage's tokens and seconds."""
        progress.close()
        self.tokens += progress.tokens
        self.seconds += progress.seconds

    def _sink(self, n: int) -> Encode:
        return self.representation.sink(n, self._codebook, self._directions)

    def _calibrated(self) -> dict[str, np.ndarray]:
        """Codes, exact scores and finiteness of the calibration sample, which is not run twice; empty without one."""
        path = self.folder.path / CALIBRATION
        if self._collected is not None:
            sink = self._sink(len(self._sample))
            self._collected.replay(sink, self.session.model.device)
            rows = np.array([e.row for e in self._sample], dtype=np.int64)
            tensors: dict[str, np.ndarray] = {f"exact.{name}": scores for name, scores in sink.exact.items()}
            tensors |= {"codes": sink.codes, "row": rows, "finite": sink.finite.astype(np.uint8), **sink.columns}
            write_atomic(path, *tensor_pieces(tensors, {"kind": "calibration"}))
            self._collected, self._sample = None, []
        elif self.folder.added or CALIBRATION not in self.folder.claimed():  # its rows are the first dataset's
            return {"row": np.zeros(0, dtype=np.int64)}
        return load_calibration(path, self.representation.layout, self._directions, self.representation.columns)

    def run_unit(self, window: Window, on_batch: OnBatch | None = None) -> RunUnit:
        """Run the model over a loaded unit. It returns when the last batch is queued on the device: the next unit's
        first one may queue up behind it, and ``write_unit`` waits for what is still to come home."""
        encoded, listed = self._usable(window)
        place_of = {int(row): i for i, row in enumerate(self._calibration["row"])}
        calibrated = {i: place_of[e.row] for i, e in enumerate(encoded) if e.row in place_of}
        fresh = [i for i in range(len(encoded)) if i not in calibrated]
        if on_batch and calibrated:
            on_batch(len(calibrated), 0)
        sink = self._sink(len(encoded))
        readings = sorted(self.representation.readings | {r for r, _ in self._directions.values()})
        self._run(self.session, [encoded[i] for i in fresh], Placed(sink, fresh), readings, on_batch)
        return RunUnit(window, encoded, listed, sink, calibrated)

    def write_unit(self, unit: RunUnit) -> dict[str, int]:
        """Write the unit's shard and its note; returns what is to be told of it. In another thread than ``run_unit``,
        if need be: no two of them touch the same.

        Raises NaitError, unless rows that cannot be used are to be left out.
        """
        window, encoded, listed, sink = unit.window, unit.encoded, unit.listed, unit.sink
        sink.flush()
        if unit.calibrated:
            done, source = list(unit.calibrated), list(unit.calibrated.values())
            sink.codes[done], sink.finite[done] = (
                self._calibration["codes"][source],
                self._calibration["finite"][source],
            )
            for name, scores in sink.exact.items():
                scores[done] = self._calibration[f"exact.{name}"][source]
            for name, column in sink.columns.items():
                column[done] = self._calibration[name][source]
        model = self.session.model
        for i in np.flatnonzero(~sink.finite):
            row = encoded[i].row
            skipped = self.pool.refuse(window.where(row), row, model.not_finite, model.finite_remedy)
            listed.append(dataclasses.asdict(skipped))
        finite = [encoded[i] for i in np.flatnonzero(sink.finite)]
        kept = slice(None) if sink.finite.all() else sink.finite
        limit = self.session.encoder.max_length
        listed += [
            {"row": e.row, "where": window.where(e.row), "reason": f"{e.length} tokens, cut to {limit}", "kept": True}
            for e in finite
            if e.truncated
        ]
        first = self.folder.first_row
        self.folder.writer.write_shard(
            self.folder.first_unit + window.unit.number,
            (first + window.unit.row, window.unit.rows),
            np.array([first + e.row for e in finite], dtype=np.int64),
            np.array([len(e.ids) for e in finite], dtype=np.int32),
            sink.codes[kept],
            {name: scores[kept] for name, scores in sink.exact.items()},
            [e.id for e in finite],
            [{**entry, "row": first + entry["row"]} for entry in sorted(listed, key=lambda entry: entry["row"])],
            {name: column[kept] for name, column in sink.columns.items()},
            counted(e.unread for e in finite),
            counted(e.unshown for e in finite),
            hashes_of(e.ids for e in finite),
        )
        return {
            "rows": len(finite),
            "skipped": window.unit.rows - len(finite),
            "tokens": sum(len(e.ids) for e in finite),
        }

    def _usable(self, window: Window) -> tuple[list[Encoded], list[dict[str, Any]]]:
        """Samples to run, and the list of those left out so far."""
        listed = [dataclasses.asdict(skipped) for skipped in window.skipped]
        if self.options.too_long == "cut":
            return window.encoded, listed
        limit = self.session.encoder.max_length
        for e in window.encoded:
            if e.truncated:
                reason = f"longer than {limit} tokens"
                listed.append({"row": e.row, "where": window.where(e.row), "reason": reason})
        return [e for e in window.encoded if not e.truncated], listed

    def unit(self, number: int) -> Unit:
        """The unit that becomes shard ``number``."""
        return self.pool.plan().units[number - self.folder.first_unit]
