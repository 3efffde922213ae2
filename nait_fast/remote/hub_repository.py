"""Data sets that are sent to the Hugging Face Hub, through its own library; credentials are that library's business."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from nait_fast.errors import BadInput, NaitError, first_line
from nait_fast.urls import without_secrets

FLAG = "--push-to-hub"
CARD = "README.md"
MARK = "<!-- written by nait_fast: a later selection may take its place -->"  # in a card that we may write over
_OF_THE_HUB = ".gitattributes"


class Repository:
    """The data set ``name`` (OWNER/NAME) on the Hub, there already or not. ``public``: whether all may read it.

    Making one raises NaitError, before anything is written, where it cannot be sent to: without a token, where the Hub
    cannot be reached, and where it holds what is not ours or is not as private as it shall be.
    """

    def __init__(self, name: str, public: bool = False):
        from huggingface_hub import HfApi
        from huggingface_hub.errors import HFValidationError
        from huggingface_hub.utils import validate_repo_id

        self.name, self.public, self._where = name, public, f"{FLAG} {name}"
        try:
            validate_repo_id(name)
            if name.count("/") != 1:
                raise HFValidationError
        except HFValidationError:
            raise BadInput("is no id of a data set on the Hub", where=self._where, remedy="write OWNER/NAME") from None
        # The library reads the variable once, as it is imported.
        self._api = HfApi(endpoint=os.environ.get("HF_ENDPOINT") or None, library_name="nait_fast")
        try:
            self._check()
        except NaitError:
            raise
        except Exception as error:  # of its library, and of what that calls
            raise self._failed(error, "check the connection") from None

    @property
    def url(self) -> str:
        return f"{self._api.endpoint}/datasets/{self.name}"

    def _check(self) -> None:
        from huggingface_hub.errors import LocalTokenNotFoundError, RepositoryNotFoundError

        try:
            self._api.whoami()
        except LocalTokenNotFoundError:
            remedy = "run: hf auth login (or set HF_TOKEN)"
            raise BadInput("there is no token for the Hub", where=self._where, remedy=remedy) from None
        try:
            info = self._api.dataset_info(self.name)
        except RepositoryNotFoundError:
            return
        if info.private is False and not self.public:
            raise BadInput(
                "is public: all could read the selection", where=self._where, remedy="pass --public, or name another"
            )
        if info.private and self.public:
            raise BadInput(
                "is private, and --public makes no data set public that is there",
                where=self._where,
                remedy="leave --public out, or change it on the Hub",
            )
        files = {file.rfilename for file in info.siblings or ()} - {_OF_THE_HUB}
        if files and not self._is_ours(files):
            raise BadInput(
                "is a data set that nait_fast did not write, and would write over",
                where=self._where,
                remedy="name another",
            )

    def _is_ours(self, files: set[str]) -> bool:
        if CARD not in files:
            return False
        with tempfile.TemporaryDirectory() as folder:
            card = self._api.hf_hub_download(self.name, CARD, repo_type="dataset", local_dir=folder)
            return MARK in Path(card).read_text(encoding="utf-8", errors="replace")

    def send(self, files: Mapping[str, bytes | Path], message: str, again: str) -> None:
        """Make it, if need be, and put ``files`` there, in one commit. ``again``: what is to be done where that fails,
        for the NaitError that is raised then."""
        from huggingface_hub import CommitOperationAdd

        operations = [CommitOperationAdd(name, content) for name, content in files.items()]
        try:
            self._api.create_repo(self.name, repo_type="dataset", private=not self.public, exist_ok=True)
            self._api.create_commit(self.name, operations, commit_message=message, repo_type="dataset")
        except Exception as error:
            raise self._failed(error, again) from None

    def _failed(self, error: Exception, remedy: str) -> NaitError:
        answer = getattr(getattr(error, "response", None), "status_code", None)
        why = without_secrets(first_line(error))
        if answer is not None:
            why = f"the Hub answered {answer}"
            with suppress(Exception):
                said = getattr(error, "server_message", None)
                why += f": {said}" if said else ""
        return BadInput(f"cannot be sent to the Hub ({why})", where=self._where, remedy=remedy)
