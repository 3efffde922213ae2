"""Triton launches on torch's current device, wherever the arguments lie: each launch must stand in ``with current``."""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
# Functions that launch for others of their file, which have made the device current: their calls count as launches.
INNER = {"_launch", "exact", "counts", "products", "_scores", "_scan"}


def launches(tree: ast.AST, inside: bool = False) -> Iterator[tuple[int, bool]]:
    """(line, whether its tensors' device is the current one) of each launch of a kernel."""
    if isinstance(tree, ast.FunctionDef):
        inside = tree.name in INNER
    if isinstance(tree, ast.With):
        inside |= any(ast.unparse(item.context_expr).startswith("current(") for item in tree.items)
    if isinstance(tree, ast.Call):
        called = ast.unparse(tree.func.value if isinstance(tree.func, ast.Subscript) else tree.func)
        kernel = isinstance(tree.func, ast.Subscript) and called.endswith("_kernel")
        if kernel or called.removeprefix("self.") in INNER:
            yield tree.lineno, inside
    for child in ast.iter_child_nodes(tree):
        yield from launches(child, inside)


def test_every_launch_is_on_its_tensors_device() -> None:
    found = [
        (f"{file.relative_to(ROOT)}:{line}", inside)
        for folder in ("kernels", "nait_fast")
        for file in sorted((ROOT / folder).rglob("*.py"))
        if "_kernel[" in (text := file.read_text(encoding="utf-8"))
        for line, inside in launches(ast.parse(text))
    ]
    assert len(found) >= 20 and [place for place, inside in found if not inside] == []


def test_a_launch_elsewhere_shows() -> None:
    text = "def f(x):\n    with current(x.device):\n        a_kernel[1](x)\n    a_kernel[1](x)\n    _launch(x)\n"
    assert list(launches(ast.parse(text))) == [(3, True), (4, False), (5, False)]
