"""What the runs of a validation say: arms with intervals, a verdict a target, and the text that a person reads."""

import math
import shlex
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nait_fast.terminal import WIDTH
from nait_fast.validation.arms import ARMS, BASE, RANDOM, TENTHS, TOP, WORDS, Run, tenth
from nait_fast.validation.intervals import Interval, correct_of, difference, level_of, runs_of, verdict

UNDECIDED = "not told apart"


def summary_of(
    runs: Sequence[Run], done: Mapping[Run, Mapping[str, Any]], sets: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """``arms`` and ``verdicts`` of ``validation.json``."""
    by_arm: dict[str, list[Mapping[str, Any]]] = {}
    for run in runs:
        by_arm.setdefault(run.arm, []).append({**done[run], "arm": run.arm})
    order = [*ARMS, *(tenth(k + 1) for k in range(TENTHS))]
    arms = []
    for arm in sorted(by_arm, key=order.index):
        rows = by_arm[arm]
        entry: dict[str, Any] = {"arm": arm, "target": None, "seeds": len(rows), "rows": None, "mean_response": None}
        if arm != BASE:
            entry["rows"] = float(np.mean([row["rows"] for row in rows]))
            entry["mean_response"] = float(np.mean([row["response_tokens"] / row["samples"] for row in rows]))
        entry["losses"] = {one["name"]: _numbers(level_of(runs_of(rows, one["name"]))) for one in sets}
        if arm != RANDOM:
            entry["against_random"] = {}
            for one in sets:
                off = difference(runs_of(rows, one["name"]), runs_of(by_arm[RANDOM], one["name"]))
                entry["against_random"][one["name"]] = {**_numbers(off), "word": verdict(off)}
        correct = {one["name"]: right for one in sets if (right := correct_of(rows, one["name"])) is not None}
        if correct:
            entry["accuracy"] = {name: _shares(level_of(right)) for name, right in correct.items()}
        if correct and arm != RANDOM:
            entry["accuracy_against_random"] = {
                name: _shares(difference(right, of_random))
                for name, right in correct.items()
                if (of_random := correct_of(by_arm[RANDOM], name)) is not None
            }
        arms.append(entry)
    top = next(arm for arm in arms if arm["arm"] == TOP)
    verdicts = []
    for one in sets:
        if one["role"] == "target":
            off = top["against_random"][one["name"]]
            word = off["word"] or UNDECIDED
            verdicts.append({"target": one["name"], "text": _verdict(off, word), "word": word, **_only(off)})
    return {"arms": arms, "verdicts": verdicts}


def _only(off: Mapping[str, Any]) -> dict[str, Any]:
    return {key: off[key] for key in ("mean", "half")}


def _numbers(interval: Interval) -> dict[str, float | None]:
    return {"mean": interval.mean, "half": interval.half if math.isfinite(interval.half) else None}


def _shares(interval: Interval) -> dict[str, float | None]:
    """Of answers that are right or wrong: where all are alike, nothing tells how far off that may be."""
    return _numbers(interval) | ({"half": None} if interval.half == 0 else {})


def _verdict(off: Mapping[str, Any], word: str) -> str:
    half = "?" if off["half"] is None else f"{off['half']:.3f}"
    if word == UNDECIDED:
        return f"not told apart from random rows ({_signed(off)} nats a token)"
    return f"{word} than random rows by {abs(off['mean']):.3f} ± {half} nats a token"


def right_answers(mean: float, half: float | None) -> str:
    """Of the share of right answers, less that of random rows, in words."""
    word = UNDECIDED if half is None or abs(mean) <= half else "more" if mean > 0 else "fewer"
    points = f"{100 * mean:+.1f} ± {'?' if half is None else f'{100 * half:.1f}'}".replace("-", "−")
    return f"right answers: {points} points against random rows, {word}"


def text_of(result: Mapping[str, Any], folder: Path) -> str:
    """What a person reads."""
    several = len(result["verdicts"]) > 1
    arms = {arm["arm"]: arm for arm in result["arms"]}
    top, random, recipe = arms[TOP], arms[RANDOM], result["recipe"]
    lines = []
    for one in result["verdicts"]:
        lines.append((f"{one['target']}: " if several else "") + one["text"])
    for one in result["sets"]:
        if one["role"] == "general":
            off = top["against_random"][one["name"]]
            lines.append(f"elsewhere: {_verdict(off, off['word'] or UNDECIDED)}")
    for name, off in top.get("accuracy_against_random", {}).items():
        lines.append((f"{name}: " if several else "") + right_answers(off["mean"], off["half"]))
    adapted = f"the last {recipe['layers']} layers" if recipe["layers"] else "all layers"
    held = ", ".join(f"{one['samples']} of {one['name']}" for one in result["sets"])
    different = f" ({recipe['distinct_tokens']:,} different)" if recipe["distinct_tokens"] < recipe["tokens"] else ""
    trained = (
        f"{Path(result['model']).name}, LoRA on {adapted}; {recipe['tokens']:,} response tokens{different} in "
        f"{recipe['steps']} steps a run, {top['seeds']} seeds ({random['seeds']} of random rows); held out: {held}"
    )
    lines += [
        "",
        *textwrap.wrap(trained, WIDTH, break_long_words=False, break_on_hyphens=False),
        "",
        *_table(result),
        "",
        "loss: nats a response token; ± is 95%, of training and of the held-out samples",
        f"written to {folder}; next: nait-fast report {shlex.join(_report(result, folder))}",
    ]
    return "\n".join(lines)


def _report(result: Mapping[str, Any], folder: Path) -> list[str]:
    """The arguments of the report that shows it, which finds by itself what lies in the selection."""
    chosen = result["selection"]["folder"]
    inside = Path(chosen) == folder or Path(chosen, "validation") == folder
    return [chosen] if inside else [chosen, "--validation", str(folder)]


def _table(result: Mapping[str, Any]) -> list[str]:
    names = [one["name"] for one in result["sets"]]
    cells = [["", *(part for name in names for part in (name, "less random"))]]
    for arm in result["arms"]:
        row = [WORDS[arm["arm"]]]
        for name in names:
            row.append(f"{arm['losses'][name]['mean']:.3f}")
            off = arm.get("against_random", {}).get(name)
            row.append("" if off is None else _signed(off))
        cells.append(row)
    accuracy = [name for name in names if all(name in arm.get("accuracy", {}) for arm in result["arms"])]
    for name in accuracy:
        cells[0].append(f"{name} right")
        for row, arm in zip(cells[1:], result["arms"], strict=True):
            value = arm["accuracy"][name]
            row.append(f"{value['mean']:.1%}" + ("" if value["half"] is None else f" ± {100 * value['half']:.1f}"))
    widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]
    if sum(widths) + 2 * len(widths) > WIDTH:  # a set a table
        return [line for name in names for line in [*_one(result, name), ""]][:-1]
    lines = [
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in cells
    ]
    return [line.rstrip() for line in lines]


def _one(result: Mapping[str, Any], name: str) -> list[str]:
    lines = [f"{name:<22}{'loss':>8}  {'less random':>16}"]
    for arm in result["arms"]:
        off = arm.get("against_random", {}).get(name)
        right = arm.get("accuracy", {}).get(name)
        line = f"{WORDS[arm['arm']]:<22}{arm['losses'][name]['mean']:>8.3f}  {'' if off is None else _signed(off):>16}"
        lines.append(line.rstrip() if right is None else f"{line}  {right['mean']:.1%} right")
    return lines


def _signed(off: Mapping[str, Any]) -> str:
    mean = 0.0 if abs(off["mean"]) < 0.0005 else off["mean"]
    return f"{mean:+.3f} ± ".replace("-", "−") + ("?" if off["half"] is None else f"{off['half']:.3f}")
