"""One module a method, and nobody else who asks which it is."""

import ast
import dataclasses
from pathlib import Path

import pytest

from nait_fast.config import SignatureOptions
from nait_fast.methods import METHODS, method_of
from nait_fast.methods.base import Method

PACKAGE = Path(__file__).parents[2] / "nait_fast"


@pytest.mark.parametrize("name", METHODS)
def test_a_method_is_what_its_name_says(name: str) -> None:
    method = method_of(name)
    assert isinstance(method, Method) and method.name == name and method.tensors
    fields = {field.name for field in dataclasses.fields(SignatureOptions)} - {"method"}
    assert method.options <= fields


def test_each_option_is_one_methods() -> None:
    owned = [option for name in METHODS for option in method_of(name).options]
    assert len(owned) == len(set(owned))
    assert set(owned) == {field.name for field in dataclasses.fields(SignatureOptions)} - {"method"}


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
