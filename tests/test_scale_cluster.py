"""The plan's simulation: its rules, its closed form, and docs/scale.md's tables."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks import scale_cluster_rank
from benchmarks.record import RESULTS, newest
from benchmarks.scale_cluster import (
    LAYOUT,
    MTBF_SECONDS,
    NODE,
    Run,
    Setting,
    failures_of,
    measure,
    predict,
    render,
    sample_flops,
    shown_rows,
    simulate,
)

DOCUMENT = Path(__file__).parent.parent / "docs" / "scale.md"
ROWS = newest(sorted(RESULTS.glob("*/scale_cluster.jsonl"))[0])
HOST = ROWS[0]
SMALL = Setting(samples=400_000, gpus=16, shard_rows=512)


def _pass(failures=(), units=200, workers=16, seed=0, down=(60.0, 600.0), locks=90.0) -> Run:
    """Units of about 10 s, 0.5 s of them on the host, on workers of speeds about 1."""
    generator = np.random.default_rng(seed)
    seconds = 9.5 + generator.standard_normal(units) * 0.5
    speeds = np.exp(0.05 * generator.standard_normal(workers))
    return simulate(seconds, 0.5, speeds, np.zeros(workers), list(failures), down, locks)


@pytest.mark.parametrize("seed", range(8))
def test_every_unit_is_done_once_and_the_time_adds_up(seed):
    generator = np.random.default_rng(seed)
    failures = [(float(t), int(w) * NODE, NODE) for t, w in zip(generator.random(6) * 150, [0, 1] * 3, strict=True)]
    failures += [(float(t), int(w), 1) for t, w in zip(generator.random(30) * 150, range(30), strict=True) if w < 16]
    run = _pass(failures, seed=seed)
    assert (run.done == 1).all() and run.failures > 10
    assert run.worked == pytest.approx(run.needed + run.lost) and run.lost > 0


def test_without_failures_and_with_equal_speeds_it_is_the_closed_form():
    for units, workers in ((200, 16), (192, 16), (5, 16), (17, 1)):
        run = simulate(np.full(units, 9.5), 0.5, np.ones(workers), np.full(workers, 3.0), [], (0.0, 0.0), 0.0)
        assert run.end == pytest.approx(3.0 + 10.0 * -(-units // workers))
        assert run.worked == run.needed == pytest.approx(10.0 * units) and run.lost == run.failures == 0


def test_a_failure_costs_at_most_its_unit_and_the_restart():
    longest = _pass().needed / 200 * 1.4
    for when in np.linspace(0.1, 140, 60):
        run = _pass([(float(when), 3, 1)])
        assert run.failures <= 1 and run.lost <= longest and run.down in (0.0, 60.0)
        assert run.end <= _pass().end + longest + 60.0
        node = _pass([(float(when), 8, NODE)])
        assert node.failures <= NODE and node.lost <= NODE * longest and node.down == node.failures * 600.0


def test_a_lost_nodes_units_are_free_only_once_the_file_system_says_so():
    seconds, speeds, starts = np.full(4, 10.0), np.ones(16), np.zeros(16)
    assert simulate(seconds, 0.0, speeds, starts, [(5.0, 0, 1)], (60.0, 600.0), 90.0).end == 15.0
    assert simulate(seconds, 0.0, speeds, starts, [(5.0, 0, NODE)], (60.0, 600.0), 90.0).end == 105.0


def test_more_failures_are_never_faster_on_average():
    ends = []
    for multiple in (0, 3000, 30000):
        setting = replace(SMALL, multiple=multiple)
        runs = []
        for seed in range(10):
            generator = np.random.default_rng(seed)
            runs.append(_pass(failures_of(setting, 1000.0, generator), seed=seed).end)
        ends.append(np.mean(runs))
    assert ends[0] < ends[1] < ends[2]


def test_failures_come_at_the_rate_that_they_are_asked_at():
    setting, horizon = Setting(multiple=100), 1e9
    found = failures_of(setting, horizon, np.random.default_rng(1))
    expected = horizon * setting.gpus * setting.multiple / MTBF_SECONDS
    assert len(found) == pytest.approx(expected, rel=0.05)
    times = np.sort([t for t, _, size in found if size == 1])
    assert np.diff(times).std() == pytest.approx(np.diff(times).mean(), rel=0.05)  # as exponential times have it
    assert {size for _, _, size in found} == {1, NODE}
    assert all(first % size == 0 and 0 <= first < setting.gpus for _, first, size in found)


def test_the_same_seed_gives_the_same_run():
    setting = replace(SMALL, multiple=1e5)
    assert predict(setting, HOST, 7) == predict(setting, HOST, 7) != predict(setting, HOST, 8)
    calm = predict(SMALL, HOST, 7, [])
    assert calm["rehash_s"] == calm["lost_s"] == 0 and calm["whole_s"] > calm["ideal_s"]


def test_bytes_and_operations_are_those_of_the_shapes():
    assert LAYOUT.row_bytes == 32 * 14336 // 8 == 57_344 and LAYOUT.n_neurons == 458_752
    # A long sum of the body's products for one sample of 100 tokens, layer after layer.
    attention = 2 * 4096 * 4096 + 2 * 4096 * 1024
    products = 2 * 100 * (32 * attention + 32 * 2 * 4096 * 14336 + 31 * 4096 * 14336)
    scores = 32 * 2 * 2 * 4096 * sum(range(1, 101))
    assert sample_flops(np.array([100]))[0] == pytest.approx(products + scores, rel=1e-12)


def test_measured_entries_are_those_of_the_recorded_run():
    found = measure(100, ids=1000)
    assert found["plan_bytes"] == pytest.approx(HOST["plan_bytes"], rel=0.1)
    assert found["manifest_bytes"] == pytest.approx(HOST["manifest_bytes"], rel=0.1)


def test_the_document_shows_what_the_results_say():
    text = DOCUMENT.read_text()
    assert text.count("<!-- table ") == text.count("<!-- end -->") == 7
    rows = shown_rows()
    assert render(text, rows) == text, "python -m benchmarks.scale_cluster --render docs/scale.md"
    assert render(text, [{**row, "unit_s": 1.0} for row in rows]) != text


@pytest.mark.parametrize("lost_at", [None, 0.3, 31.0, 98.0])
def test_a_scan_gives_each_unit_once_and_no_more_ahead(lost_at):
    speeds = np.exp(0.05 * np.random.default_rng(3).standard_normal(5))
    run = scale_cluster_rank.simulate(500, 1.0, speeds, lost_at, down=20.0)
    assert (run.done == 1).all() and run.ahead <= 4 * 5 and run.lost == (0 if lost_at is None else 2)
    calm = scale_cluster_rank.simulate(500, 1.0, speeds)
    assert calm.end == pytest.approx(500 / speeds.sum(), abs=2.5)
    if lost_at is not None:  # without the lost one for as long; at most its units, and what is left, longer
        away = min(20.0, calm.end - lost_at)
        assert calm.end - 1e-9 <= run.end <= calm.end + away * speeds[0] / (speeds.sum() - speeds[0]) + 5


def test_a_ranking_is_bound_by_nodes_or_by_what_they_share():
    one, four, eight = (scale_cluster_rank.Reading(nodes=nodes) for nodes in (1, 4, 8))
    size = one.samples * LAYOUT.row_bytes
    assert one.units * one.unit_rows >= one.samples > (one.units - 1) * one.unit_rows
    for at, rate in ((one, 7e9), (four, 5e9), (eight, 2.5e9)):
        assert at.unit_seconds == pytest.approx(at.unit_rows * LAYOUT.row_bytes / rate + at.call)
        even = scale_cluster_rank.simulate(at.units, at.unit_seconds, np.ones(at.nodes))
        assert even.end == pytest.approx(-(-at.units // at.nodes) * at.unit_seconds)
        assert even.end >= size / (rate * at.nodes)
