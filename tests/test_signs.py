"""benchmarks/signs: the two sign rules of nait on made activations."""

import numpy as np
import pytest

from benchmarks.readings import Readings
from benchmarks.signs import lines, measured
from nait_fast.codecs.layout import CodeLayout


def test_rules_that_agree_and_rules_that_do_not():
    """Two layers. Pool and target drift along one axis; in the second layer the target drifts less far than the pool,
    so that the paper's rule looks for the pool's samples there, and contrast for the target's."""
    rng = np.random.default_rng(0)
    of_target = np.arange(600) < 60

    def drifts(mean: np.ndarray) -> np.ndarray:
        out = 0.1 * rng.standard_normal((len(mean), 40))
        out[:, 3] += mean[:, 0] + rng.standard_normal(len(mean))
        out[:, 25] += mean[:, 1] + rng.standard_normal(len(mean))
        return out.astype(np.float32)

    pool = drifts(np.where(of_target[:, None], [1.0, 1.0], [0.0, 9.0]))
    readings = Readings(
        CodeLayout.of([20, 20]),
        {"mean": pool, "drift": pool},
        {"mine": drifts(np.tile([1.0, 1.0], (50, 1)))},
        rng.integers(5, 50, 600),
    )
    rows = list(measured(readings, np.where(of_target, "mine", "other"), 0))
    by_rule = {(row["reading"], row["sign"]): row for row in rows}
    assert len(by_rule) == 4 and {row["rows"] for row in rows} == {600}
    assert by_rule["drift", "mean"]["r_precision"] == 0 and by_rule["drift", "contrast"]["r_precision"] > 0.9
    assert by_rule["drift", "mean"]["turned"] == 0 and by_rule["drift", "contrast"]["turned"] == pytest.approx(0.5)
    page = lines([{**row, "model": "made"} for row in rows])
    assert "| drift | contrast | " in page and "(50%)" in page
