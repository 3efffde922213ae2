"""What the pool says of its rows: their text."""

import json
from typing import Any

from nait_fast.data.formats import RowError, parse
from nait_fast.data.row_conventions import conventions_of

TEXT_CHARACTERS = 300


def text_of(line: bytes, dataset: dict[str, Any]) -> str:
    """The first characters of the text of a row of ``dataset``: its turns one after another, or its tokens' numbers."""
    try:
        sample = parse(json.loads(line), dataset["format"], 0, conventions_of(dataset))
    except RowError:  # a pool of rows that were left out, too
        return line.decode(errors="replace")[:TEXT_CHARACTERS]
    return "\n".join(text for _, text in sample.turns)[:TEXT_CHARACTERS]
