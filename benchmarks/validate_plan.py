"""What ``benchmarks.validate_table`` trains: the arms' rows, and the runs of each stage in order."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from nait_fast.validation import steps as arms

ANY = "any"  # the target of arms that no target decides
IN_POOL, REMOVED = SETTINGS = ("in pool", "removed")
SEEDS, DRAWS, MOST = 3, 5, 6
LOOKS = MOST - SEEDS + 1
TENTH = 10
# The ways to select that are always trained on, most important first; then those that are where they choose other rows.
FIRST = ("contrast", "nait drift", "embed", "nag", "rds", "crds", "contrast matched")
MORE = (
    "contrast roundrobin",
    "contrast response",
    "contrast 1/3",
    "embed roundrobin",
    "nag roundrobin",
    "rds centroid",
    "rds response",
    "embed response",
)
LIKE = 0.9  # share of response tokens in common above which a way is the same as one before it
QUALITY = ("nll", "ifd")
STAGES = ("check", "tops", "claim", "removed", "controls", "transfer", "ways", "tenths", "seeds")
# (setting, target, way) -> the pool's rows, int64, best first
Order = Callable[[str, str, str], np.ndarray]


@dataclass(frozen=True)
class Run:
    """One training: ``target`` is ``any`` for arms that are every target's; ``selector``: whose order, "" for none."""

    setting: str
    target: str
    arm: str
    seed: int
    selector: str = ""


@dataclass(frozen=True)
class Material:
    """All samples, and where among them is what: ``pool`` the usable rows (their numbers in the pool), ``held_out`` of
    each set; ``response`` int64: tokens with a loss; ``sources`` of the pool's rows."""

    samples: Sequence[Any]
    sources: np.ndarray
    pool: np.ndarray
    held_out: Mapping[str, list[int]]
    response: np.ndarray
    orders: Mapping[str, Order]
    own: str

    def usable(self, setting: str, target: str) -> np.ndarray:
        """Rows of the pool in ``setting``."""
        kept = self.pool[self.response[self.pool] > 0]
        return kept if setting == IN_POOL else kept[self.sources[kept] != target]

    def order(self, run: Run, way: str) -> np.ndarray:
        """Usable rows, best first."""
        usable = np.zeros(len(self.sources), dtype=bool)
        usable[self.usable(run.setting, run.target)] = True
        rows = self.orders[run.selector or self.own](run.setting, run.target, way)
        return rows[usable[rows]]


def rows_of(material: Material, run: Run, tokens: int) -> np.ndarray:
    """The rows that ``run`` trains on, as many as its response tokens need."""
    response, rows = material.response, material.usable(run.setting, run.target)
    generator = np.random.default_rng([run.seed, 1])
    if run.arm == "random":
        return arms.take(generator.permutation(rows), response, tokens)
    if run.arm == "own_source":
        own = material.pool[material.sources[material.pool] == run.target]
        return arms.take(generator.permutation(own[response[own] > 0]), response, tokens)
    if run.arm == "longest":
        return arms.top(rows, response.astype(float), response, tokens)
    if run.arm in QUALITY:
        return arms.take(material.order(run, run.arm), response, tokens)
    if run.arm == "random_length":
        like = arms.take(material.order(run, "contrast"), response, tokens)
        return arms.matched(like, rows, response, run.seed)
    way, _, part = run.arm.rpartition(" ")
    if part.isdecimal():
        ranked = material.order(run, way.removesuffix(" tenth"))
        tenth = np.array_split(ranked, TENTH)[int(part) - 1]
        return arms.take(generator.permutation(tenth), response, tokens)
    ranked = material.order(run, way)
    return arms.take(ranked if part == "top" else ranked[::-1], response, tokens)


def in_common(a: np.ndarray, b: np.ndarray, response: np.ndarray) -> float:
    """Share of the response tokens of ``a`` that lie in rows of ``b``, too."""
    return float(response[np.intersect1d(a, b)].sum() / response[a].sum())


def distinct_ways(material: Material, setting: str, target: str, tokens: int) -> dict[str, str]:
    """Way -> "" if its top differs from that of every way before it by more than a tenth, else the way that it is
    like."""
    tops: dict[str, np.ndarray] = {}
    out: dict[str, str] = {}
    for way in (*FIRST, *MORE):
        if way == "nag roundrobin" and setting == REMOVED:
            continue
        mine = rows_of(material, Run(setting, target, f"{way} top", 0), tokens)
        same = next((w for w, other in tops.items() if in_common(mine, other, material.response) >= LIKE), "")
        if same and way in FIRST:
            same = ""  # trained on all the same
        out[way] = same
        if not same:
            tops[way] = mine
    return out


def plan(
    material: Material, targets: Sequence[str], tokens: int, others: Sequence[str]
) -> dict[str, Callable[[], list[Run]]]:
    """Stage -> its runs, most important first: seed by seed over the targets, so that what is there when time runs out
    says something of each."""

    def rounds(setting: str, arms_: Sequence[str], seeds: Sequence[int], selector: str = "") -> list[Run]:
        return [Run(setting, target, arm, seed, selector) for seed in seeds for target in targets for arm in arms_]

    few, draws = range(SEEDS), range(DRAWS)
    tops = [f"{way} top" for way in FIRST]
    check = [
        Run(IN_POOL, ANY, "base", 0),
        *(Run(IN_POOL, ANY, "random", seed) for seed in draws),
        *rounds(IN_POOL, ["own_source"], few),
    ]

    @cache
    def more(setting: str, target: str) -> list[str]:
        ways = distinct_ways(material, setting, target, tokens)
        return [f"{way} top" for way in MORE if ways.get(way) == ""]

    def ways() -> Iterator[Run]:
        for seed in few:
            for setting in SETTINGS:
                for target in targets:
                    for arm in more(setting, target):
                        yield Run(setting, target, arm, seed)

    return {
        "check": lambda: check,
        "tops": lambda: rounds(IN_POOL, tops, few),
        "claim": lambda: rounds(IN_POOL, ["nait drift tenth 1", "nait drift tenth 10"], few),
        "removed": lambda: [
            run
            for seed in draws
            for target in targets
            for run in (
                Run(REMOVED, target, "random", seed),
                *(Run(REMOVED, target, arm, seed) for arm in tops if seed < SEEDS),
            )
        ],
        "controls": lambda: [
            *(Run(IN_POOL, ANY, arm, seed) for seed in few for arm in ("longest", *QUALITY)),
            *rounds(IN_POOL, ["random_length"], few),
            *rounds(REMOVED, ["random_length"], few),
        ],
        "transfer": lambda: [
            run
            for other in others
            for way in ("contrast", "rds")
            for setting in SETTINGS
            for run in rounds(setting, [f"{way} top"], few, other)
        ],
        "ways": lambda: list(ways()),
        "tenths": lambda: rounds(
            IN_POOL, [f"{way} tenth {k}" for way in ("contrast", "nait drift") for k in range(1, TENTH + 1)], few
        ),
    }
