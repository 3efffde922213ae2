"""The entry of ``dataset_info.json`` is read by LLaMA-Factory's own data code, over a table that `datasets` makes."""

import importlib
import importlib.util
import json
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nait_fast.data.formats import detect, parse
from nait_fast.data.row_conventions import make_conventions
from nait_fast.ranking.llama_factory import DatasetEntry
from tests.ranking.llama_factory import read_row
from tests.ranking.shapes import CARRIED, MAPPED


@pytest.fixture(scope="module")
def factory() -> Iterator[types.SimpleNamespace]:
    """``parser`` and ``converter`` of LLaMA-Factory. Its packages' own __init__ would bring what trains, and are empty
    here."""
    found = importlib.util.find_spec("llamafactory")
    if found is None or not found.submodule_search_locations:
        pytest.skip("needs llamafactory (make hosts)")
    (place,) = found.submodule_search_locations
    for name in ("", ".data", ".extras"):
        package = types.ModuleType(f"llamafactory{name}")
        package.__path__ = [str(Path(place, name.removeprefix(".")))]
        sys.modules[package.__name__] = package
    names = {name: importlib.import_module(f"llamafactory.data.{name}") for name in ("parser", "converter")}
    yield types.SimpleNamespace(**names)
    for name in [name for name in sys.modules if name.split(".")[0] == "llamafactory"]:
        del sys.modules[name]


@pytest.mark.parametrize("name", [*CARRIED, *MAPPED])
def test_every_row_is_read_with_all_of_its_text(tmp_path: Path, factory: types.SimpleNamespace, name: str) -> None:
    datasets = pytest.importorskip("datasets")
    rows, said = MAPPED[name][:2] if name in MAPPED else (CARRIED[name][0], {})
    entry, conventions = DatasetEntry(), make_conventions(**said)
    for row in rows:
        fmt = detect(row, conventions) or ""
        entry.add(row, fmt, parse(row, fmt, 0, conventions), conventions)
    told = entry.as_dict("selected.jsonl")
    (tmp_path / "dataset_info.json").write_text(json.dumps({"selected": told}))
    (tmp_path / "selected.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (about,) = factory.parser.get_dataset_list(["selected"], str(tmp_path))
    assert (about.load_from, about.dataset_name) == ("file", "selected.jsonl")
    options = types.SimpleNamespace(media_dir=str(tmp_path))
    convert = factory.converter.get_dataset_converter(about.formatting, about, options)
    table = datasets.load_dataset(
        "json", data_files=str(tmp_path / "selected.jsonl"), split="train", cache_dir=str(tmp_path / "cache")
    )
    assert len(table) == len(rows)
    for row, example in zip(rows, table, strict=True):
        made: dict[str, Any] = convert(example)
        turns = [(turn["role"], turn["content"]) for turn in made["_prompt"] + made["_response"]]
        assert (made["_system"] or "", turns, made["_tools"] or "") == read_row(told, row)
