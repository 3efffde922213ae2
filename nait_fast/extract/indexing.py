"""Builds an index: calibration, then the pool shard by shard."""

from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nait_fast.data.batching import shared_prefix
from nait_fast.data.formats import Sample
from nait_fast.data.pool import Pool, PoolInfo
from nait_fast.data.tokenize import Encoded, Refused
from nait_fast.errors import NaitError
from nait_fast.extract.calibrate import make_codebook, sample_rows
from nait_fast.extract.session import Session
from nait_fast.extract.sinks import Collect, Encode, Placed
from nait_fast.index.codebook import Codebook, load_codebook
from nait_fast.index.files import pack_tensors, read_tensors, write_atomic
from nait_fast.index.format import CODEBOOK
from nait_fast.index.reader import Index
from nait_fast.index.writer import IndexWriter
from nait_fast.progress import Progress, say

_CALIBRATION = "calibration.safetensors"  # codes of the calibration sample, until the index is complete
_PREFIX_SAMPLES = 256


class IndexBuild:
    """One index under construction: first ``codebook``, then ``run``."""

    def __init__(
        self,
        session: Session,
        pool: Pool,
        folder: Path,
        *,
        codec: str,
        reading: str,
        top_k: int,
        calibration_size: int,
        seed: int,
        shard_rows: int,
        skip_bad_rows: bool,
        codebook: Codebook | None = None,
        exact_readings: frozenset[str] = frozenset(),
        with_drift: bool = False,
    ):
        """``exact_readings``: the readings of the exact scores that ``run`` will be asked for; ``with_drift``: the
        codebook shall also hold the pool's mean drift (nait's ``sign=contrast``)."""
        self.session, self.pool, self.folder = session, pool, folder
        self.codec, self.reading, self.top_k = codec, "up_abs" if codec == "nag" else reading, top_k
        self.shard_rows, self.skip_bad_rows = shard_rows, skip_bad_rows
        self.calibrate_on = {self.reading, *exact_readings} | ({"drift"} if with_drift else set())
        self.info: PoolInfo = pool.scan()
        self.size, self.seed = min(calibration_size, self.info.good), seed
        self._given = codebook
        if codec == "nag" and top_k > min(session.model.widths):
            raise NaitError(f"--nag-top-k {top_k}: the model's layers have only {min(session.model.widths)} neurons")
        if codebook is not None:
            self._check_codebook(codebook)
        self.description = {
            "codec": codec,
            "reading": self.reading,
            **session.identity(),
            **({"top_k": top_k} if codec == "nag" else {}),
            "template_kind": session.encoder.template.kind,
            "max_length": session.encoder.max_length,
            "dataset": {"path": str(Path(pool.path).resolve()) if Path(pool.path).exists() else pool.path,
                        "kind": self.info.kind, "format": self.info.format, "rows": self.info.rows,
                        "sha256": self.info.sha256},
        }  # fmt: skip
        identity = {
            **self.description,
            "skip_bad_rows": skip_bad_rows,
            "shard_rows": shard_rows,
            "dtype": str(next(session.model.body.parameters()).dtype).removeprefix("torch."),
            "batch_tokens": session.batch_tokens,
            "calibration": codebook.hash if codebook else [self.size, seed, *sorted(self.calibrate_on)],
        }
        self.writer = IndexWriter(folder, identity)
        info, template = self.info, session.encoder.template.kind
        say(f"{pool.path}: {info.kind}, format {info.format}, {info.rows:,} rows, {len(info.skipped):,} of them bad; "
            f"template {template}", session.quiet)  # fmt: skip
        first = list(islice(pool.samples(), _PREFIX_SAMPLES))
        self.prefix = shared_prefix([e for e in session.encoder.encode(first) if isinstance(e, Encoded)])
        self._collected: Collect | None = None
        self._sample: list[Encoded] = []
        self.tokens, self.seconds = 0, 0.0

    def _check_codebook(self, codebook: Codebook) -> None:
        if self.codec == "nag":
            raise NaitError("--codebook: codec nag has no codebook; leave the flag out")
        for key, value in {**self.session.identity(), "reading": self.reading}.items():
            if codebook.meta.get(key) != value:
                what = "model or --layers" if key == "model" else key
                raise NaitError(
                    f"--codebook: it was made with another {what} ({codebook.meta.get(key)}, here {value}); "
                    "recalibrate (leave --codebook out) or use the same options"
                )

    def codebook(self) -> Codebook | None:
        """The codebook: given, left by an earlier run, or calibrated now. None for codec nag."""
        if self.codec == "nag":
            return None
        if self._given is not None:
            self._given.save(self.folder)
            return self._given
        if (self.folder / CODEBOOK).exists() and (self.writer.is_complete() or (self.folder / _CALIBRATION).exists()):
            return load_codebook(self.folder)
        wanted = set(sample_rows(self.info.good, self.size, self.seed).tolist())
        samples = [s for position, s in enumerate(self.pool.samples()) if position in wanted]
        self._sample = [e for e in self.session.encoder.encode(samples) if isinstance(e, Encoded)]
        if len(self._sample) < 2:
            raise NaitError(f"{self.pool.path}: calibration needs at least 2 usable samples, found {len(self._sample)}")
        readings = sorted(self.calibrate_on)
        self._collected = Collect(len(self._sample), self.session.layout, readings)
        progress = Progress(len(self._sample), "calibrate", self.session.quiet)
        self.session.run(self._sample, self._collected, readings, self.prefix, progress)
        self._close(progress)
        made = make_codebook(self._collected, self.reading, self.session.identity())
        made.save(self.folder)
        return made

    def run(self, directions: Mapping[str, tuple[str, np.ndarray, str]] | None = None) -> dict[str, Any]:
        """Index the pool; ``directions``: name -> (reading, direction fp32 [N], signature hash) of exact scores.

        Returns the manifest. Finished shards of an earlier run are kept.
        """
        directions = directions or {}
        codebook = self.codebook() if self._collected is None else load_codebook(self.folder)
        manifest = {
            "model_name": self.session.model.name,
            **self.description,
            "row_bytes": self.session.layout.row_bytes,
            "codebook": codebook.hash if codebook else None,
            "exact": {name: digest for name, (_, _, digest) in directions.items()},
        }
        self.writer.claim_exact(manifest["exact"])
        if self.writer.is_complete():
            self._sweep()
            return Index(self.folder).manifest
        self._directions = {name: (r, torch.from_numpy(v)) for name, (r, v, _) in directions.items()}
        self._codebook = codebook
        known = self._calibrated()
        progress = Progress(self.info.good, "index", self.session.quiet)
        n_shards = -(-self.info.rows // self.shard_rows)
        samples = self.pool.samples()
        held: list[Sample] = []
        for number in range(n_shards):
            window = list(_until(samples, held, (number + 1) * self.shard_rows))
            if self.writer.has_shard(number):
                progress.add(len(window), 0)
            else:
                self._shard(number, window, known, progress)
        self._close(progress)
        bad = [{"row": s.row, "where": s.where, "reason": s.reason} for s in self.info.skipped]
        manifest = self.writer.finish(manifest, n_shards, bad)
        self._sweep()
        return manifest

    def _sweep(self) -> None:
        self.writer.sweep()
        (self.folder / _CALIBRATION).unlink(missing_ok=True)

    def _close(self, progress: Progress) -> None:
        progress.close()
        self.tokens += progress.tokens
        self.seconds += progress.seconds

    def _sink(self, n: int) -> Encode:
        threshold = None
        if self._codebook is not None and self._codebook.threshold is not None:
            threshold = torch.from_numpy(self._codebook.threshold)
        device = self.session.model.device
        return Encode(n, self.session.layout, bits=self.reading, threshold=threshold, top_k=self.top_k,
                      directions=self._directions, device=device)  # fmt: skip

    def _calibrated(self) -> dict[str, np.ndarray]:
        """Codes, exact scores and finiteness of the calibration sample, which is not run twice; empty without one."""
        path = self.folder / _CALIBRATION
        if self._collected is not None:
            sink = self._sink(len(self._sample))
            self._collected.replay(sink, self.session.model.device)
            rows = np.array([e.row for e in self._sample], dtype=np.int64)
            tensors: dict[str, np.ndarray] = {f"exact.{name}": scores for name, scores in sink.exact.items()}
            tensors |= {"codes": sink.codes, "row": rows, "finite": sink.finite.astype(np.uint8)}
            write_atomic(path, pack_tensors(tensors, {"kind": "calibration"}))
            self._collected, self._sample = None, []
        return read_tensors(path, "calibration")[0] if path.exists() else {"row": np.zeros(0, dtype=np.int64)}

    def _shard(self, number: int, window: list[Sample], known: dict[str, np.ndarray], progress: Progress) -> None:
        """Encode ``window`` and write it; ``known``: what ``_calibrated`` gives."""
        results = self.session.encoder.encode(window)
        encoded = [r for r in results if isinstance(r, Encoded)]
        skipped = [self._skip(r.row, r.reason) for r in results if isinstance(r, Refused)]
        place_of = {int(row): i for i, row in enumerate(known["row"])}
        fresh = [i for i, e in enumerate(encoded) if e.row not in place_of]
        done = [i for i, e in enumerate(encoded) if e.row in place_of]
        progress.add(len(done), 0)
        sink = self._sink(len(encoded))
        readings = sorted({self.reading} | {r for r, _ in self._directions.values()})
        self.session.run([encoded[i] for i in fresh], Placed(sink, fresh), readings, self.prefix, progress)
        if done:
            source = [place_of[encoded[i].row] for i in done]
            sink.codes[done], sink.finite[done] = known["codes"][source], known["finite"][source]
            for name, scores in sink.exact.items():
                scores[done] = known[f"exact.{name}"][source]
        keep = np.flatnonzero(sink.finite)
        skipped += [self._skip(encoded[i].row, "activations are not finite") for i in np.flatnonzero(~sink.finite)]
        self.writer.write_shard(
            number,
            np.array([encoded[i].row for i in keep], dtype=np.int64),
            np.array([len(encoded[i].ids) for i in keep], dtype=np.int32),
            sink.codes[keep],
            {name: scores[keep] for name, scores in sink.exact.items()},
            sum(encoded[i].truncated for i in keep),
            skipped,
        )

    def _skip(self, row: int, reason: str) -> dict[str, Any]:
        """The note of a row left out; NaitError unless that was asked for."""
        where = f"{self.pool.path} row {row}"
        if not self.skip_bad_rows:
            hint = "try --dtype float32," if "finite" in reason else "fix the row"
            raise NaitError(f"{where}: {reason}; {hint} or pass --skip-bad-rows")
        return {"row": row, "where": where, "reason": reason}


def _until(samples: Iterator[Sample], held: list[Sample], end_row: int) -> Iterator[Sample]:
    """The next samples whose row is below ``end_row``; the first one beyond waits in ``held``."""
    while True:
        sample = held.pop() if held else next(samples, None)
        if sample is None:
            return
        if sample.row >= end_row:
            held.append(sample)
            return
        yield sample
