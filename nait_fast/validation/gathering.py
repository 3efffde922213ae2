"""What the arms of a validation draw from and what they are measured on, by one numbering: groups of a ranking's rows,
rows set aside for the general loss, held-out samples."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nait_fast.config import ValidateOptions
from nait_fast.data.tokenize import Encoder
from nait_fast.errors import BadInput
from nait_fast.index import token_hashes
from nait_fast.index.pool_rows import PoolRows
from nait_fast.index.reader import Index
from nait_fast.notices import warn
from nait_fast.validation.arms import BOTTOM, RANDOM, TENTHS, TOP, Candidates, draw, tenth, tenths
from nait_fast.validation.material import HeldOut, trained_rows

# Of a large group an arm draws from so many rows, or as many as hold the response tokens of so many runs: else several
# seeds would draw the same rows.
LEAST_ROWS, ROW_TOKENS, RUNS = 4_000, 10, 5


@dataclass(frozen=True)
class Ranked:
    """Rows of a selection's scores: ``rows`` int64 [n], best first, those that constraints took left out; ``selected``
    int64 [k], best first; ``where`` the selection is, for messages."""

    rows: np.ndarray
    selected: np.ndarray
    where: str


@dataclass
class Material:
    """``samples``: of rows, then of the held-out sets, by one numbering, in which ``candidates`` and ``sets`` are."""

    samples: list[Any]
    candidates: Candidates
    held: list[HeldOut]
    sets: dict[str, list[int]]
    choices: dict[str, list[list[int]]]

    @property
    def measured_by_set(self) -> dict[str, list[list[int]]]:
        """Set -> numbers of its samples, and then of what each of them could say instead."""
        return {name: [rows, *self.choices.get(name, [])] for name, rows in self.sets.items()}

    @property
    def measured(self) -> list[int]:
        """Numbers of all samples that are measured on, and of what they could say instead."""
        return [row for several in self.measured_by_set.values() for rows in several for row in rows]


def gather(
    options: ValidateOptions,
    ranked: Ranked,
    encoder: Encoder,
    index: Index,
    pool: PoolRows,
    held: Sequence[HeldOut],
    general: str,
    tokens: int,
) -> Material:
    """The material of a validation whose runs train on at most ``tokens`` response tokens. Rows of the pool are set
    aside for the general loss where ``held`` has no set of the name ``general``. Raises BadInput where an arm or the
    general loss is left without rows."""
    # Rows that no arm trains on, of all kinds: the price of a selection elsewhere.
    every = draw(np.sort(ranked.rows), len(ranked.rows), [options.seed, 2])
    aside: np.ndarray = np.zeros(0, dtype=np.int64)
    held = list(held)
    if all(one.name != general for one in held):
        free = every[~np.isin(every, ranked.selected)]
        most = min(options.samples, len(free) // 4)  # of a small pool arms need the others
        own, _, why = trained_rows(encoder, index, pool, free[: 2 * most])
        aside = np.array([row for row in free[: 2 * most] if row in own][:most], dtype=np.int64)
        if len(aside) < 2:
            raise BadInput(
                f"leaves no rows to measure the general loss on{f' (most: {why})' if why else ''}",
                where=ranked.where,
                remedy="pass --general FILE",
            )
        held.append(HeldOut(general, "general", [own[row] for row in aside.tolist()], [], []))
    groups, samples = _trained(
        options, ranked, encoder, index, pool, every[~np.isin(every, aside)], aside, held, tokens
    )
    place = {row: i for i, row in enumerate(samples)}
    numbered = {
        arm: np.array([place[row] for row in group.tolist() if row in place], dtype=np.int64)
        for arm, group in groups.items()
    }
    if empty := next((arm for arm, group in numbered.items() if not len(group)), None):
        raise BadInput(
            f"no row of arm '{empty}' can be trained on",
            where=ranked.where,
            remedy="raise --max-length, or select more rows",
        )
    numbers = list(samples.values())

    def add(more: Sequence[Any]) -> list[int]:
        numbers.extend(more)
        return list(range(len(numbers) - len(more), len(numbers)))

    sets = {one.name: add(one.samples) for one in held}
    choices = {one.name: [add(several) for several in one.choices] for one in held if one.choices}
    response = np.array([sample.response for sample in numbers], dtype=np.int64)
    numbered[BOTTOM] = numbered[BOTTOM][: _reach(response[numbered[BOTTOM]], int(response[numbered[TOP]].sum()))]
    return Material(numbers, Candidates(numbered, response), held, sets, choices)


def _trained(
    options: ValidateOptions,
    ranked: Ranked,
    encoder: Encoder,
    index: Index,
    pool: PoolRows,
    random: np.ndarray,
    aside: np.ndarray,
    held: Sequence[HeldOut],
    tokens: int,
) -> tuple[dict[str, np.ndarray], dict[int, Any]]:
    """(arm -> its group; row -> its sample, of those in groups that can be trained on and are no held-out samples);
    says of others."""
    measured = token_hashes.hashes_of(_without_end(held))
    most = max(LEAST_ROWS, tokens // ROW_TOKENS)
    while True:
        groups = _groups(options, ranked, random, aside, most)
        wanted = np.unique(np.concatenate(list(groups.values())))
        samples, hashes, why = trained_rows(encoder, index, pool, wanted)
        leaked = {row for row, twin in zip(samples, np.isin(hashes, measured).tolist(), strict=True) if twin}
        usable = {row: sample.response for row, sample in samples.items() if row not in leaked}
        cut = [group.tolist() for group in groups.values() if len(group) == most]
        if all(sum(usable.get(row, 0) for row in group) >= RUNS * tokens for group in cut) or most > len(ranked.rows):
            break
        most *= 4
    if leaked:
        warn(f"{len(leaked):,} rows of the pool are held-out samples: no arm trains on them")
    if without := len(wanted) - len(samples):
        warn(f"{without:,} of {len(wanted):,} rows cannot be trained on (most: {why}): they are in no arm")
    return groups, {row: sample for row, sample in samples.items() if row not in leaked}


def _without_end(held: Sequence[HeldOut]) -> Iterator[np.ndarray]:
    return (sample.ids[: len(sample.ids) - sample.ended] for one in held for sample in one.samples)


def _reach(response: np.ndarray, tokens: int) -> int:
    """How many of the first rows hold ``tokens`` response tokens; all, where they do not."""
    return int(np.searchsorted(np.cumsum(response), tokens)) + 1


def _groups(
    options: ValidateOptions, ranked: Ranked, random: np.ndarray, aside: np.ndarray, enough: int
) -> dict[str, np.ndarray]:
    """Arm -> rows of the pool that it draws from, at most ``enough``."""
    ranking = ranked.rows[~np.isin(ranked.rows, aside)]
    below = ranking[~np.isin(ranking, ranked.selected)]
    if not len(below):
        raise BadInput("selects all rows: there is nothing to hold it against", where=ranked.where)
    groups = {
        TOP: draw(ranked.selected, enough, [options.seed, 3]),
        RANDOM: random[:enough],
        BOTTOM: below[::-1][:enough],
    }
    if options.deciles:
        if len(ranking) < 2 * TENTHS:
            raise BadInput(f"{len(ranking)} rows make no tenths", where="--deciles", remedy="leave it out")
        for k, part in enumerate(tenths(ranking)):
            groups[tenth(k + 1)] = draw(part, enough, [options.seed, 4, k])
    return groups
