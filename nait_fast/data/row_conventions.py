"""What a user has said of a pool's rows."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from nait_fast.data.format_keys import NAMES, formats_that_read
from nait_fast.data.turns import ROLES
from nait_fast.errors import BadInput

CONVENTIONS = ("roles", "columns", "labels")  # what an index says of them
LABEL_FALSE = "its label is false: an answer not to learn from"


@dataclass(frozen=True)
class RowConventions:
    """What a user has said of a pool's rows.

    roles: name of a role in the rows -> one of ROLES. ignore: keys not to be told of; "label" among them: rows whose
    label is false are read as any other. columns: name that formats know -> the row's key that holds it.
    """

    roles: Mapping[str, str] = field(default_factory=dict)
    ignore: frozenset[str] = frozenset()
    columns: Mapping[str, str] = field(default_factory=dict)

    def described(self) -> dict[str, Any]:
        """What decides which rows are read, and how; empty where nothing was said."""
        said: dict[str, Any] = {"roles": dict(sorted(self.roles.items()))} if self.roles else {}
        said |= {"columns": dict(sorted(self.columns.items()))} if self.columns else {}
        return {**said, "labels": "ignored"} if "label" in self.ignore else said

    @cached_property
    def mapped(self) -> frozenset[str]:
        """The names that are mapped."""
        return frozenset(self.columns)

    def fields(self, row: Mapping[str, Any]) -> Mapping[str, Any]:
        """``row`` by the names that formats know. A column that is mapped has its own name no more, and a name that is
        mapped stands for no other column."""
        if not self.columns:
            return row
        held = {*self.columns.values()}
        fields = {key: value for key, value in row.items() if key not in held and key not in self.columns}
        return fields | {name: row[column] for name, column in self.columns.items() if column in row}

    def called(self, name: str) -> str:
        """What the rows call ``name``, one that formats know."""
        return self.columns.get(name, name)

    def unmapped(self) -> RowConventions:
        """The same without columns."""
        return replace(self, columns={})


def make_conventions(
    roles: Iterable[str] = (), ignore: Iterable[str] = (), columns: Iterable[str] = ()
) -> RowConventions:
    """What the options --roles, --ignore and --columns say. Raises NaitError."""
    return RowConventions(_roles(roles), frozenset(ignore), _columns(columns))


def _roles(given: Iterable[str]) -> dict[str, str]:
    roles: dict[str, str] = {}
    for text in _apart(given):
        where = f"--roles {text}"
        name, _, role = text.rpartition("=")
        if not name or role not in ROLES:
            raise BadInput(f"write NAME=ROLE, the role one of {', '.join(ROLES)}", where=where)
        if roles.setdefault(name, role) != role:
            raise BadInput(f"{name} is {roles[name]} already", where=where)
    return roles


def _columns(given: Iterable[str]) -> dict[str, str]:
    columns: dict[str, str] = {}
    for text in _apart(given):
        where = f"--columns {text}"
        name, _, column = text.partition("=")
        if not name or not column:
            raise BadInput("write NAME=COLUMN, a name that a format knows and the rows' column", where=where)
        if name not in NAMES:
            like = difflib.get_close_matches(name, NAMES, n=1)
            remedy = f"did you mean {like[0]}?" if like else f"name one of {', '.join(sorted(NAMES))}"
            raise BadInput(f"no format reads '{name}'", where=where, remedy=remedy)
        if columns.setdefault(name, column) != column:
            raise BadInput(f"{name} is the column '{columns[name]}' already", where=where)
    for name, column in columns.items():
        if other := next((n for n, c in columns.items() if c == column and n != name), ""):
            raise BadInput(
                f"the column '{column}' cannot be {name} and {other}", where="--columns", remedy="name it once"
            )
    if columns and not formats_that_read(columns):
        raise BadInput(
            f"no format reads {' and '.join(columns)} together",
            where="--columns",
            remedy="name messages; prompt and response; instruction, input and output; text; or input_ids",
        )
    return columns


def _apart(given: Iterable[str]) -> Iterator[str]:
    """Each NAME=VALUE: several may stand in one text, with commas between. A comma that no NAME= follows, or with a
    backslash before it, is part of a name."""
    for text in given:
        yield from (pair.lstrip().replace("\\,", ",") for pair in re.split(r"(?<!\\),(?=[^,=]+=)", text))


def conventions_of(described: Mapping[str, Any]) -> RowConventions:
    """What an index has ``described`` of a dataset."""
    ignore = frozenset(["label"] if "labels" in described else [])
    return RowConventions(described.get("roles", {}), ignore, described.get("columns", {}))


NO_CONVENTIONS = RowConventions()
