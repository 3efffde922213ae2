"""``--push-to-hub``: a selection that is done is sent to the Hub, with a card that tells how it was made."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from nait_fast.config import HubOptions
from nait_fast.errors import Damaged
from nait_fast.progress import say
from nait_fast.ranking.selection_files import SELECTED
from nait_fast.remote.copies import local_folder, named
from nait_fast.remote.hub_repository import CARD, Repository
from nait_fast.reporting.dataset_card import card_of
from nait_fast.storage.files import read_sealed, sha256_file
from nait_fast.storage.names import MANIFEST
from nait_fast.terminal import WIDTH


def sender_of(options: HubOptions, output: str, quiet: bool) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """What is to be done with a verb's summary when its ``output`` is done: send the selection, and say so. Raises
    NaitError, now, where it could not be sent."""
    assert options.push_to_hub is not None
    repository = Repository(options.push_to_hub, options.public)
    return lambda summary: _sent(repository, output, summary, quiet)


def _sent(repository: Repository, output: str, summary: dict[str, Any], quiet: bool) -> dict[str, Any]:
    """Raises NaitError; the selection is whole then."""
    folder = local_folder(output)
    manifest = read_sealed(folder / MANIFEST)
    if sha256_file(folder / SELECTED) != manifest["files"][SELECTED]:
        raise Damaged("has changed since it was written", where=folder / SELECTED, remedy="run again")
    say(f"sending {manifest['rows_selected']:,} rows to {repository.url}", quiet)
    files: dict[str, bytes | Path] = {CARD: card_of(manifest, repository.name).encode(), SELECTED: folder / SELECTED}
    message = f"{manifest['rows_selected']:,} rows for {', '.join(manifest['targets'])}, selected with nait_fast"
    repository.send(files, message, f"the selection is whole in {named(folder)}; the same command tries again")
    seen = "public" if repository.public else "private"
    told = f"on the Hub ({seen}):\n  {repository.url}" if len(repository.url) > WIDTH - 24 else ""
    text = f"{summary['text']}\n{told or f'on the Hub ({seen}): {repository.url}'}"
    return {**summary, "pushed": repository.url, "text": text}
