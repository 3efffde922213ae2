"""What options are: frozen dataclasses that build from any mapping, and refuse what they would not heed."""

from __future__ import annotations

import dataclasses
import datetime
import os
import re
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Integral, Real
from typing import Any, ClassVar, TypeVar

from nait_fast.env import check_variables
from nait_fast.errors import BadInput
from nait_fast.notices import warn
from nait_fast.urls import all_without_secrets

_NOTHING = (None, False, "auto", "none", ())  # values that ask for nothing, whoever writes them
_MOST = 1 << 62  # of any whole number: what an int64 holds, with room to add
_SHOWN = 80  # characters of a value in a message

T = TypeVar("T", bound="Options")


def option(default: Any, help: str, **extra: Any) -> Any:
    """A field of ``Options``. ``extra``: required, choices, minimum, maximum, metavar, positional; ``bare``: its flag's
    value where that has none; ``registry``: it names a method or codec, with its settings; ``setting``: (such a field,
    the setting) that this is the old spelling of; ``renamed``: the option that this is the old name of; ``pairs``: its
    texts are KEY=VALUE, so that it takes a mapping, too."""
    return field(default=default, metadata={"help": help, **extra})


@dataclass(frozen=True, kw_only=True)
class Options:
    """Base of all options: builds from a mapping, refuses unknown keys and options that would be ignored."""

    keeps_config: ClassVar[bool] = True  # `output` is a folder that shall hold the config.yaml of the run
    group: ClassVar[str] = "more"  # what a verb's help lists the options of this class under
    _named: ClassVar[frozenset[str]] = frozenset()  # an instance's own: what its mapping named

    def __post_init__(self) -> None:
        """Raises BadInput for an old spelling, which only ``from_mapping`` takes: nobody reads it here."""
        for f in dataclasses.fields(self):
            if {"setting", "renamed"} & f.metadata.keys() and getattr(self, f.name) != f.default:
                raise BadInput(f"{f.name} is an old spelling", remedy=f"use {type(self).__name__}.from_mapping")

    @classmethod
    def from_mapping(cls: type[T], values: dict[str, Any], where: str = "config") -> T:
        """Raises NaitError, which ``where`` begins, for a key, a type, a value or a combination that is not taken; and
        for a variable of the environment that means nothing."""
        check_variables()
        values, respelled = cls.respelled(values, where)
        known = {f.name: f for f in dataclasses.fields(cls)}
        unknown = sorted(_shown(name) for name in values if name not in known)
        if unknown:
            raise BadInput(
                f"unknown option '{unknown[0]}'", where=where, remedy=f"known are {', '.join(sorted(known))}"
            )
        missing = [n for n, f in known.items() if f.metadata.get("required") and _is_absent(values.get(n))]
        if missing:
            verb = "is" if len(missing) == 1 else "are"
            raise BadInput(f"{', '.join(map(flag_of, missing))} {verb} missing", where=where)
        hints = typing.get_type_hints(cls)
        clean = {}
        for name, value in values.items():
            try:
                clean[name] = _checked(value, hints[name], known[name].metadata)
                if registry := known[name].metadata.get("registry"):
                    clean[name] = registry.choice(clean[name]).text
            except (ValueError, OverflowError) as error:
                listed = typing.get_origin(hints[name]) is tuple and isinstance(value, list)
                shown = _shown(tuple(value) if listed else value)
                raise BadInput(f"{flag_of(name)} {shown}: {error}", where=where) from None
        options = cls(**clean)
        object.__setattr__(options, "_named", frozenset(clean))  # frozen for others
        given, idle = options.given, options.idle()
        if ignored := next((name for name in idle if name in given), None):
            value = _shown(getattr(options, ignored))
            raise BadInput(f"{flag_of(ignored)} {value}: {idle[ignored]}", where=where, remedy="leave it out")
        for text in respelled:
            warn(text)
        return options

    @classmethod
    def beside_defaults(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        """What ``values`` ask for beside the defaults: a config that holds every option, as those of older versions do,
        does not thereby ask for the options that apply to another method."""
        fields = {f.name: f for f in dataclasses.fields(cls)}
        defaults = {name: f.default for name, f in fields.items()}
        for name, f in fields.items():
            if "setting" in f.metadata:  # which was an option of its own
                chooser, setting = f.metadata["setting"]
                defaults[name] = fields[chooser].metadata["registry"].default_of(setting)
        return {name: value for name, value in values.items() if not _is_default(value, defaults.get(name))}

    @classmethod
    def respelled(cls, values: Mapping[str, Any], where: str) -> tuple[dict[str, Any], list[str]]:
        """(``values`` with old names and old spellings of settings as they are written now, what is to be said).
        Raises BadInput for what cannot be written so."""
        fields = {f.name: f for f in dataclasses.fields(cls)}
        old = {name: f.metadata["setting"] for name, f in fields.items() if "setting" in f.metadata}
        renamed = {name: f.metadata["renamed"] for name, f in fields.items() if "renamed" in f.metadata}
        out = {name: value for name, value in values.items() if name not in {*old, *renamed}}
        said = []
        for name, now in renamed.items():
            if not _is_absent(values.get(name)):
                if not _is_absent(out.get(now)):
                    raise BadInput(f"{flag_of(name)} and {flag_of(now)} are one option", where=where, remedy="give one")
                out[now] = values[name]
                said.append(f"{where}: {flag_of(name)} is called {flag_of(now)} now; the old flag will go")
        for name, (chooser, setting) in old.items():
            if (value := values.get(name)) is None:
                continue
            registry, text = fields[chooser].metadata["registry"], str(out.get(chooser) or fields[chooser].default)
            chosen, flag = text.partition(":")[0], f"{flag_of(name)} {_shown(value)}"
            if chosen in registry.names and setting not in registry.settings(chosen):
                owner = next(other for other in registry.names if setting in registry.settings(other))
                raise BadInput(f"{flag}: is for {chooser} {owner}, not {chosen}", where=where, remedy="leave it out")
            out[chooser] = f"{text}{',' if ':' in text else ':'}{setting}={_shown(value)}"
            said.append(f"{where}: {flag} is written {flag_of(chooser)} {out[chooser]} now; the old flag will go")
        return out, said

    @property
    def given(self) -> frozenset[str]:
        """Names of the options that somebody asked for: what the mapping named, else what is not as it is by default;
        never one whose value asks for nothing, as ``auto`` and False do."""
        values = ((f.name, getattr(self, f.name), f.default) for f in dataclasses.fields(self))
        return frozenset(
            name
            for name, value, default in values
            if not _is_nothing(value, default) and (name in self._named or value != default)
        )

    def idle(self) -> dict[str, str]:
        """Options that change nothing beside the values of the others -> why."""
        return {}

    def to_mapping(self) -> dict[str, Any]:
        """Plain values, as written to ``config.yaml``: without the defaults of what changes nothing here."""
        values, idle = dataclasses.asdict(self), self.idle()
        fields = [f for f in dataclasses.fields(self) if not {"setting", "renamed"} & f.metadata.keys()]
        names = {f.name for f in fields if values[f.name] is None or f.name not in idle or values[f.name] != f.default}
        return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items() if k in names}

    def to_record(self) -> dict[str, Any]:
        """``to_mapping`` as it may be written down: nothing secret of a URL."""
        return all_without_secrets(self.to_mapping())


def _is_absent(value: Any) -> bool:
    return value is None or (isinstance(value, (str, list, tuple)) and not value)


def _is_default(value: Any, default: Any) -> bool:
    value = tuple(value) if isinstance(value, list) else value
    return default not in (None, "") and type(value) is type(default) and value == default


def _is_nothing(value: Any, default: Any) -> bool:
    if isinstance(value, str) and not isinstance(default, str):  # a name that somebody gave, be it "auto"
        return False
    return any(type(value) is type(nothing) and value == nothing for nothing in _NOTHING)  # 0 is no False


def flag_of(name: str) -> str:
    """An option as the command line writes it."""
    return "--" + name.replace("_", "-")


def _shown(value: Any) -> str:
    """A value in one short line, whatever it is."""
    words = isinstance(value, tuple) and all(isinstance(item, str) for item in value)
    try:
        text = " ".join(value) if words else str(list(value) if isinstance(value, tuple) else value)
    except (ValueError, RecursionError):  # a number of thousands of digits
        text = f"({type(value).__name__})"
    text = " ".join(text.replace("\0", "\\0").split())
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 1]}…"


def kinds_of(hint: Any) -> tuple[Any, ...]:
    """The types that a field of the type ``hint`` takes, its own first."""
    return typing.get_args(hint) if typing.get_origin(hint) in (types.UnionType, typing.Union) else (hint,)


def words_of(hint: Any) -> tuple[str, ...]:
    """What a field of the type ``hint`` takes beside its own: of ``int | Literal["all"]``, all."""
    kinds = kinds_of(hint)[1:]
    return tuple(word for kind in kinds if typing.get_origin(kind) is typing.Literal for word in typing.get_args(kind))


_KINDS: dict[type, tuple[type, str]] = {
    bool: (bool, "true or false"),
    int: (Integral, "a whole number"),
    float: (Real, "a number"),
    str: (str, "text"),
}


def _checked(value: Any, hint: Any, metadata: Mapping[str, Any]) -> Any:
    """``value`` as the type ``hint``, within the option's choices and bounds. Raises ValueError saying what it must be.

    YAML and Python callers bring any type; the command line's parser has checked its own.
    """
    kinds = kinds_of(hint)
    if value is None and type(None) in kinds:
        return None
    if isinstance(value, str) and value in words_of(hint):
        return value
    kind = kinds[0]
    if typing.get_origin(kind) is tuple:
        if metadata.get("pairs") and isinstance(value, Mapping):
            pairs = [f"{_checked(key, str, {})}={_checked(item, str, {})}" for key, item in value.items()]
            value = [pair.replace(",", "\\,") for pair in pairs]
        items = value if isinstance(value, (list, tuple)) else [value]
        return tuple(_checked(item, str, metadata) for item in items)
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    accepted, called = _KINDS[kind]
    if not isinstance(value, accepted) or (isinstance(value, bool) and kind is not bool):
        quotes = kind is str and isinstance(value, (Real, datetime.date))  # as YAML reads 3, or 2024-07-26
        called = " or ".join([called, *words_of(hint)])
        raise ValueError(f"must be {called}, not {type(value).__name__}{'; write it in quotes' * quotes}")
    value = kind(value)
    if kind is str:
        _check_text(value)
    choices, low, high = metadata.get("choices"), metadata.get("minimum"), metadata.get("maximum")
    if kind is int and high is None:
        high = _MOST
    if choices and value not in choices:
        raise ValueError(f"choose {', '.join(map(str, choices))}")
    if low is not None and not value >= low:  # so that NaN is none
        raise ValueError(f"must be at least {low}")
    if high is not None and value > high:
        raise ValueError(f"must be at most {high}")
    return value


def named(text: str, flag: str) -> str:
    """``text``, which names a file. Raises NaitError for what cannot."""
    try:
        _check_text(text)
    except ValueError as error:
        raise BadInput(str(error), where=f"{flag} {_shown(text)}") from None
    return text


def _check_text(text: str) -> None:
    """Raises ValueError for what is no name of anything: all texts are names of files, keys or choices."""
    if not text:
        raise ValueError("is empty; leave the option out, or name something")
    if "\0" in text:
        raise ValueError("holds a NUL character, which no name may")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError(
            "is not UTF-8, which manifests and configs are written in; rename the file or folder"
        ) from None


@dataclass(frozen=True, kw_only=True)
class Settings(Options):
    """What one method or codec can be told, written behind its name: ``NAME:KEY=VALUE,…``."""


@dataclass(frozen=True)
class Choice:
    """A name of a registry with its settings. ``text``: both as they are written, without the defaults."""

    name: str
    settings: Settings

    @property
    def text(self) -> str:
        fields = dataclasses.fields(self.settings)
        values = ((f.name, getattr(self.settings, f.name), f.default) for f in fields)
        settings = ",".join(f"{name}={_written(value)}" for name, value, default in values if value != default)
        return f"{self.name}:{settings}" if settings else self.name


@dataclass(frozen=True)
class Registry:
    """What an option names. ``called``: the option; ``of(name)``: a method or codec, with ``about`` (what it is, in a
    few words) and ``settings`` (the class of what it can be told)."""

    called: str
    names: Sequence[str]
    of: Callable[[str], Any]

    def settings(self, name: str) -> list[str]:
        """What the method or codec can be told."""
        return [f.name for f in dataclasses.fields(self.of(name).settings)]

    def default_of(self, setting: str) -> Any:
        """That of whatever has the setting."""
        fields = (f for name in self.names for f in dataclasses.fields(self.of(name).settings))
        return next(f.default for f in fields if f.name == setting)

    def choice(self, text: str) -> Choice:
        """``NAME``, ``NAME:KEY=VALUE,…``, or ``NAME:VALUE`` where it has one setting. Raises ValueError saying what is
        wrong."""
        name, _, written = text.partition(":")
        if name not in self.names:
            raise ValueError(f"choose {', '.join(self.names)}")
        cls: type[Settings] = self.of(name).settings
        known, hints = {f.name: f for f in dataclasses.fields(cls)}, typing.get_type_hints(cls)
        values: dict[str, Any] = {}
        for part in written.split(",") if written or text.endswith(":") else []:
            key, equals, value = part.partition("=")
            if not equals and len(known) == 1:
                key, value = next(iter(known)), part
            if key not in known:
                takes = f"it takes {', '.join(known)}" if known else "it takes none"
                raise ValueError(f"{self.called} {name} has no setting '{_shown(key)}'; {takes}")
            if key in values:
                raise ValueError(f"{key} is there twice")
            try:
                values[key] = _checked(_read(value, hints[key]), hints[key], known[key].metadata)
            except ValueError as error:
                raise ValueError(f"{key}: {error}") from None
        settings = cls(**values)
        if ignored := next((key for key in settings.idle() if key in values), None):
            raise ValueError(f"{ignored}: {settings.idle()[ignored]}; leave it out")
        return Choice(name, settings)

    def help(self, name: str) -> str:
        """What a name is, and what it can be told, as that is written."""
        lines = []
        for f in dataclasses.fields(self.of(name).settings):
            choices = "|".join(f.metadata.get("choices", ())) or ("" if f.default is None else _written(f.default))
            lines.append(f"{f.name}{f'={choices}' if choices else ''} ({f.metadata['help']})")
        return f"{name} = {'; '.join([self.of(name).about, *lines])}"


def _read(text: str, hint: Any) -> Any:
    """A written value as the type ``hint`` has it, where it is one; else as text, which is then refused."""
    kinds = kinds_of(hint)
    if int in kinds and re.fullmatch(r"-?[0-9]{1,18}", text):
        return int(text)
    if float in kinds and re.fullmatch(r"-?[0-9]{1,18}(\.[0-9]*)?(e-?[0-9]{1,3})?", text):
        return float(text)
    return text == "true" if bool in kinds and text in ("true", "false") else text


def _written(value: Any) -> str:
    """As ``_read`` takes it."""
    return str(value).lower() if isinstance(value, bool) else str(value)
