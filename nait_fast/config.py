"""Options of every verb as frozen dataclasses: one definition for the API, the command line and replayable YAML."""

import dataclasses
import datetime
import os
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from numbers import Integral, Real
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from nait_fast.env import check_variables
from nait_fast.errors import BadInput
from nait_fast.methods import METHODS, method_of

COMBINES = ("mean", "max", "union", "roundrobin")
PICKS = ("top", "bottom", "random")
SCORES = ("all", "selected", "none")
EXPORTS = ("llama_factory", "dataflex", "messages")
MOST_NAME_BYTES = 200  # of a target: files are named after it, and a file system takes 255 with what goes around it
BENCH_SHAPES = ("smollm2-135m", "qwen2.5-1.5b", "llama-2-7b", "tiny")  # the first is the default
BENCH_PARTS = ("all", "ceilings", "kernels", "scan", "endtoend")

_NOTHING = (None, False, "auto", "none", ())  # values that ask for nothing, whoever writes them
_MOST = 1 << 62  # of any whole number: what an int64 holds, with room to add
_SHOWN = 80  # characters of a value in a message

T = TypeVar("T", bound="Options")


def _option(default: Any, help: str, **extra: Any) -> Any:
    return field(default=default, metadata={"help": help, **extra})


@dataclass(frozen=True, kw_only=True)
class Options:
    """Base of all options: builds from a mapping, refuses unknown keys and options that would be ignored."""

    keeps_config: ClassVar[bool] = True  # `output` is a folder that shall hold the config.yaml of the run
    _named: ClassVar[frozenset[str]] = frozenset()  # an instance's own: what its mapping named

    @classmethod
    def from_mapping(cls: type[T], values: dict[str, Any], where: str = "config") -> T:
        """Raises NaitError, which ``where`` begins, for a key, a type, a value or a combination that is not taken; and
        for a variable of the environment that means nothing."""
        check_variables()
        field_of = {f.name: f for f in dataclasses.fields(cls)}
        unknown = sorted(_shown(name) for name in values if name not in field_of)
        if unknown:
            raise BadInput(
                f"unknown option '{unknown[0]}'", where=where, remedy=f"known are {', '.join(sorted(field_of))}"
            )
        missing = [n for n, f in field_of.items() if f.metadata.get("required") and _is_absent(values.get(n))]
        if missing:
            raise BadInput(f"{flag_of(missing[0])} is missing", where=where)
        hints = typing.get_type_hints(cls)
        clean = {}
        for name, value in values.items():
            try:
                clean[name] = _checked(value, hints[name], field_of[name].metadata)
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
        return options

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
        names = {f.name for f in dataclasses.fields(self) if f.name not in idle or values[f.name] != f.default}
        return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items() if k in names or v is None}


def _is_absent(value: Any) -> bool:
    return value is None or (isinstance(value, (str, list, tuple)) and not value)


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
    kinds = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    if value is None and type(None) in kinds:
        return None
    kind = kinds[0]
    if typing.get_origin(kind) is tuple:
        items = value if isinstance(value, (list, tuple)) else [value]
        return tuple(_checked(item, str, metadata) for item in items)
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    accepted, called = _KINDS[kind]
    if not isinstance(value, accepted) or (isinstance(value, bool) and kind is not bool):
        quotes = kind is str and isinstance(value, (Real, datetime.date))  # as YAML reads 3, or 2024-07-26
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
class RunOptions(Options):
    """How a model is loaded and run, whichever it is."""

    tokenizer: str | None = _option(None, "tokenizer, if not the model's own")
    dtype: str = _option(
        "auto", "auto: float32 on a CPU, bfloat16 on a GPU", choices=("auto", "float32", "bfloat16", "float16")
    )
    device: str = _option("auto", "auto, cpu, cuda, cuda:1")
    batch_tokens: int | None = _option(None, "tokens a batch (default: 2048 on a CPU, 65536 on a GPU)", minimum=1)
    trust_remote_code: bool = _option(False, "let the model's own Python code run")


@dataclass(frozen=True, kw_only=True)
class ModelOptions(RunOptions):
    model: str = _option("", "model: local folder, .gguf file or Hub id", required=True)
    layers: str = _option(
        "all", "layers to capture: all, 0-9, or 0,5,-1 (a leading minus needs =: --layers=-10--1)", metavar="LAYERS"
    )


@dataclass(frozen=True, kw_only=True)
class RowOptions(Options):
    """What the rows of pools and targets are taken for."""

    role: tuple[str, ...] = _option(
        (), "what a role in the rows stands for: NAME=system, user, assistant or tool", metavar="NAME=ROLE"
    )
    ignore: tuple[str, ...] = _option(
        (),
        "keys of rows, or fields of turns, not to be told of though they are not read; label: rows whose label is "
        "false are read, too",
        metavar="KEY",
    )


@dataclass(frozen=True, kw_only=True)
class DataOptions(RowOptions):
    format: str = _option("auto", "row format: auto, alpaca, sharegpt, messages, prompt_completion, text, input_ids")
    template: str = _option(
        "auto", "auto: the tokenizer's chat template, else Alpaca's", choices=("auto", "chat", "alpaca", "none")
    )
    template_date: str | None = _option(
        None, "the day, YYYY-MM-DD, that it is for a chat template that asks (default: 2024-07-26)", metavar="DATE"
    )
    max_length: int = _option(512, "tokens a sample; the rest is cut off and counted", minimum=1)
    skip_bad_rows: bool = _option(False, "leave out rows that cannot be used, and list them in skipped.jsonl")


@dataclass(frozen=True, kw_only=True)
class ReadingOptions(Options):
    reading: str | None = _option(
        None, "drift or mean (default: drift for nait and its codecs, mean otherwise)", choices=("drift", "mean")
    )
    first_token: str = _option(
        "exclude", "whether the mean counts a sample's first token", choices=("exclude", "include")
    )


@dataclass(frozen=True, kw_only=True)
class PassOptions(Options):
    calibration_size: int = _option(
        512, "pool samples that set the thresholds and the pool's bit frequencies", minimum=2
    )
    seed: int = _option(0, "seed of the calibration sample and of --pick random", minimum=0)
    too_long: str = _option(
        "cut",
        "pool samples longer than --max-length: cut them, or leave them out and list them",
        choices=("cut", "skip"),
    )
    workers: int | None = _option(None, "processes that index the pool (default: one a GPU, one on a CPU)", minimum=1)


@dataclass(frozen=True, kw_only=True)
class OutputOptions(Options):
    overwrite: bool = _option(
        False,
        "replace results of nait-fast in --output that have changed or are of another question; never other files",
    )


@dataclass(frozen=True, kw_only=True)
class SignatureOptions(Options):
    method: str = _option(METHODS[0], "ranking method", choices=METHODS)
    weights: str = _option(
        "difference", "contrast: weight of a neuron from its bit frequencies", choices=("difference", "logodds")
    )
    planes: int = _option(4, "contrast: signed bit planes of a weight", minimum=2, maximum=12)
    top_m: int | None = _option(
        None, "contrast: instead of planes, weight ±1 on the m strongest neurons a layer", minimum=1
    )
    sign: str = _option(
        "mean",
        "nait: flip a direction by the mean drift (the paper's) or by contrast with the pool",
        choices=("mean", "contrast"),
    )
    nag_top_k: int = _option(20, "nag: neurons a layer", minimum=1)

    def idle(self) -> dict[str, str]:
        others = [method_of(name) for name in METHODS if name != self.method]
        of_others = {option: f"is for method {m.name}, not {self.method}" for m in others for option in m.options}
        unused = method_of(self.method).unused(self).items()
        return super().idle() | {name: why for name, why in unused if hasattr(self, name)} | of_others


@dataclass(frozen=True, kw_only=True)
class BudgetOptions(Options):
    fraction: float | None = _option(None, "select this share of the pool's samples (default 0.1)")
    top_k: int | None = _option(None, "select this many samples", minimum=1)
    token_budget: int | None = _option(None, "select samples up to this many tokens in all", minimum=1)
    pick: str = _option("top", "which end of the ranking", choices=PICKS)
    combine: str = _option("mean", "several targets: how their z-scored scores become one order", choices=COMBINES)
    scores: str = _option("all", "rows that scores.parquet holds; none: do not write it", choices=SCORES)
    export: tuple[str, ...] = _option(
        ("llama_factory",),
        "files for tools that train: dataset_info.json, top_indices.npy, messages.jsonl",
        choices=EXPORTS,
    )


@dataclass(frozen=True, kw_only=True)
class SelectOptions(
    BudgetOptions, SignatureOptions, PassOptions, ReadingOptions, DataOptions, ModelOptions, OutputOptions
):
    """Options of ``select``."""

    dataset: str = _option("", "pool: JSONL (.gz, .zst), JSON, Parquet, save_to_disk folder or Hub id", required=True)
    target: tuple[str, ...] = _option((), "a capability's in-domain samples: NAME=FILE or FILE", required=True)
    output: str = _option("", "folder for the results", required=True)

    def idle(self) -> dict[str, str]:
        return super().idle() | _idle_combine(self.target, "target") | method_of(self.method).unused_in_select(self)


def _idle_combine(several: tuple[str, ...], called: str) -> dict[str, str]:
    return {} if len(several) > 1 else {"combine": f"there is one {called}, nothing to combine"}


@dataclass(frozen=True, kw_only=True)
class IndexOptions(PassOptions, ReadingOptions, DataOptions, ModelOptions):
    """Options of ``index``."""

    dataset: str = _option("", "pool: JSONL (.gz, .zst), JSON, Parquet, save_to_disk folder or Hub id", required=True)
    output: str = _option("", "folder for the index", required=True)
    codec: str = _option(
        "neuron",
        "neuron: one bit a neuron; components (principal ones) or rotated (bits): what "
        "estimates nait scores without the model; nag: the set of the top neurons a layer",
        choices=("neuron", "components", "rotated", "nag"),
    )
    codebook: str | None = _option(None, "codebook of another index (folder or file) instead of calibrating")
    score: tuple[str, ...] = _option((), "nait signatures to score exactly in the same pass")
    nag_top_k: int = _option(20, "codec nag: neurons a layer", minimum=1)
    outliers: int | None = _option(
        None,
        "codec rotated: neurons kept as int8 numbers: the worst ones for bits (default: 128, or the codebook's)",
        minimum=0,
    )
    bytes_per_sample: int | None = _option(
        None, "codec components: bytes of a sample's code (default: 1024, or the codebook's)", minimum=16
    )
    embed: str = _option(
        "none", "keep embeddings for method embed: none, last (of the captured layers) or a layer", metavar="LAYER"
    )
    shard_rows: int = _option(2048, "rows of the pool a shard: what a killed run loses at most", minimum=1)
    engine: str = _option(
        "local", "who does the work: this machine's processes, or actors on a Ray cluster", choices=("local", "ray")
    )
    address: str | None = _option(None, "engine ray: a running cluster (default: $RAY_ADDRESS, else one of our own)")
    append: bool = _option(False, "add this dataset to a complete index, under its codebook")
    repair: bool = _option(False, "make the damaged shards of a complete index again")

    def idle(self) -> dict[str, str]:
        codec_of = {"nag_top_k": "nag", "outliers": "rotated", "bytes_per_sample": "components"}
        others = {name: codec for name, codec in codec_of.items() if codec != self.codec}
        unused = {name: f"is for codec {codec}, not {self.codec}" for name, codec in others.items()}
        if self.codec == "nag":
            why = "codec nag has a reading, the mean of |up_proj|, and nothing to calibrate"
            unused |= dict.fromkeys(("reading", "calibration_size", "seed"), why)
            unused["codebook"] = "codec nag has no codebook"
            if not (self.append or self.repair or self.score):  # which must agree with what was made before
                unused["first_token"] = "codec nag takes no mean"
        elif self.codebook is not None:
            unused |= dict.fromkeys(("calibration_size", "seed"), "--codebook takes the place of calibrating")
        if self.engine != "ray":
            unused["address"] = "is for --engine ray"
        return super().idle() | unused


@dataclass(frozen=True, kw_only=True)
class MergeOptions(Options):
    """Options of ``merge``."""

    index: tuple[str, ...] = _option((), "index folders, in the order that their rows shall have", required=True)
    output: str = _option("", "folder for the joined index", required=True)


@dataclass(frozen=True, kw_only=True)
class SignatureBuildOptions(SignatureOptions, ReadingOptions, DataOptions, ModelOptions, OutputOptions):
    """Options of ``signature``."""

    target: tuple[str, ...] = _option((), "a capability's in-domain samples: NAME=FILE or FILE", required=True)
    codebook: str | None = _option(None, "index folder or codebook file (contrast; nait with --sign contrast)")
    output: str = _option("", "folder for NAME.safetensors", required=True)

    def idle(self) -> dict[str, str]:
        unused = {"skip_bad_rows": "a signature is made of all of its samples; fix the row or delete it"}
        return super().idle() | unused


@dataclass(frozen=True, kw_only=True)
class RankOptions(BudgetOptions, OutputOptions):
    """Options of ``rank``."""

    index: str = _option("", "index folder", required=True)
    signature: tuple[str, ...] = _option((), "signature files", required=True)
    output: str = _option("", "folder for the results", required=True)
    dataset: tuple[str, ...] = _option((), "the pool, if it has moved since it was indexed (all of them, in order)")
    device: str = _option("auto", "where to scan: auto (a GPU for large scans), cpu, cuda, cuda:1")
    seed: int = _option(0, "seed of --pick random", minimum=0)

    def idle(self) -> dict[str, str]:
        unused = _idle_combine(self.signature, "signature")
        if self.pick != "random":
            unused["seed"] = "nothing is drawn but by --pick random"
        return super().idle() | unused


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions(RowOptions, RunOptions, OutputOptions):
    """Options of ``evaluate``."""

    index: str = _option("", "index folder", required=True)
    signature: tuple[str, ...] = _option((), "signature files; several may have one name", required=True)
    output: str = _option("", "folder for evaluation.json and evaluation.md", required=True)
    dataset: tuple[str, ...] = _option((), "the pool, if it has moved since it was indexed (all of them, in order)")
    label: str | None = _option(None, "key of the pool's rows that says what a row is: measures retrieval")
    relevant: tuple[str, ...] = _option(
        (), "label's value that a signature shall find (default: its own name)", metavar="NAME=VALUE"
    )
    fraction: float = _option(0.1, "share of the rows that each signature selects, for overlaps and the core")
    core_targets: int | None = _option(
        None, "signatures of one method that must select a row of the core (default: all of them)", minimum=2
    )
    model: str | None = _option(None, "the index's model: for exact scores, layer shares of nait, and stability")
    target: tuple[str, ...] = _option((), "the samples that signatures were made from: measures stability")
    rows: int = _option(1000, "rows that the model scores exactly", minimum=2)
    sizes: tuple[str, ...] = _option(
        ("16", "64", "256"), "stability: samples that a signature is made from", metavar="N"
    )
    repeats: int = _option(10, "stability: how often each is drawn", minimum=1)
    seed: int = _option(0, "seed of all that is drawn", minimum=0)

    def idle(self) -> dict[str, str]:
        unused: dict[str, str] = {}
        if self.model is None:
            of_model = ("tokenizer", "dtype", "batch_tokens", "trust_remote_code", "rows")
            unused |= dict.fromkeys(of_model, "is for what --model runs")
        if not self.target:
            unused |= dict.fromkeys(("sizes", "repeats"), "stability is measured with --target and --model")
            unused |= dict.fromkeys(("role", "ignore"), "is for the samples of --target, and there are none")
        return super().idle() | unused


@dataclass(frozen=True, kw_only=True)
class ReportOptions(OutputOptions):
    """Options of ``report``."""

    keeps_config: ClassVar[bool] = False

    selection: str = _option("", "folder that select or rank wrote", required=True, positional=True)
    output: str | None = _option(None, "HTML file to write (default: report.html in that folder)")
    label: str | None = _option(
        None, "key of the pool's rows to count, for instance where a row is from (default: source, if they have it)"
    )
    evaluation: str | None = _option(None, "evaluation.json of evaluate, or its folder (default: one in DIR)")
    samples: int = _option(5, "best and worst samples to show, so many each", minimum=1, maximum=50)
    plots: str | None = _option(None, "folder for the plots as PNG and SVG files, too")
    dataset: tuple[str, ...] = _option((), "the pool, if it has moved since it was indexed (all of them, in order)")


@dataclass(frozen=True, kw_only=True)
class BenchOptions(Options):
    """Options of ``bench``."""

    keeps_config: ClassVar[bool] = False

    shape: str | None = _option(
        None, "model shape to build with random weights (default smollm2-135m)", choices=BENCH_SHAPES
    )
    model: str | None = _option(None, "a real model instead: local folder, .gguf file or Hub id")
    part: str = _option("all", "what to measure; the ceilings always come first", choices=BENCH_PARTS)
    device: str = _option("auto", "auto, cpu, cuda:0, or several in turn: cuda:0,cuda:1")
    dtype: str = _option(
        "auto", "auto: float32 on a CPU, bfloat16 on a GPU", choices=("auto", "float32", "bfloat16", "float16")
    )
    max_length: int = _option(512, "endtoend: tokens a sample at most", minimum=2)
    seconds: float = _option(10.0, "time a part may take, about", minimum=0, maximum=86400)
    seed: int = _option(0, "seed of weights, tokens and codes", minimum=0)
    output: str | None = _option(None, "file that result rows are appended to, JSON lines")
    compare: tuple[str, ...] = _option((), "measure nothing: show these result files side by side")

    def idle(self) -> dict[str, str]:
        unused: dict[str, str] = {}
        if self.compare:
            others = (f.name for f in dataclasses.fields(self) if f.name != "compare")
            return super().idle() | dict.fromkeys(others, "--compare only reads result files")
        if self.part not in ("all", "endtoend"):
            unused["max_length"] = f"is for part endtoend, not {self.part}"
        if self.part in ("ceilings", "scan"):
            unused["model"] = f"part {self.part} runs no model"
            if self.shape != "tiny":  # which makes everything small
                unused["shape"] = f"part {self.part} runs no model"
        if self.part == "ceilings":
            unused["seed"] = "part ceilings draws nothing"
        return super().idle() | unused


def split_target(text: str) -> tuple[str, str]:
    """``NAME=FILE`` or ``FILE`` (its stem is the name) -> (name, file)."""
    name, equals, path = text.partition("=")
    if not equals or "/" in name:
        name, path = Path(text).name.split(".")[0], text
    if not name or not path or not all(c.isalnum() or c in "._-" for c in name):
        raise BadInput("write NAME=FILE, the name of letters, digits, '.', '_' and '-'", where=f"--target {text}")
    if name.startswith("."):
        raise BadInput(
            f"'{name}' begins with a dot, as hidden files do",
            where=f"--target {text}",
            remedy="write NAME=FILE with another",
        )
    if len(name.encode(errors="surrogateescape")) > MOST_NAME_BYTES:
        raise BadInput(
            f"a name of {len(name.encode(errors='surrogateescape'))} bytes, which no file can have",
            where=f"--target {text[:40]}…",
            remedy=f"write NAME=FILE with one of at most {MOST_NAME_BYTES}",
        )
    return name, path
