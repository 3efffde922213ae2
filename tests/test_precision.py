"""benchmarks.precision holds the engine to plain hooks in the same format, and tells where it falls behind them."""

from pathlib import Path

import pytest

from benchmarks import precision
from benchmarks.models import Case
from benchmarks.precision import checked, of_mixture

EXPERTS = Case("causal", "qwen3_moe", "Qwen3MoeForCausalLM", extra={"hidden_size": 64, "moe_intermediate_size": 64})


@pytest.fixture
def of_one_seed(tmp_path: Path):
    return lambda formats: of_mixture(EXPERTS, formats, 1, tmp_path)


def test_the_engine_is_as_near_as_hooks_are(of_one_seed) -> None:
    pytest.importorskip("accelerate")
    plain, in_fp32, in_bf16 = of_one_seed(("fp8",))
    assert [row["check"][:2] for row in (plain, in_fp32, in_bf16)] == ["ok"] * 3
    assert plain["against"] == "the fp32 weights" and in_bf16["against"] == "its own numbers in fp32"
    assert 1e-3 < plain["hooks_error"] < 0.2 and in_fp32["hooks_error"] < 1e-5 < in_bf16["hooks_error"]
    assert in_fp32["quantised_error"] == in_bf16["quantised_error"] > 0.01


def test_a_worse_engine_is_told(of_one_seed, monkeypatch) -> None:
    by_engine = precision.by_engine
    monkeypatch.setattr(precision, "by_engine", lambda loaded, ids: by_engine(loaded, ids) * 0.9)
    assert of_one_seed(())[0]["check"].startswith("failed: ")


def test_either_measure_decides() -> None:
    row = {"bits": 1000, "engine_bits": 0.01, "hooks_bits": 0.01, "engine_error": 1e-2, "hooks_error": 1e-2}
    row |= {"samples": 16, "worse": 1.0}
    assert checked(row)["check"] == "ok: 1.00% of bits, where hooks have 1.00%"
    for worse in ({"engine_bits": 0.014}, {"engine_error": 1.2e-2}):
        assert checked(row | worse)["check"].startswith("failed: ")
        assert checked(row | worse | {"worse": 0.87})["check"].startswith("ok: ")  # of 16 fair coins
