"""One name, one thing: no class and no module of the package has the name of another one."""

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
# In every op's folder; a verb's module bears the verb's name, whatever does its work.
SHARED = {"__init__", "cpu", "kernel", "launch", "reference"}
# What methods and codecs are; what each codec's folder holds; the one method that has a codec of its name.
OF_EACH = {"base", "coder", "estimate", "nag"}


def modules() -> Iterator[Path]:
    return (path for top in ("nait_fast", "kernels") for path in sorted((ROOT / top).rglob("*.py")))


def named_twice(places: dict[str, list[str]]) -> dict[str, list[str]]:
    return {name: where for name, where in places.items() if len(where) > 1}


def test_no_two_modules_of_one_name() -> None:
    places: dict[str, list[str]] = defaultdict(list)
    for path in modules():
        if path.stem not in SHARED | OF_EACH and path.parent.name != "verbs":
            places[path.stem].append(str(path.relative_to(ROOT)))
    assert len(places) > 100
    assert not named_twice(places)


def test_no_two_classes_of_one_name() -> None:
    places: dict[str, list[str]] = defaultdict(list)
    for path in modules():
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ClassDef):
                places[node.name].append(str(path.relative_to(ROOT)))
    assert len(places) > 100
    assert not named_twice(places)
