"""Reads validation.json, which ``validate`` writes: each part checked, so that a page can show it as it is."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nait_fast.errors import BadInput, Damaged
from nait_fast.storage import values
from nait_fast.storage.files import read_json, read_sealed
from nait_fast.validation import FORMAT_VERSION, KIND

ROLES = ("target", "general")
BETTER, WORSE = "better", "worse"
VERDICTS = (BETTER, WORSE, "not told apart")
TENTHS = 10  # into which a ranking may have been cut
_RIGHT = "accuracy_against_random"
_ARM = re.compile("base|random|random_length|top|bottom|tenth ([1-9]|10)")


@dataclass(frozen=True)
class Measured:
    """A mean with the interval ``mean`` ± ``half``; ``half`` None: too few seeds to tell. ``word``: of a difference,
    where its interval excludes 0."""

    mean: float
    half: float | None
    word: str = ""


@dataclass(frozen=True)
class HeldOutSet:
    """Samples that nothing was trained on; ``tokens``: those of their responses."""

    name: str
    role: str
    samples: int
    tokens: int


@dataclass(frozen=True)
class TrainedArm:
    """What the runs of one arm came to, set by set. ``target``: None for the whole selection's; ``rows``,
    ``mean_response``: None where nothing was trained."""

    arm: str
    target: str | None
    seeds: int
    rows: float | None
    mean_response: float | None
    losses: dict[str, Measured]
    against_random: dict[str, Measured]
    accuracy: dict[str, Measured]
    accuracy_against_random: dict[str, Measured]

    @property
    def tenth(self) -> int | None:
        """Which tenth of the ranking it was trained on, from 1; None for the other arms."""
        name, _, number = self.arm.partition(" ")
        return int(number) if name == "tenth" else None


@dataclass(frozen=True)
class SetVerdict:
    """Of the selection against random rows on the set ``target``: the line that says it, one of ``VERDICTS``, and the
    difference of the losses."""

    target: str
    text: str
    word: str
    difference: Measured


@dataclass(frozen=True)
class Validation:
    """What the file tells. ``checksum``: of the manifest of the selection that was validated, for ``targets``;
    ``layers``: how many of the last ones were trained, 0 for all; ``tokens``: response tokens of a run."""

    checksum: str
    targets: list[str]
    model: str
    tokens: int
    steps: int
    layers: int
    rank: int
    lr: float
    sets: list[HeldOutSet]
    arms: list[TrainedArm]
    verdicts: list[SetVerdict]
    warnings: list[str]


def load_validation(path: Path) -> Validation:
    """Raises NaitError for a file that is missing, damaged or something else."""
    content = read_json(path)
    if content.get("kind") != KIND:
        raise BadInput("not a validation", where=path, remedy="give the file that nait-fast validate wrote")
    if content.get("format_version") != FORMAT_VERSION:
        version = values.short(content.get("format_version"))
        raise BadInput(
            f"format version {version}, this nait_fast reads {FORMAT_VERSION}", where=path, remedy="validate again"
        )
    content, part = read_sealed(path), "selection"
    try:
        selection = values.mapping(content[part], part)
        checksum = values.digest(selection["checksum"], "checksum")
        targets = [values.text(name, "targets") for name in values.entries(selection["targets"], "targets")]
        part = "model"
        model = values.text(content[part], part)
        part = "recipe"
        recipe = values.mapping(content[part], part)
        tokens, steps, layers, rank = (values.count(recipe[k], k) for k in ("tokens", "steps", "layers", "rank"))
        lr = values.number(recipe["lr"], "lr")
        part = "sets"
        sets = [_set(x) for x in values.entries(content[part], part)]
        names = _unique([x.name for x in sets])
        part = "arms"
        arms = [_arm(x, names, targets) for x in values.entries(content[part], part)]
        _unique([(x.arm, x.target) for x in arms])
        part = "verdicts"
        verdicts = [_verdict(x, names) for x in values.entries(content[part], part)]
        part = "warnings"
        warnings = [values.text(x, part) for x in values.entries(content[part], part)]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise Damaged(f"not a valid validation ({part}: {error})", where=path, remedy="validate again") from None
    return Validation(checksum, targets, model, tokens, steps, layers, rank, lr, sets, arms, verdicts, warnings)


def _unique(keys: list[Any]) -> list[Any]:
    if len(set(keys)) != len(keys):
        raise ValueError(f"twice: {values.short(keys)}")
    return keys


def _one_of(value: Any, names: Sequence[str], what: str) -> str:
    if values.text(value, what) not in names:
        raise ValueError(f"{what}: {values.short(value)}")
    return str(value)


def _set(entry: Any) -> HeldOutSet:
    x = values.mapping(entry, "set")
    counted = [values.count(x[key], key) for key in ("samples", "tokens")]
    return HeldOutSet(values.text(x["name"], "name"), _one_of(x["role"], ROLES, "role"), *counted)


def _measured(entry: Any, what: str, word: Sequence[str] = ()) -> Measured:
    """``word``: what it may say of itself; none at all where it is empty."""
    x = values.mapping(entry, what)
    said = _one_of(x["word"], word, "word") if word else ""
    return Measured(values.number(x["mean"], what), _at_least_0(x["half"], "half"), said)


def _at_least_0(value: Any, what: str) -> float | None:
    if value is None:
        return None
    if values.number(value, what) < 0:
        raise ValueError(f"{what}: {values.short(value)}")
    return float(value)


def _share(entry: Any, what: str) -> Measured:
    share = _measured(entry, what)
    if not 0 <= share.mean <= 1:
        raise ValueError(f"{what}: {values.short(share.mean)}")
    return share


def _difference(entry: Any, what: str) -> Measured:
    return _measured(entry, what, (BETTER, WORSE, ""))


def _on_sets(content: Any, names: list[str], what: str, reader: Callable[[Any, str], Measured]) -> dict[str, Measured]:
    found = values.mapping(content, what)
    return {_one_of(name, names, what): reader(entry, what) for name, entry in found.items()}


def _arm(entry: Any, names: list[str], targets: list[str]) -> TrainedArm:
    x = values.mapping(entry, "arm")
    if not _ARM.fullmatch(values.text(x["arm"], "arm")):
        raise ValueError(f"arm: {values.short(x['arm'])}")
    return TrainedArm(
        arm=x["arm"],
        target=None if x["target"] is None else _one_of(x["target"], targets, "target"),
        seeds=values.count(x["seeds"], "seeds"),
        rows=_at_least_0(x["rows"], "rows"),
        mean_response=_at_least_0(x["mean_response"], "mean_response"),
        losses=_on_sets(x["losses"], names, "losses", _measured),
        against_random=_on_sets(x.get("against_random", {}), names, "against_random", _difference),
        accuracy=_on_sets(x.get("accuracy", {}), names, "accuracy", _share),
        accuracy_against_random=_on_sets(x.get(_RIGHT, {}), names, _RIGHT, _measured),
    )


def _verdict(entry: Any, names: list[str]) -> SetVerdict:
    x = values.mapping(entry, "verdict")
    target, difference = _one_of(x["target"], names, "target"), _measured(x, "mean")
    return SetVerdict(target, values.text(x["text"], "text"), _one_of(x["word"], VERDICTS, "word"), difference)
