"""The demo's data: a labelled pool of instruction samples and two targets, all written for this project.

The pool contains samples that are easily confused on purpose, such as shopping advice with prices, a poem about
programming or a summary full of numbers. No story, task or text of the targets, or of the held-out samples, is in it.
"""

import json
from pathlib import Path

TARGETS = ("arithmetic", "code")
HELD_OUT = {"arithmetic": "arithmetic-held-out.jsonl"}  # target -> the demo's file of samples for ``validate``
_FOLDER = Path(__file__).parent


def data(name: str) -> bytes:
    """The lines of ``pool`` or of a target."""
    return (_FOLDER / f"{name}.jsonl").read_bytes()


def held_out(name: str) -> bytes:
    """The lines of 32 more samples of a target of ``HELD_OUT``."""
    return data(f"{name}_held_out")


def _rows(name: str) -> list[dict[str, str]]:
    return [json.loads(line) for line in data(name).splitlines()]


def pool_rows() -> list[dict[str, str]]:
    """422 rows with the keys instruction, input, output, source (one of seven labels) and id."""
    return _rows("pool")


def target_rows(name: str) -> list[dict[str, str]]:
    """The 32 samples of one of ``TARGETS``, with the keys instruction, input and output."""
    return _rows(name)
