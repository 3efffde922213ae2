"""Readings from statistics."""

import torch

from nait_fast.extract.pooling import READINGS, combine, dtype_of
from nait_fast.extract.sinks import embedding_levels
from nait_fast.kernels.capture.types import Stats
from tests import naive

N, J = 12, 40


def stats(seed: int = 0, sink: float = 1.0) -> Stats:
    generator = torch.Generator().manual_seed(seed)
    first, last, total, up = (torch.randn(N, J, generator=generator) for _ in range(4))
    first[:] = first[:1]
    first[:, 3] *= sink
    return Stats(first, last, total, up.abs())


def test_readings_have_the_dtype_they_are_kept_in():
    readings = combine(stats(), torch.full((N,), 5), None, "exclude", READINGS)
    assert {name: x.dtype for name, x in readings.items()} == {name: dtype_of(name) for name in READINGS}


def test_drift_is_exact_beside_a_massive_first_token():
    # Rounded to fp32 the sink's neuron would carry noise of 1e7 · 2⁻²⁴, and the principal direction with it.
    s = stats(sink=1e7)
    drift = combine(s, torch.full((N,), 5), None, "exclude", ["drift"])["drift"]
    assert torch.equal(drift, s.last.double() - s.first.double())
    alone = combine(stats(), torch.full((N,), 5), None, "exclude", ["drift"])["drift"]
    one, other = (naive.principal_direction(x.numpy(), orient=alone.mean(0).numpy()) for x in (drift, alone))
    assert abs(one - other).max() < 1e-8


def test_a_row_that_is_the_mean_but_for_rounding_has_no_direction() -> None:
    mean = torch.linspace(-2, 2, 40)
    hidden = torch.stack([mean, torch.nextafter(mean, mean + 1), mean + 1e-4 * mean.flip(0)])
    levels = embedding_levels(hidden, mean)
    assert levels.abs().amax(dim=1).tolist() == [0, 0, 127]
