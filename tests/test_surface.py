"""What users write: the verbs' flags, and the package's names with their arguments. Growth is a decision."""

import argparse
import dataclasses
import inspect
import subprocess
import sys
import typing
from pathlib import Path

import pytest
import typing_extensions

import nait_fast
from nait_fast import api, arguments, config, options
from nait_fast.cli import build_parser
from nait_fast.integrations.batch import BatchScorer
from nait_fast.ranking.in_memory import ELSEWHERE
from nait_fast.scorer import Scorer
from tests.models.tiny import config_of

FLAGS = Path(__file__).parent / "flags.txt"
CLASSES = {
    name: kind
    for name, kind in vars(config).items()
    if isinstance(kind, type) and issubclass(kind, options.Options) and kind is not options.Options
}


def flags_of(parser: argparse.ArgumentParser) -> list[str]:
    """A line for each verb: its name, its flags."""
    (verbs,) = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    return [
        " ".join([verb, *sorted(flag for action in its._actions for flag in action.option_strings or [action.dest])])
        for verb, its in sorted(verbs.choices.items())
    ]


def test_verbs_and_flags_are_those_that_were_decided() -> None:
    assert flags_of(build_parser()) == FLAGS.read_text().splitlines(), f"if it is meant, say so in {FLAGS.name}"


@pytest.mark.parametrize("name", CLASSES)
def test_typed_arguments_are_the_options(name: str) -> None:
    fields = dataclasses.fields(CLASSES[name])
    typed = getattr(arguments, name.replace("Options", "Arguments"))
    hints = typing_extensions.get_type_hints(typed)
    assert hints.keys() == {field.name for field in fields}
    assert typed.__required_keys__ == {field.name for field in fields if field.metadata.get("required")}
    for field in fields:
        optional = type(None) in typing.get_args(hints[field.name])
        assert optional == ("None" in str(typing.get_type_hints(CLASSES[name])[field.name])), field.name
        if choices := field.metadata.get("choices"):
            assert all(f"'{choice}'" in str(hints[field.name]) for choice in choices), field.name
            assert str(hints[field.name]).count("'") == 2 * len(choices), field.name


@pytest.mark.parametrize(
    ("call", "typed"), [(Scorer, arguments.ScorerArguments), (BatchScorer, arguments.BatchScorerArguments)]
)
def test_typed_arguments_are_those_of_the_class(call: type, typed: type) -> None:
    taken = inspect.signature(call).parameters.values()
    names = {p.name for p in taken if p.kind is p.KEYWORD_ONLY}
    own = typing_extensions.get_type_hints(arguments.ScorerArguments).keys() if call is BatchScorer else set()
    assert typing_extensions.get_type_hints(typed).keys() == names | own


def test_no_function_takes_just_anything() -> None:
    taken = {}
    for name in nait_fast.__all__:
        call = getattr(nait_fast, name)
        if getattr(call, "__module__", "") == api.__name__:
            taken |= {name: call.__annotations__["options"]} if "options" in call.__annotations__ else {}
    assert len(taken) == 12 and all(hint.startswith("Unpack[arguments.") for hint in taken.values()), taken


def test_of_memory_are_those_of_the_files_but_for_these() -> None:
    whole = typing_extensions.get_type_hints(arguments.SignatureBuildArguments)
    some = typing_extensions.get_type_hints(arguments.MemoryArguments)
    assert whole.keys() - some.keys() == {"model", "target", "output", "tokenizer", "overwrite"}
    assert all(whole[key] == hint for key, hint in some.items())


def test_in_memory_are_those_of_rank_but_for_files() -> None:
    whole = typing_extensions.get_type_hints(arguments.RankArguments)
    some = typing_extensions.get_type_hints(arguments.SelectionArguments)
    assert whole.keys() - some.keys() == {"index", "overwrite", *ELSEWHERE}
    assert all(whole[key] == hint for key, hint in some.items())


@pytest.mark.parametrize(
    "name", ["NaitError", "Damaged", "rank", "select", "RowSelection", "Index", "Signature", "load_signature", "search"]
)
def test_a_name_alone_loads_no_torch(name: str) -> None:
    code = f"import sys, nait_fast; nait_fast.{name}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_inspecting_a_model_imports_what_it_needs(tmp_path: Path) -> None:
    """Imports are all that a short command takes."""
    config_of("llama").save_pretrained(tmp_path)
    code = """
import sys
from nait_fast.cli import main
main(["inspect", sys.argv[1], "--json"])
print(*(m for m in ("torch", "torch._inductor.compile_fx", "torchvision", "numba", "scipy", "sklearn", "pandas",
    "pyarrow", "datasets", "peft", "gguf", "matplotlib",
    "nait_fast.workers") if m in sys.modules))
"""
    ran = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=True)
    assert ran.stdout.splitlines()[-1] == "torch", ran.stdout.splitlines()[-1]


def test_every_public_name_is_there() -> None:
    assert all(getattr(nait_fast, name) is not None for name in nait_fast.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        nait_fast.nothing  # noqa: B018
