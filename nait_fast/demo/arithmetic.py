"""Worked word problems for the demo: what a problem is and how its solution is phrased.

The stories are in arithmetic_pool and arithmetic_target. A story only chooses numbers and words; every value that
a solution states is computed here, exactly, by Work.step.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain, repeat
from typing import NamedTuple


class Person(NamedTuple):
    name: str
    they: str
    their: str


PEOPLE = tuple(
    [Person(name, "she", "her") for name in ("Maya", "Ingrid", "Chloe", "Amara", "Lucia", "Hana", "Priya", "Wendy")]
    + [Person(name, "he", "his") for name in ("Omar", "Felix", "Diego", "Kenji", "Tomas", "Ravi", "Leon", "Sam")]
)


class Step(NamedTuple):
    what: str  # a noun phrase, such as "the muffins left"
    sum: str  # such as "6 * 4"
    value: Fraction


@dataclass
class Problem:
    question: str
    steps: list[Step]
    form: str  # how the answer is written, with {} where its number goes

    @property
    def answer(self) -> Fraction:
        return self.steps[-1].value

    @property
    def answer_text(self) -> str:
        return self.form.format(number(self.answer))


def number(value: int | Fraction) -> str:
    """Whole numbers as they are, others with two decimals; a value that needs more decimals is a story's mistake."""
    value = Fraction(value)
    if value.denominator == 1:
        return str(value.numerator)
    if (value * 100).denominator != 1:
        raise ValueError(f"{value} cannot be written with two decimals")
    return f"{float(value):.2f}"


class Work:
    """Collects the steps of one solution."""

    def __init__(self) -> None:
        self.steps: list[Step] = []

    def step(self, what: str, *terms: int | Fraction | str) -> Fraction:
        """Compute `terms` (number, sign, number, ...) from left to right and remember it as the next step.

        The signs are all + and -, or all * and /, so reading from left to right is also the usual reading.
        """
        signs = set(terms[1::2])
        if not (signs <= {"+", "-"} or signs <= {"*", "/"}):
            raise ValueError(f"mixed signs in {terms}")
        value = Fraction(terms[0])
        for sign, part in zip(terms[1::2], terms[2::2], strict=True):
            operand = Fraction(part)
            if sign == "+":
                value += operand
            elif sign == "-":
                value -= operand
            elif sign == "*":
                value *= operand
            else:
                value /= operand
        text = " ".join(part if isinstance(part, str) else number(part) for part in terms)
        self.steps.append(Step(what, text, value))
        return value

    def problem(self, question: str, form: str) -> Problem:
        return Problem(question, self.steps, form)


Story = Callable[[random.Random], Problem]


def equations(problem: Problem, signs: str) -> list[str]:
    """The steps as "a * b = c", with `signs` giving the characters for times, divided by and minus."""
    table = str.maketrans({"*": signs[0], "/": signs[1], "-": signs[2]})
    return [f"{step.sum.translate(table)} = {number(step.value)}" for step in problem.steps]


def capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def pairs(problem: Problem, signs: str) -> list[tuple[str, str]]:
    return list(zip([step.what for step in problem.steps], equations(problem, signs), strict=True))


def style_first_then(problem: Problem) -> str:
    openers = chain(["First work out", "Then find"], repeat("After that, find"))
    parts = [f"{next(openers)} {what}: {sum_}." for what, sum_ in pairs(problem, "×÷−")]
    return " ".join(parts) + f" The answer is {problem.answer_text}."


def style_numbered(problem: Problem) -> str:
    lines = [f"{i}. {capital(what)}: {sum_}" for i, (what, sum_) in enumerate(pairs(problem, "*/-"), 1)]
    return "\n".join(lines) + f"\nAnswer: {problem.answer_text}"


def style_sums_only(problem: Problem) -> str:
    return "\n".join(equations(problem, "×÷−")) + f"\nFinal answer: {problem.answer_text}"


def style_answer_first(problem: Problem) -> str:
    parts = [f"{what} ({sum_})" for what, sum_ in pairs(problem, "*/-")]
    return f"It is {problem.answer_text}. The working goes through {', then '.join(parts)}."


def style_together(problem: Problem) -> str:
    parts = [f"To get {what}, we compute {sum_}." for what, sum_ in pairs(problem, "x/-")]
    return "Let's go step by step. " + " ".join(parts) + f" So we end up with {problem.answer_text}."


def style_which_gives(problem: Problem) -> str:
    parts = [f"{sum_}, which gives {what}." for what, sum_ in pairs(problem, "×÷−")]
    return " ".join(parts) + f" Hence {problem.answer_text}."


def style_goal_first(problem: Problem) -> str:
    parts = [f"{capital(what)}: {sum_}." for what, sum_ in pairs(problem, "*/-")]
    return f"We are looking for {problem.steps[-1].what}. " + " ".join(parts) + f" That makes {problem.answer_text}."


def style_bullets(problem: Problem) -> str:
    lines = [f"- {what}: {sum_}" for what, sum_ in pairs(problem, "×÷−")]
    return "Working:\n" + "\n".join(lines) + f"\nResult: {problem.answer_text}"


def style_came_to(problem: Problem) -> str:
    parts = [f"{what} came to {sum_}" for what, sum_ in pairs(problem, "×÷−")]
    return capital(", and ".join(parts)) + f". Altogether that tells us: {problem.answer_text}."


def style_unknown(problem: Problem) -> str:
    *before, (goal, last) = pairs(problem, "*/-")
    parts = [f"{sum_} ({what})" for what, sum_ in before]
    return f"Let n stand for {goal}. Since {' and '.join(parts)}, n = {last}, that is, {problem.answer_text}."


def style_begin(problem: Problem) -> str:
    openers = chain(["Begin by calculating", "Go on with"], repeat("Next, calculate"))
    parts = [f"{next(openers)} {what}, {sum_}." for what, sum_ in pairs(problem, "×÷−")]
    return " ".join(parts) + f" In the end there is only one possibility: {problem.answer_text}."


def style_because(problem: Problem) -> str:
    parts = [f"{sum_} gives {what}" for what, sum_ in pairs(problem, "*/-")]
    return f"Because {', and '.join(parts)}, the solution must be {problem.answer_text}."


def style_check(problem: Problem) -> str:
    parts = [f"{sum_} for {what}" for what, sum_ in pairs(problem, "x/-")]
    return f"{problem.answer_text}! You can check it line by line: {'; '.join(parts)}."


def style_arrow(problem: Problem) -> str:
    lines = [f"{capital(what)} -> {sum_}" for what, sum_ in pairs(problem, "*/-")]
    return "\n".join(lines) + f"\nTherefore: {problem.answer_text}"


Style = Callable[[Problem], str]

POOL_STYLES: tuple[Style, ...] = (
    style_first_then,
    style_numbered,
    style_sums_only,
    style_answer_first,
    style_together,
    style_which_gives,
    style_goal_first,
    style_bullets,
    style_came_to,
    style_unknown,
)
TARGET_STYLES: tuple[Style, ...] = (style_begin, style_because, style_check, style_arrow)


def solved_problems(
    rng: random.Random, n: int, stories: Sequence[Story], styles: Sequence[Style]
) -> list[tuple[Problem, str]]:
    """`n` different problems with their solutions, taking the stories in turn and the styles at random."""
    found: list[tuple[Problem, str]] = []
    seen: set[str] = set()
    order = list(stories)
    attempt = 0
    while len(found) < n:
        if attempt % len(order) == 0:
            rng.shuffle(order)
        if attempt > 50 * n + 100:
            raise ValueError(f"the stories do not give {n} different problems")
        problem = order[attempt % len(order)](rng)
        attempt += 1
        if problem.question not in seen:
            seen.add(problem.question)
            found.append((problem, rng.choice(styles)(problem)))
    return found
