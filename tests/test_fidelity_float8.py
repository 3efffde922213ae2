"""The measurement of precisions: outlier channels compute the same, and its rows count what they say."""

import numpy as np
import torch

from benchmarks import fidelity_float8
from nait_fast.models.load import load_model


def test_outlier_channels_are_the_same_function(tiny_model, tmp_path, monkeypatch):
    monkeypatch.setattr(fidelity_float8, "CHANNELS", {3: 64, 7: 1024})
    plain, loaded = (
        load_model(tiny_model),
        load_model(fidelity_float8.with_outliers(tiny_model, tmp_path / "m"), tokenizer=tiny_model),
    )
    ids = torch.arange(3, 23)[None]
    with torch.no_grad():
        expected, got = (each.body(input_ids=ids).last_hidden_state for each in (plain, loaded))
    assert torch.allclose(got, expected, rtol=1e-4, atol=1e-5)
    assert loaded.fingerprint != plain.fingerprint


def test_rows_of_a_precision(monkeypatch):
    monkeypatch.setattr(fidelity_float8, "CALIBRATION", 8)
    rng = np.random.default_rng(0)
    exact = {"pool": rng.normal(size=(20, 30)), "a": rng.normal(size=(4, 30))}
    exact = {name: values.astype(np.float32) for name, values in exact.items()}
    sources = np.array(["a"] * 5 + ["b"] * 15)
    of = {"float32": exact, "float8": {name: -values for name, values in exact.items()}}
    same, turned = fidelity_float8.measured(of, sources, 0)
    assert (same["bits"], same["spearman"], same["top10"]) == (0.0, 1.0, 1.0) and same["rows"] == 20
    assert turned["bits"] == 1.0  # every bit the other way, and with it every weight: the same order
    assert turned["spearman"] > 0.999 and turned["r_precision"] == same["r_precision"]
    about = {"model": "m", "max_length": 64}
    assert "| float8 | 100.00% |" in fidelity_float8.lines([about | same, about | turned])
