"""What a user has said of a pool's rows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from nait_fast.data.turns import ROLES
from nait_fast.errors import BadInput

LABEL_FALSE = "its label is false: an answer not to learn from"


@dataclass(frozen=True)
class RowConventions:
    """What a user has said of a pool's rows.

    roles: name of a role in the rows -> one of ROLES. ignore: keys not to be told of; "label" among them: rows whose
    label is false are read as any other.
    """

    roles: Mapping[str, str] = field(default_factory=dict)
    ignore: frozenset[str] = frozenset()

    def described(self) -> dict[str, Any]:
        """What decides which rows are read, and how; empty where nothing was said."""
        said: dict[str, Any] = {"roles": dict(sorted(self.roles.items()))} if self.roles else {}
        return {**said, "labels": "ignored"} if "label" in self.ignore else said


def make_conventions(role: Iterable[str] = (), ignore: Iterable[str] = ()) -> RowConventions:
    """What the options --role and --ignore say. Raises NaitError."""
    roles: dict[str, str] = {}
    for text in role:
        name, _, meaning = text.rpartition("=")
        if not name or meaning not in ROLES:
            raise BadInput(f"write NAME=ROLE, the role one of {', '.join(ROLES)}", where=f"--role {text}")
        if roles.setdefault(name, meaning) != meaning:
            raise BadInput(f"{name} is {roles[name]} already", where=f"--role {text}")
    return RowConventions(roles, frozenset(ignore))


def conventions_of(described: Mapping[str, Any]) -> RowConventions:
    """What an index has ``described`` of a dataset."""
    return RowConventions(described.get("roles", {}), frozenset(["label"] if "labels" in described else []))


NO_CONVENTIONS = RowConventions()
