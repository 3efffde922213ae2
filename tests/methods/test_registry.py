"""One module a method, and nobody else who asks which it is."""

import ast
from pathlib import Path

import pytest

from nait_fast.methods import METHODS, method_of
from nait_fast.methods.base import Method
from nait_fast.options import Settings

PACKAGE = Path(__file__).parents[2] / "nait_fast"
KEPT = {"rds"}  # a representation: index --embed rds
SHOWN = {"verbs/demo.py"}  # runs two of them side by side


@pytest.mark.parametrize("name", METHODS)
def test_a_method_is_what_its_name_says(name: str) -> None:
    method = method_of(name)
    assert isinstance(method, Method) and method.name == name and method.tensors
    assert issubclass(method.settings, Settings) and method.about


def test_nobody_else_spells_a_name() -> None:
    """But codecs, one of which has a method's name, as has what an index keeps for another."""
    wrong = []
    for file in sorted(PACKAGE.rglob("*.py")):
        name = file.relative_to(PACKAGE).as_posix()
        if name.startswith(("methods/", "codecs/")) or name in SHOWN:
            continue
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value in {*METHODS} - KEPT:
                wrong.append(f"{name}:{node.lineno}: {node.value}")
    assert not wrong
