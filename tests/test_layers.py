"""Imports point one way: up the list in CONTRIBUTING.md."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "nait_fast"


def layers() -> dict[str, int]:
    """Part of the package -> its place in the list."""
    (block,) = re.findall(r"^```layers\n(.*?)^```", (ROOT / "CONTRIBUTING.md").read_text(), re.S | re.M)
    names = [name for line in block.splitlines() for name in line.partition("(")[0].split()]
    assert len(set(names)) == len(names)
    return {name: place for place, name in enumerate(names)}


def part_of(module: str) -> str:
    """The part of the package that a dotted name lies in."""
    if module in ("nait_fast.codecs", "nait_fast.methods"):
        return "registry"
    return module.split(".")[1]


def imported(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """(line, module) of every import of the package that happens at run time, at once or later."""
    idle = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING"
        for node in ast.walk(block)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and id(node) not in idle:
            if node.module == "nait_fast":
                yield from ((node.lineno, f"nait_fast.{alias.name}") for alias in node.names)
            elif (node.module or "").startswith("nait_fast."):
                yield node.lineno, node.module or ""
        elif isinstance(node, ast.Import) and id(node) not in idle:
            yield from ((node.lineno, alias.name) for alias in node.names if alias.name.startswith("nait_fast."))


def test_imports_point_up_the_list() -> None:
    places, wrong, parts = layers(), [], set()
    for file in sorted(PACKAGE.rglob("*.py")):
        module = ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        if module in ("nait_fast", "nait_fast.__main__", "nait_fast.arguments"):
            continue
        mine = part_of(module)
        parts.add(mine)
        for line, name in imported(ast.parse(file.read_text())):
            theirs = part_of(name)
            if mine != theirs and places[theirs] >= places[mine]:
                wrong.append(f"{file.relative_to(ROOT)}:{line}: {mine} imports {theirs}")
    assert not wrong, "\n".join(wrong)
    assert parts | {"kernels"} == places.keys()
