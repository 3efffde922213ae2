"""``nait-fast bench`` on the CPU: a tiny shape through the command line, checks that fail, files side by side."""

import io
import json
import sys
import time
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from nait_fast import kernels
from nait_fast.bench import command_stages, endtoend, synthetic
from nait_fast.bench import kernels as bench_kernels
from nait_fast.bench import scan_timing as bench_scan
from nait_fast.bench.hook_baselines import NAIVE, STRONG, naive_means, sorted_batches, strong_bits, strong_means
from nait_fast.bench.lengths import PREFIX, QUANTILES, SHARES, random_ids, sample_lengths
from nait_fast.bench.peaks import peak_of
from nait_fast.bench.results import figures, read_results
from nait_fast.bench.run import ALONE, PARTS, MeasuredDevice, Subject
from nait_fast.bench.shapes import SHAPES, build, forward_flops, matmul_weights, unused_flops
from nait_fast.cli import main
from nait_fast.config import BENCH_PARTS, BENCH_SHAPES
from nait_fast.kernels.common.dispatch import forced
from nait_fast.kernels.popcount import cpu, reference
from nait_fast.models.load import prepare
from tests.commands import run, summary

CPU = torch.device("cpu")
TINY = ("bench", "--shape", "tiny", "--device", "cpu", "--seconds", "0")
BANDWIDTH = {"copy", "read, sum of fp32", "read, sum of int32"}
OPS = set(bench_kernels.OPS)
TIMES = {"ms_p20", "ms", "ms_p80", "repeats"}


@pytest.fixture(scope="module")
def measured() -> MeasuredDevice:
    return MeasuredDevice.open(CPU, "auto", 0, small=True)


@pytest.fixture
def subject() -> Subject:
    return Subject("tiny", None, CPU, "auto", 0)


def by_name(rows: list[dict], part: str) -> dict[str, dict]:
    return {row["name"]: row for row in rows if row["part"] == part}


def test_every_part_through_the_command_line(capsys, tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    result = summary(capsys, *TINY, "--part", "all", "--output", file)
    rows = result["rows"]
    assert list(dict.fromkeys(row["part"] for row in rows)) == list(PARTS) and not result["failed"]
    for row in rows:
        assert {"name", "device", "hardware"} | TIMES <= set(row), row
        assert row["ms_p20"] <= row["ms"] <= row["ms_p80"] and row["repeats"] > 2
        assert row["part"] == "ceilings" or row["name"].startswith("bare forward") or row["check"].startswith("ok: ")
        assert row["hardware"] in result["text"]
    ceilings = by_name(rows, "ceilings")
    assert set(ceilings) >= BANDWIDTH and all(ceilings[name]["gb_per_s"] > 0 for name in BANDWIDTH)
    assert any(row.get("tflop_per_s", 0) > 0 for row in ceilings.values())
    ops = by_name(rows, "kernels")
    assert set(ops) == OPS
    copy = ceilings["copy"]["gb_per_s"]
    for row in ops.values():
        assert row["gb_per_s"] == pytest.approx(row["bytes"] / row["ms"] / 1e6)
        assert row["of_copy"] == pytest.approx(row["gb_per_s"] / copy) and row["neurons"] == SHAPES["tiny"].neurons
        assert row["backend"] == "reference" and "times_reference" not in row
    first = ops["capture, first + last + sum"]
    assert first["bytes"] == 4 * first["neurons"] * (3 * first["tokens"] + 3 * first["sequences"])
    whole = by_name(rows, "endtoend")
    assert list(whole) == ["index pass", endtoend.BARE, endtoend.BARE_FUSED, STRONG, NAIVE]
    ours, strong, naive = whole["index pass"], whole[STRONG], whole[NAIVE]
    assert ours["shared_prefix"] == PREFIX and ours["differing_bits"] == strong["differing_bits"] == 0
    assert {"overhead_percent", "overhead_percent_p20", "overhead_percent_p80", "of_matmul"} <= set(ours)
    assert "overhead_percent" in whole[endtoend.BARE_FUSED] and "overhead_percent" not in whole[endtoend.BARE]
    assert len({row["repeats"] for row in whole.values()}) == 1  # nobody is timed less often than we are
    assert ours["tokens_run"] == ours["tokens"] - PREFIX * ours["samples"] < naive["tokens_run"] == naive["tokens"]
    assert 0 < strong["engine_is_min"] <= strong["engine_is"] and 0 < strong["padding"] < naive["padding"]
    for row in whole.values():
        assert row["run_tokens_per_s"] == pytest.approx(row["tokens_run"] / row["ms"] * 1e3)
    scans = by_name(rows, "scan")
    assert {(row["method"], row["planes"]) for row in scans.values()} == {
        (method, n) for method in ("numba", "numpy") for n in bench_scan.PLANES
    }
    wide = [row for row in scans.values() if row["row_bytes"] == bench_scan.WIDE_ROW_BYTES]
    assert {(row["method"], row["planes"]) for row in wide} == {("numba", n) for n in bench_scan.WIDE_PLANES}
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert [line["name"] for line in lines] == [row["name"] for row in rows]
    for line in lines:
        assert line["environment"]["torch"] and line["environment"]["cpu"] and "time" not in line
        assert str(tmp_path) not in json.dumps(line)


def test_a_scan_that_goes_wrong_far_from_its_first_row_is_found_out(measured) -> None:
    n = bench_scan.CHECKED + 500
    codes = np.random.default_rng(0).integers(0, 256, (n, bench_scan.ROW_BYTES), dtype=np.uint8)
    query = bench_scan.make_query(4, 1)

    def wrapping(rows: np.ndarray) -> np.ndarray:
        """As where an offset wraps around: later rows get the scores of earlier ones."""
        scores = reference.popcount_scan(rows, *query)
        scores[bench_scan.CHECKED :] = scores[: max(0, len(rows) - bench_scan.CHECKED)]
        return scores

    row = bench_scan.ScanCase("x", "x", wrapping, codes, query).row(measured.watch, measured.ceilings, 0.0, quiet=True)
    assert row["check"] == "failed: 500 scores differ from the reference" and "ms" not in row
    tensors = torch.from_numpy(codes)
    np.testing.assert_array_equal(bench_scan._ends(tensors), np.concatenate([codes[:1000], codes[-1000:]]))
    assert bench_scan._ends(codes[:7]).shape == (7, bench_scan.ROW_BYTES)


def test_files_side_by_side(capsys, tmp_path: Path) -> None:
    names = []
    for number, threads in enumerate(("1 thread", "2 threads")):
        row = {
            "part": "scan",
            "name": "numba, 1 plane",
            "device": "cpu",
            "hardware": f"Chip, {threads}",
            "gb_per_s": 10.0 + number,
        }
        failing = {
            "part": "kernels",
            "shape": "tiny",
            "name": "pack_bits",
            "device": "cpu",
            "hardware": "Chip",
            "check": "failed: 3 bits",
        }
        names.append(tmp_path / f"{number}.jsonl")
        names[-1].write_text("\n".join(json.dumps(r) for r in (row | {"gb_per_s": 1.0}, row, failing)) + "\n")
    shown = run(capsys, "bench", "--compare", *names)
    assert (shown.status, shown.err) == (0, "")
    heading, line = shown.out.splitlines()[1:3]
    assert "Chip, 1 thread (0.jsonl)" in heading and "Chip, 2 threads (1.jsonl)" in heading
    assert line.split() == ["numba,", "1", "plane,", "GB/s", "10.0", "11.0"]  # the last row of a name counts
    assert "pack_bits, check" in shown.out and "failed" in shown.out
    assert len(summary(capsys, "bench", "--compare", *names)["sources"]) == 4


def test_devices_of_one_file_are_columns_of_their_own(tmp_path: Path) -> None:
    file = tmp_path / "two.jsonl"
    rows = [{"part": "scan", "name": "x", "hardware": "GPU", "device": f"cuda:{i}", "gb_per_s": i} for i in (0, 1)]
    file.write_text("\n".join(map(json.dumps, rows)))
    assert {k: len(v) for k, v in read_results([str(file)]).items()} == {"GPU, cuda:0": 1, "GPU, cuda:1": 1}
    assert len(read_results([str(file), str(file)])) == 4


BAD = [
    (["--shape", "nonsense"], "argument --shape: invalid choice"),
    (["--model", "a", "--shape", "tiny"], "--model, --shape: choose one"),
    (["--model", "/nowhere/model"], "--model /nowhere/model: no model folder"),
    (["--device", "cuda:99"], "--device cuda:99: not usable here"),
    (["--device", "cpu,cpu"], "--device cpu,cpu: a device is named twice"),
    (["--device", "meta"], "--device meta: not usable here"),
    (["--seconds", "-1"], "--seconds -1.0: must be at least 0"),
    (["--max-length", "1"], "--max-length 1: must be at least 2"),
    (["--part", "tests"], "argument --part: invalid choice"),
    (["--rows", "200"], "--rows 200: is for part cli, not all"),
    (["--part", "cli", "--seconds", "3"], "--seconds 3.0: part cli runs each command once"),
    (["--output", "/nowhere/rows.jsonl"], "/nowhere/rows.jsonl: No such file"),
    (["--compare", "/nowhere/rows.jsonl"], "/nowhere/rows.jsonl: No such file"),
    (["--compare", "{file}", "--output", "x"], "--output x: --compare only reads result files; leave it out"),
    (["--compare", "{text}"], "is not JSON lines"),
    (["--compare", "{other}"], "line 2 is no row of a bench"),
    (["--compare", "{empty}"], "holds no row"),
]


@pytest.mark.parametrize(("arguments", "words"), BAD, ids=[words for _, words in BAD])
def test_bad_options_cost_one_line(capsys, tmp_path: Path, arguments: list[str], words: str) -> None:
    row = json.dumps({"part": "scan", "hardware": "h", "name": "n", "gb_per_s": 1})
    contents = {"file": row, "text": "hello", "other": row + "\n[1]", "empty": ""}
    for name, text in contents.items():
        (tmp_path / name).write_text(text)
    places = {name: tmp_path / name for name in contents}
    assert words in run(capsys, "bench", *(a.format(**places) for a in arguments)).error


# ------------------------------------------------------------------------------------------------ whole commands


def in_process(command: list[str]) -> command_stages.Ran:
    """As ``run_command``, without the seconds that a process takes to import everything."""
    if command[1] == "-c":
        return command_stages.Ran({}, 1.0, 1.0, 1.0)
    out, began = io.StringIO(), time.perf_counter()
    with redirect_stdout(out):
        assert main(list(command[3:])) == 0
    return command_stages.Ran(json.loads(out.getvalue().splitlines()[-1]), time.perf_counter() - began, 1.0, 1.0)


def test_the_commands_by_stage(capsys, monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setattr(command_stages, "run_command", in_process)
    file = tmp_path / "rows.jsonl"
    result = summary(capsys, *TINY[:5], "--part", "cli", "--rows", "100", "--output", file)
    rows = by_name([json.loads(line) for line in file.read_text().splitlines()], "cli")
    assert list(rows) == ["random weights saved", "import", "index", "signature", "rank"] and not result["failed"]
    index = rows["index"]
    assert sum(index["stages"].values()) == pytest.approx(index["seconds"], abs=0.01)
    assert index["rows"] == 100 and index["tokens"] > 100 * 50 and index["shape"] == "tiny"
    assert index["tokens_served"] == index["tokens"] > index["tokens_run"] > 0 and index["shared_prefix_tokens"]
    assert 0 <= index["padding_waste"] < 1
    assert index["rows_per_s"] == pytest.approx(100 / index["seconds"]) and "stages" in result["text"]


def test_a_command_that_fails_ends_the_part(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setattr(command_stages, "IMPORTS", "pass")
    rows = list(command_stages.measure_commands("/nowhere", tmp_path, 100, index_options=["--max-length", "0"]))
    assert [row["name"] for row in rows] == ["import", "index"]
    assert rows[-1]["check"].endswith("--max-length 0: must be at least 1") and "seconds" not in rows[-1]


def test_a_command_s_seconds_and_memory() -> None:
    code = (
        "import time; held = bytearray(1 << 26); held[::4096] = b'1' * (1 << 14); time.sleep(0.3); print('{\"a\": 1}')"
    )
    ran = command_stages.run_command([sys.executable, "-c", code])
    assert ran.summary == {"a": 1} and ran.peak_rss_mb > 64 and ran.cpu_seconds > 0 and ran.seconds > 0.3


def test_stages_of_an_index_whose_log_has_none(tmp_path: Path) -> None:
    (tmp_path / "log.json").write_text("{}")
    events = [{"time": 105.0, "event": "begin"}, {"time": 109.0, "event": "unit"}, {"time": 110.0, "event": "end"}]
    (tmp_path / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    expected = {"before the first unit": 5.0, "units": 5.0, "outside": 2.0}
    assert command_stages.stages_of(tmp_path, 100.0, 12.0) == expected
    (tmp_path / "log.json").write_text('{"stages": {"load": 3, "pass": 4}}')
    assert command_stages.stages_of(tmp_path, 100.0, 12.0) == {"load": 3, "pass": 4, "outside": 5.0}
    (tmp_path / "log.json").rename(tmp_path / "log-0.json")  # of several workers
    assert command_stages.stages_of(tmp_path, 100.0, 12.0) == expected


def test_made_up_rows_are_as_long_as_alpaca_s(tmp_path: Path) -> None:
    synthetic.write_rows(tmp_path / "a.jsonl", 2000, seed=1)
    synthetic.write_rows(tmp_path / "b.jsonl", 2000, seed=1, responses=3)
    rows, longer = (
        [json.loads(line) for line in (tmp_path / name).read_text().splitlines()] for name in ("a.jsonl", "b.jsonl")
    )
    with_input = np.mean([bool(row["input"]) for row in rows])
    assert len(rows) == 2000 and with_input == pytest.approx(synthetic.INPUT_SHARE, abs=0.03)
    encode = synthetic.make_tokenizer(32000).backend_tokenizer.encode_batch
    means = [np.mean([len(e.ids) for e in encode([row["output"] for row in each])]) for each in (rows, longer)]
    expected = np.trapezoid(synthetic.OUTPUT, synthetic.SHARES)
    assert means[0] == pytest.approx(expected, rel=0.1) and means[1] == pytest.approx(3 * means[0], rel=0.05)


# ------------------------------------------------------------------------------------------- checks that must fail


def _wrong_hidden(gate, up, act, segments, statistics, bits=None):
    hidden, stats = real_capture(gate, up, act, segments, statistics, bits)
    if not forced():
        hidden[3, 5] *= 1.01
    return hidden, stats


def _wrong_sum(gate, up, act, segments, statistics, bits=None):
    hidden, stats = real_capture(gate, up, act, segments, statistics, bits)
    if stats.sum is not None and not forced():
        stats.sum *= 1 + 1e-3
    return hidden, stats


def _wrong_bits(values, threshold):
    codes = real_pack(values, threshold)
    codes[0, 0] ^= 1
    return codes


def _raises(values, k):
    raise RuntimeError("no such\ninstruction")


real_capture, real_pack = kernels.mlp_capture, kernels.pack_bits
WRONG = [
    ("mlp_capture", _wrong_hidden, "capture, |up| sum", "hidden 1 of"),
    ("mlp_capture", _wrong_sum, "capture, first + last + sum", "sum off by"),
    ("pack_bits", _wrong_bits, "pack_bits", "1 of 12,800 bits differ"),
    ("topk_bits", _raises, "topk_bits, k 20", "RuntimeError: no such instruction"),
]


@pytest.mark.parametrize(("op", "wrong", "name", "words"), WRONG, ids=[words for *_, words in WRONG])
def test_a_wrong_op_has_no_time(
    monkeypatch, measured: MeasuredDevice, subject: Subject, op, wrong, name: str, words: str
) -> None:
    monkeypatch.setattr(kernels, op, wrong, raising=False)
    rows = by_name(list(measured.rows("kernels", subject, 0)), "kernels")
    assert set(rows) == OPS
    assert rows[name]["check"].startswith("failed: ") and words in rows[name]["check"]
    assert not TIMES & set(rows[name]) and "gb_per_s" not in rows[name]
    others = [row for row in rows.values() if row["name"].partition(",")[0] != name.partition(",")[0]]
    assert others and all(row["check"].startswith("ok") and set(row) >= TIMES for row in others)


def test_a_norm_that_rounds_otherwise_has_no_time(monkeypatch) -> None:
    half = MeasuredDevice.open(CPU, "bfloat16", 0, small=True)
    right = kernels.rms_norm
    # The reference is told apart by its order: the op's own result comes first.
    calls = []

    def wrong(x, weight, eps):
        calls.append(forced())
        return right(x, weight, eps) * (1 if forced() else 1.01)

    monkeypatch.setattr(kernels, "rms_norm", wrong, raising=False)
    row = by_name(list(half.rows("kernels", Subject("tiny", None, CPU, "bfloat16", 0), 0)), "kernels")["rms_norm"]
    assert row["check"].startswith("failed: ") and "differ" in row["check"] and calls == ["", "reference"]
    assert not TIMES & set(row)


def test_what_the_replaced_norms_save_has_a_row(measured: MeasuredDevice, subject: Subject) -> None:
    model = subject.load()
    norm = next(m for m in model.body.modules() if "RMSNorm" in type(m).__name__)
    model.fused = {norm: type(norm).forward.__get__(norm)}
    rows = by_name(
        [{"part": "endtoend", **row} for row in endtoend.measure_endtoend(model, measured.ceilings, 0.1)], "endtoend"
    )
    plain, whole = rows[endtoend.PLAIN], rows["index pass"]
    assert 0 < plain["engine_is_min"] <= plain["engine_is"] and plain["tokens"] == whole["tokens"]
    assert "forward" not in vars(norm)


def test_a_wrong_scan_has_no_time(monkeypatch, measured: MeasuredDevice, subject: Subject) -> None:
    right = cpu.popcount_scan
    monkeypatch.setattr(cpu, "popcount_scan", lambda codes, *query: right(codes, *query) + (len(query[0]) == 4))
    rows = by_name(list(measured.rows("scan", subject, 0)), "scan")
    assert rows["numba, 4 planes"]["check"] == "failed: 500 scores differ from the reference"
    assert not TIMES & set(rows["numba, 4 planes"]) and set(rows["numba, 16 planes"]) >= TIMES


def test_wrong_bits_end_the_index_pass(capsys, monkeypatch) -> None:
    right = endtoend.EndToEnd.bits
    monkeypatch.setattr(endtoend.EndToEnd, "bits", lambda self, *arguments: right(self, *arguments) ^ 1)
    result = summary(capsys, *TINY, "--part", "endtoend")
    (row,) = [row for row in result["rows"] if row["part"] == "endtoend"]
    assert row["check"].startswith("failed: ") and " bits differ, by up to " in row["check"]
    assert "ms" not in row and result["failed"] == ["index pass"]
    assert "1 checks failed, no times for these: index pass" in result["text"]


def test_a_baseline_that_reads_something_else_has_no_time(monkeypatch, measured: MeasuredDevice, subject) -> None:
    right = endtoend.strong_means
    monkeypatch.setattr(endtoend, "strong_means", lambda *arguments: right(*arguments) * -1)
    rows = by_name(list(measured.rows("endtoend", subject, 0)), "endtoend")
    assert rows[STRONG]["check"].startswith("failed: ") and "ms" not in rows[STRONG] and "ms" in rows[NAIVE]


@pytest.mark.parametrize(
    ("error", "check"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), "skipped: no memory for it"),
        (ValueError("no such mask"), "failed: ValueError: no such mask"),
    ],
)
@pytest.mark.parametrize(
    ("function", "lost"), [("strong_means", STRONG), ("strong_bits", STRONG), ("naive_means", NAIVE)]
)
def test_a_baseline_that_fails_costs_its_own_row_alone(
    monkeypatch, measured: MeasuredDevice, subject: Subject, function: str, lost: str, error: Exception, check: str
) -> None:
    def fails(*arguments):
        raise error

    monkeypatch.setattr(endtoend, function, fails)
    rows = by_name(list(measured.rows("endtoend", subject, 0)), "endtoend")
    assert rows[lost]["check"] == check and not TIMES & set(rows[lost])
    others = {name: row for name, row in rows.items() if name != lost}
    assert set(others) == {"index pass", endtoend.BARE, endtoend.BARE_FUSED, STRONG, NAIVE} - {lost}
    assert all(set(row) >= TIMES for row in others.values()) and others["index pass"]["check"].startswith("ok")


def test_the_arithmetic_of_a_pass_counts_each_sample_behind_its_own_prefix(
    measured: MeasuredDevice, subject: Subject
) -> None:
    job = endtoend.EndToEnd(subject.load(), measured.ceilings, 0, 512)
    body, last = job.model.body, job.model.specs[-1]
    samples = random_ids([40, 30, 25, 10], job.model.vocabulary, 0)
    long, short, none = samples[0].ids[:12], samples[0].ids[:5], np.zeros(6, dtype=np.int32)
    other = random_ids([17], job.model.vocabulary, 1)

    def run(prefixes: list[np.ndarray]) -> float:
        job.prefixes = prefixes
        return job.flops(samples + other)

    alone = forward_flops(body, [17]) - unused_flops(last, 17)  # what begins with neither
    behind_long = forward_flops(body, [28, 18, 13], 12) - unused_flops(last, 59)
    behind_short = forward_flops(body, [5], 5) - unused_flops(last, 5)
    assert run([long, short]) == pytest.approx(behind_long + behind_short + alone)
    whole = forward_flops(body, [40, 30, 25, 10, 17]) - unused_flops(last, 122)
    assert run([]) == run([none]) == pytest.approx(whole)
    padded = endtoend.EndToEnd(replace(job.model, attention=None), measured.ceilings, 0, 512)
    assert padded.flops([*samples, *other]) == pytest.approx(whole)  # such a model's batches stand behind no prefix


def test_both_baselines_read_the_same(subject: Subject) -> None:
    model = subject.load()
    samples = random_ids([40, 7, 2, 30, 12, 5, 9, 3, 1], model.vocabulary, 0)
    naive = naive_means(model.body, model.specs, samples)
    np.testing.assert_allclose(strong_means(model.body, model.specs, samples, 64).numpy(), naive, atol=1e-6)
    threshold = torch.from_numpy(naive.mean(axis=0)[:, None] * 0).ravel()
    bits = strong_bits(model.body, model.specs, samples, 64, threshold)
    assert np.array_equal(bits, np.packbits(naive > 0, axis=1, bitorder="little"))
    assert sorted_batches([40, 7, 2, 30, 12], 64) == [[0], [3, 4], [1, 2]]
    assert sorted_batches([9, 90, 3], 64) == [[1], [0, 2]] and not sorted_batches([], 64)


def test_peaks_of_data_sheets() -> None:
    assert peak_of("NVIDIA H100 80GB HBM3", torch.bfloat16) == peak_of("NVIDIA H200", torch.float16) == 989.4e12
    assert peak_of("NVIDIA H100 PCIe", torch.bfloat16) == 756e12 and peak_of("NVIDIA L40S", torch.bfloat16) == 362.1e12
    assert peak_of("NVIDIA H800", torch.bfloat16) == 989.4e12
    assert peak_of("NVIDIA H800 PCIe", torch.bfloat16) == peak_of("NVIDIA H100 PCIe", torch.float16)
    assert peak_of("NVIDIA H200", torch.float8_e4m3fn) == peak_of("NVIDIA H200", torch.int8) == 2 * 989.4e12
    assert peak_of("NVIDIA A100-SXM4-80GB", torch.int8) and not peak_of("NVIDIA A100-SXM4-80GB", torch.float8_e4m3fn)
    for name, dtype in (("NVIDIA H100", torch.float32), ("NVIDIA A1000", torch.float16), ("", torch.bfloat16)):
        assert peak_of(name, dtype) is None


def test_counting_has_a_floor_where_its_rate_is_documented(monkeypatch, measured: MeasuredDevice) -> None:
    def seconds(major: int, minor: int) -> float:
        properties = SimpleNamespace(major=major, minor=minor, multi_processor_count=100, clock_rate=1_000_000)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
        return bench_scan._arithmetic_seconds("count", bench_scan.make_query(4, 1), 1000, measured.ceilings, CPU)

    expected = 1000 * bench_scan.ROW_BYTES / 4 * 4 / (16 * 100 * 1e9)
    assert [seconds(*known) for known in ((8, 0), (8, 9), (9, 0))] == [pytest.approx(expected)] * 3
    assert [seconds(*unknown) for unknown in ((7, 5), (10, 0), (12, 0))] == [0.0] * 3
    monkeypatch.setattr(torch.version, "hip", "6.4")  # whose devices call themselves 9.x, too
    assert seconds(9, 0) == 0.0


def test_a_model_that_does_not_fit_is_skipped(monkeypatch, measured: MeasuredDevice) -> None:
    monkeypatch.setattr("nait_fast.bench.run.free_memory", lambda device: 10**9)
    (row,) = measured.rows("endtoend", Subject("llama-2-7b", None, CPU, "auto", 0), 0)
    assert row["check"] == "skipped: llama-2-7b needs 31.7 GB, 1.0 GB are free" and "ms" not in row


# -------------------------------------------------------------------------------------------- what it measures with


def test_shapes() -> None:
    assert set(SHAPES) == set(BENCH_SHAPES) and set(BENCH_PARTS) == {"all", *PARTS, ALONE}
    body = build(SHAPES["tiny"], CPU, torch.bfloat16, seed=3)
    again = build(SHAPES["tiny"], CPU, torch.bfloat16, seed=3)
    weight = body.layers[1].mlp.up_proj.weight
    assert weight.dtype == torch.bfloat16 and not body.training and not weight.requires_grad
    assert float(weight.float().std()) == pytest.approx(0.02, rel=0.05)
    assert torch.equal(weight, again.layers[1].mlp.up_proj.weight)
    counted = sum(p.numel() for p in body.parameters() if p.dim() > 1)
    assert counted == SHAPES["tiny"].parameters
    assert matmul_weights(body) == counted - 512 * 64
    model = prepare(body, None, name="tiny")
    assert model.packs and model.widths == [200] * 3
    published = {"smollm2-135m": 134.5e6, "qwen2.5-1.5b": 1.544e9, "llama-2-7b": 6.607e9}  # without LLaMA's LM head
    for name, parameters in published.items():
        assert SHAPES[name].parameters == pytest.approx(parameters, rel=2e-3)


def test_arithmetic_of_a_forward() -> None:
    body = build(SHAPES["tiny"], CPU, torch.float32)
    weights, heads, layers = matmul_weights(body), 64, 3
    assert forward_flops(body, [1]) == 2 * weights + 4 * heads * layers
    assert forward_flops(body, [3, 1]) == 2 * weights * 4 + 4 * heads * layers * (1 + 2 + 3 + 1)
    whole, before = forward_flops(body, [10]), forward_flops(body, [4])
    assert forward_flops(body, [6], n_prefix=4) == whole - before


def test_lengths_and_ids() -> None:
    assert len(SHARES) == len(QUANTILES) and list(QUANTILES) == sorted(QUANTILES) and list(SHARES) == sorted(SHARES)
    lengths = sample_lengths(100_000, 0)
    assert lengths.mean() == pytest.approx(158.6, rel=0.02) and (lengths.min(), lengths.max()) == (37, 2046)
    assert sample_lengths(1000, 1, 100).max() == 100
    assert np.array_equal(sample_lengths(10, 5), sample_lengths(20, 5)[:10])
    samples = random_ids([40, 30, 24, 2], 100, 0)
    assert [len(s.ids) for s in samples] == [40, 30, 24, 2] and samples[0].ids.dtype == np.int32
    assert np.array_equal(samples[0].ids[:PREFIX], samples[1].ids[:PREFIX])
    assert np.array_equal(samples[0].ids[: PREFIX - 1], samples[2].ids[: PREFIX - 1])
    for n in (7, 256, 5000):
        assert sum(bench_kernels.batch_lengths(n, 0)) == n and min(bench_kernels.batch_lengths(n, 0)) > 0


@pytest.mark.parametrize(
    ("value", "text"), [(0.0, "0"), (0.0123, "0.0123"), (1.234, "1.23"), (12.34, "12.3"), (-5678.9, "-5,679")]
)
def test_figures(value: float, text: str) -> None:
    assert figures(value) == text
