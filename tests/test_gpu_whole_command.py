"""The script for a GPU, rehearsed on a CPU: its parts, and weights that travel as blocks."""

import json
import time
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from safetensors.torch import load_file

from benchmarks import gpu_whole_command, travelling_weights
from benchmarks.gpu_suite import Suite
from benchmarks.gpu_whole_command import FLOAT8, PARTS, Run, fidelity_rows, knows, measure, product_rows

CPU = torch.device("cpu")


@pytest.fixture
def rehearsal(tmp_path: Path) -> Run:
    return Run(Suite(tmp_path, time.monotonic() + 60, 1.0, name="gpu_whole_command"), CPU, tiny=True)


def test_products_in_both_precisions(rehearsal: Run) -> None:
    rows = {row["name"]: row for row in product_rows(rehearsal)}
    assert {"bf16", "fp8, row-wise", "fp8, tensor-wise", "quantising the input, row-wise, eager"} <= set(rows)
    assert rows["bf16"]["relative_error"] == 0 and rows["bf16"]["tflop_per_s"] > 0
    assert 0.01 < rows["fp8, row-wise"]["relative_error"] < 0.06 and "ms" in rows["fp8, tensor-wise"]


def test_a_part_without_time_or_files_says_so(rehearsal: Run, monkeypatch) -> None:
    measure(rehearsal, ["fidelity"], None, None, [])
    rehearsal.tiny = False
    rehearsal.suite.ends = time.monotonic()
    measure(rehearsal, list(PARTS), None, None, [])
    lines = (rehearsal.suite.folder / "gpu_whole_command.jsonl").read_text().splitlines()
    checks = {row["part"]: row["check"] for row in map(json.loads, lines[1:])}
    assert json.loads(lines[0])["check"].startswith("skipped: needs --weights")
    assert list(checks) == list(PARTS) and all(check.startswith("skipped: 0 s") for check in checks.values())


def test_what_ends_a_part_is_a_row(rehearsal: Run, monkeypatch) -> None:
    def broken(run: Run):
        yield {"name": "first", "ms": 1.0}
        raise RuntimeError("no such\nkernel")

    monkeypatch.setattr(gpu_whole_command, "product_rows", broken)
    measure(rehearsal, ["products"], None, None, [])
    assert [row.get("check") for row in rehearsal.suite.rows] == [None, "failed: RuntimeError: no such kernel"]
    assert rehearsal.suite.failed() == ["products products"]


def test_fidelity_of_arms_against_bf16(rehearsal: Run, monkeypatch, tiny_model, pool_file, tmp_path: Path) -> None:
    target = tmp_path / "sums.jsonl"
    target.write_text("".join(Path(pool_file).read_text().splitlines(keepends=True)[:20]))
    monkeypatch.setattr(gpu_whole_command, "DEPTHS", (Fraction(1), Fraction(1, 3)))
    monkeypatch.setattr(gpu_whole_command, "knows", lambda option, value="": value == "bfloat16")
    rows = list(fidelity_rows(rehearsal, Path(tiny_model), Path(pool_file), [f"sums={target}"], tmp_path / "work"))
    measured = [row for row in rows if "spearman" in row]
    assert [row["name"] for row in measured] == ["bfloat16, 1 of the layers, sums"]
    assert measured[0]["spearman"] == pytest.approx(1) and measured[0]["overlap"] == 1 and measured[0]["rows"] == 60
    assert all(row["check"] == "skipped: not in this version" for row in rows if row not in measured)


def test_options_of_this_version() -> None:
    assert knows("dtype", "bfloat16") and not knows("dtype", "float7") and not knows("no_such_option")
    assert knows("layers") and isinstance(knows("dtype", FLOAT8), bool)


def test_blocks_become_numbers_again(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    scale, least = np.float16(0.03), np.float16(-0.2)
    codes = generator.integers(0, 16, 32, dtype=np.uint8)
    block = np.concatenate([np.array([scale, least]).view(np.uint8), codes[:16] | codes[16:] << 4])
    whole = travelling_weights.numbers_of(np.stack([np.tile(block, 2)] * 3), "Q4_1")
    expected = codes.astype(np.float32) * np.float32(scale) + np.float32(least)
    assert whole.shape == (3, 64) and np.array_equal(whole[2], np.tile(expected, 2))
    bytes_of = generator.integers(-128, 128, 32, dtype=np.int8)
    eight = np.concatenate([np.array([scale]).view(np.uint8), bytes_of.view(np.uint8)])[None]
    norm = generator.normal(size=5).astype(np.float32)
    kinds = {"model.embed_tokens.weight": "Q8_0", "model.norm.weight": "F32"}
    tensors = {"model.embed_tokens.weight": eight, "model.norm.weight": norm}
    for number, name in enumerate(kinds):
        metadata = {"kinds": json.dumps({name: kinds[name]})}
        save_file({name: tensors[name]}, tmp_path / f"blocks-{number}.safetensors", metadata=metadata)
    (tmp_path / "config.json").write_text("{}")
    travelling_weights.unpack(tmp_path, tmp_path / "model", torch.float32)
    weights = load_file(tmp_path / "model" / "model.safetensors")
    assert np.array_equal(weights["model.embed_tokens.weight"][0], bytes_of * np.float32(scale))
    assert np.array_equal(weights["model.norm.weight"], norm) and (tmp_path / "model" / "config.json").exists()
    with pytest.raises(FileNotFoundError, match="no blocks"):
        travelling_weights.unpack(tmp_path / "model", tmp_path / "again", torch.float32)


def test_names_and_order_of_llama_s_tensors() -> None:
    assert travelling_weights.name_of("blk.12.attn_q.weight") == "model.layers.12.self_attn.q_proj.weight"
    assert travelling_weights.name_of("token_embd.weight") == "model.embed_tokens.weight"
    rows = np.arange(8)[:, None]
    assert travelling_weights._unpermuted(rows, 2).ravel().tolist() == [0, 2, 1, 3, 4, 6, 5, 7]


@pytest.mark.skipif(torch.cuda.is_available(), reason="without a GPU only")
def test_without_a_gpu_nothing_runs(capsys) -> None:
    assert gpu_whole_command.main([]) == 2
    assert "no GPU" in capsys.readouterr().err
