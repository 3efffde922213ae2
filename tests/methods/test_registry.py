"""One module a method, and nobody else who asks which it is."""

import ast
from pathlib import Path

import pytest

from nait_fast.methods import METHODS, method_of
from nait_fast.methods.base import Method
from nait_fast.options import Settings

PACKAGE = Path(__file__).parents[2] / "nait_fast"


@pytest.mark.parametrize("name", METHODS)
def test_a_method_is_what_its_name_says(name: str) -> None:
    method = method_of(name)
    assert isinstance(method, Method) and method.name == name and method.tensors
    assert issubclass(method.settings, Settings) and method.about


def test_nobody_else_branches_on_a_name() -> None:
    found = []
    for file in sorted(PACKAGE.rglob("*.py")):
        if file.parent.name == "methods":
            continue
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Compare) and "method" in ast.unparse(node.left).split("."):
                names = {c.value for c in ast.walk(node) if isinstance(c, ast.Constant)} & {*METHODS}
                found += [f"{file.relative_to(PACKAGE)}:{node.lineno}: {name}" for name in sorted(names)]
    assert not found
