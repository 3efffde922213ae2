"""Constraint quotas: parts of the budget for groups of rows, by a key of the pool's rows or by length.

A row stays while the share of its group has room, of every partition into groups that is asked for; one that comes
later loses its place to the first that has none. Of a budget of tokens, a group's part ends at the first row that
would exceed it, as the budget does. Where the rows end before the budget is full, because a group had fewer than its
share, the best of those that had no room fill it up, which is said.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np

from nait_fast.data.parts import as_line
from nait_fast.data.pool import Pool
from nait_fast.errors import BadInput
from nait_fast.index.pool_rows import label_values
from nait_fast.notices import hushed, warn
from nait_fast.rules.best_first import Column
from nait_fast.rules.constraints.base import Constraint, ScoredRows, Walk

if TYPE_CHECKING:
    from nait_fast.config import ConstraintOptions

OF_LENGTH = ("quota", "quota:target")  # of --length
MODES = ("equal", "pool", "target")
MOST_GROUPS = 1000  # that share a budget
LENGTH_BINS, LEAST_IN_BIN = 10, 4
BLOCK_ROWS = 1 << 18
_BOUNDLESS = 1 << 62

Shares = Sequence[Fraction | None]  # of the budget, by group; None: as much as there is


@dataclass(frozen=True)
class Partition:
    """Rows in groups: ``group`` of places gives numbers of ``labels``, whose ``shares`` add up to at most 1.

    ``constraint``: what a row without room loses its place to; ``key``: what the groups are groups by.
    """

    constraint: str
    key: str
    labels: Sequence[str]
    group: Column
    shares: Shares

    def rooms(self, size: int) -> "Rooms":
        """What each group may take of a budget of ``size`` rows or tokens.

        Shares that add up to 1 are rounded so that these add up to the budget (largest remainders; of equal ones those
        groups whose best rows come first); others down, for a share is the most that a group may have."""
        exact = [None if share is None else share * size for share in self.shares]
        rooms, tied, spare = [None if part is None else int(part) for part in exact], list[int](), 0
        if sum(share or 0 for share in self.shares) == 1:
            spare = size - sum(room or 0 for room in rooms)
            remainders = [0 if part is None else part % 1 for part in exact]
            least = sorted(remainders, reverse=True)[spare - 1] if spare else 1
            for number in [number for number, remainder in enumerate(remainders) if remainder > least]:
                rooms[number] = (rooms[number] or 0) + 1
                spare -= 1
            tied = [number for number, remainder in enumerate(remainders) if remainder == least]
        return Rooms(rooms, tied, spare)


class Rooms:
    """What the groups of a partition may take on one walk: at first ``room`` each (None: no limit of its own); each of
    the first ``spare`` groups of ``tied`` that a row comes of may take 1 more. ``left``: what is left of that, 0 where
    a group's part has ended; ``used``: what was taken."""

    def __init__(self, room: Sequence[int | None], tied: Sequence[int], spare: int):
        self._room, self._tied, self._spare = list(room), list(tied), spare
        self.left = [_BOUNDLESS if number is None else number for number in room]
        self.used = [0] * len(room)

    def come(self, group: int) -> None:
        """A row of ``group`` comes."""
        if self._spare and group in self._tied:
            self._tied.remove(group)
            self._spare -= 1
            self._room[group] = (self._room[group] or 0) + 1
            self.left[group] += 1

    def take(self, group: int, weight: int) -> None:
        self.left[group] -= weight
        self.used[group] += weight

    @property
    def full(self) -> bool:
        """Whether no group can take any more."""
        return not self._spare and not any(self.left)

    @property
    def room(self) -> list[int | None]:
        """In all; what is still spare counts for the first groups of which no row has come."""
        rooms = list(self._room)
        for group in self._tied[: self._spare]:
            rooms[group] = (rooms[group] or 0) + 1
        return rooms


class Quotas(Constraint):
    """Keeps the ``partitions``' shares. A dropped row's details: ``key``, and its ``group`` by that key."""

    name = "quota"

    def __init__(self, partitions: Sequence[Partition]):
        self._partitions = list(partitions)

    @classmethod
    def wanted(cls, options: "ConstraintOptions") -> bool:
        return bool(read_quotas(options.quota)) or options.length in OF_LENGTH

    @classmethod
    def of(cls, options: "ConstraintOptions", rows: ScoredRows) -> "Quotas":
        partitions = [key_partition(rows, key, shares) for key, shares in read_quotas(options.quota).items()]
        if options.length in OF_LENGTH:
            lengths = rows.lengths if options.length == "quota:target" else None
            if options.length == "quota:target" and lengths is None:
                raise BadInput("the signatures do not keep their targets' samples", where="--length quota:target")
            partitions.append(length_partition(rows.n_tokens, rows.number, lengths))
        return cls(partitions)

    def leave(self, offered: Iterator[np.ndarray], walk: Walk) -> Iterator[np.ndarray]:
        size, waiting = walk.budget.size, list[np.ndarray]()
        rooms = [partition.rooms(size) for partition in self._partitions]
        walk.note(self.name, rooms=rooms)
        self._say_who_gets_nothing(rooms, walk)
        for places in offered:
            refused = self._refused(places, walk.weights(places).tolist(), rooms)
            for number, partition in enumerate(self._partitions):
                gone = places[refused == number]
                keys = np.full(len(gone), partition.key, dtype=object)
                labels = np.array(partition.labels, dtype=object)[partition.group(gone)]
                walk.drop(partition.constraint, gone, key=keys, group=labels)
            waiting.append(places[refused >= 0])
            yield places[refused < 0]
            if any(of_groups.full for of_groups in rooms):
                walk.full = True
                self._say_what_stays_unused(rooms, walk)
                return
        if any(map(len, waiting)):
            self._say_what_is_short(rooms, walk)
        yield from waiting

    def _refused(self, places: np.ndarray, weights: list[int], rooms: Sequence[Rooms]) -> np.ndarray:
        """int64 [n]: the partition that has no room for a row, -1 where all have; takes it from ``rooms``."""
        groups = [partition.group(places).tolist() for partition in self._partitions]
        out = np.full(len(places), -1)
        for i, weight in enumerate(weights):
            for number, of_groups in enumerate(rooms):
                of_groups.come(groups[number][i])
            for number, of_groups in enumerate(rooms):
                if of_groups.left[groups[number][i]] < weight:
                    of_groups.left[groups[number][i]] = 0
                    out[i] = number
                    break
            else:
                for number, of_groups in enumerate(rooms):
                    of_groups.take(groups[number][i], weight)
        return out

    def _say_who_gets_nothing(self, rooms: Sequence[Rooms], walk: Walk) -> None:
        for partition, of_groups in zip(self._partitions, rooms, strict=True):
            parts = [room for room, share in zip(of_groups.room, partition.shares, strict=True) if share]
            if nothing := parts.count(0):
                warn(
                    f"{partition.constraint} {partition.key}: {nothing:,} of {len(parts):,} groups get nothing: their "
                    f"shares of {walk.budget.size:,} {_unit(walk)} are less than one"
                )

    def _say_what_stays_unused(self, rooms: Sequence[Rooms], walk: Walk) -> None:
        """Where no group of a partition can take any more, and rows ended their parts that were longer than what was
        left of these."""
        size = walk.budget.size
        full = [(partition, of) for partition, of in zip(self._partitions, rooms, strict=True) if of.full]
        for partition, of_groups in full[:1]:
            unused = [
                (used - room, number, f"{partition.labels[number]} {used:,} of {room:,}")
                for number, (used, room) in enumerate(zip(of_groups.used, of_groups.room, strict=True))
                if room is not None and used < room
            ]
            if unused:
                more = f" and {len(unused) - 3} more" if len(unused) > 3 else ""
                warn(
                    f"{partition.constraint} {partition.key}: {size - sum(of_groups.used):,} of {size:,} tokens stay "
                    "unused: a group's part ends at its first row that would exceed it "
                    f"({', '.join(text for *_, text in sorted(unused)[:3])}{more})"
                )

    def _say_what_is_short(self, rooms: Sequence[Rooms], walk: Walk) -> None:
        said = False
        for partition, of_groups in zip(self._partitions, rooms, strict=True):
            short = [
                f"{label} {room - free:,} of {room:,}"
                for label, room, free in zip(partition.labels, of_groups.room, of_groups.left, strict=True)
                if room and free
            ]
            if short:
                more = f" and {len(short) - 3} more" if len(short) > 3 else ""
                said = True
                warn(
                    f"{partition.constraint} {partition.key}: some groups have fewer {_unit(walk)} left than their "
                    f"share ({', '.join(short[:3])}{more}); the best of the others fill up"
                )
        if not said:
            keys = ", ".join(partition.key for partition in self._partitions)
            warn(f"quota {keys}: the rows that have room end before the budget is full; the best of the others fill up")

    def described(self, counts: Mapping[str, int], selected: np.ndarray, walk: Walk) -> list[dict[str, Any]]:
        """As of ``Constraint``: ``of`` has for each group what was selected and, where it has a share, how much it
        might have, in rows or tokens."""
        lines, weights = [], walk.weights(selected)
        for partition, of_groups in zip(self._partitions, walk.notes[self.name]["rooms"], strict=True):
            used = np.bincount(partition.group(selected), weights, len(partition.labels)).astype(np.int64).tolist()
            of = {
                label: [number] if room is None else [number, room]
                for label, number, room in zip(partition.labels, used, of_groups.room, strict=True)
            }
            dropped = counts.get(partition.constraint, 0)
            lines.append({"constraint": partition.constraint, "dropped": dropped, "key": partition.key, "of": of})
        return lines


def _unit(walk: Walk) -> str:
    return "rows" if walk.budget.rows is not None else "tokens"


def read_quotas(texts: Sequence[str]) -> dict[str, str | dict[str, Fraction]]:
    """Key -> one of ``MODES``, or value -> share, of what --quota says. Raises BadInput."""
    quotas: dict[str, str | dict[str, Fraction]] = {}
    for text in texts:
        left, colon, share = text.rpartition(":")
        key, equals, value = left.partition("=")
        where = f"--quota {text[:80]}"
        if not colon or not key or (equals and not value) or (not equals and share not in MODES):
            raise BadInput("write KEY=VALUE:SHARE, or KEY:equal, KEY:pool or KEY:target", where=where)
        if not equals:
            if key in quotas:
                raise BadInput(f"{key} has its quotas already", where=where, remedy="leave one out")
            quotas[key] = share
            continue
        values = quotas.setdefault(key, {})
        if isinstance(values, str) or value in values:
            raise BadInput(f"{key} has its quotas already", where=where, remedy="leave one out")
        if not re.fullmatch(r"[0-9]{1,9}(\.[0-9]{0,18})?|\.[0-9]{1,18}", share) or Decimal(share) > 1:
            raise BadInput("a share is a number from 0 to 1", where=where)
        values[value] = Fraction(Decimal(share))
        if (whole := sum(values.values())) > 1:
            raise BadInput(f"the shares of {key} add up to {float(whole):g}, which is above 1", where=where)
    return quotas


def key_partition(rows: ScoredRows, key: str, shares: str | dict[str, Fraction]) -> Partition:
    """Of the scored rows by ``key`` of the pool's rows, all of which are read. Raises NaitError where there are no such
    groups."""
    numbers, labels = rows_by(rows, key)
    counts = np.bincount(numbers, minlength=len(labels))
    if not isinstance(shares, str):
        return named_partition(key, numbers, labels, shares)
    if len(labels) > MOST_GROUPS:
        raise BadInput(
            f"the pool has {len(labels):,} values of it, more than can share a budget ({MOST_GROUPS:,})",
            where=f"--quota {key}:{shares}",
            remedy="name another key",
        )
    if shares == "equal":
        weights = np.ones(len(labels), np.int64)
    elif shares == "pool":
        weights = counts
    else:
        weights = target_counts(rows, key, labels)
    whole = int(weights.sum())
    of_all = [Fraction(int(weight), whole) for weight in weights]
    return Partition("quota", key, labels, numbers.__getitem__, of_all)


def named_partition(key: str, numbers: np.ndarray, labels: Sequence[str], shares: dict[str, Fraction]) -> Partition:
    """Of rows with ``numbers`` int [n] of ``labels``: those of ``shares``, and all others as one group, which has what
    these leave. Raises BadInput for a value that no row has."""
    if missing := [value for value in shares if value not in labels]:
        listed = ", ".join(labels[:8]) + (" …" if len(labels) > 8 else "")
        raise BadInput(f"no row of the pool has it; there are {listed}", where=f"--quota {key}={missing[0]}")
    named = {labels.index(value): number for number, value in enumerate(shares)}
    of_label = np.array([named.get(number, len(shares)) for number in range(len(labels))])
    rest = Fraction(0) if sum(shares.values()) == 1 else None
    group = of_label[numbers]
    return Partition(
        "quota", key, [*shares, _another(list(shares), "others")], group.__getitem__, [*shares.values(), rest]
    )


def rows_by(rows: ScoredRows, key: str) -> tuple[np.ndarray, list[str]]:
    """(number of each scored row's value int32 [n], by place; the values) of ``key``; rows without one are a group of
    their own, which is said. Raises BadInput where no row has it."""
    with hushed():  # of what would be written otherwise than it was read: nothing is written here
        numbers, values = label_values(rows.pool.lines(rows.row(np.arange(rows.number))), key)
    if not values:
        raise BadInput("no row of the pool has this key", where=f"--quota {key}")
    labels, without = list(values), int((numbers < 0).sum())
    if without:
        numbers = np.where(numbers < 0, len(labels), numbers)
        labels.append(_another(labels, "null"))
        warn(f"--quota {key}: {without:,} of {rows.number:,} rows have no '{key}'; they are a group, {labels[-1]}")
    return numbers, labels


def _another(labels: Sequence[str], label: str) -> str:
    """``label``, in brackets as far as one is called so already."""
    while label in labels:
        label = f"({label})"
    return label


def target_counts(rows: ScoredRows, key: str, labels: Sequence[str]) -> np.ndarray:
    """How many samples of the targets have each of ``labels``, int64 [G]. Raises NaitError where these are not at hand,
    or lack the key."""
    where = f"--quota {key}:target"
    if not rows.targets:
        raise BadInput(
            "a signature does not tell its samples' keys",
            where=where,
            remedy=f"use select, which reads the targets, or write the shares: --quota {key}=VALUE:SHARE",
        )
    lines = [as_line(record.payload) for path in rows.targets for _, record in Pool(path).reader().rows()]
    numbers, values = label_values(lines, key)
    if (numbers < 0).any():
        raise BadInput(
            f"{int((numbers < 0).sum()):,} of the targets' {len(lines):,} samples have no '{key}'", where=where
        )
    names, counts = list(values), np.bincount(numbers)
    if unknown := [name for name in names if name not in labels]:
        number = int(counts[names.index(unknown[0])])
        raise BadInput(
            f"{number:,} samples of the targets have {json.dumps(unknown[0])}, which no row of the pool has",
            where=where,
            remedy=f"write the shares: --quota {key}=VALUE:SHARE",
        )
    return np.array([counts[names.index(label)] if label in names else 0 for label in labels])


def length_partition(n_tokens: Column, number: int, lengths: np.ndarray | None = None) -> Partition:
    """Of ``number`` rows in bins of tokens, with the share of all rows that are in it; or, of ``lengths`` int [s] of
    samples, of these: rows that are longer or shorter than all of them have none. About as many rows, or samples, are
    in each bin, of which there are fewer where many have one length."""
    if lengths is None:
        counts = np.zeros(1, dtype=np.int64)
        for start in range(0, number, BLOCK_ROWS):
            some = np.bincount(n_tokens(np.arange(start, min(start + BLOCK_ROWS, number))))
            counts, some = (np.pad(x, (0, max(len(some), len(counts)) - len(x))) for x in (counts, some))
            counts += some
        tokens = np.flatnonzero(counts)
        counts = counts[tokens]
    else:
        tokens, counts = np.unique(lengths, return_counts=True)
    ends, whole = np.cumsum(counts), int(counts.sum())
    bins = min(LENGTH_BINS, max(1, whole // LEAST_IN_BIN))
    quantiles = [-(-whole * part // bins) for part in range(1, bins)]
    last = np.unique([*np.searchsorted(ends, quantiles), len(tokens) - 1])
    first, lasts = int(tokens[0]), tokens[last]
    firsts = [first, *(high + 1 for high in lasts[:-1].tolist())]
    labels = [f"{low}-{high}" for low, high in zip(firsts, lasts.tolist(), strict=True)]
    shares: list[Fraction | None] = [Fraction(int(n), whole) for n in np.diff(ends[last], prepend=0)]
    if lengths is None:
        return Partition("length", "tokens", labels, lambda p: np.searchsorted(lasts, n_tokens(p)), shares)

    def group(places: np.ndarray) -> np.ndarray:
        mine = n_tokens(places)
        return np.where(mine < first, len(lasts) + 1, np.searchsorted(lasts, mine))

    labels += [f"above {lasts[-1]}", f"below {first}"]
    return Partition("length", "tokens", labels, group, [*shares, Fraction(0), Fraction(0)])


CONSTRAINT = Quotas
