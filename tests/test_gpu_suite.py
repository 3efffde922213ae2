"""The GPU suite on a machine without a GPU: what it runs, what it skips, and what a failure costs."""

import json
import re
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import experts, gpu_suite
from nait_fast.bench import pipeline
from nait_fast.bench.run import MeasuredDevice
from nait_fast.bench.shapes import SHAPES, build

CPU = torch.device("cpu")
TAKES_GPU = re.compile(r'^(from tests\.ops\.device import.*DEVICE| +device = "cuda" if )', re.MULTILINE)


def test_gpu_suite_needs_a_gpu(capsys, monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu_suite.main([]) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.count("\n") == 1 and "GPU" in said.err


@pytest.fixture
def suite(tmp_path: Path) -> gpu_suite.Suite:
    return gpu_suite.Suite(tmp_path, ends=gpu_suite.time.monotonic() + 3600, minutes=60)


def test_gpu_suite_measures_and_skips(suite, monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "argv", ["gpu_suite"])
    monkeypatch.setattr(gpu_suite, "BUDGET", dict.fromkeys(gpu_suite.BUDGET, 0.01))
    small = MeasuredDevice.open
    monkeypatch.setattr(
        MeasuredDevice, "open", lambda device, dtype, seconds: small(device, dtype, seconds, small=True)
    )
    base = {"device": "cpu", "hardware": "Chip"}
    gpu_suite.measure(suite, {"pipeline", "kernels", "endtoend"}, ["tiny"], CPU, base)
    assert not suite.failed()
    assert {row["part"] for row in suite.rows} == {"ceilings", "pipeline", "kernels", "endtoend"}
    fp32, bf16 = (row for row in suite.rows if row["part"] == "pipeline")
    assert fp32["differing_bits"] == 0 and 0 < bf16["differing_share"] < 0.03 and bf16["worst_sigma"] > 0
    kept = [json.loads(line) for line in (tmp_path / "gpu_suite.jsonl").read_text().splitlines()]
    assert [row["name"] for row in kept] == [row["name"] for row in suite.rows] and kept[0]["environment"]
    suite.ends = gpu_suite.time.monotonic()
    suite.rows.clear()
    gpu_suite.measure(suite, {"kernels", "scan"}, ["tiny"], CPU, base)
    skipped = [row for row in suite.rows if row["part"] != "ceilings"]
    assert [row["part"] for row in skipped] == ["kernels", "scan"]
    assert all(row["check"] == "skipped: 0 s of 60 minutes were left" and "ms" not in row for row in skipped)


def test_experts(suite, monkeypatch) -> None:
    """As on a GPU, with a small model; and readings that are wrong are not timed."""
    size = experts.Size("small", 4, 16, 32, 2, 2, samples=3, longest=8)
    monkeypatch.setattr(
        experts, "rows_on_gpu", lambda device, rounds: [experts.measured(size, device, torch.float32, rounds)]
    )
    monkeypatch.setattr(gpu_suite, "BUDGET", dict.fromkeys(gpu_suite.BUDGET, 0.01))
    small = MeasuredDevice.open
    monkeypatch.setattr(MeasuredDevice, "open", lambda *given: small(*given, small=True))
    base = {"device": "cpu", "hardware": "Chip"}
    gpu_suite.measure(suite, {"experts"}, ["tiny"], CPU, base)
    *_, row = suite.rows
    assert row["part"] == "experts" and row["check"].startswith("ok") and row["error"] <= 1e-5 and row["seconds"] > 0
    monkeypatch.setattr(experts, "TOLERANCE", {torch.float32: 0.0})
    gpu_suite.measure(suite, {"experts"}, ["tiny"], CPU, base)
    assert suite.rows[-1]["check"].startswith("failed") and "seconds" not in suite.rows[-1] and suite.failed()
    suite.ends = gpu_suite.time.monotonic()
    gpu_suite.measure(suite, {"experts"}, ["tiny"], CPU, base)
    assert suite.rows[-1]["check"] == "skipped: 0 s of 60 minutes were left"


def test_the_size_on_a_gpu() -> None:
    assert experts.on_gpu(140 << 30).layers == 16 and experts.on_gpu(24 << 30).layers == 10
    assert experts.on_gpu(1 << 30).layers == 1


def test_nothing_is_timed_unless_the_tests_passed(capsys, monkeypatch, tmp_path: Path) -> None:
    """Tests that fail or do not end are told of, and stop the timing; a part by its name is still measured."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    checks = iter(["failed: 1 failed", "unfinished: not done after 9 s"])
    ran, measured = [], []

    def run_pytest(name, arguments, seconds, base):
        ran.append(arguments)
        return {**base, "part": "tests", "name": name, "seconds": 1.0, "check": next(checks, "ok: 1 passed")}

    monkeypatch.setattr(gpu_suite, "run_pytest", run_pytest)
    monkeypatch.setattr(gpu_suite, "measure", lambda suite, parts, shapes, *rest: measured.append((parts, shapes)))
    assert gpu_suite.main(["--device", "cpu", "--out", str(tmp_path)]) == 1
    said = capsys.readouterr().out
    assert not measured and said.count("unfinished: not done after 9 s") == 1 and "nothing was timed" in said
    assert gpu_suite.main(["--device", "cpu", "--out", str(tmp_path), "--part", "scan"]) == 0
    assert gpu_suite.main(["--device", "cpu", "--out", str(tmp_path)]) == 0  # now they pass
    assert measured == [({"scan"}, list(gpu_suite.SHAPES)), (set(gpu_suite.PARTS[1:]), list(gpu_suite.SHAPES))]
    # Each file whose tests take the GPU where there is one is run there.
    named = {argument for arguments in ran for argument in arguments if argument.endswith(".py")}
    root = Path(gpu_suite.__file__).parents[1]
    for path in sorted(root.glob("tests/**/test_*.py")):
        takes_gpu = TAKES_GPU.search(path.read_text(encoding="utf-8")) and path.name != "test_mode.py"
        assert not takes_gpu or str(path.relative_to(root)) in named, path


def test_a_device_without_ceilings_has_a_row(suite, monkeypatch) -> None:
    def broken(*arguments):
        raise RuntimeError("no such kernel")

    monkeypatch.setattr(MeasuredDevice, "open", broken)
    gpu_suite.measure(suite, {"kernels"}, ["tiny"], CPU, {"device": "cpu", "hardware": "Chip"})
    assert suite.failed() == ["ceilings ceilings"] and "no such kernel" in suite.rows[0]["check"]


def test_half_precision_may_move_as_far_as_transformers_own_does(monkeypatch) -> None:
    """The bound is measured: of a deep model in bf16 no constant tells how far its bits go."""

    def check() -> str:
        (row,) = pipeline.measure_pipeline("tiny", CPU, (torch.bfloat16,))
        assert row["differing_share"] > 0 and row["hooks_differing_share"] > 0
        return row["check"].partition(":")[0]

    monkeypatch.setattr(pipeline, "GATE", {torch.bfloat16: (1e-9, 1e-9)})
    assert check() == "ok"
    right = pipeline.Encode.layer

    def wrong(self, items, ordinal, readings, codes):
        right(self, items, ordinal, readings, None if codes is None else codes ^ 1)

    monkeypatch.setattr(pipeline.Encode, "layer", wrong)
    assert check() == "failed"


def test_half_precision_is_the_model_that_a_user_would_load(monkeypatch) -> None:
    """Its buffers, RoPE's frequencies, stay as exact as transformers leaves them."""
    bodies = []
    prepare = pipeline.prepare

    def recorded(body, *arguments, **named):
        bodies.append(body)
        return prepare(body, *arguments, **named)

    monkeypatch.setattr(pipeline, "prepare", recorded)
    list(pipeline.measure_pipeline("tiny", CPU, (torch.bfloat16,)))
    made = build(SHAPES["tiny"], CPU, torch.bfloat16)
    for names in ("named_parameters", "named_buffers"):
        got, expected = ({name: x.dtype for name, x in getattr(body, names)()} for body in (bodies[1], made))
        assert got == expected
    assert next(bodies[0].parameters()).dtype == torch.float32


def test_gpu_suite_records_a_failing_test(capsys, suite, tmp_path: Path) -> None:
    base = {"device": "cpu", "hardware": "Chip"}
    file = tmp_path / "test_two.py"
    file.write_text("def test_one(): assert 1 + 1 == 3, 'the sum'\n")
    row = gpu_suite.run_pytest("two", [str(file), "--rootdir", str(tmp_path)], 60, base)
    assert row["check"].startswith("failed: 1 failed") and row["part"] == "tests"
    assert "the sum" in capsys.readouterr().err
    suite.keep([row])
    assert suite.failed() == ["tests two"]


def test_a_file_that_cannot_be_imported_costs_no_other_test(suite, tmp_path: Path) -> None:
    (tmp_path / "test_broken.py").write_text("import no_such_module\n")
    (tmp_path / "test_right.py").write_text("def test_one(): pass\n")
    row = gpu_suite.run_pytest("all", [str(tmp_path), "--rootdir", str(tmp_path)], 60, {"device": "cpu"})
    assert row["check"].startswith("failed: 1 passed, 1 error")
