"""The examples in the docstrings of the public names, in the folder that the pages' examples run in."""

import doctest
import inspect
from types import ModuleType
from typing import Any

import pytest

import nait_fast
from nait_fast import api

RUN = doctest.NORMALIZE_WHITESPACE
VERBS = [name for name in nait_fast.__all__ if inspect.isfunction(vars(api).get(name))]


def examples() -> dict[str, doctest.DocTest]:
    """Of each public name, and of the methods of classes among them, in the order of ``__all__``."""
    finder, found = doctest.DocTestFinder(recurse=True, exclude_empty=True), {}
    for name in nait_fast.__all__:
        if callable(value := getattr(nait_fast, name)):
            module = inspect.getmodule(value)
            assert isinstance(module, ModuleType)
            found |= {test.name: test for test in finder.find(value, name, module) if test.examples}
    return found


EXAMPLES = examples()


def test_each_verb_has_one_but_the_demo() -> None:
    assert {*VERBS} - EXAMPLES.keys() == {"run_demo"}
    assert {"Scorer", "Scorer.score", "Scorer.try_score", "capture", "search", "ResidentIndex"} <= EXAMPLES.keys()


@pytest.mark.filterwarnings("ignore")
def test_they_print_what_they_say(in_place: None, MODEL: str, hf_model: Any, hf_tokenizer: Any) -> None:
    runner = doctest.DocTestRunner(optionflags=RUN)
    said: list[str] = []
    for name in sorted(EXAMPLES, key=lambda name: name != "select"):  # whose folder the report is of
        test = EXAMPLES[name]
        test.globs = {"nait_fast": nait_fast, "MODEL": MODEL, "hf_model": hf_model, "hf_tokenizer": hf_tokenizer}
        runner.run(test, out=said.append)
    assert runner.summarize(verbose=False).failed == 0, "".join(said)
