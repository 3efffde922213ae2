"""What the ablation's rows say: means, intervals with the noise of training and of the held-out samples, and a table.

An arm's result is the mean over its seeds. Two noises make its interval: training (another order, other adapters and,
for the random arms, another draw) and the held-out samples. Both arms of a difference are measured on the same samples,
so what one sample brings to both drops out of it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.record import table
from nait_fast.ranking.spearman import spearman

LEVEL = 0.95
CONTROLS = ("base", "own_source", "random", "random_length", "longest")  # the first arms of a table


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
    """``mean`` with the 95% bounds; ``half`` is infinite where there are too few seeds to tell."""

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


def _interval(mean: float, parts: Sequence[tuple[float, int]]) -> Interval:
    """``parts``: (variance of the mean, degrees of freedom) of each noise; Welch and Satterthwaite's t interval."""
    if any(df < 1 for _, df in parts):
        return Interval(mean, math.inf)
    total = sum(v for v, _ in parts)
    if total == 0:
        return Interval(mean, 0.0)
    df = total**2 / sum(v**2 / d for v, d in parts)
    return Interval(mean, t_quantile(df) * math.sqrt(total))


def _training(runs: Runs) -> list[tuple[float, int]]:
    if not runs.trained:
        return []
    seeds = len(runs.nll)
    return [(float(runs.by_seed.var(ddof=1)) / seeds if seeds > 1 else 0.0, seeds - 1)]


def _sampling(sums: np.ndarray, tokens: np.ndarray) -> tuple[float, int]:
    """Variance of Σ sums / Σ tokens over held-out samples (the ratio's, linearised)."""
    n = len(sums)
    off = (sums - sums.sum() / tokens.sum() * tokens) / tokens.mean()
    return float((off**2).sum() / (n * (n - 1))), n - 1


def level_of(runs: Runs) -> Interval:
    """NLL per token."""
    return _interval(float(runs.by_seed.mean()), [*_training(runs), _sampling(runs.nll.mean(axis=0), runs.tokens)])


def difference(a: Runs, b: Runs) -> Interval:
    """NLL per token of ``a`` less that of ``b``, on the same held-out samples. Raises ValueError if they differ."""
    if not np.array_equal(a.tokens, b.tokens):
        raise ValueError("the two arms were measured on other samples")
    paired = _sampling(a.nll.mean(axis=0) - b.nll.mean(axis=0), a.tokens)
    return _interval(float(a.by_seed.mean() - b.by_seed.mean()), [*_training(a), *_training(b), paired])


def runs_of(rows: Sequence[dict[str, Any]], where: str) -> Runs:
    """The rows of one arm on the held-out set ``where``."""
    tokens = np.array(rows[0]["evaluated"][where]["tokens"], dtype=float)
    nll = np.array([row["evaluated"][where]["nll"] for row in rows], dtype=float)
    return Runs(nll, tokens, rows[0]["arm"] != "base")


def end_nll(rows: Sequence[dict[str, Any]], where: str) -> float:
    """Mean NLL of the token that ends a response."""
    return float(np.mean([x for row in rows for x in row["evaluated"][where]["end"] if x is not None]))


def arms_of(rows: Sequence[dict[str, Any]], target: str) -> dict[str, list[dict[str, Any]]]:
    """Arm -> its rows, a seed each, for ``target``: controls, tops, bottoms. Arms that no target decides are every
    target's."""
    out: dict[str, dict[int, dict[str, Any]]] = {}
    for row in rows:
        if row["target"] in (target, "any"):
            out.setdefault(row["arm"], {})[row["seed"]] = row
    first = {arm: place for place, arm in enumerate(CONTROLS)}
    arms = sorted(out, key=lambda arm: (first.get(arm, len(first)), arm.endswith(" bottom")))
    return {arm: [out[arm][s] for s in sorted(out[arm])] for arm in arms}


def verdict(interval: Interval, arms: tuple[str, str] = ("better", "worse")) -> str:
    """A word only where the interval excludes 0 (a lower loss is better)."""
    return (arms[0] if interval.mean < 0 else arms[1]) if interval.excludes_zero else ""


def target_table(rows: Sequence[dict[str, Any]], target: str) -> str:
    """Markdown: the arms of ``target`` against random, then the pairs of arms that a reader will ask for."""
    arms = arms_of(rows, target)
    random = {where: runs_of(arms["random"], where) for where in (target, "general")} if "random" in arms else {}
    shown = []
    for arm, mine in arms.items():
        on_target, on_general = runs_of(mine, target), runs_of(mine, "general")
        cells = {"arm": arm, "seeds": len(mine) if arm != "base" else ""}
        if arm != "base":
            cells |= {
                "rows": round(np.mean([r["rows"] for r in mine])),
                "all tokens": f"{np.mean([r['all_tokens'] for r in mine]):,.0f}",
                "mean response": f"{np.mean([r['mean_response'] for r in mine]):.0f}",
                "own source": f"{np.mean([r['own_source'].get(target, 0) for r in mine]):.0%}",
            }
        at = level_of(on_target)
        cells["NLL"] = f"{at.mean:.3f}"
        cells["end"] = f"{end_nll(mine, target):.2f}"
        if random and arm != "random":
            micro = difference(on_target, random[target])
            cells |= {
                "− random": str(micro),
                "": verdict(micro),
                "macro − random": str(difference(on_target.macro(), random[target].macro())),
                "general − random": str(difference(on_general, random["general"])),
            }
        elif arm == "random":
            cells["− random"] = f"({at.mean:.3f} ± {at.half:.3f})"
        shown.append(cells)
    columns = [
        "arm",
        "seeds",
        "rows",
        "all tokens",
        "mean response",
        "own source",
        "NLL",
        "− random",
        "",
        "macro − random",
        "end",
        "general − random",
    ]
    return table(shown, columns) + "\n\n" + "\n".join([*_pairs(arms, target), _with_length(arms, target)])


def _pairs(arms: dict[str, list[dict[str, Any]]], target: str) -> list[str]:
    pairs = [(arm, arm.replace(" top", " bottom")) for arm in arms if arm.endswith(" top")]
    pairs += [("contrast top", arm) for arm in arms if arm.endswith(" top") and arm != "contrast top"]
    pairs += [("contrast top", "random_length"), ("own_source", "random")]
    lines = []
    for a, b in pairs:
        if a in arms and b in arms:
            interval = difference(runs_of(arms[a], target), runs_of(arms[b], target))
            word = verdict(interval, (f"{a} is better", f"{b} is better")) or "not told apart"
            lines.append(f"- {a} − {b}: {interval}: {word}")
    return lines


def _with_length(arms: dict[str, list[dict[str, Any]]], target: str) -> str:
    trained = [mine for arm, mine in arms.items() if arm != "base"]
    lengths = np.array([np.mean([r["mean_response"] for r in mine]) for mine in trained])
    results = np.array([runs_of(mine, target).by_seed.mean() for mine in trained])
    spread = [runs_of(mine, target).by_seed.var(ddof=1) for mine in trained if len(mine) > 1]
    noise = f"{math.sqrt(np.mean(spread)):.4f}" if spread else "not known"
    return (
        f"- Spearman of an arm's mean response length with its NLL, {len(trained)} arms: "
        f"{spearman(lengths, results):+.2f}; standard deviation between seeds of an arm: {noise}"
    )


def report(rows: Sequence[dict[str, Any]]) -> str:
    """The Markdown of the newest setting among ``rows``: a table a target and how to read it."""
    setting = rows[-1]["setting"]
    rows = [row for row in rows if row["setting"] == setting]
    first = rows[-1]
    recipe = first["recipe"]
    targets = [t for t in first["targets"] if any(t in row["evaluated"] for row in rows)]
    compared = sum(arm.endswith((" top", " bottom")) for t in targets for arm in arms_of(rows, t))
    adapted = f"the last {recipe['layers']} layers" if recipe["layers"] else "all layers"
    head = (
        f"{first['model']}, {first['pool_rows']:,} pool rows (without {', '.join(first['removed']) or 'nothing'}), "
        f"{recipe['tokens']:,} response tokens in {recipe['steps']} steps an arm, LoRA rank {recipe['rank']} on "
        f"{adapted}, learning rate {recipe['lr']:g}; NLL per response token without the "
        f"end of turn, on {first['held_out']} held-out samples a set. ± is a 95% t interval with the noise of training "
        f"and of the held-out samples; a word stands only where it excludes 0. Of {compared} comparisons of a method's "
        f"arm with random {compared * (1 - LEVEL):.1f} would be told apart by chance alone."
    )
    return "\n\n".join([head, *(f"**{t}**\n\n{target_table(rows, t)}" for t in targets)])
