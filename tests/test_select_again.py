"""A finished ``select`` that is given again, by another budget, rule or constraint: without the model."""

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

import nait_fast
from nait_fast.outputs.recognise import CLAIM
from nait_fast.verbs import select as verb
from nait_fast.verbs import signature as signature_verb
from tests.conftest import make_rows, write_jsonl

pytestmark = pytest.mark.filterwarnings("ignore::nait_fast.notices.NaitWarning")


class Loaded(Exception):
    """The model was to be loaded."""


@pytest.fixture
def given(tmp_path: Path, tiny_model: str) -> dict[str, Any]:
    model = Path(shutil.copytree(tiny_model, tmp_path / "model"))
    for file in model.iterdir():
        os.utime(file, ns=(10**18, 10**18))  # long ago: a file of this moment may change once more within its time
    pool = write_jsonl(tmp_path / "pool.jsonl", make_rows(60))
    target = write_jsonl(tmp_path / "t.jsonl", make_rows(9, seed=5))
    return {"model": str(model), "dataset": str(pool), "target": [f"t={target}"], "calibration_size": 20}


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def without_model(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise Loaded

    monkeypatch.setattr(verb, "open_session", refuse)


@pytest.mark.parametrize(
    "other",
    [{"top_k": 7}, {"rule": "max"}, {"rule": "roundrobin"}, {"length": "matched"}, {"near_duplicates": 0.3}],
    ids=str,
)
def test_ranked_anew(given: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, other: dict[str, Any]) -> None:
    """And as ``rank`` ranks its index; back again, too."""
    out = tmp_path / "out"
    nait_fast.select(**given, output=out)
    first = files_of(out)
    without_model(monkeypatch)
    nait_fast.select(**given, **other, output=out)
    nait_fast.rank(index=out, signature=[out], **other, output=tmp_path / "ranked")
    assert (out / "selected.jsonl").read_bytes() == (tmp_path / "ranked" / "selected.jsonl").read_bytes()
    nait_fast.select(**given, output=out)
    again = files_of(out)
    assert {name for name in first if first[name] != again.get(name)} <= {"manifest.json", CLAIM}


def test_of_another_model_or_without_samples(given: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    monkeypatch.setattr(signature_verb, "KEPT_BYTES", 0)
    nait_fast.select(**given, output=out)
    without_model(monkeypatch)
    nait_fast.select(**given, top_k=9, output=out)
    with pytest.raises(Loaded):  # which must make the signature again, with its samples
        nait_fast.select(**given, rule="max", output=out)
    weights = Path(given["model"]) / "model.safetensors"
    os.utime(weights, ns=(10**18, 10**18 + 1))
    with pytest.raises(Loaded):
        nait_fast.select(**given, top_k=9, output=out)
