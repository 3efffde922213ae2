"""benchmarks/fidelity: its scores and sizes on made activations, and its capture on the tiny model."""

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import fidelity
from benchmarks.fidelity import Calibrated, exact_scores, means, measured, signatures_of, unseen
from benchmarks.readings import Readings, captured
from nait_fast.codecs.layout import CodeLayout
from tests.conftest import make_rows, write_jsonl
from tests.index.bits import naive_readings

WIDTHS = [150, 128]


@pytest.fixture(scope="module")
def made() -> Readings:
    """Activations with a few strong directions, and 20 neurons of large variance of their own, as real ones have."""
    rng = np.random.default_rng(0)
    mix = rng.standard_normal((6, sum(WIDTHS)))

    def draw(n: int) -> np.ndarray:
        noise = rng.standard_normal((n, sum(WIDTHS)))
        noise[:, 130:150] *= 20
        return (3 * rng.standard_normal((n, 6)) @ mix + noise).astype(np.float32)

    pool = {"mean": draw(700), "drift": draw(700)}
    return Readings(CodeLayout.of(WIDTHS), pool, {"a": draw(40), "b": draw(50)}, np.ones(700, np.int64))


def test_exact_scores_are_the_sum_of_products(made: Readings):
    signatures = signatures_of(made, "drift")
    expected = [
        [float(row.astype(np.float64) @ s.tensors["direction"]) for s in signatures] for row in made.pool["drift"]
    ]
    np.testing.assert_allclose(exact_scores(made.pool["drift"], signatures), expected, rtol=1e-12)


def test_rotated_codes_follow_the_exact_scores(made: Readings):
    signatures = signatures_of(made, "drift")
    exact = exact_scores(made.pool["drift"], signatures)
    pool = Calibrated(made.pool["drift"], made.layout, "drift", seed=0)
    plain_size, plain = pool.rotated(signatures, outliers=0)
    size, sharp = pool.rotated(signatures, outliers=20)
    assert (plain_size, size) == (256 // 8 + 128 // 8 + 2 * 2, 256 // 8 + 128 // 8 + 2 * 2 + 20)
    error = [np.abs(x - exact).mean() for x in (plain, sharp)]
    # a third of the variance is gone from the bits: errors of sqrt(2 / 3)
    assert error[1] < 0.9 * error[0] and np.corrcoef(sharp[:, 0], exact[:, 0])[0, 1] > 0.95


def test_rows_and_means(made: Readings, monkeypatch):
    def some(pool, signatures, sources):
        yield "components, 16 B", 0, lambda: pool.components(signatures, 16)
        yield "neuron bits", 0, lambda: pool.neuron_bits(signatures)
        yield "neurons", 1, lambda: pool.neurons(signatures, 20)

    monkeypatch.setattr(fidelity, "codecs", some)
    rows = list(measured(made, 0, np.full(700, "a")))
    averages = means(rows)
    assert {row["reading"] for row in averages} == {"mean", "drift"} and {row["rows"] for row in rows} == {700}
    assert len(rows) == 2 * len(averages)
    first = [row for row in rows if (row["reading"], row["codec"]) == (averages[0]["reading"], averages[0]["codec"])]
    assert averages[0]["spearman"] == pytest.approx(np.mean([row["spearman"] for row in first]))
    assert averages[0]["worst spearman"] == min(row["spearman"] for row in first)


def test_capture_is_the_naive_one_and_is_kept(tmp_path: Path, tiny_model: str, target_file: Path, monkeypatch):
    rows = make_rows(12)
    pool = write_jsonl(tmp_path / "pool.jsonl", rows)
    readings = captured(tiny_model, pool, {"sums": target_file}, 512, tmp_path)
    naive = naive_readings(tiny_model, rows)
    for reading in ("mean", "drift"):
        expected = naive[reading].reshape(12, -1)
        np.testing.assert_allclose(readings.pool[reading], expected, atol=1e-5 * np.abs(expected).max())
    target = naive_readings(tiny_model, [json.loads(line) for line in target_file.read_text().splitlines()])["drift"]
    np.testing.assert_allclose(
        readings.targets["sums"], target.reshape(len(target), -1), atol=1e-5 * np.abs(target).max()
    )
    monkeypatch.setattr("benchmarks.readings.open_session", None)  # a second call loads no model
    again = captured(tiny_model, pool, {"sums": target_file}, 512, tmp_path)
    np.testing.assert_array_equal(again.pool["mean"], readings.pool["mean"])


def test_components_follow_the_exact_scores_and_miss_what_they_have_not_seen(made: Readings):
    """A source whose strength lies along a direction of its own, which a calibration without it cannot know."""
    signatures = signatures_of(made, "drift")[:1]
    values = made.pool["drift"].copy()
    of_target = np.arange(700) < 100
    values[of_target] += 40 * np.random.default_rng(5).standard_normal((100, 1)) * signatures[0].tensors["direction"]
    pool = Calibrated(values, made.layout, "drift", seed=0)
    exact = exact_scores(values, signatures)[:, 0]
    size, seen = pool.components(signatures, 40)
    assert size == 40 and np.corrcoef(seen[:, 0], exact)[0, 1] > 0.98
    sources = np.where(of_target, signatures[0].name, "other")
    blind = unseen(pool, signatures, sources, lambda some, of: some.components(of, 40))[1][:, 0]
    error = [np.abs(x - exact)[of_target].mean() for x in (seen[:, 0], blind)]
    assert error[1] > 1.2 * error[0]
