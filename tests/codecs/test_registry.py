"""One module or folder a codec, and nobody else who asks which it is."""

import ast
from pathlib import Path

import pytest

from nait_fast.codecs import CODECS, codec_of
from nait_fast.codecs.base import Codec
from nait_fast.options import Settings

PACKAGE = Path(__file__).parents[2] / "nait_fast"


@pytest.mark.parametrize("name", CODECS)
def test_a_codec_is_what_its_name_says(name: str) -> None:
    codec = codec_of(name)
    assert isinstance(codec, Codec) and codec.name == name
    assert issubclass(codec.settings, Settings) and codec.about
    assert codec.calibrates or (not codec.tensors and not codec.estimates)


def test_each_entry_and_each_tensor_is_one_codecs() -> None:
    for names in (lambda codec: codec.entries, lambda codec: codec.tensors):
        owned = [name for codec in CODECS for name in names(codec_of(codec))]
        assert len(owned) == len(set(owned))


def test_nobody_else_spells_a_name() -> None:
    """But methods, one of which has a codec's name."""
    wrong = []
    for file in sorted(PACKAGE.rglob("*.py")):
        name = file.relative_to(PACKAGE).as_posix()
        if name.startswith(("codecs/", "methods/")):
            continue
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value in CODECS:
                wrong.append(f"{name}:{node.lineno}: {node.value}")
    assert not wrong
