"""A selection for the tools that train on it: a small file each, beside ``selected.jsonl``."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from nait_fast.data.formats import RowError, Sample, parse
from nait_fast.data.parts import as_line
from nait_fast.data.pool import decode
from nait_fast.data.row_conventions import RowConventions, conventions_of
from nait_fast.errors import BadInput
from nait_fast.index.reader import Index
from nait_fast.notices import warn
from nait_fast.ranking.llama_factory import DatasetEntry, NotCarried
from nait_fast.ranking.select import Selection
from nait_fast.ranking.selection_files import SELECTED
from nait_fast.storage.files import atomic_file, sha256_file, write_json

DATASET_INFO, TOP_INDICES, MESSAGES = "dataset_info.json", "top_indices.npy", "messages.jsonl"


def check_exports(names: Sequence[str], format: str) -> None:
    """Raises NaitError where rows of ``format`` have nothing to write for one of ``names``."""
    if "messages" in names and format in ("text", "input_ids"):
        raise BadInput(
            f"rows of format {format} are no conversations", where="--export messages", remedy="leave it out"
        )


def write_exports(folder: Path, names: Sequence[str], index: Index, selection: Selection) -> dict[str, str]:
    """Write the files of ``names`` (keys of ``WRITERS``) for the ``selected.jsonl`` of ``folder``, an empty one but for
    a selection's files; returns file name -> SHA-256. Raises NaitError."""
    for name, (_, write) in WRITERS.items():
        if name in names:
            write(folder, index, selection)
    written = [WRITERS[name][0] for name in dict.fromkeys(names) if name in WRITERS]
    return {file: sha256_file(folder / file) for file in written}


def _write_top_indices(folder: Path, index: Index, selection: Selection) -> None:
    """DataFlex's ``near`` selector reads a matrix of row numbers, column by column: int64 [k, 1], best first."""
    with atomic_file(folder / TOP_INDICES) as file:
        np.save(file, selection.rows[selection.order][:, None], allow_pickle=False)


def _write_messages(folder: Path, index: Index, selection: Selection) -> None:
    """The rows as conversations, ``{"messages": [turns with all that they hold], "tools", "id"}``: what TRL and axolotl
    take as they are. The last two only where some row has them; then every row has the key, or readers that take a
    file's columns from its beginning fail."""
    keys: set[str] = set()
    kinds: set[type] = set()  # of ids: readers want one
    for number, (row, _, conventions, read) in enumerate(_rows(folder, index, selection), 1):
        where, remedy = f"{SELECTED}:{number}", "leave out --export messages"
        if isinstance(read, RowError):
            raise BadInput(str(read), where=where, remedy=remedy)
        if not read.messages:
            raise BadInput("is no conversation", where=where, remedy=remedy)
        kinds |= {type(row[conventions.called("id")])} if read.id is not None else set()
        keys |= ({"tools"} if read.tools is not None else set()) | ({"id"} if read.id is not None else set())
    with atomic_file(folder / MESSAGES) as out:
        for row, _, conventions, read in _rows(folder, index, selection):
            assert isinstance(read, Sample)
            turns = [message.as_dict() for message in read.messages]
            beside = {
                "tools": read.tools and list(read.tools),
                "id": row.get(conventions.called("id")) if len(kinds) < 2 else read.id,
            }
            out.write(as_line({"messages": turns, **{k: v for k, v in beside.items() if k in keys}}) + b"\n")


def _write_dataset_info(folder: Path, index: Index, selection: Selection) -> None:
    """LLaMA-Factory's description of ``selected.jsonl``; an empty object, and a warning, where no entry fits all."""
    entry, number = DatasetEntry(), 0
    try:
        for row, format, conventions, read in _rows(folder, index, selection):
            number += 1
            if isinstance(read, RowError):
                raise NotCarried(str(read))
            entry.add(row, format, read, conventions)
    except NotCarried as why:
        warn(
            f"{DATASET_INFO}: no entry for LLaMA-Factory, which would not read all text of {SELECTED}: {why} "
            f"(line {number}); --export messages writes conversations for other tools"
        )
        write_json(folder / DATASET_INFO, {})
    else:
        write_json(folder / DATASET_INFO, {"selected": entry.as_dict(SELECTED)})


class _ChosenRow(NamedTuple):
    """A row, its format, what the user said of it, and what is read of it."""

    row: dict[str, Any]
    format: str
    conventions: RowConventions
    read: Sample | RowError


def _rows(folder: Path, index: Index, selection: Selection) -> Iterator[_ChosenRow]:
    """The chosen rows, best first, as they were read for the index."""
    ends = np.cumsum([dataset["rows"] for dataset in index.datasets])
    owners = np.searchsorted(ends, selection.rows[selection.order], side="right").tolist()
    readings = [(dataset["format"], conventions_of(dataset)) for dataset in index.datasets]
    with open(folder / SELECTED, "rb") as lines:
        for line, owner in zip(lines, owners, strict=True):
            format, conventions = readings[owner]
            try:
                row = decode(line)
                yield _ChosenRow(row, format, conventions, parse(row, format, 0, conventions))
            except RowError as error:
                yield _ChosenRow({}, format, conventions, error)


# name of --export -> (file, its writer)
WRITERS: dict[str, tuple[str, Callable[[Path, Index, Selection], None]]] = {
    "llama_factory": (DATASET_INFO, _write_dataset_info),
    "dataflex": (TOP_INDICES, _write_top_indices),
    "messages": (MESSAGES, _write_messages),
}
