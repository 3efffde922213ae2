"""NAIT's directions against a singular value decomposition, their signs and their statistics."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nait_fast.methods.nait import nait_signature, principal_direction
from tests import naive

META = {"model": "m", "template": "t", "first_token": "exclude", "layers": [0, 1, 2], "widths": [40, 33, 7]}
SLICES = (slice(0, 40), slice(40, 73), slice(73, 80))


def drifts(n: int, seed: int = 0, width: int = 80) -> np.ndarray:
    """Samples around a mean, with one strong direction a layer, so that the first component is well defined."""
    rng = np.random.default_rng(seed)
    noise = rng.normal(size=(n, width)) + rng.normal(size=width)
    return (noise + 5 * rng.normal(size=(n, 1)) * rng.normal(size=width)).astype(np.float32)


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 30), st.integers(1, 60), st.integers(0, 10**6))
def test_equals_the_svd(n: int, width: int, seed: int) -> None:
    x = drifts(n, seed, width)
    direction, share = principal_direction(x)
    _, s, vt = np.linalg.svd(x.astype(np.float64) - x.astype(np.float64).mean(axis=0), full_matrices=False)
    assert np.linalg.norm(direction) == pytest.approx(1, abs=1e-9)
    assert share == pytest.approx(s[0] ** 2 / (s**2).sum(), rel=1e-6)
    if n == 2 or width == 1 or s[0] > 1.05 * s[1]:  # else the component is not well defined
        assert abs(direction @ vt[0]) == pytest.approx(1, abs=1e-8)


def test_two_samples_give_their_difference() -> None:
    x = drifts(2)
    direction, share = principal_direction(x)
    difference = x[1].astype(np.float64) - x[0]
    assert abs(direction @ difference) == pytest.approx(np.linalg.norm(difference), rel=1e-9)
    assert share == pytest.approx(1)


def test_a_huge_mean_does_not_matter() -> None:
    x = drifts(10)
    direction, _ = principal_direction(x)
    moved, _ = principal_direction(x.astype(np.float64) + 1e5)
    assert abs(direction @ moved) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("sign", ["mean", "contrast"])
@pytest.mark.parametrize("n", [2, 3, 20])
def test_signatures_equal_the_naive_method(sign: str, n: int) -> None:
    x, pool = drifts(n, seed=n), drifts(1, seed=99)[0] * 3
    signature = nait_signature("a", x, META, sign=sign, pool_drift=pool if sign == "contrast" else None)
    direction = signature.tensors["direction"]
    assert direction.dtype == np.float32
    mean = x.astype(np.float64).mean(axis=0)
    orient = mean - pool if sign == "contrast" else mean
    for ordinal, s in enumerate(SLICES):
        expected = naive.principal_direction(x[:, s], orient[s])
        np.testing.assert_allclose(direction[s], expected, atol=2e-7)
        assert orient[s] @ direction[s] >= -1e-6
        projection = (x[:, s] - (pool[s] if sign == "contrast" else 0)).astype(np.float64) @ direction[s]
        margin = abs(projection.mean()) / (projection.std(ddof=1) / np.sqrt(n))
        assert signature.meta["sign_margin"][ordinal] == pytest.approx(margin, rel=1e-3, abs=1e-3)
        _, explained = principal_direction(x[:, s])
        assert signature.meta["explained"][ordinal] == pytest.approx(explained, abs=1e-6)
    assert (signature.meta["sign"], signature.meta["samples"], signature.meta["reading"]) == (sign, n, "drift")


def test_the_sign_rules_can_disagree() -> None:
    x = drifts(20)
    far = x.astype(np.float64).mean(axis=0) * 10  # the pool drifts further the same way: the target is below it
    by_mean = nait_signature("a", x, META).tensors["direction"]
    by_contrast = nait_signature("a", x, META, sign="contrast", pool_drift=far).tensors["direction"]
    assert (by_contrast == -by_mean).all()


def test_a_layer_in_which_all_samples_are_alike() -> None:
    for value in (0.0, 0.1, 3e7):
        x = drifts(9)
        x[:, SLICES[1]] = value
        signature = nait_signature("a", x, META, sign="contrast", pool_drift=np.ones(80, dtype=np.float32))
        assert not signature.tensors["direction"][SLICES[1]].any()
        assert (signature.meta["explained"][1], signature.meta["sign_margin"][1]) == (0.0, 0.0)
        assert np.linalg.norm(signature.tensors["direction"][SLICES[0]]) == pytest.approx(1, abs=1e-6)


def test_the_margin_tells_a_sure_sign_from_chance() -> None:
    rng = np.random.default_rng(0)
    axis = rng.normal(size=80)
    sure = (axis * 4 + rng.normal(size=(40, 1)) * axis).astype(np.float32)
    chance = rng.normal(size=(40, 1)) * axis
    chance = (chance - chance.mean(axis=0)).astype(np.float32)
    assert min(nait_signature("a", sure, META).meta["sign_margin"]) > 10
    assert max(nait_signature("a", chance, META).meta["sign_margin"]) < 0.1
