"""How well codes of a few bytes rank as exact NAIT does: every codec on one capture of real activations.

    python -m benchmarks.fidelity --model FOLDER --dataset POOL.jsonl --target NAME=FILE … --work DIR

A target's directions come from all its samples; the pool is a stratified sample. Each codec's codebook rests on 512 of
its samples; the codes are those of the index's own coder, the scores those of the index's own scan. Against exact
scores in fp64: Spearman, and how much of the best 10% and 1% is found. benchmarks.methods makes the table and the plot.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch

from benchmarks.readings import READINGS, Readings, captured_by, work_parser
from benchmarks.record import record, table
from nait_fast.codecs import codec_of
from nait_fast.codecs.codebook import Codebook, CodebookPart
from nait_fast.codecs.components import split_bytes
from nait_fast.codecs.layout import CodeLayout
from nait_fast.evaluation.comparison import compared
from nait_fast.extract.sinks import Encode
from nait_fast.index.sample import drawn_places
from nait_fast.methods.contrast import PROXY_PLANES, neuron_proxy
from nait_fast.methods.nait import nait_signature
from nait_fast.methods.signature import Signature
from nait_fast.ranking.scan import score_codes
from nait_fast.ranking.sources import SAMPLE_ROWS, estimator

CALIBRATION = 512
CHUNK = 256  # rows turned into fp64 at once
DRAWS = 5  # of a rotation, which is random, and of its calibration sample

Scores = np.ndarray  # float64 [n, C]


def exact_scores(values: np.ndarray, signatures: list[Signature]) -> Scores:
    directions = np.stack([s.tensors["direction"] for s in signatures]).astype(np.float64).T
    parts = [values[i : i + CHUNK].astype(np.float64) @ directions for i in range(0, len(values), CHUNK)]
    return np.concatenate(parts)


class Calibrated:
    """One reading of the pool with its centre and spread, from a sample of it."""

    def __init__(
        self,
        values: np.ndarray,
        layout: CodeLayout,
        reading: str,
        seed: int,
        size: int = CALIBRATION,
        among: np.ndarray | None = None,
    ):
        """``size`` rows are drawn, ``among`` int64: of these only."""
        self.values, self.layout, self.reading, self.seed = values, layout, reading, seed
        drawn = np.random.default_rng(seed).permutation(np.arange(len(values)) if among is None else among)
        self.sample = np.array(values[np.sort(drawn[:size])])
        self.centre = self.sample.mean(axis=0, dtype=np.float64).astype(np.float32)
        self.spread = self.sample.std(axis=0, dtype=np.float64).astype(np.float32)

    def rotated(self, signatures: list[Signature], outliers: int) -> tuple[int, Scores]:
        """(bytes a sample, scores) of codec rotated."""
        return self._estimated(signatures, "rotated", {"outliers": outliers})

    def components(self, signatures: list[Signature], n_bytes: int) -> tuple[int, Scores]:
        """(bytes a sample, scores) of codec components."""
        return self._estimated(signatures, "components", {"components": split_bytes(n_bytes)})

    def _codebook(self, codec: str, part: CodebookPart | None = None) -> Codebook:
        meta = {
            "codec": codec,
            "reading": self.reading,
            "widths": list(self.layout.widths),
            "first_token": "exclude",
            "model": "",
            "template": "",
            "layers": list(range(len(self.layout.widths))),
        }
        return Codebook(self.centre, meta, self.centre, self.spread, part=part)

    def _estimated(self, signatures: list[Signature], name: str, entries: dict[str, Any]) -> tuple[int, Scores]:
        codec = codec_of(name)
        codebook = self._codebook(name, codec.fit(self.sample, self.centre, self.layout, entries, self.seed))
        sink = Encode(len(self.values), self.layout, codec.coder(self.layout, codebook, entries, None))
        everyone = range(len(self.values))
        for ordinal in range(len(self.layout.widths)):
            layer = torch.from_numpy(np.array(self.values[:, self.layout.neurons(ordinal)]))
            sink.layer(everyone, ordinal, {self.reading: layer}, None)
        sink.finish(everyone, torch.ones(len(self.values), dtype=torch.bool))
        size = sink.codes.shape[1] + sum(column[:1].nbytes for column in sink.columns.values())
        places = drawn_places(len(self.values), SAMPLE_ROWS, 0)  # as rank draws them
        some = {name: column[places] for name, column in {"codes": sink.codes, **sink.columns}.items()}
        return size, estimator(codebook, signatures, rows=[some])(sink.codes, sink.columns)

    def neurons(self, signatures: list[Signature], number: int) -> tuple[int, Scores]:
        """The ``number`` neurons of the largest variance over all layers as int8, and nothing of the others."""
        chosen = np.sort(np.argsort(-self.spread, kind="stable")[:number])
        step = np.abs(self.sample[:, chosen] - self.centre[chosen]).max(axis=0) / 127
        step[step == 0] = 1
        levels = np.clip(np.rint((self.values[:, chosen] - self.centre[chosen]) / step), -127, 127) * step
        return number, levels.astype(np.float64) @ np.stack(
            [s.tensors["direction"][chosen] for s in signatures], axis=1
        )

    def neuron_bits(self, signatures: list[Signature]) -> tuple[int, Scores]:
        """One bit a neuron above the centre, weighted by v · σ: the best that codec neuron could do."""
        codes = np.concatenate(
            [self.layout.pack(self.values[i : i + CHUNK] > self.centre) for i in range(0, len(self.values), CHUNK)]
        )
        codebook = self._codebook("neuron")
        return self.layout.row_bytes, score_codes(codes, [neuron_proxy(s, codebook) for s in signatures])


def measured(readings: Readings, seed: int, sources: np.ndarray, only: Sequence[str] = ()) -> Iterator[dict[str, Any]]:
    """One row for each reading, codec and target. ``sources`` [n]: where the pool's rows are from; ``only``: names of
    codecs (none: all)."""
    for reading in READINGS:
        signatures = signatures_of(readings, reading)
        exact = exact_scores(readings.pool[reading], signatures)
        pool = Calibrated(readings.pool[reading], readings.layout, reading, seed)
        for codec, draw, run in codecs(pool, signatures, sources):
            if only and codec not in only:
                continue
            size, scores = run()
            for c, signature in enumerate(signatures):
                yield {
                    "reading": reading,
                    "codec": codec,
                    "draw": draw,
                    "bytes": size,
                    "target": signature.name,
                    "rows": len(exact),
                    **compared(exact[:, c], scores[:, c]),
                }


def signatures_of(readings: Readings, reading: str) -> list[Signature]:
    """The nait signatures of all targets, to be scored with ``reading``."""
    widths = list(readings.layout.widths)
    meta = {"widths": widths, "layers": list(range(len(widths)))}
    return [nait_signature(name, np.array(drifts), meta, reading=reading) for name, drifts in readings.targets.items()]


def codecs(pool: Calibrated, signatures: list[Signature], sources: np.ndarray) -> Iterator[tuple[str, int, Any]]:
    """(name, number of the draw, function giving bytes a sample and scores) of what is compared."""
    for name, run in _drawn_once(pool, signatures, sources):
        yield name, 0, run
    for draw in range(DRAWS):
        drawn = Calibrated(pool.values, pool.layout, pool.reading, pool.seed + draw)
        for outliers in (0, 128, 1024):
            yield f"rotated, {outliers} outliers", draw, partial(drawn.rotated, signatures, outliers=outliers)
        blind = partial(unseen, drawn, signatures, sources, lambda some, of: some.rotated(of, outliers=128))
        yield "rotated, 128 outliers, the target's source kept from calibration", draw, blind


def _drawn_once(pool: Calibrated, signatures: list[Signature], sources: np.ndarray) -> Iterator[tuple[str, Any]]:
    for n_bytes in (60, 128, 256, 512, 1024, 2048, 4096):
        yield f"components, {n_bytes:,} B", lambda n_bytes=n_bytes: pool.components(signatures, n_bytes)
    wider = Calibrated(pool.values, pool.layout, pool.reading, pool.seed, size=4 * CALIBRATION)
    yield f"components, 1,024 B, calibrated on {len(wider.sample):,}", lambda: wider.components(signatures, 1024)
    for n_bytes in (1024, 4096):
        blind = partial(unseen, pool, signatures, sources, lambda some, of, n=n_bytes: some.components(of, n))
        yield f"components, {n_bytes:,} B, the target's source kept from calibration", blind
    for number in (512, 1024):
        yield f"{number:,} neurons as int8", lambda number=number: pool.neurons(signatures, number)
    yield f"neuron bits, v · σ in {PROXY_PLANES} planes", lambda: pool.neuron_bits(signatures)


def unseen(
    pool: Calibrated,
    signatures: list[Signature],
    sources: np.ndarray,
    code: Callable[[Calibrated, list[Signature]], tuple[int, Scores]],
) -> tuple[int, Scores]:
    """Each target's scores by ``code`` with a codebook that no row of its own source has shaped."""
    scored = []
    for signature in signatures:
        others = np.flatnonzero(sources != signature.name)
        blind = Calibrated(pool.values, pool.layout, pool.reading, pool.seed, among=others)
        scored.append(code(blind, [signature]))
    return scored[0][0], np.concatenate([scores for _, scores in scored], axis=1)


def means(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The mean over targets and draws of each codec and reading, and the worst Spearman."""
    out = []
    for reading, codec in dict.fromkeys((row["reading"], row["codec"]) for row in rows):
        mine = [row for row in rows if (row["reading"], row["codec"]) == (reading, codec)]
        mean = {key: sum(row[key] for row in mine) / len(mine) for key in ("spearman", "top10", "top1")}
        worst = min(row["spearman"] for row in mine)
        out.append({"reading": reading, "codec": codec, "bytes": mine[0]["bytes"], **mean, "worst spearman": worst})
    return out


def main() -> None:
    parser = work_parser(__doc__)
    parser.add_argument(
        "--only", nargs="+", default=(), metavar="CODEC", help="measure these, by their names in the table"
    )
    arguments = parser.parse_args()
    readings, sources, about = captured_by(arguments)
    rows = []
    for row in measured(readings, arguments.seed, sources, arguments.only):
        print(json.dumps(row), flush=True)
        rows.append({**row, **about})
    path = record("fidelity", rows)
    print(table(means(rows), ["reading", "codec", "bytes", "spearman", "top10", "top1", "worst spearman"]))
    print(f"rows appended to {path.name}")


if __name__ == "__main__":
    main()
