"""``run.json``: what an index was begun with, and the digests of the files that its shards rest on."""

from pathlib import Path
from typing import Any

from nait_fast.index.format import FORMAT_VERSION
from nait_fast.storage.files import read_json, read_sealed, write_sealed
from nait_fast.storage.names import RUN


def read_run(folder: Path) -> dict[str, Any]:
    """What it says. Raises NaitError where it is missing or damaged; one that an older nait_fast wrote, without
    ``format_version``, has no checksum."""
    run = read_json(folder / RUN)
    if run.keys() & {"checksum", "format_version"}:  # a changed byte cannot have taken away both
        run = read_sealed(folder / RUN)
    return {key: value for key, value in run.items() if key != "checksum"}


def write_run(folder: Path, run: dict[str, Any]) -> None:
    write_sealed(folder / RUN, {**run, "format_version": FORMAT_VERSION})
