"""The demo's labelled pool of instruction samples and its two targets; everything here was written for this project.

The texts are in the modules beside this one. The pool contains samples that are easily confused on purpose, such as
shopping advice with prices, a poem about programming or a summary full of numbers.
"""

from __future__ import annotations

import random

from ..errors import NaitError
from . import (
    arithmetic,
    arithmetic_more,
    arithmetic_pool,
    arithmetic_target,
    chat,
    code_other,
    code_python,
    code_target,
    facts,
    summaries,
    translation,
    writing,
)
from .code_python import Task
from .material import Record, parse

SOURCES: tuple[str, ...] = ("arithmetic", "code", "translation", "summarising", "chat", "writing", "facts")
TARGETS: tuple[str, ...] = ("arithmetic", "code")

ARITHMETIC_ROWS = 60

ARITHMETIC_WORDINGS = (
    "Solve this word problem.",
    "Work out the answer and show the steps.",
    "Read the story and answer the question at the end.",
    "Can you help me with my homework?",
    "Find the number asked for.",
    "Please calculate this for me.",
    "Here is a puzzle from a school book. What is the solution?",
    "Answer the question below and explain how you got there.",
)

# An instruction for a summary; where the paragraph is not in the wording, it becomes the input.
SUMMARY_WORDINGS = (
    "Summarise the paragraph in one sentence.",
    "What is the gist of this text?",
    "Give a one-sentence summary.",
    "Sum up the following passage: {text}",
    "Condense this to a single line.",
    "TL;DR please: {text}",
    "{text}\n\nState the main point of the text above.",
    "I have no time to read this. What does it say?",
    "Shorten the report to one sentence for a newsletter.",
    "Boil this down to its essence.",
    "Write a brief summary of the text below.\n\n{text}",
    "Which single sentence captures this paragraph best?",
)


def make_pool(seed: int = 0) -> list[dict]:
    """About 400 rows with the keys instruction, input, output, source and id, in an order that depends on `seed`."""
    rng = random.Random(f"pool {seed}")
    groups = {
        "arithmetic": _arithmetic_rows(rng),
        "code": _code_rows(rng, code_python.TASKS + code_other.TASKS),
        "translation": _translation_rows(rng),
        "summarising": _summary_rows(rng),
        "chat": parse(chat.TEXT),
        "writing": parse(writing.TEXT),
        "facts": parse(facts.TEXT),
    }
    labelled = [(source, record) for source in SOURCES for record in groups[source]]
    rng.shuffle(labelled)
    return [
        {**record._asdict(), "source": source, "id": f"demo-{position:04d}"}
        for position, (source, record) in enumerate(labelled)
    ]


def make_target(name: str, n: int = 32, seed: int = 1) -> list[dict]:
    """`n` rows with the keys instruction, input and output; no story, task or text of them is in the pool."""
    if name not in TARGETS:
        raise NaitError(f"unknown demo target {name!r}: use one of {', '.join(TARGETS)}")
    most = len(code_target.TASKS) if name == "code" else 200
    if not 1 <= n <= most:
        raise NaitError(f"the demo target {name!r} has 1 to {most} samples, not {n}: ask for a number in this range")
    rng = random.Random(f"target {name} {seed}")
    if name == "code":
        records = _code_rows(rng, tuple(rng.sample(code_target.TASKS, n)))
    else:
        solved = arithmetic.solved_problems(rng, n, arithmetic_target.STORIES, arithmetic.TARGET_STYLES)
        records = [Record(problem.question, "", solution) for problem, solution in solved]
    return [record._asdict() for record in records]


def _arithmetic_rows(rng: random.Random) -> list[Record]:
    stories = arithmetic_pool.STORIES + arithmetic_more.STORIES
    rows = []
    for problem, solution in arithmetic.solved_problems(rng, ARITHMETIC_ROWS, stories, arithmetic.POOL_STYLES):
        if rng.random() < 0.3:
            rows.append(Record(rng.choice(ARITHMETIC_WORDINGS), problem.question, solution))
        else:
            rows.append(Record(problem.question, "", solution))
    return rows


def _code_rows(rng: random.Random, tasks: tuple[Task, ...]) -> list[Record]:
    """The tasks with their code as it is or in a fence; code that a sentence follows is always in a fence."""
    rows = []
    for task in tasks:
        code = task.code.strip("\n")
        fenced = f"```{task.language}\n{code}\n```"
        if task.note:
            output = f"{fenced}\n{task.note}"
        else:
            output = fenced if rng.random() < 0.4 else code
        rows.append(Record(task.instruction, task.input, output))
    return rows


def _translation_rows(rng: random.Random) -> list[Record]:
    """Most sentences are translated from English, about one in five into English."""
    rows = []
    for language, sentences in translation.SENTENCES.items():
        for english, foreign in sentences:
            if rng.random() < 0.2:
                into, text, output = "English", foreign, english
            else:
                into, text, output = language, english, foreign
            instruction, extra = rng.choice(translation.WORDINGS)
            rows.append(Record(instruction.format(language=into, text=text), extra.format(text=text), output))
    return rows


def _summary_rows(rng: random.Random) -> list[Record]:
    rows = []
    for record in parse(summaries.TEXT):
        wording = rng.choice(SUMMARY_WORDINGS)
        if "{text}" in wording:
            rows.append(Record(wording.format(text=record.input), "", record.output))
        else:
            rows.append(Record(wording, record.input, record.output))
    return rows
