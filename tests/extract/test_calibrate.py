"""Statistics of the calibration sample, a block of neurons at a time: NumPy's own of all of them, bit for bit."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from nait_fast.codecs import codec_of
from nait_fast.codecs.layout import CodeLayout
from nait_fast.extract import calibrate
from nait_fast.extract.calibrate import make_codebook, mean_of, statistics_of
from nait_fast.extract.sinks import HOST, Collect


def sample(n: int, neurons: int, dtype: type, seed: int = 0) -> torch.Tensor:
    """Readings as models have them: most small, some neurons far larger."""
    generator = np.random.default_rng(seed)
    values = generator.standard_normal((n, neurons)) * 10 ** generator.uniform(-3, 3, neurons) + generator.uniform(
        -2, 2
    )
    return torch.from_numpy(values.astype(dtype))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("neurons", [1, 2, 63, 64, 65, 127, 129, 300])
@pytest.mark.parametrize("all_finite", [True, False])
def test_blocks_change_no_bit(monkeypatch, dtype: type, neurons: int, all_finite: bool) -> None:
    monkeypatch.setattr(calibrate, "BLOCK_NEURONS", 64)
    values = sample(203, neurons, dtype, neurons)
    rows = np.arange(203) if all_finite else np.flatnonzero(np.arange(203) % 7)
    whole = values.numpy()[rows]
    mean = whole.mean(axis=0, dtype=np.float64).astype(np.float32)
    expected = (
        mean,
        (whole > mean).mean(axis=0).astype(np.float32),
        whole.std(axis=0, dtype=np.float64).astype(np.float32),
    )
    for got, wanted in zip(statistics_of(values, rows), expected, strict=True):
        assert got.dtype == np.float32 and got.tobytes() == wanted.tobytes()
    assert mean_of(values, rows).tobytes() == mean.tobytes()


def test_a_device_has_the_same_but_for_rounding(monkeypatch) -> None:
    """What runs there, run here."""
    values, rows = sample(203, 300, np.float32), np.flatnonzero(np.arange(203) % 7)
    expected = [*statistics_of(values, rows), mean_of(values.double(), rows)]
    monkeypatch.setattr(calibrate, "HOST", torch.device("meta"))
    monkeypatch.setattr(calibrate, "DEVICE_BLOCK_NEURONS", 64)
    got = [*statistics_of(values, rows), mean_of(values.double(), rows)]
    for ours, wanted in zip(got, expected, strict=True):
        assert ours.dtype == np.float32
        np.testing.assert_allclose(ours, wanted, rtol=1e-6)


def test_where_a_sample_is_kept(monkeypatch) -> None:
    layout, cuda = CodeLayout.of([64, 64]), torch.device("cuda:1")
    size, held = 10 * 128 * (4 + 8), 1000
    memory = SimpleNamespace(total_memory=held + 4 * size)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: memory)

    def body(device: torch.device) -> Any:
        tensor = SimpleNamespace(device=device, nbytes=held // 2)
        return SimpleNamespace(parameters=lambda: iter([tensor]), buffers=lambda: iter([tensor]))

    assert calibrate.device_for(10, layout, ["mean", "drift", "hidden", "rds", "nll"], body(cuda)) == cuda
    memory.total_memory -= 4
    assert calibrate.device_for(10, layout, ["mean", "drift"], body(cuda)) == HOST
    assert calibrate.device_for(10, layout, ["mean"], body(HOST)) == HOST


@pytest.mark.parametrize("codec", ["neuron", "components"])
def test_samples_that_are_not_finite_do_not_count(codec: str) -> None:
    layout = CodeLayout.of([64, 64])
    names, values = ["drift", "mean"], {"drift": sample(12, 128, np.float64, 1), "mean": sample(12, 128, np.float32)}
    given = {
        "reading": "mean",
        "meta": {"widths": [64, 64]},
        "codec": codec_of(codec),
        "entries": {"components": [3, 4]},
    }

    def collected(order: list[int]) -> Collect:
        """Batches of samples in this order; the first two samples are not finite."""
        collect = Collect(12, layout, names)
        for items in (order[:5], order[5:]):
            for ordinal in range(2):
                collect.layer(items, ordinal, {k: v[items, layout.neurons(ordinal)] for k, v in values.items()}, None)
            collect.finish(items, torch.tensor([i >= 2 for i in items]))
        collect.flush()
        return collect

    made = make_codebook(collected([*range(12)]), **given)
    assert make_codebook(collected([7, 3, 0, 11, 5, 1, 2, 4, 6, 8, 9, 10]), **given).to_bytes() == made.to_bytes()
    assert made.meta["samples"] == 10 and (made.part is not None) == (codec == "components")
    for name, array in (("mean", made.threshold), ("drift", made.drift_mean)):
        wanted = values[name].numpy()[2:].mean(axis=0, dtype=np.float64).astype(np.float32)
        assert array is not None and array.tobytes() == wanted.tobytes()
