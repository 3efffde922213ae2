"""benchmarks.models tells what is read from what is not, and would tell a misread."""

import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch

from benchmarks import model_truth, models
from benchmarks.models import Case, examine

ROOT = Path(__file__).parent.parent
LLAMA = Case("causal", "llama", "LlamaForCausalLM")
EXPERTS = Case("causal", "qwen3_moe", "Qwen3MoeForCausalLM")


def test_dense_experts_and_refused(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.models", "--work", str(tmp_path), "--set", "causal", "--only"]
    done = subprocess.run([*command, "bert", "llama", "qwen3_moe"], cwd=ROOT, capture_output=True, text=True)
    lines = {line.split(" | ")[0]: line.split(" | ")[1:] for line in done.stdout.splitlines()}
    assert done.returncode == 0 and set(lines) == {"bert", "llama", "qwen3_moe"}, done.stderr
    assert lines["llama"][:2] == lines["qwen3_moe"][:2] == ["yes", "packed"]
    assert float(lines["llama"][2]) < 1e-5 and float(lines["qwen3_moe"][2]) < 1e-5
    verdict, message = lines["bert"]
    assert verdict == "refused" and "BertModel: no MLP of a known family" in message
    assert not list(tmp_path.iterdir())


def test_another_module_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each layer's own down projection is read, but the truth is made to look at the layer's place in the next one."""
    monkeypatch.setattr(models, "places_of", lambda model: shifted(model_truth.places_of(model)))
    row = examine(LLAMA, tmp_path)
    assert row["verdict"] == "wrong" and row["error"] > 0.1


def shifted(places: dict) -> dict:
    """The same names and layers, each with the module of the place after it."""
    modules = [place.module for place in places.values()]
    return {
        name: model_truth.Place(place.layer, place.kind, module)
        for (name, place), module in zip(places.items(), modules[1:] + modules[:1], strict=True)
    }


def test_experts_without_the_routers_weight_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    by_hand = model_truth.experts_by_hand
    monkeypatch.setattr(
        model_truth,
        "experts_by_hand",
        lambda module, x, index, weights: by_hand(module, x, index, torch.ones_like(weights)),
    )
    row = examine(EXPERTS, tmp_path)
    assert row["verdict"] == "wrong" and row["error"] > 0.1


def test_a_layer_that_is_not_read_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "load_model", partial(models.load_model, layers="0,1,3"))
    row = examine(LLAMA, tmp_path)
    assert row["verdict"] == "wrong" and row["message"] == "not read: model.layers.2.mlp.down_proj"


def test_a_crash_is_a_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "load_model", lambda *arguments, **named: [][0])
    row = examine(LLAMA, tmp_path)
    assert row["verdict"] == "crash" and row["message"].startswith("IndexError: list index out of range")


def test_more_than_fp32_itself_is_off_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A little wrong, less than any tolerance that random weights would need: fp64 tells."""
    read = models.all_engine_readings

    def a_little_off(loaded, ids, prefix) -> list:
        return [
            {reading: [[layer * (1 + 5e-5) for layer in row] for row in rows] for reading, rows in got.items()}
            for got in read(loaded, ids, prefix)
        ]

    monkeypatch.setattr(models, "all_engine_readings", a_little_off)
    row = examine(LLAMA, tmp_path)
    assert row["verdict"] == "wrong" and row["fp64_error"] == pytest.approx(5e-5, rel=0.1)
    assert row["fp64_error_of_transformers"] < 1e-5


def test_what_fp32_itself_is_off_is_not_held_against_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the random Qwen3.5 both the engine and transformers' own fp32 are about 1e-5 from fp64."""
    monkeypatch.setattr(models, "CLOSE", 1e-7)
    row = examine(Case("causal", "qwen3_5_moe_text", "Qwen3_5MoeForCausalLM"), tmp_path)
    assert row["verdict"] == "yes" and 1e-7 < row["error"] < 1e-4
    assert (
        row["fp64_error"] <= 2 * row["fp64_error_of_transformers"] and "of which transformers' own" in row["notes"][0]
    )
