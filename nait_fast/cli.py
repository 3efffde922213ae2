"""The command line: each verb's flags come from its options dataclass, each verb is one call."""

import argparse
import dataclasses
import difflib
import io
import json
import math
import os
import re
import sys
import textwrap
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib import import_module
from typing import Any

from nait_fast._version import __version__
from nait_fast.config import (
    BenchOptions,
    CompareOptions,
    DataOptions,
    EvaluateOptions,
    HubOptions,
    IndexOptions,
    MergeOptions,
    RankOptions,
    ReportOptions,
    SelectOptions,
    SignatureBuildOptions,
    ValidateOptions,
)
from nait_fast.env import check_variables, strict_mkl
from nait_fast.errors import NaitError, is_out_of_memory
from nait_fast.notices import recorded, warn
from nait_fast.options import Options, Registry, flag_of, kinds_of, named, words_of
from nait_fast.stages import counted_stages, stage
from nait_fast.terminal import printable, warnings_on_stderr
from nait_fast.urls import is_url, without_secrets

FAULT, GONE = 70, 141  # exit status: EX_SOFTWARE; as of a process that SIGPIPE has ended
# verb -> (options, module with run(options, quiet), help)
VERBS: dict[str, tuple[type[Options], str, str]] = {
    "select": (SelectOptions, "select", "choose the samples of a pool that fit a target: everything in one command"),
    "index": (IndexOptions, "index", "run a model over a pool once and keep its neuron bits"),
    "merge": (MergeOptions, "merge", "join indexes that were made apart under one codebook"),
    "signature": (SignatureBuildOptions, "signature", "build a capability's signature from in-domain samples"),
    "rank": (RankOptions, "rank", "rank an index with signatures; needs no model"),
    "evaluate": (EvaluateOptions, "evaluate", "measure rankings: fidelity, retrieval, stability, confounds, transfer"),
    "compare": (CompareOptions, "compare", "methods, rules and selections side by side on one index; needs no model"),
    "validate": (
        ValidateOptions,
        "validate",
        "does a model learn more from a selection than from random rows: trains both",
    ),
    "report": (ReportOptions, "report", "tell what was selected and why: one HTML file, opens offline"),
    "bench": (BenchOptions, "bench", "measure the ops, the scan and the index pass on this machine"),
}
PATHS = {
    "inspect": "show what a pool, index, signature, selection, evaluation or validation holds, or what a model gives",
    "verify": "check every byte of an index or selection",
}
_READING = ("format", "columns", "roles")  # of a pool, told to inspect
_SLOW_TO_IMPORT = ("select", "index", "signature")
# verb -> a command that can be pasted and changed, in lines of at most 80 columns
EXAMPLES = {
    "select": (
        "nait-fast select --model MODEL --dataset pool.jsonl \\",
        "    --target math=dev.jsonl --fraction 0.1 --output chosen",
    ),
    "index": ("nait-fast index --model MODEL --dataset pool.jsonl --output pool-index",),
    "merge": ("nait-fast merge --index part-1 part-2 --output whole",),
    "signature": (
        "nait-fast signature --model MODEL --target math=dev.jsonl \\",
        "    --codebook pool-index --output signatures",
    ),
    "rank": (
        "nait-fast rank --index pool-index --signature signatures/math.safetensors \\",
        "    --top-k 5000 --output chosen",
    ),
    "evaluate": (
        "nait-fast evaluate --index pool-index \\",
        "    --signature signatures/math.safetensors --output measured",
    ),
    "compare": (
        "nait-fast compare --index pool-index --signature contrast/math.safetensors \\",
        "    rds/math.safetensors --label source --relevant math=gsm8k",
    ),
    "validate": ("nait-fast validate chosen --held-out math=held-out.jsonl \\", "    --output chosen/validation"),
    "report": ("nait-fast report chosen",),
    "bench": ("nait-fast bench --part kernels --seconds 10",),
    "inspect": ("nait-fast inspect chosen",),
    "verify": ("nait-fast verify pool-index",),
    "demo": ("nait-fast demo --output demo-output",),
}


def _flag(parser: "_Parser", group: Any, field: dataclasses.Field, hint: Any) -> argparse.Action:
    flag = flag_of(field.name)
    kind, words = next(a for a in kinds_of(hint) if a is not type(None)), words_of(hint)
    arguments: dict[str, Any] = {"default": None, "help": field.metadata["help"], "dest": field.name}
    if kind is bool:
        arguments["action"] = argparse.BooleanOptionalAction
    elif typing.get_origin(kind) is tuple:
        plain = "NAME=FILE" if field.name == "target" else "NAME" if "choices" in field.metadata else "FILE"
        metavar = field.metadata.get("metavar") or plain
        arguments |= {"action": "extend", "nargs": "+", "metavar": metavar}
        if "choices" in field.metadata:
            arguments["choices"] = field.metadata["choices"]
            arguments["help"] += f": {', '.join(field.metadata['choices'])}"
    else:
        arguments["type"] = _or_word(kind, words) if words else kind
        arguments["metavar"] = "|".join(["N", *words]) if kind is int else None
        if "choices" in field.metadata:
            arguments["choices"], arguments["metavar"] = field.metadata["choices"], None
        if "registry" in field.metadata:
            arguments["metavar"] = "NAME[:KEY=VALUE,…]"
    if {"setting", "renamed"} & field.metadata.keys():
        arguments["help"] = argparse.SUPPRESS
    if "bare" in field.metadata:
        arguments |= {"nargs": "?", "const": field.metadata["bare"]}
    if field.default not in (None, "", (), False) and not field.metadata.get("required"):
        default = " ".join(field.default) if isinstance(field.default, tuple) else field.default
        arguments["help"] += f" (default {default})"
    action = group.add_argument(flag, **arguments)
    if "registry" in field.metadata:
        parser.registries[action] = field.metadata["registry"]
    if field.metadata.get("positional"):  # the same without its flag; SUPPRESS: where it is absent, the flag's stays
        parser.add_argument(field.name, nargs="?", default=argparse.SUPPRESS, metavar="DIR", help=f"the same as {flag}")
    return action


def _or_word(kind: type, words: Sequence[str]) -> Callable[[str], Any]:
    """Reads a ``kind``, or one of ``words`` as it is."""

    def read(text: str) -> Any:
        return text if text in words else kind(text)

    read.__name__ = " or ".join([kind.__name__, *words])  # what argparse calls it
    return read


# What other tools call it.
_CALLED_ELSEWHERE = {
    "--dataset": ("pool", "data", "input", "train-data", "train-file", "dataset-name"),
    "--output": ("out", "out-dir", "output-dir", "output-path", "save-dir"),
    "--top-k": ("budget", "k", "num", "number", "limit", "num-samples"),
    "--fraction": ("ratio", "percent", "percentage", "share"),
    "--model": ("model-name", "model-path", "model-name-or-path", "base-model"),
    "--target": ("query", "queries", "dev", "dev-set", "val-data", "eval-data"),
    "--max-length": ("max-seq-length", "max-seq-len", "cutoff-len", "max-tokens", "sequence-len"),
    "--batch-tokens": ("batch-size", "per-device-batch-size"),
}

_CHOICE = re.compile(r"invalid choice: '([^']*)' \(choose from (.*)\)$")


def _meant(given: str, known: Sequence[str]) -> str:
    """Which of ``known`` may have been meant by ``given``, as the end of a message; "" where none is like it."""
    elsewhere = (flag for flag, names in _CALLED_ELSEWHERE.items() if flag in known and given.lstrip("-") in names)
    if (flag := next(elsewhere, None)) is not None and given.startswith("--"):
        return f"; did you mean {flag}?"
    named = {name.lstrip("-"): name for name in known}  # what all begin with makes none alike
    like = difflib.get_close_matches(given.lstrip("-"), named, n=1, cutoff=0.7)
    return f"; did you mean {named[like[0]]}?" if like else ""


def _flag_of(word: str) -> str:
    """The flag that a word of the command line is; "" for none."""
    return word.partition("=")[0] if word.startswith("--") else ""


class _Parser(argparse.ArgumentParser):
    """argparse, but a wrong command line costs one line, as any other bad input does."""

    verbs: Mapping[str, argparse.ArgumentParser] = {}

    def __init__(self, *args: Any, **named: Any):
        super().__init__(*args, **named)
        self.registries: dict[argparse.Action, Registry] = {}  # of flags that name a method or codec

    def format_help(self) -> str:
        """As argparse's; what methods and codecs can be told is asked of them only here, as that loads them."""
        for action, registry in self.registries.items():
            action.help = f"{action.help}: " + ". ".join(map(registry.help, registry.names))
        self.registries = {}
        return super().format_help()

    def parse_args(self, args=None, namespace=None):
        """As argparse's, but the verb's own parser answers for what it does not know: its --help lists the options."""
        arguments, unknown = self.parse_known_args(args, namespace)
        if unknown:
            verb = self.verbs.get(arguments.verb, self)
            flags = [
                flag for action in verb._actions for flag in action.option_strings if action.help != argparse.SUPPRESS
            ]
            meant = [self._owner(word) or _meant(word, flags) for word in map(_flag_of, unknown) if word]
            verb.error(f"unrecognized arguments: {' '.join(unknown)}{''.join(dict.fromkeys(meant))}")
        return arguments

    def _owner(self, flag: str) -> str:
        """Which verb has a ``flag``, as the end of a message."""
        verbs = [name for name, verb in self.verbs.items() if flag in verb._option_string_actions]
        return f"; {flag} is an option of {' and '.join(verbs)}" if verbs else ""

    def error(self, message: str) -> typing.NoReturn:
        line = without_secrets(" ".join(message.split()))
        if wrong := _CHOICE.search(line):
            line += _meant(wrong[1], re.findall(r"'([^']*)'", wrong[2]))
        line = line if len(line) <= 300 else f"{line[:300]}…"
        self.exit(2, f"nait-fast: error: {printable(line)} ({self.prog} --help lists the options)\n")


_PATHS = {
    *("path", "config", "model", "dataset", "target", "output", "tokenizer", "codebook", "exact", "index", "signature"),
    *("selection", "evaluation", "validation", "decontaminate", "decontaminate_codes", "foreign_scores", "plots"),
    "compare",
}


class _Completion(argparse.Action):
    """Prints a script of shtab's, made from the parser, and ends."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: Any, values: Any, option: str | None = None) -> None:
        try:
            import shtab
        except ImportError:
            parser.error("--completion: needs shtab: pip install 'nait-fast[completion]'")
        if values not in shtab.SUPPORTED_SHELLS:
            parser.error(f"--completion {values}: choose {', '.join(shtab.SUPPORTED_SHELLS)}")
        for verb in parser.verbs.values() if isinstance(parser, _Parser) else ():
            for action in verb._actions:
                if action.dest in _PATHS:
                    vars(action)["complete"] = shtab.FILE  # where shtab looks for it
        print(shtab.complete(parser, values))
        parser.exit()


def _example(verb: str) -> dict[str, Any]:
    """What an example at the end of a verb's help takes."""
    lines = "\n".join(f"  {line}" for line in EXAMPLES[verb])
    return {"epilog": f"example:\n{lines}", "formatter_class": argparse.RawDescriptionHelpFormatter}


def _add_options(parser: _Parser, options: type[Options]) -> None:
    """The flags of ``options`` in groups, those that are required first, and a usage that names only these."""
    hints, groups = typing.get_type_hints(options), dict[str, list[dataclasses.Field]]()
    titles = ["required"]
    for field in dataclasses.fields(options):
        owner = next(kind for kind in reversed(options.__mro__) if field.name in vars(kind).get("__annotations__", {}))
        title = Options.group if owner is options else getattr(owner, "group", Options.group)
        title = "required" if field.metadata.get("required") else title
        groups.setdefault(title, []).append(field)
        titles += [title] if title not in (*titles, Options.group) else []
    usage = []
    for title in [*titles, Options.group]:
        if title not in groups:
            continue
        group = parser.add_argument_group(title)
        for field in groups[title]:
            action = _flag(parser, group, field, hints[field.name])
            if title == "required":
                usage.append(f"{action.option_strings[0]}\0{action.metavar or field.name.upper()}")
    # argparse breaks no usage that it is given; a flag and its value stay together.
    before = f"usage: {parser.prog} "
    lines = textwrap.wrap(" ".join([*usage, "[options]"]), 80 - len(before), break_on_hyphens=False)
    parser.usage = f"{parser.prog} " + ("\n" + " " * len(before)).join(lines).replace("\0", " ")
    parser._action_groups.sort(key=lambda group: group.title == "options")  # what all verbs have comes last


def _add_reading(parser: _Parser) -> None:
    """The flags that say how the rows of a pool are read."""
    group, hints = parser.add_argument_group("rows of a pool"), typing.get_type_hints(DataOptions)
    for field in dataclasses.fields(DataOptions):
        if field.name in _READING:
            _flag(parser, group, field, hints[field.name])


def _respelled(argv: Sequence[str]) -> list[str]:
    """The command line as the parser takes it: help for none and for ``help [VERB]``, - for _ in the names of flags."""
    if not argv or argv[0] == "help":
        return [*argv[1:2], "--help"]
    end = argv.index("--") if "--" in argv else len(argv)
    names = (word.partition("=") for word in argv[:end])
    return [
        name.replace("_", "-") + equals + value if name.startswith("--") else name + equals + value
        for name, equals, value in names
    ] + list(argv[end:])


def build_parser() -> argparse.ArgumentParser:
    """The parser of all verbs."""
    parser = _Parser(
        prog="nait-fast", description="Choose the instruction-tuning samples that activate a capability's MLP neurons."
    )
    parser.add_argument("--version", action="version", version=f"nait-fast {__version__}")
    parser.add_argument(
        "--completion", metavar="SHELL", action=_Completion, help="print what completes verbs and flags in SHELL"
    )
    common = _Parser(add_help=False)
    common.add_argument("--json", action="store_true", help="print the summary as JSON on the last line of stdout")
    common.add_argument("--quiet", action="store_true", help="no progress on stderr")
    common.add_argument("--debug", action="store_true", help="show the traceback of an error")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    for verb, (options, _, text) in VERBS.items():
        sub = verbs.add_parser(verb, help=text, description=text, parents=[common], **_example(verb))
        sub.add_argument(
            "--config", metavar="FILE", help="YAML with these options (as in config.yaml of an output); flags win"
        )
        _add_options(sub, options)
    for verb, text in PATHS.items():
        sub = verbs.add_parser(verb, help=text, description=text, parents=[common], **_example(verb))
        sub.add_argument("path")
        if verb == "inspect":
            _add_reading(sub)
    text = "offline demonstration on a real model and a labelled pool"
    demo = verbs.add_parser("demo", help=text, description=text, parents=[common], **_example("demo"))
    demo.add_argument("--model", help="another model than SmolLM2-135M-Instruct (folder, .gguf or Hub id)")
    demo.add_argument("--output", default="demo-output", help="folder for the results (default demo-output)")
    parser.verbs = verbs.choices
    return parser


_INSTEAD = ({"fraction", "top_k", "token_budget"}, {"layers", "depth"})


def _options(arguments: argparse.Namespace, options: type[Options]) -> Options:
    values: dict[str, Any] = {}
    if arguments.config:
        from nait_fast.config_file import read_config

        values = read_config(arguments.config, options)
    given = {f.name: getattr(arguments, f.name) for f in dataclasses.fields(options)}
    given = {name: value for name, value in given.items() if value is not None}
    for group in _INSTEAD:  # a flag wins over what the file says in other words
        if group & given.keys():
            values = {name: value for name, value in values.items() if name not in group}
    values |= given
    return options.from_mapping(values, f"nait-fast {arguments.verb}")


def _run(arguments: argparse.Namespace) -> dict[str, Any]:
    quiet = arguments.quiet or not sys.stderr.isatty()
    if arguments.verb in VERBS:
        options_type, module, _ = VERBS[arguments.verb]
        options = _options(arguments, options_type)
        _hush_libraries(quiet)
        finish = None
        if isinstance(options, HubOptions) and options.push_to_hub is not None:
            finish = import_module("nait_fast.verbs.push").sender_of(options, options.to_mapping()["output"], quiet)
        with _output_of(options, quiet), counted_stages():
            if arguments.verb in _SLOW_TO_IMPORT:
                import_module("nait_fast.verbs.beforehand").check(options)
            with stage("import"):
                verb = import_module(f"nait_fast.verbs.{module}")
            summary = verb.run(options, quiet)
        return finish(summary) if finish else summary
    _hush_libraries(quiet)
    if arguments.verb == "demo":
        model, output = arguments.model, named(arguments.output, "--output")
        model = None if model is None else named(model, "--model")
        return import_module("nait_fast.verbs.demo").run(model, output, quiet)
    verbs = import_module("nait_fast.verbs.inspection")
    reading = {name: value for name in _READING if (value := getattr(arguments, name, None)) is not None}
    return getattr(verbs, arguments.verb)(named(arguments.path, "the path"), **reading)


@contextmanager
def _output_of(options: Options, quiet: bool) -> Iterator[None]:
    """What an output folder has around the run of a verb: its config.yaml, and where it is a URL, that it is sent."""
    if not options.keeps_config:
        yield
        return
    output = options.to_mapping()["output"]
    if is_url(output):
        around = import_module("nait_fast.outputs.published").published(
            output, quiet, getattr(options, "repair", False)
        )
    else:
        around = import_module("nait_fast.outputs.output_folder").removed_if_empty(output)
    with around:
        _check_config(options)
        yield
        _keep_config(options)


def _check_config(options: Options) -> None:
    """Raises NaitError where the output's config.yaml is not ours, or has been changed by hand."""
    import yaml

    from nait_fast.outputs.recognise import CONFIG, YAML, State, is_plain, refuse, seal_of
    from nait_fast.remote.copies import local_folder

    values = options.to_mapping()
    path = local_folder(values["output"]) / CONFIG
    if "\0" in str(path) or not os.path.lexists(path):
        return
    state = State.FOREIGN
    if is_plain(path) and (seal := seal_of(path, YAML)) is not None:
        state = seal[0]
    elif is_plain(path):  # of a version that did not seal it: all options of a verb, whichever
        with suppress(OSError, ValueError, yaml.YAMLError, RecursionError):
            content = yaml.safe_load(path.read_bytes())
            option_names = [{field.name for field in dataclasses.fields(kind)} for kind, _, _ in VERBS.values()]
            if isinstance(content, dict) and any(
                content.keys() <= k and 4 * len(content) >= 3 * len(k) for k in option_names
            ):
                state = State.WHOLE
    refuse(path, state, values.get("overwrite"))


def _keep_config(options: Options) -> None:
    """Write the output's config.yaml; a warning, for the work is done, where a file has come in its way meanwhile."""
    import yaml

    from nait_fast.outputs.recognise import CONFIG, YAML, sealed
    from nait_fast.remote.copies import local_folder
    from nait_fast.storage.files import write_atomic

    try:
        _check_config(options)
    except NaitError as error:
        warn(f"{error}; the results are there, this command's {CONFIG} is not")
        return
    values = options.to_record()
    data = yaml.safe_dump(values, sort_keys=False).encode()
    write_atomic(local_folder(values["output"]) / CONFIG, sealed(data, "config", YAML))


def _hush_libraries(quiet: bool) -> None:
    # transformers' advice and bars would bury the one line that a user should read.
    if quiet:
        os.environ.setdefault("TQDM_DISABLE", "1")
    for library in ("TRANSFORMERS_VERBOSITY", "HF_HUB_VERBOSITY"):
        os.environ.setdefault(library, "error")


def _as_json(value: Any) -> Any:
    """``value`` as JSON has it: null for a number that is not finite, NumPy's numbers as Python's, the rest as text."""
    if isinstance(value, dict):
        return {str(key): _as_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_as_json(item) for item in value]
    if hasattr(value, "tolist"):
        return _as_json(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, (bool, int, str)) else str(value)


def _print(summary: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps(_as_json(summary), allow_nan=False))
        return
    if "text" in summary:
        print(printable(summary["text"], lines=True))
        return
    for key, value in summary.items():
        several = isinstance(value, list) and value and isinstance(value[0], dict)
        for item in value if several else [value]:
            if isinstance(item, dict):
                shown = ", ".join(f"{k}={v}" for k, v in item.items())
            else:
                shown = ", ".join(map(str, item)) if isinstance(item, list) else str(item)
            print(printable(f"{key}: {shown}"))


def _ready_streams() -> None:
    """Streams that take whatever is written to them: one that is closed swallows it, and a character that the locale
    lacks is written as its escape."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 - for as long as we run
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _drop_stdout() -> None:
    """What stdout could not take must not be tried again when Python ends."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _fail(text: str) -> None:
    with suppress(Exception):  # whatever is wrong, it is said
        text = import_module("nait_fast.remote.copies").with_urls(text)
    line = printable(without_secrets(" ".join(text.splitlines())))
    if len(line) > 900:  # a path may be of thousands of characters
        line = f"{line[:600]} … {line[-280:]}"
    with suppress(OSError):
        print(f"nait-fast: {line}", file=sys.stderr)


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit status: 0; 2 for bad input, one line on stderr; 70 for a fault of the
    program, one line, too; 130 when stopped; 141 when whoever read stdout has gone."""
    _ready_streams()
    strict_mkl()
    try:
        try:
            arguments = build_parser().parse_args(_respelled(sys.argv[1:] if argv is None else argv))
        finally:
            sys.stdout.flush()  # what --help printed
    except OSError:
        _drop_stdout()
        return GONE
    try:
        with warnings_on_stderr(), recorded() as warnings:
            check_variables()
            summary = _run(arguments)
        try:
            _print({**summary, "warnings": warnings} if arguments.json else summary, arguments.json)
            sys.stdout.flush()
        except OSError as error:
            _drop_stdout()
            if isinstance(error, BrokenPipeError):
                return GONE
            raise NaitError(f"standard output: {error.strerror or error}; the work is done") from None
        return 0
    except KeyboardInterrupt as stop:
        _fail(str(stop) or "stopped; the same command goes on with what was finished by now, and does the rest anew")
        return 130
    except Exception as error:
        if arguments.debug:
            raise
        if isinstance(error, NaitError):
            _fail(f"error: {error}")
        elif isinstance(error, OSError):
            where = f"{error.filename}: " if error.filename else ""
            _fail(f"error: {where}{error.strerror or error}")
        elif is_out_of_memory(error):
            _fail("error: not enough memory; try a smaller --batch-tokens or --max-length, or a larger machine")
        else:
            what = " ".join(f"{type(error).__name__}: {error}".split())[:200]
            _fail(
                f"error: a fault of nait-fast itself ({what}); please report it with the command and what it prints "
                "with --debug"
            )
            return FAULT
    return 2
