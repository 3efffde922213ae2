"""How much of a signature is the target and how much is which of its samples were taken: halves and bootstrap."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from nait_fast.codecs.codebook import Codebook
from nait_fast.codecs.layout import CodeLayout
from nait_fast.evaluation.comparison import top_overlap
from nait_fast.evaluation.rankings import Rankings, fits, score_places, scores_anew
from nait_fast.index.sample import drawn_places
from nait_fast.methods import method_of
from nait_fast.methods.nait import uncertain_layers
from nait_fast.methods.signature import LENGTHS, SAMPLES, Signature
from nait_fast.ranking.spearman import spearman

LEAST_SAMPLES = 4  # halves of two samples each: one alone has no principal component
COMPARED_ROWS = 100_000


def halves(n: int, repeats: int, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """``repeats`` random splits of ``n`` samples into two halves of equal size (of an odd number, one is left out)."""
    generator = np.random.default_rng([seed, 0])
    for _ in range(repeats):
        drawn = generator.permutation(n)
        yield drawn[: n // 2], drawn[n // 2 : n // 2 * 2]


def resamples(n: int, size: int, repeats: int, seed: int) -> Iterator[np.ndarray]:
    """``repeats`` bootstrap samples: ``size`` of ``n`` samples each, drawn with replacement (Efron, 1979)."""
    generator = np.random.default_rng([seed, size])
    for _ in range(repeats):
        yield generator.integers(0, n, size)


def rebuilt(signature: Signature, material: np.ndarray, codebook: Codebook | None, name: str) -> Signature:
    """``signature`` as other samples of its target would give it, under its own method and options.

    ``material`` [n, …] of those samples, as the method fits on it; ``codebook``: the index's. Raises NaitError.
    """
    return method_of(signature.method).refit(signature, material, codebook, name)


def with_samples(signature: Signature, material: np.ndarray, codebook: Codebook | None) -> Signature:
    """``signature`` with the samples, of ``material`` [n, …], that rules ask; their lengths, which scores do not need,
    are 0."""
    if signature.samples:
        return signature
    samples = method_of(signature.method).samples_of(material, signature.layout, codebook)
    kept = {SAMPLES: samples, LENGTHS: np.zeros(len(samples), np.int32)}
    return replace(signature, tensors={**signature.tensors, **kept})


def _defined(values: Sequence[float]) -> np.ndarray:
    """Those that are numbers: the correlation with a constant score is none."""
    array = np.array(values, dtype=np.float64)
    return array[np.isfinite(array)]


def _mean(values: Sequence[float]) -> float:
    numbers = _defined(values)
    return float(numbers.mean()) if len(numbers) else float("nan")


def of_halves(pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> dict[str, Any]:
    """Mean Spearman, and overlap of the best 10%, of the scores float64 [n] by each pair of halves."""
    return {
        "spearman": _mean([spearman(a, b) for a, b in pairs]),
        "top10": _mean([top_overlap(a, b, 0.1) for a, b in pairs]),
        "repeats": len(pairs),
    }


def of_size(size: int, whole: np.ndarray, columns: Sequence[np.ndarray]) -> dict[str, Any]:
    """What the scores by bootstrap samples of ``size``, float64 [n] each, have in common with those by the ``whole``
    target: mean Spearman (``low``, ``high``: the repeats' extremes), mean overlap of the best 10%."""
    correlations = _defined([spearman(whole, column) for column in columns])
    low, high = (
        (float(correlations.min()), float(correlations.max())) if len(correlations) else (float("nan"), float("nan"))
    )
    return {
        "size": size,
        "spearman": _mean(correlations.tolist()),
        "low": low,
        "high": high,
        "top10": _mean([top_overlap(whole, column, 0.1) for column in columns]),
    }


def of_directions(pairs: Sequence[tuple[np.ndarray, np.ndarray]], layout: CodeLayout) -> dict[str, Any]:
    """How alike the directions fp32 [N] of two halves are, layer by layer, over all pairs.

    ``cosine``: mean |cosine| of each layer; ``sign_flips``: the share of pairs whose signs differ there.
    """
    cosines = np.array([[_cosine(a[layer], b[layer]) for layer in layers_of(layout)] for a, b in pairs])
    return {"cosine": np.abs(cosines).mean(axis=0).tolist(), "sign_flips": (cosines < 0).mean(axis=0).tolist()}


def layers_of(layout: CodeLayout) -> list[slice]:
    """Each layer's place among all neurons."""
    return [layout.neurons(ordinal) for ordinal in range(len(layout.widths))]


def _cosine(a: np.ndarray, b: np.ndarray) -> float:
    norm = float(np.linalg.norm(a)) * float(np.linalg.norm(b))
    return float(a.astype(np.float64) @ b.astype(np.float64)) / norm if norm else 0.0


def section(
    rankings: Rankings, number: int, material: np.ndarray | None, sizes: Sequence[int], repeats: int
) -> dict[str, Any] | None:
    """Stability of one signature: its halves and bootstrap samples of ``sizes``, ``repeats`` times each.

    ``material`` [n, …] of its target's samples, as the method fits on it; None: not known, and only the sign margins of
    a nait signature are told. Scores are compared over at most ``COMPARED_ROWS`` of the index's rows.
    """
    signature, label = rankings.signatures[number], rankings.labels[number]
    if number in rankings.refused and (not signature.is_direction or not fits(rankings.index, signature)):
        return None  # listed by the rankings
    margins = signature.meta.get("sign_margin")
    measures: dict[str, Any] = {
        "signature": label,
        "halves": {"spearman": None, "top10": None, "repeats": 0},
        "bootstrap": [],
        "sign_margin": margins,
        "uncertain_layers": None if margins is None else uncertain_layers(margins),
    }
    if material is None:
        rankings.miss(f"stability of {label}", f"pass --model and --target {signature.name}=FILE")
        return measures if margins is not None else None
    n = measures["samples"] = len(material)
    if n < LEAST_SAMPLES:
        rankings.miss(f"stability of {label}", f"its target has {n} samples, {LEAST_SAMPLES} are needed")
        return measures
    if large := [str(size) for size in sizes if size > n]:
        rankings.miss(f"stability of {label} at {', '.join(large)} samples", f"its target has {n} samples")
    if why := method_of(signature.method).refit_missing(signature, rankings.codebook):
        rankings.miss(f"stability of {label}", why)
        return measures

    keeps = rankings.rules[number] != "centroid"

    def made(samples: np.ndarray) -> Signature:
        again = rebuilt(signature, material[samples], rankings.codebook, label)
        return with_samples(again, material[samples], rankings.codebook) if keeps else again

    pairs = [(made(a), made(b)) for a, b in halves(n, repeats, rankings.seed)]
    drawn = {size: [made(some) for some in resamples(n, size, repeats, rankings.seed)] for size in sizes if size <= n}
    if signature.is_direction:
        directions = [(a.tensors["direction"], b.tensors["direction"]) for a, b in pairs]
        measures["directions"] = of_directions(directions, signature.layout)
    if why := _not_scored(rankings, number):
        rankings.miss(f"stability of the scores of {label}", why)
        return measures
    measures |= _of_scores(rankings, number, pairs, drawn)
    return measures


def _of_scores(
    rankings: Rankings, number: int, pairs: list[tuple[Signature, Signature]], drawn: dict[int, list[Signature]]
) -> dict[str, Any]:
    places = drawn_places(rankings.index.rows, COMPARED_ROWS, rankings.seed)
    # The whole target's signature is scored anew, too: exact scores of it would differ by what the codes lose.
    every = [rankings.signatures[number], *(s for pair in pairs for s in pair), *(s for d in drawn.values() for s in d)]
    columns = iter(score_places(rankings.index, every, places, rankings.device, rankings.rules[number]))
    whole = next(columns)
    of_pairs = of_halves([(next(columns), next(columns)) for _ in pairs])
    sizes = [of_size(size, whole, [next(columns) for _ in some]) for size, some in drawn.items()]
    return {"halves": of_pairs, "bootstrap": sizes, "rows": len(places)}


def _not_scored(rankings: Rankings, number: int) -> str | None:
    """Why the index cannot score a signature made anew; None where it can."""
    if number in rankings.refused:
        return "the index cannot score it"
    if scores_anew(rankings.index, rankings.signatures[number]):
        return None
    return "a new nait signature needs an index of codec components and its reading; directions are compared instead"
