"""Runs the Python examples of the pages, in a folder that holds what they speak of."""

from pathlib import Path
from typing import Any

import pytest
from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser

from tests.conftest import make_rows, tiny_model, tokenizer, write_jsonl  # noqa: F401 (fixtures)

# The fixtures are the names that the examples may use.
pytest_collect_file = Sybil(
    parsers=[PythonCodeBlockParser()],
    patterns=["embedding.md", "format.md"],
    fixtures=["MODEL", "hf_model", "hf_tokenizer", "in_place"],
).pytest()


@pytest.fixture(scope="session")
def MODEL(tiny_model: str) -> str:  # noqa: F811
    return tiny_model


@pytest.fixture(scope="session")
def hf_model(MODEL: str) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(MODEL).eval()


@pytest.fixture(scope="session")
def hf_tokenizer(MODEL: str) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(MODEL, pad_token="</s>")


@pytest.fixture(scope="session")
def place(tmp_path_factory, MODEL: str) -> Path:
    """A folder with ``index``, ``signatures/sums.safetensors`` and ``held-out.jsonl``."""
    import nait_fast

    folder = tmp_path_factory.mktemp("docs")
    index = str(folder / "index")
    pool = write_jsonl(folder / "pool.jsonl", make_rows(40))
    target = write_jsonl(folder / "sums.jsonl", [r for r in make_rows(24, seed=1) if r["source"] == "sums"])
    write_jsonl(folder / "held-out.jsonl", [r for r in make_rows(24, seed=2) if r["source"] == "sums"])
    nait_fast.build_index(model=MODEL, dataset=str(pool), output=index, calibration_size=20)
    nait_fast.build_signature(model=MODEL, target=[str(target)], codebook=index, output=str(folder / "signatures"))
    kept = {"output": str(folder / "kept"), "keep_samples": True}
    nait_fast.build_signature(model=MODEL, target=[str(target)], codebook=index, **kept)
    return folder


@pytest.fixture
def in_place(place: Path, monkeypatch) -> None:
    monkeypatch.chdir(place)
