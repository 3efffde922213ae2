"""A selection for the tools that train on it: a small file each, beside ``selected.jsonl``."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nait_fast.data.formats import RowError, detect, parse
from nait_fast.errors import NaitError
from nait_fast.index.files import atomic_file, sha256_file, write_json
from nait_fast.ranking.export import SELECTED
from nait_fast.ranking.select import Selection

DATASET_INFO, TOP_INDICES, MESSAGES = "dataset_info.json", "top_indices.npy", "messages.jsonl"


def check_exports(names: Sequence[str], format: str) -> None:
    """Raises NaitError where rows of ``format`` have nothing to write for one of ``names``."""
    if "messages" in names and format in ("text", "input_ids"):
        raise NaitError(f"--export messages: rows of format {format} are no conversations; leave it out")


def write_exports(folder: Path, names: Sequence[str], format: str, selection: Selection) -> dict[str, str]:
    """Write the files of ``names`` (keys of ``EXPORTS``) for the ``selected.jsonl`` of ``folder``, remove those of an
    earlier run; returns file name -> SHA-256. Raises NaitError."""
    for name, (file, write) in EXPORTS.items():
        if name in names:
            write(folder, format, selection)
        else:
            (folder / file).unlink(missing_ok=True)  # it would not fit the rest
    return {EXPORTS[name][0]: sha256_file(folder / EXPORTS[name][0]) for name in dict.fromkeys(names)}


def _write_top_indices(folder: Path, format: str, selection: Selection) -> None:
    """DataFlex's ``near`` selector reads a matrix of row numbers, column by column: int64 [k, 1], best first."""
    with atomic_file(folder / TOP_INDICES) as file:
        np.save(file, selection.rows[selection.order][:, None], allow_pickle=False)


def _write_messages(folder: Path, format: str, selection: Selection) -> None:
    """The rows as conversations, ``{"messages": [{"role", "content"}]}``: what TRL and axolotl take as they are."""
    with atomic_file(folder / MESSAGES) as out, open(folder / SELECTED, "rb") as lines:
        for number, line in enumerate(lines, 1):
            row = json.loads(line)
            try:
                sample = parse(row, detect(row) or format, 0)  # a later dataset may be of another format
            except RowError as error:
                raise NaitError(f"{folder / SELECTED}:{number}: {error}; leave out --export messages") from None
            if not sample.messages:
                raise NaitError(f"{folder / SELECTED}:{number}: is no conversation; leave out --export messages")
            turns = [{"role": m.role, "content": m.content} for m in sample.messages]
            out.write((json.dumps({"messages": turns}, ensure_ascii=False) + "\n").encode(errors="backslashreplace"))


def _write_dataset_info(folder: Path, format: str, selection: Selection) -> None:
    """LLaMA-Factory's description of ``selected.jsonl`` (pre-tokenised rows have none there: an empty object)."""
    with open(folder / SELECTED, "rb") as file:
        row = json.loads(file.readline())

    def present(**names: Sequence[str]) -> dict[str, str]:
        found = {column: next((n for n in keys if row.get(n) is not None), None) for column, keys in names.items()}
        return {column: name for column, name in found.items() if name}

    entry: dict[str, Any] = {"file_name": SELECTED}
    if format == "alpaca":
        entry["columns"] = present(prompt=["instruction"], query=["input", "context"], response=["output", "response"],
                                   system=["system"], history=["history"])  # fmt: skip
    elif format == "sharegpt":
        entry |= {"formatting": "sharegpt", "columns": present(messages=["conversations", "conversation"],
                                                               system=["system"], tools=["tools"])}  # fmt: skip
    elif format == "messages" or isinstance(row.get("prompt"), list):
        tags = {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant",
                "system_tag": "system"}  # fmt: skip
        entry |= {"formatting": "sharegpt", "columns": {"messages": "messages"}, "tags": tags}
    elif format == "prompt_completion":
        entry["columns"] = present(
            prompt=["prompt", "query", "question"], response=["completion", "response", "answer"]
        )
    elif format == "text":
        entry["columns"] = {"prompt": "text"}
    write_json(folder / DATASET_INFO, {} if format == "input_ids" else {"selected": entry})


# name of --export -> (file, its writer)
EXPORTS: dict[str, tuple[str, Callable[[Path, str, Selection], None]]] = {
    "llama_factory": (DATASET_INFO, _write_dataset_info),
    "dataflex": (TOP_INDICES, _write_top_indices),
    "messages": (MESSAGES, _write_messages),
}
