"""ScaledScan: its backends against plain Python numbers, and its checks."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nait_fast.kernels import ScaledScan
from nait_fast.kernels.popcount import cpu, reference
from tests.ops.device import DEVICE


def problem(n, words, n_planes, n_scores, seed):
    """``words``: 64-bit words of each layer."""
    rng = np.random.default_rng(seed)
    ends = np.concatenate([[0], np.cumsum(words)]) * 8
    codes, planes = (rng.integers(0, 256, (rows, ends[-1] + 8), dtype=np.uint8) for rows in (n, n_planes))
    weights = rng.standard_normal((n_planes, len(words)))
    owners = rng.integers(0, n_scores, n_planes)
    return codes, planes, weights, owners, n_scores, rng.uniform(0, 2, (n, len(words))).astype(np.float16), ends


def by_hand(codes, planes, weights, owners, n_scores, scales, ends):
    out = [[0.0] * n_scores for _ in codes]
    for i, row in enumerate(codes):
        for q, plane in enumerate(planes):
            for layer in range(len(ends) - 1):
                count = sum(
                    int(a & b).bit_count()
                    for a, b in zip(
                        row[ends[layer] : ends[layer + 1]], plane[ends[layer] : ends[layer + 1]], strict=True
                    )
                )
                out[i][owners[q]] += float(scales[i, layer]) * float(weights[q, layer]) * count
    return np.array(out).reshape(len(codes), n_scores)


@settings(deadline=None, max_examples=40)
@given(
    st.integers(0, 5),
    st.lists(st.integers(1, 3), min_size=1, max_size=4),
    st.integers(0, 9),
    st.integers(1, 3),
    st.integers(0, 2**32 - 1),
)
def test_backends_and_python_agree(n, words, n_planes, n_scores, seed):
    args = problem(n, words, n_planes, n_scores, seed)
    expected = by_hand(*args)
    for backend in (reference, cpu):
        scores = backend.scaled_scan(*args)
        assert scores.dtype == np.float64 and scores.shape == (n, n_scores)
        np.testing.assert_allclose(scores, expected, rtol=1e-12, atol=1e-9)


@pytest.mark.parametrize("backend", ["reference", "cpu", "triton"])
@pytest.mark.parametrize("words", [[2, 2, 2], [1, 3]])
def test_the_scan(backend, words, monkeypatch):
    """Triton, in its interpreter here, takes layers of one width; the others fall to the CPU."""
    if backend == "triton":
        pytest.importorskip("triton")
    codes, planes, weights, owners, n_scores, scales, ends = problem(33, words, 8, 3, 1)
    monkeypatch.setenv("NAIT_FAST_BACKEND", backend)
    scan = ScaledScan(planes, weights, owners, n_scores, ends, DEVICE if backend == "triton" else "cpu")
    assert scan.on_device == (backend == "triton" and len(set(words)) == 1)
    expected = by_hand(codes, planes, weights, owners, n_scores, scales, ends)
    tolerance = 1e-5 if scan.on_device else 1e-12
    np.testing.assert_allclose(scan(codes, scales), expected, rtol=tolerance, atol=tolerance * np.abs(expected).max())
    assert scan(codes[:0], scales[:0]).shape == (0, n_scores)


def test_what_does_not_fit_is_refused():
    codes, planes, weights, owners, n_scores, scales, ends = problem(2, [1, 2], 4, 2, 0)
    for changed in (
        {"weights": weights[:, :1]},
        {"ends": ends[:-1]},
        {"ends": ends + 8},
        {"ends": np.array([0, 4, 24])},
        {"ends": np.array([0, 0, 24])},
        {"owners": owners + 2},
        {"planes": planes[:, :9]},
    ):
        given = {"planes": planes, "weights": weights, "owners": owners, "n_scores": n_scores, "ends": ends} | changed
        with pytest.raises(ValueError):
            ScaledScan(**given)
    scan = ScaledScan(planes, weights, owners, n_scores, ends)
    for wrong in ((codes[:, :8], scales), (codes, scales[:1]), (codes.astype(int), scales)):
        with pytest.raises(ValueError, match="must be"):
            scan(*wrong)
