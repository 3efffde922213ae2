"""What the rows of ``benchmarks.validate_table`` say, as Markdown, and which runs the sequential rule wants next."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import isfinite
from typing import Any

import numpy as np

from benchmarks.record import source_of, table
from benchmarks.validate_plan import ANY, FIRST, IN_POOL, LOOKS, MORE, MOST, QUALITY, REMOVED, SEEDS, SETTINGS, TENTH
from nait_fast.validation.intervals import LEVEL, Interval, Runs, difference, level_of, runs_of, verdict

Row = Mapping[str, Any]
Key = tuple[str, str, str, str]  # setting, target, arm, selector
GENERAL = "general"
LOOK_LEVEL = 1 - (1 - LEVEL) / LOOKS
CHECKS = ("base", "own_source")  # what no way to select is
CONTROLS = ("random_length", "longest", *QUALITY)
CLAIM = "nait drift"
CURVES = ("contrast", CLAIM)
NAMES = {IN_POOL: "the target's source in the pool", REMOVED: "the target's source removed"}


@dataclass(frozen=True)
class Found:
    """The rows of one model in one setting of all that decides results: ``arms``: seed -> row of each arm."""

    rows: Sequence[Row]

    @cached_property
    def arms(self) -> dict[Key, dict[int, Row]]:
        out: dict[Key, dict[int, Row]] = {}
        for row in self.rows:  # the last row of a run is the one that counts
            out.setdefault((row["setting"], row["target"], row["arm"], row["selector"]), {})[row["seed"]] = row
        return out

    @property
    def model(self) -> str:
        return self.rows[-1]["model"]

    @property
    def targets(self) -> list[str]:
        return self.rows[-1]["targets"]

    @property
    def level(self) -> float:
        """At which a top is told from random: where seeds were added one by one, there were up to LOOKS looks at it."""
        tops = (seeds for (_, _, arm, _), seeds in self.arms.items() if arm.endswith(" top"))
        return LOOK_LEVEL if any(len(seeds) > SEEDS for seeds in tops) else LEVEL

    def seeds(self, setting: str, target: str, arm: str, selector: str = "") -> dict[int, Row]:
        """Seed -> row of an arm. The checks are runs of the pool as it is, whatever the setting; arms that no target
        decides are every target's."""
        setting = IN_POOL if arm in CHECKS else setting
        own = self.arms.get((setting, target, arm, selector))
        return own or self.arms.get((setting, ANY, arm, selector), {})

    def runs(self, setting: str, target: str, arm: str, selector: str = "", where: str = "") -> Runs | None:
        """An arm's losses on the held-out samples of ``where`` (""; the target's); None if it has not run."""
        seeds = self.seeds(setting, target, arm, selector)
        return runs_of([seeds[seed] for seed in sorted(seeds)], where or target) if seeds else None

    def against(
        self,
        setting: str,
        target: str,
        arm: str,
        other: str = "random",
        *,
        selector: str = "",
        of_other: str = "",
        where: str = "",
        level: float = LEVEL,
    ) -> Interval | None:
        """NLL per token of ``arm`` less that of ``other``; None if one of them has not run."""
        a, b = self.runs(setting, target, arm, selector, where), self.runs(setting, target, other, of_other, where)
        return None if a is None or b is None else difference(a, b, level)

    def told(self, setting: str, target: str, arm: str, selector: str = "") -> bool:
        """Whether an arm is told from random."""
        level = self.level if arm.endswith(" top") else LEVEL
        interval = self.against(setting, target, arm, selector=selector, level=level)
        return interval is not None and interval.excludes_zero

    @property
    def compared(self) -> Iterator[tuple[str, str, str, str]]:
        """(setting, target, arm, selector) of each comparison of a way to select with random."""
        for setting in SETTINGS:
            ways = {(arm, selector) for place, _, arm, selector in self.arms if place == setting}
            for arm, selector in sorted(ways):
                if arm.endswith(" top") or arm in CONTROLS:
                    for target in self.targets:
                        interval = self.against(setting, target, arm, selector=selector)
                        if interval is not None and isfinite(interval.half):
                            yield setting, target, arm, selector


def undecided(rows: Sequence[Row], setting: str) -> list[tuple[str, str, str, int, str]]:
    """(setting, target, arm, seed, selector) of the runs that the sequential rule wants next, of the rows whose ``of``
    is ``setting``: fewest seeds first."""
    mine = [row for row in rows if row["of"] == setting]
    if not mine:
        return []
    found, wanted = Found(mine), []
    for (place, target, arm, selector), seeds in found.arms.items():
        if not arm.endswith(" top") or not SEEDS <= len(seeds) < MOST:
            continue
        if len(found.seeds(place, target, "random")) < SEEDS:
            continue  # no comparison yet that could decide
        interval = found.against(place, target, arm, selector=selector, level=LOOK_LEVEL)
        if interval is not None and not interval.excludes_zero:
            seed = min(set(range(MOST)) - set(seeds))
            wanted.append((len(seeds), (place, target, arm, seed, selector)))
    return [run for _, run in sorted(wanted, key=lambda pair: pair[0])]


def _head(models: Sequence[Found]) -> str:
    facts: dict[str, list[str]] = {}
    for found in models:
        row = found.rows[-1]
        recipe = row["recipe"]
        adapted = f"the last {recipe['layers']} layers" if recipe["layers"] else "all layers"
        text = (
            f"{row['pool_rows']:,} pool rows; a run is {recipe['tokens']:,} response tokens in {recipe['steps']} "
            f"steps, LoRA rank {recipe['rank']} (alpha {recipe['alpha']}) on {adapted}, learning rate "
            f"{recipe['lr']:g}, frozen products {recipe['product']}; NLL per response token without the end of turn, "
            f"on {row['held_out']} held-out samples of each target and as many of the pool's kinds (`{GENERAL}`)"
        )
        facts.setdefault(text, []).append(found.model)
    intervals = [
        (found.told(*key), found.against(*key[:3], selector=key[3])) for found in models for key in found.compared
    ]
    told = [interval.mean for is_told, interval in intervals if is_told and interval is not None]
    better, n = sum(mean < 0 for mean in told), len(intervals)
    looks = ""
    if any(found.level != LEVEL for found in models):
        looks = (
            f" A top that isn't told from random gets more seeds, up to {MOST}; as there are up to {LOOKS} looks at "
            f"it, it is bold against random only where a {LOOK_LEVEL:.2%} interval excludes 0."
        )
    chance = (
        f" Of {n} comparisons of a way to select with random {n * (1 - LEVEL):.1f} would be told apart by chance "
        f"alone; {len(told)} are, {better} better and {len(told) - better} worse than random."
    )
    return (
        "**What training on a selection gives**. "
        + ". ".join(f"{', '.join(names)}: {text}" for text, names in facts.items())
        + f". A negative difference is a lower loss. ± is a {LEVEL:.0%} t interval with the noise of training and of "
        f"the held-out samples; bold: it excludes 0; in brackets the number of seeds where it is not {SEEDS}.{looks}"
        + (chance if n else "")
    )


def _shown(interval: Interval | None, told: bool, seeds: int) -> str:
    if interval is None:
        return ""
    return (f"**{interval}**" if told else str(interval)) + ("" if seeds == SEEDS else f" ({seeds})")


def _check(models: Sequence[Found]) -> str:
    names, shown = list(dict.fromkeys(target for found in models for target in found.targets)), []
    for found in models:
        cells = {"model": found.model}
        for target in found.targets:
            if interval := found.against(IN_POOL, target, "own_source"):
                word = verdict(interval, ("yes", "worse")) or "no"
                cells[target] = f"{interval}: {word}" if isfinite(interval.half) else str(interval)
        if len(cells) > 1:
            shown.append(cells)
    title = "**The check**: random rows of the target's own source − random rows. Is there an effect to see?"
    return f"{title}\n\n{table(shown, ['model', *names])}" if shown else ""


def _ways(found: Found, setting: str) -> str:
    """The arms of one setting against random: a row a way, a column a target."""
    random = {t: level_of(runs) for t in found.targets if (runs := found.runs(setting, t, "random")) is not None}
    if not random:
        return ""
    tops = {way: f"{way} top" for way in (*FIRST, *MORE)}
    arms = {**{arm: arm for arm in CHECKS}, "random": "random", **tops, **{arm: arm for arm in CONTROLS}}
    shown = []
    for name, arm in arms.items():
        cells: dict[str, Any] = {"way": name}
        general = []
        for target in random:
            seeds = SEEDS if arm == "base" else len(found.seeds(setting, target, arm))
            if arm == "random":
                at = random[target]
                cells[target] = f"{at.mean:.3f} ± {at.half:.3f}" + ("" if seeds == SEEDS else f" ({seeds})")
                continue
            interval = found.against(setting, target, arm)
            cells[target] = _shown(interval, found.told(setting, target, arm), seeds)
            on_general = found.against(setting, target, arm, where=GENERAL)
            general += [] if on_general is None else [on_general.mean]
        if len(general) == len(random):  # else it would be a mean of other targets than the rows beside it
            cells[f"on {GENERAL}"] = f"{np.mean(general):+.3f}"
        if any(cells.get(target) for target in random):
            shown.append(cells)
    notes = f"random: its NLL; all others: − random; on {GENERAL}: that difference on `{GENERAL}`, mean of the targets"
    if setting == REMOVED and any(row["way"] in CHECKS for row in shown):
        notes += "; base and own_source are the same runs as with the source in the pool"
    if any(row["way"] in MORE for row in shown):
        notes += "; a way behind " + FIRST[-1] + " was trained on only where it takes other rows than those above it"
    return f"**{found.model}, {NAMES[setting]}** ({notes}).\n\n" + table(
        shown, ["way", *random, *([f"on {GENERAL}"] if any(f"on {GENERAL}" in row for row in shown) else [])]
    )


def _claim(models: Sequence[Found]) -> str:
    """Whether the top tenth by ``nait drift`` trains better than random rows, and these better than the last tenth."""
    first, last, shown = f"{CLAIM} tenth 1", f"{CLAIM} tenth {TENTH}", []
    for found in models:
        for target in found.targets:
            top, bottom = (found.against(IN_POOL, target, arm) for arm in (first, last))
            apart = found.against(IN_POOL, target, first, last)
            if top is None or bottom is None or apart is None:
                continue
            signs = [verdict(top, ("yes", "no")), verdict(bottom, ("no", "yes"))]
            holds = "no" if "no" in signs else "yes" if signs == ["yes", "yes"] else "not told apart"
            holds = holds if isfinite(top.half) and isfinite(bottom.half) else "too few seeds"
            cells = {"model": found.model, "target": target, "top − random": _bold(top)}
            cells |= {"last − random": _bold(bottom), "top − last": _bold(apart), "holds": holds}
            shown.append(cells)
    title = (
        f"**The paper's claim**: the top tenth by `{CLAIM}` trains better than random rows, and these better than the "
        "last tenth. yes: both are told apart; no: one is told apart the other way round."
    )
    columns = ["model", "target", "top − random", "last − random", "top − last", "holds"]
    return f"{title}\n\n{table(shown, columns)}" if shown else ""


def _bold(interval: Interval) -> str:
    return f"**{interval}**" if interval.excludes_zero else str(interval)


def _pairs(models: Sequence[Found]) -> str:
    """The targets on which contrast is told from each other way, and which way."""
    mine, shown, columns, total = FIRST[0], [], dict[str, None](), 0
    for other in (*FIRST[1:], *MORE):
        cells: dict[str, Any] = {f"{mine} against": other}
        wins, losses, n = 0, 0, 0
        for found in models:
            for setting in SETTINGS:
                words: dict[str, list[str]] = {"better": [], "worse": []}
                here = 0
                for target in found.targets:
                    interval = found.against(setting, target, f"{mine} top", f"{other} top")
                    if interval is not None and isfinite(interval.half):
                        here += 1
                        if word := verdict(interval):
                            words[word].append(target)
                if here:
                    columns[column := f"{found.model}, {setting}"] = None
                    some = "; ".join(f"{word} {', '.join(names)}" for word, names in words.items() if names)
                    cells[column] = some or "not told apart"
                n, wins, losses = n + here, wins + len(words["better"]), losses + len(words["worse"])
        if n:
            cells["better / worse / of"] = f"{wins} / {losses} / {n}"
            shown.append(cells)
            total += n
    title = (
        f"**Pairs**: the targets on which the top of `{mine}` is told from that of another way, better or worse; of "
        f"{total} comparisons {total * (1 - LEVEL):.1f} would be by chance."
    )
    return f"{title}\n\n{table(shown, [f'{mine} against', *columns, 'better / worse / of'])}" if shown else ""


def _records(models: Sequence[Found]) -> str:
    """On how many pairs of setting and target each way is told from random."""
    shown = []
    for way in (*FIRST, *MORE):
        arm, means, better, worse = f"{way} top", list[float](), 0, 0
        for found in models:
            for setting in SETTINGS:
                for target in found.targets:
                    interval = found.against(setting, target, arm)
                    if interval is not None and isfinite(interval.half):
                        means.append(interval.mean)
                        told = found.told(setting, target, arm)
                        better, worse = better + (told and interval.mean < 0), worse + (told and interval.mean > 0)
        if means:
            record = f"{better} / {worse} / {len(means)}"
            shown.append({"way": way, "better / worse / of": record, "mean": f"{np.mean(means):+.3f}"})
    title = "**Against random rows**: how often the top of a way is told from them, and its mean difference from them."
    return f"{title}\n\n{table(shown, ['way', 'better / worse / of', 'mean'])}" if shown else ""


def _each(models: Sequence[Found]) -> str:
    """How often each way is told ahead of each other, and behind it."""
    shown, total = [], 0
    for way in FIRST:
        cells = {"way": way}
        for other in FIRST:
            intervals = [
                interval
                for found in models
                for setting in SETTINGS
                for target in found.targets
                if (interval := found.against(setting, target, f"{way} top", f"{other} top"))
                and isfinite(interval.half)
            ]
            if way != other and intervals:
                words = [verdict(interval) for interval in intervals]
                cells[other] = f"{words.count('better')} / {words.count('worse')}"
                total += len(intervals)
        if len(cells) > 1:
            shown.append(cells)
    title = (
        f"**Each against each**: how often the top of a row's way is told better / worse than that of a column's. "
        f"Of {total // 2} comparisons {total / 2 * (1 - LEVEL):.0f} would be by chance."
    )
    columns = [way for way in FIRST if any(way in row for row in shown)]
    return f"{title}\n\n{table(shown, ['way', *columns])}" if columns else ""


def _transfer(models: Sequence[Found]) -> str:
    """Training on what another model's order takes first, against the own order and random."""
    shown, names = [], list(dict.fromkeys(target for found in models for target in found.targets))
    for found in models:
        others = dict.fromkeys((setting, arm, selector) for setting, _, arm, selector in found.arms if selector)
        for setting, arm, selector in sorted(others, key=lambda other: SETTINGS.index(other[0])):
            for against, of in ((f"own {arm.removesuffix(' top')}", arm), ("random", "random")):
                cells = {"trained": found.model, "setting": setting, "minus": against}
                cells["way"] = f"{arm.removesuffix(' top')} by {selector}"
                for target in found.targets:
                    level = found.level if of == "random" else LEVEL
                    seeds = len(found.seeds(setting, target, arm, selector))
                    interval = found.against(setting, target, arm, of, selector=selector)
                    asked = found.against(setting, target, arm, of, selector=selector, level=level)
                    cells[target] = _shown(interval, asked is not None and asked.excludes_zero, seeds)
                if any(cells[target] for target in found.targets):
                    shown.append(cells)
    title = "**Transfer**: training on what another model's order takes first, against the own order and random rows."
    return f"{title}\n\n{table(shown, ['trained', 'setting', 'way', 'minus', *names])}" if shown else ""


def _curves(models: Sequence[Found]) -> str:
    """Mean difference from random of each tenth of an order."""
    tenths, shown = [str(k) for k in range(1, TENTH + 1)], []
    for found in models:
        for way in CURVES:
            for target in found.targets:
                points = {k: found.against(IN_POOL, target, f"{way} tenth {k}") for k in tenths}
                there = {k: interval for k, interval in points.items() if interval is not None}
                if len(there) <= 2:
                    continue  # the claim's alone
                cells = {"model": found.model, "way": way, "target": target}
                cells |= {k: f"{interval.mean:+.3f}" for k, interval in there.items()}
                shown.append(cells | {"±": f"{np.mean([interval.half for interval in there.values()]):.3f}"})
    title = "**Tenths**: random rows of each tenth of an order, best first, − random; ±: the mean of a row's intervals."
    return f"{title}\n\n{table(shown, ['model', 'way', 'target', *tenths, '±'])}" if shown else ""


def _costs(models: Sequence[Found]) -> str:
    shown, total = [], 0.0
    for found in models:
        seconds = [row["cpu_seconds"] for row in found.rows]
        trained = [row["cpu_seconds"] for row in found.rows if row["arm"] != "base"]
        total += sum(seconds)
        cells = {"model": found.model, "runs": len(seconds), "CPU-hours": f"{sum(seconds) / 3600:.1f}"}
        if trained:
            cells["CPU-minutes a run"] = f"{np.mean(trained) / 60:.1f}"
        shown.append(cells)
    sources = "\n\n".join(dict.fromkeys(source_of(list(map(dict, found.rows))) for found in models))
    title = f"**Costs**, evaluations among them: {total / 3600:.1f} CPU-hours in all."
    return f"{title}\n\n{table(shown, ['model', 'runs', 'CPU-minutes a run', 'CPU-hours'])}\n\n{sources}"


def report(rows: Sequence[Row]) -> str:
    """Markdown of the newest setting of each model among ``rows``; what has no rows is left out."""
    newest = {row["model"]: row["of"] for row in rows}
    models = [Found([row for row in rows if row["of"] == of]) for of in newest.values()]
    if not models:
        return ""
    parts = [_head(models), _check(models)]
    parts += [_ways(found, setting) for found in models for setting in SETTINGS]
    parts += [
        _claim(models),
        _records(models),
        _pairs(models),
        _each(models),
        _transfer(models),
        _curves(models),
        _costs(models),
    ]
    return "\n\n".join(part for part in parts if part)
