"""Losses of arms as means with intervals: the noise of training, and that of the held-out samples.

An arm's result is the mean over its seeds. Two noises make its interval: training (another order, other adapters and,
for the random arms, another draw) and the held-out samples. Both arms of a difference are measured on the same samples,
so what one sample brings to both drops out of it.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

LEVEL = 0.95


@dataclass(frozen=True)
class Runs:
    """``nll`` fp64 [S, n]: sums over a held-out sample's response tokens, a row for each seed; ``tokens`` fp64 [n].

    ``trained``: False for the model as it was, which has no noise of training.
    """

    nll: np.ndarray
    tokens: np.ndarray
    trained: bool = True

    def macro(self) -> "Runs":
        """The same with each sample's mean in place of its sum: every sample counts alike."""
        return Runs(self.nll / self.tokens, np.ones(len(self.tokens)), self.trained)

    @property
    def by_seed(self) -> np.ndarray:
        """NLL per token [S]."""
        return self.nll.sum(axis=1) / self.tokens.sum()


@dataclass(frozen=True)
class Interval:
    """``mean`` with the bounds ``mean`` ± ``half``, which is infinite where there are too few seeds to tell."""

    mean: float
    half: float

    @property
    def excludes_zero(self) -> bool:
        return abs(self.mean) > self.half

    def __str__(self) -> str:
        return f"{self.mean:+.3f} ± {self.half:.3f}" if math.isfinite(self.half) else f"{self.mean:+.3f} ± ?"


def t_quantile(df: float, level: float = LEVEL) -> float:
    """Two-sided quantile of Student's t with ``df`` > 0 degrees of freedom."""
    # With t = √df · tan θ the density is cos^(df-1) θ on a bounded interval.
    angle = np.linspace(0, np.pi / 2, 10_001)
    density = np.cos(angle[:-1]) ** (df - 1)
    density = np.append(density, 0.0 if df > 1 else density[-1])
    mass = np.append(0.0, np.cumsum((density[1:] + density[:-1]) / 2))
    return float(math.sqrt(df) * math.tan(np.interp(level * mass[-1], mass, angle)))


def _interval(mean: float, parts: Sequence[tuple[float, int]], level: float) -> Interval:
    """``parts``: (variance of the mean, degrees of freedom) of each noise; Welch and Satterthwaite's t interval."""
    if any(df < 1 for _, df in parts):
        return Interval(mean, math.inf)
    total = sum(v for v, _ in parts)
    if total == 0:
        return Interval(mean, 0.0)
    df = total**2 / sum(v**2 / d for v, d in parts)
    return Interval(mean, t_quantile(df, level) * math.sqrt(total))


def _training(runs: Runs) -> list[tuple[float, int]]:
    if not runs.trained:
        return []
    seeds = len(runs.nll)
    return [(float(runs.by_seed.var(ddof=1)) / seeds if seeds > 1 else 0.0, seeds - 1)]


def _sampling(sums: np.ndarray, tokens: np.ndarray) -> tuple[float, int]:
    """Variance of Σ sums / Σ tokens over held-out samples (the ratio's, linearised)."""
    n = len(sums)
    if n < 2:
        return 0.0, 0
    off = (sums - sums.sum() / tokens.sum() * tokens) / tokens.mean()
    return float((off**2).sum() / (n * (n - 1))), n - 1


def level_of(runs: Runs, level: float = LEVEL) -> Interval:
    """NLL per token."""
    parts = [*_training(runs), _sampling(runs.nll.mean(axis=0), runs.tokens)]
    return _interval(float(runs.by_seed.mean()), parts, level)


def difference(a: Runs, b: Runs, level: float = LEVEL) -> Interval:
    """NLL per token of ``a`` less that of ``b``, on the same held-out samples. Raises ValueError if they differ."""
    if not np.array_equal(a.tokens, b.tokens):
        raise ValueError("the two arms were measured on other samples")
    paired = _sampling(a.nll.mean(axis=0) - b.nll.mean(axis=0), a.tokens)
    return _interval(float(a.by_seed.mean() - b.by_seed.mean()), [*_training(a), *_training(b), paired], level)


def runs_of(rows: Sequence[Mapping[str, Any]], where: str) -> Runs:
    """The runs of one arm on the held-out set ``where``: each has ``arm`` and, in ``evaluated``, what
    ``Learner.evaluate`` gives of each set."""
    tokens = np.array(rows[0]["evaluated"][where]["tokens"], dtype=float)
    nll = np.array([row["evaluated"][where]["nll"] for row in rows], dtype=float)
    return Runs(nll, tokens, rows[0]["arm"] != "base")


def end_nll(rows: Sequence[Mapping[str, Any]], where: str) -> float | None:
    """Mean NLL of the token that ends a response; None where all were cut."""
    ends = [x for row in rows for x in row["evaluated"][where]["end"] if x is not None]
    return float(np.mean(ends)) if ends else None


def verdict(interval: Interval, words: tuple[str, str] = ("better", "worse")) -> str:
    """A word only where the interval excludes 0 (a lower loss is better)."""
    return (words[0] if interval.mean < 0 else words[1]) if interval.excludes_zero else ""


def correct_of(rows: Sequence[Mapping[str, Any]], where: str) -> Runs | None:
    """As ``runs_of``, of right answers (1.0 or 0.0) in the place of losses; None where none were counted."""
    every = [row["evaluated"][where].get("correct") for row in rows]
    if any(one is None for one in every):
        return None
    correct = np.array(every, dtype=float)
    return Runs(correct, np.ones(correct.shape[1]), rows[0]["arm"] != "base")
