"""What a validation trained and found, in words and numbers, for a page and for a terminal."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nait_fast.reporting.formatting import MINUS, count, listed, number, percent, short
from nait_fast.reporting.validation_file import VERDICTS, Measured, TrainedArm, Validation
from nait_fast.validation.arms import BASE, TOP, WORDS
from nait_fast.validation.summary import right_answers

TOO_FEW = "± ?: too few seeds to tell."


def arm_name(arm: TrainedArm, validation: Validation) -> str:
    """In words; with its target where there are several."""
    name = WORDS.get(arm.arm, arm.arm)
    name = name if arm.tenth is None else f"{name} of the ranking"
    return name if arm.target is None or len(validation.targets) < 2 else f"{name} for {short(arm.target, 40)}"


def with_half(measured: Measured | None, sign: bool = False) -> str:
    """``1.234 ± 0.008``, with ``sign`` ``+0.017 ± 0.008``: in a line that is not broken."""
    if measured is None:
        return "–"
    mean = f"{measured.mean:{'+' if sign else ''}.3f}".replace("-", MINUS)
    return _interval(mean, "?" if measured.half is None else f"{measured.half:.3f}")


def share_with_half(measured: Measured | None, once: bool = False) -> str:
    """``61.2% ± 1.3%``; ``once``: of one run, of which no interval is missing."""
    if measured is None:
        return "–"
    if once and measured.half is None:
        return percent(measured.mean)
    return _interval(percent(measured.mean), "?" if measured.half is None else percent(measured.half))


def _interval(mean: str, half: str) -> str:
    return f"{mean}\u00a0±\u00a0{half}"


def whole(value: float | None) -> str:
    """How many on average over the seeds: rows, tokens."""
    return number(None if value is None else round(value))


def trained_told(validation: Validation) -> str:
    """One sentence of what was trained, and of what it was measured on."""
    seeds = sorted({arm.seeds for arm in validation.arms if arm.arm != BASE})
    what = f"LoRA of rank {validation.rank} on "
    what += f"the last {count(validation.layers, 'layer')}" if validation.layers else "all layers"
    text = f"{short(Path(validation.model).name or validation.model, 80)} was trained anew for each arm ({what}), "
    text += f"on {count(validation.tokens, 'response token')} a run in {count(validation.steps, 'step')}"
    if seeds:
        most = count(seeds[-1], "seed")
        text += f", with {most if len(seeds) == 1 else f'{seeds[0]:,} to {most}'} an arm"
    shown = [f"{count(x.samples, 'sample')} of {short(x.name, 40)} ({x.role})" for x in validation.sets]
    return text + (f", and measured on held-out samples: {listed(shown)}." if shown else ".")


def arms_in_words(validation: Validation, tenths: bool) -> list[dict[str, Any]]:
    """A row an arm, those that are ``tenths`` of a ranking or the others: what it is called, its size, and ``sets``,
    its loss, difference and accuracy on each set."""
    return [
        {
            "name": arm_name(arm, validation),
            "seeds": f"{arm.seeds:,}",
            "rows": whole(arm.rows),
            "tokens": whole(arm.mean_response),
            "sets": [
                {
                    "loss": with_half(arm.losses.get(x.name)),
                    "difference": with_half(arm.against_random.get(x.name), sign=True),
                    "word": arm.against_random[x.name].word if x.name in arm.against_random else "",
                    "accuracy": share_with_half(arm.accuracy.get(x.name), arm.arm == BASE),
                }
                for x in validation.sets
            ],
        }
        for arm in validation.arms
        if (arm.tenth is not None) == tenths
    ]


def sets_with_accuracy(validation: Validation) -> list[bool]:
    """Of each set, whether an accuracy was measured on it."""
    return [any(x.name in arm.accuracy for arm in validation.arms) for x in validation.sets]


def elsewhere(validation: Validation) -> Iterator[tuple[str, str]]:
    """(general set, what the selection costs or brings there, against random rows)."""
    top = next((arm for arm in validation.arms if arm.arm == TOP and arm.target is None), None)
    for x in validation.sets if top is not None else ():
        if top is not None and x.role == "general" and (off := top.against_random.get(x.name)) is not None:
            yield short(x.name, 40), f"{off.word or VERDICTS[-1]}, loss {with_half(off, sign=True)} against random rows"


def right_told(validation: Validation) -> Iterator[tuple[str, str]]:
    """(target, how many more answers are right than after random rows) of the selection."""
    top = next((arm for arm in validation.arms if arm.arm == TOP and arm.target is None), None)
    for name, off in ({} if top is None else top.accuracy_against_random).items():
        yield short(name, 40), right_answers(off.mean, off.half).replace(" ± ", "\u00a0±\u00a0")


def untold(validation: Validation) -> str:
    """What ``?`` stands for, where there is one."""
    each = [
        measured
        for arm in validation.arms
        for on in (arm.losses, arm.against_random, {} if arm.arm == BASE else arm.accuracy)
        for measured in on.values()
    ]
    return TOO_FEW if any(m.half is None for m in each) else ""
