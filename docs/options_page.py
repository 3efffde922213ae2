"""Writes the tables of docs/options.md from the options' dataclasses, the registries of methods and codecs, and the
command line's parser; ``--check`` only compares.

python -m docs.options_page [--check]
"""

import argparse
import dataclasses
import re
import sys
import typing
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmarks.figures_page import rewrite
from nait_fast.cli import VERBS, build_parser
from nait_fast.config import CODEC, METHOD
from nait_fast.evaluation.writing import table
from nait_fast.options import Options, Registry, flag_of, kinds_of, words_of

PAGE = Path(__file__).resolve().parent / "options.md"
TYPES = {bool: "yes or no", int: "whole number", float: "number", str: "text"}
Field = dataclasses.Field[Any]


def _owner(options: type[Options], field: Field) -> type[Options]:
    """The class that says what ``field`` of ``options`` is: the last one that defines it."""
    return next(kind for kind in options.__mro__ if field.name in vars(kind).get("__annotations__", {}))


def _type(field: Field, hint: Any) -> str:
    """What a value is, in words: its choices or its kind, and its bounds."""
    kinds = kinds_of(hint)
    several = typing.get_origin(kinds[0]) is tuple
    kind = str if several else kinds[0]
    if choices := field.metadata.get("choices"):
        text = ", ".join(f"`{choice}`" for choice in choices)
    elif "registry" in field.metadata:
        text = f"a {field.metadata['registry'].called}, with settings"
    elif several:
        return f"one or more `{field.metadata.get('metavar') or ('NAME=FILE' if field.name == 'target' else 'FILE')}`"
    else:
        forms = field.metadata["metavar"].replace("|", "`, `") if "metavar" in field.metadata else None  # | parts cells
        text = f"`{forms}`" if forms else TYPES[kind]
    low, high = (field.metadata.get(bound) for bound in ("minimum", "maximum"))
    if low is not None:
        text += f", at least {low:g}"
    if high is not None:
        text += f", at most {high:g}"
    text += "".join(f", or `{word}`" for word in words_of(hint))
    return ("one or more of " if several else "") + text


def _default(field: Field) -> str:
    if field.metadata.get("required"):
        return "**required**"
    value = field.default
    if value is None or value == ():
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"`{' '.join(value) if isinstance(value, tuple) else value}`"


def _help(text: str) -> str:
    """A help text as Markdown, which takes what looks like HTML, emphasis, mathematics or a link literally."""
    return re.sub(r"([*$\[\]])", r"\\\1", text).replace("<", "&lt;")


def _rows(fields: Iterable[tuple[Field, Any]]) -> str:
    cells = ((f"`{flag_of(f.name)}`", _type(f, hint), _default(f), _help(f.metadata["help"])) for f, hint in fields)
    return table(("flag", "value", "default", "what it does"), cells)


def _named(verbs: Iterable[str]) -> str:
    return ", ".join(f"`{verb}`" for verb in verbs)


def _classes() -> dict[type[Options], list[tuple[Field, Any]]]:
    """Each class that defines options -> its own, in the order in which verbs and their bases come."""
    found: dict[type[Options], dict[str, tuple[Field, Any]]] = {}
    for options, _, _ in VERBS.values():
        hints = typing.get_type_hints(options)
        for field in dataclasses.fields(options):
            if not {"setting", "renamed"} & field.metadata.keys():
                found.setdefault(_owner(options, field), {})[field.name] = (field, hints[field.name])
    return {owner: list(fields.values()) for owner, fields in found.items()}


def _title(owner: type[Options]) -> str:
    """The heading that a class's options stand under."""
    for verb, (options, _, _) in VERBS.items():
        if owner is options:
            return f"Of `{verb}` alone"
    return owner.group.capitalize() if owner.group != Options.group else "Output"


def _every_verb() -> str:
    verbs = build_parser().verbs
    known = {field.name for options, _, _ in VERBS.values() for field in dataclasses.fields(options)}
    common = [a for a in verbs["merge"]._actions if a.dest not in {*known, "help"}]
    of_demo = [a for a in verbs["demo"]._actions if a.dest not in {*(a.dest for a in common), "help"}]

    def rows(actions: Iterable[argparse.Action]) -> str:
        cells = (
            (f"`{a.option_strings[0]}`", (a.metavar and f"`{a.metavar}`") or "", _help(str(a.help))) for a in actions
        )
        return table(("flag", "value", "what it does"), cells)

    return (
        f"## Of every verb\n\n{rows(common)}\n\n`verify PATH` has no others, and not `--config`; `inspect PATH` takes "
        f"`--format`, `--columns` and `--roles` of a pool beside them; "
        f"`demo` has these instead of it:\n\n{rows(of_demo)}\n"
    )


def _settings(registry: Registry) -> str:
    """What each method or codec can be told behind its name."""
    cells = []
    for name in registry.names:
        its = registry.of(name)
        hints = typing.get_type_hints(its.settings)
        fields = dataclasses.fields(its.settings)
        cells.append((f"`{name}`", "", "", "", _help(its.about)))
        cells += [("", f"`{f.name}`", _type(f, hints[f.name]), _default(f), _help(f.metadata["help"])) for f in fields]
    columns = (registry.called, "setting", "value", "default", "what it is, and does")
    first = registry.names[0]
    return (
        f"## {registry.called.capitalize()}s and their settings\n\n`--{registry.called} NAME:SETTING=VALUE,…`; "
        f"`{first}` where none is named.\n\n{table(columns, cells)}\n"
    )


def _old() -> str:
    rows = {}
    for verb, (options, _, _) in VERBS.items():
        for field in dataclasses.fields(options):
            if "renamed" in field.metadata:
                rows.setdefault((flag_of(field.name), f"`{flag_of(field.metadata['renamed'])}`"), []).append(verb)
            elif "setting" in field.metadata:
                chooser, setting = field.metadata["setting"]
                now = f"`{flag_of(chooser)} NAME:{setting}=…`"
                rows.setdefault((flag_of(field.name), now), []).append(verb)
    cells = [(f"`{flag}`", now, _named(verbs)) for (flag, now), verbs in rows.items()]
    return f"## Old spellings\n\nStill taken, with a warning.\n\n{table(('flag', 'is written', 'of'), cells)}\n"


def section() -> str:
    """The text between the markers: a table for each class of options, under its group's heading."""
    by_title: dict[str, list[str]] = {}
    for owner, fields in _classes().items():
        verbs = [verb for verb, (options, _, _) in VERBS.items() if issubclass(options, owner)]
        said = "" if _title(owner).startswith("Of ") else f"Of {_named(verbs)}.\n\n"
        by_title.setdefault(_title(owner), []).append(f"{said}{_rows(fields)}\n")
    own = [title for title in by_title if title.startswith("Of ")]
    parts = ["\n".join([f"## {title}\n", *by_title[title]]) for title in [*own, *(t for t in by_title if t not in own)]]
    return "\n".join([*parts, _every_verb(), _settings(METHOD), _settings(CODEC), _old()])


def main() -> int:
    return rewrite(PAGE, section(), "--check" in sys.argv, "docs.options_page")


if __name__ == "__main__":
    sys.exit(main())
