"""The arms that a selection is held against, drawn from its ranking under one budget of response tokens."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from nait_fast.validation import steps

BASE, RANDOM, RANDOM_LENGTH, TOP, BOTTOM = ARMS = ("base", "random", "random_length", "top", "bottom")
TENTHS = 10


def tenth(number: int) -> str:
    """The arm of the ``number``-th tenth of a ranking, from 1."""
    return f"tenth {number}"


WORDS = {
    BASE: "as it is",
    RANDOM: "random rows",
    RANDOM_LENGTH: "random, same lengths",
    TOP: "the selection",
    BOTTOM: "the worst rows",
} | {tenth(k + 1): f"tenth {k + 1}" for k in range(TENTHS)}


@dataclass(frozen=True)
class Run:
    """One training: of ``arm``, with the draws and adapters of ``seed``."""

    arm: str
    seed: int


def plan(seeds: int, draws: int, deciles: bool) -> list[Run]:
    """What is run, so that what is there after a while says something: the model as it is, then seed by seed."""
    runs = [Run(BASE, 0)]
    for seed in range(max(seeds, draws)):
        runs += [Run(RANDOM, seed)] if seed < draws else []
        runs += [Run(arm, seed) for arm in (TOP, RANDOM_LENGTH, BOTTOM) if seed < seeds]
    if deciles:
        runs += [Run(tenth(k + 1), seed) for seed in range(seeds) for k in range(TENTHS)]
    return runs


@dataclass(frozen=True)
class Candidates:
    """Rows that arms draw from, by arm, int64: ``groups`` of ``TOP`` and ``BOTTOM`` best and worst first, all others in
    the order of a draw; ``response`` int64: tokens with a loss of every row that stands in one."""

    groups: Mapping[str, np.ndarray]
    response: np.ndarray

    def rows_of(self, run: Run, tokens: int) -> np.ndarray:
        """The rows that ``run`` trains on: of its group, drawn anew for each seed, as many as make up ``tokens``
        response tokens; of the same lengths, nearly, as those of the selection's run with this seed."""
        generator = np.random.default_rng([run.seed, 1])
        if run.arm == RANDOM_LENGTH:
            like = self.rows_of(Run(TOP, run.seed), tokens)
            return steps.matched(like, self.groups[RANDOM], self.response, run.seed)
        return steps.take(generator.permutation(self.groups[run.arm]), self.response, tokens)

    def tokens_of(self, arm: str) -> int:
        """Response tokens of an arm's group."""
        return int(self.response[self.groups[arm]].sum())


def tenths(ranked: np.ndarray) -> list[np.ndarray]:
    """``ranked`` in ten parts of equal size, best first."""
    return np.array_split(ranked, TENTHS)


def draw(rows: np.ndarray, most: int, seed: Sequence[int]) -> np.ndarray:
    """At most ``most`` of ``rows``, in the order of a draw."""
    return np.random.default_rng(list(seed)).permutation(rows)[:most]
