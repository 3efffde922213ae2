"""Reads the demo's hand-written text blocks.

A block has records separated by empty lines. In a record, "Q: " starts the instruction, "I: " the input and "A: " the
output. A long line continues on the next one; a line that starts with "| " is a new line of the text itself.
"""

from __future__ import annotations

from typing import NamedTuple


class Record(NamedTuple):
    instruction: str
    input: str
    output: str


def parse(block: str) -> list[Record]:
    records = []
    for paragraph in block.strip().split("\n\n"):
        fields = {"Q": "", "I": "", "A": ""}
        current = ""
        for line in paragraph.splitlines():
            if line[:1] in fields and line[1:3] == ": ":
                current = line[0]
                fields[current] = line[3:]
            elif line.startswith("| "):
                fields[current] += "\n" + line[2:]
            else:
                fields[current] += " " + line
        records.append(Record(fields["Q"], fields["I"], fields["A"]))
    return records
