"""Why rows that are shown score as they do: layers and neurons that made it, and the target samples next to them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from nait_fast.config import split_target
from nait_fast.evaluation.confounds import bit_weights
from nait_fast.index.sample import codes_at, places_of_rows
from nait_fast.methods.signature import Signature
from nait_fast.reporting.layers import (
    Deciders,
    LayerParts,
    bit_frequency,
    decided,
    neurons_for_half,
    parts_at,
    telling_neurons,
)
from nait_fast.reporting.score_summary import RankedRow
from nait_fast.reporting.selection_folder import SelectionFolder
from nait_fast.reporting.target_samples import Likeness, NearSample, TargetTexts, target_texts


@dataclass(frozen=True)
class TargetSamples:
    """Of a target whose samples were kept: how many there are, what a similarity is ``called``, the ``typical`` one of
    a row of the pool with the sample most like it, and the ``texts`` of those that are shown."""

    samples: int
    called: str
    typical: float
    texts: TargetTexts


class Explained:
    """``layers``: of the targets whose scores are sums over layers; ``pool`` int64: places of rows of the pool."""

    def __init__(self, chosen: SelectionFolder, layers: Sequence[LayerParts], pool: np.ndarray):
        self._chosen, self._pool = chosen, pool
        self._parts = {part.target: part for part in layers}
        self._signatures = {s.name: s for s in chosen.signatures if chosen.index is not None}
        self._likeness: dict[str, Likeness] = {}
        self._frequency: np.ndarray | None = None

    def of(
        self, rows: Sequence[RankedRow], targets: Sequence[str], whole: bool
    ) -> tuple[list[list[NearSample]], list[Deciders | None]]:
        """(samples of its target that each of ``rows`` is next to, what made its score for that), of rows that are
        shown together. ``whole``: whether the pool's scores are known, too."""
        near: list[list[NearSample]] = [[] for _ in rows]
        deciders: list[Deciders | None] = [None] * len(rows)
        for target, signature in self._signatures.items():
            numbers = sorted((i for i, own in enumerate(targets) if own == target), key=lambda i: rows[i].row)
            if not numbers or self._chosen.index is None:
                continue
            places = places_of_rows(self._chosen.index, np.array([rows[i].row for i in numbers], dtype=np.int64))
            likeness = self._like(signature)
            for i, some in zip(numbers, [] if likeness is None else likeness.nearest(places), strict=False):
                near[i] = some
            own = self._decided(signature, likeness, places, [near[i] for i in numbers]) if whole else []
            for i, one in zip(numbers, own, strict=False):
                deciders[i] = one
        return near, deciders

    def _like(self, signature: Signature) -> Likeness | None:
        if signature.samples and signature.name not in self._likeness and self._chosen.index is not None:
            self._likeness[signature.name] = Likeness(self._chosen.index, signature)
        return self._likeness.get(signature.name)

    def _decided(
        self, signature: Signature, likeness: Likeness | None, places: np.ndarray, near: Sequence[list[NearSample]]
    ) -> list[Deciders]:
        """What made the scores of the rows at ascending ``places``; none where nothing tells."""
        index, part = self._chosen.index, self._parts.get(signature.name)
        assert index is not None
        layers = index.manifest["layers"]
        if part is None:
            if likeness is None or self._chosen.rule == "centroid":
                return []
            codes = np.concatenate([block["codes"] for block in codes_at(index, places)])
            sums = [
                likeness.similarities.by_layer(code[None], some[0].number)
                for code, some in zip(codes, near, strict=True)
            ]
            return [decided(own[0], layers, None) for own in sums if own is not None]
        made = [decided(own, layers, part.mean) for own in parts_at(index, signature, places)]
        if not signature.is_bits:
            return made
        codes = np.concatenate([block["codes"] for block in codes_at(index, places)])
        bits, weights = signature.layout.unpack(codes).astype(bool), bit_weights(signature)
        if self._frequency is None:
            self._frequency = bit_frequency(index, self._pool)
        told = telling_neurons(bits, weights, self._frequency, layers, signature)
        halves = [neurons_for_half(weights * (row - self._frequency)) for row in bits]
        return [replace(d, half=h, neurons=n) for d, h, n in zip(made, halves, told, strict=True)]

    def of_targets(
        self, shown: Iterable[tuple[str, list[NearSample]]], named: Sequence[str]
    ) -> dict[str, TargetSamples]:
        """Of each target whose samples rows were compared with: ``shown`` are (target, samples). ``named``: NAME=FILE,
        where the samples are now, each of which is checked. Raises NaitError."""
        for name in {split_target(text)[0] for text in named} - self._likeness.keys():
            target_texts(self._chosen, self._signatures[name], (), named)
        numbers: dict[str, set[int]] = {}
        for target, near in shown:
            numbers.setdefault(target, set()).update(sample.number for sample in near)
        return {
            name: TargetSamples(
                likeness.samples,
                likeness.called,
                likeness.typical(self._pool),
                target_texts(self._chosen, self._signatures[name], numbers.get(name, ()), named),
            )
            for name, likeness in self._likeness.items()
        }
