"""The tables of the recorded rows of ``ablation.jsonl``: the top and bottom by each method, random rows and controls.

``benchmarks.validate_table`` is what measures now.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks.record import table
from nait_fast.ranking.spearman import spearman
from nait_fast.validation.intervals import LEVEL, difference, end_nll, level_of, runs_of, verdict

CONTROLS = ("base", "own_source", "random", "random_length", "longest")  # the first arms of a table


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
