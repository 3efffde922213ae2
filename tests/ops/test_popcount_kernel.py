"""The popcount scan's Triton kernels against the reference: on a GPU, or in Triton's interpreter."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nait_fast.kernels import PopcountScan
from nait_fast.kernels.popcount import device, launch, reference
from nait_fast.kernels.popcount.device import DeviceScan, columns_of, scaled_scores, stream
from tests.ops.device import DEVICE, poisoned
from tests.ops.scans import problem

pytestmark = pytest.mark.usefixtures("triton_backend")

METHODS = ("count", "dot")


def check(codes, planes, weights, owners, n_scores, methods=METHODS) -> None:
    expected = reference.popcount_scan(codes, planes, weights, owners, n_scores)
    for method in methods:
        scan = DeviceScan(planes, weights, owners, n_scores, torch.device(DEVICE), method)
        scores = scan(torch.from_numpy(codes).to(DEVICE))
        assert scores.dtype == torch.int64 and np.array_equal(scores.cpu().numpy(), expected)


@pytest.mark.parametrize("n_planes", [1, 2, 3, 5, 9, 17])
@pytest.mark.parametrize("n, width", [(0, 8), (1, 8), (33, 24), (17, 40), (129, 64)])
def test_both_methods_give_the_references_integers(n, width, n_planes):
    check(*problem(n, width, n_planes, seed=n))


@pytest.mark.parametrize("n_planes", [1, 5])
def test_rows_as_wide_as_a_real_models(n_planes):
    check(*problem(5, 5760, n_planes))


@pytest.mark.parametrize("n_scores", [20, 70])
def test_more_columns_than_one_product_takes(n_scores):
    args = problem(3, 16, n_scores, n_scores=n_scores)
    args = (*args[:3], np.arange(n_scores), n_scores)
    columns, _ = columns_of(*args[1:])
    assert columns.shape[1] > (device.DOT_COLUMNS[1] if n_scores == 70 else 32)
    check(*args, methods=("dot",))


@pytest.mark.parametrize("method", METHODS)
def test_planes_and_codes_of_all_ones_and_of_none(method):
    ones, none = np.full((1, 24), 255, dtype=np.uint8), np.zeros((1, 24), dtype=np.uint8)
    codes = np.concatenate([ones, none])
    planes = codes[[0, 0, 1]]
    scan = DeviceScan(planes, np.array([5, -7, 100]), np.array([0, 1, 1]), 4, torch.device(DEVICE), method)
    assert scan(torch.from_numpy(codes).to(DEVICE)).tolist() == [[960, -1344, 0, 0], [0] * 4]
    check(codes, none, np.array([3]), np.array([0]), 1, [method])  # no column
    check(codes, ones[:0], np.array([], dtype=np.int64), np.array([], dtype=np.int64), 2, [method])  # no plane
    check(codes, ones, np.array([0]), np.array([0]), 1, [method])  # no weight


@settings(deadline=None, max_examples=25)
@given(
    st.integers(0, 40),
    st.integers(1, 9),
    st.integers(1, 17),
    st.integers(1, 5),
    st.sampled_from([1, 8, 1 << 35]),
    st.integers(0, 2**32 - 1),
)
def test_any_problem(n, words, n_planes, n_scores, largest, seed):
    check(*problem(n, 8 * words, n_planes, seed, n_scores, largest))


@settings(deadline=None)
@given(
    st.lists(st.one_of(st.integers(-300, 300), st.integers(-(2**40), 2**40)), max_size=6),
    st.integers(1, 3),
    st.integers(1, 4),
    st.integers(0, 2**32 - 1),
)
def test_columns_times_factors_are_the_weighted_planes(weights, words, n_scores, seed):
    rng = np.random.default_rng(seed)
    weights = np.array(weights, dtype=np.int64)
    planes = rng.integers(0, 256, (len(weights), 8 * words), dtype=np.uint8)
    owners = rng.integers(0, n_scores, len(weights))
    columns, factors = columns_of(planes, weights, owners, n_scores)
    assert columns.dtype == np.int8 and columns.flags.c_contiguous
    assert columns.shape == (8, len(factors), 8 * words) and factors.shape[1] == n_scores
    assert np.array_equal(factors, factors.astype(np.int64))
    neurons = columns.transpose(1, 2, 0).reshape(len(factors), 64 * words).astype(np.int64)  # neuron 8 · byte + bit
    bits = np.unpackbits(planes, axis=1, bitorder="little").astype(np.int64)
    for score in range(n_scores):
        value = weights[owners == score] @ bits[owners == score]
        assert np.array_equal(factors[:, score].astype(np.int64) @ neurons, value)
        used = np.count_nonzero(factors[:, score])
        assert used == 0 if not value.any() else used >= 1
        assert used == 1 or not -128 <= value.min() <= value.max() <= 127 or not value.any()


@pytest.mark.parametrize("n", [0, 1, 7, 20])
@pytest.mark.parametrize("method", [*METHODS, "auto"])
def test_a_stream_of_small_tiles_gives_the_same(method, n):
    codes, *rest = problem(n, 24, 3, seed=n)
    codes.flags.writeable = False  # as a mapped file is
    scan = DeviceScan(*rest, torch.device(DEVICE), method)
    expected = reference.popcount_scan(codes, *rest)
    for tile_bytes in (1, 24, 24 * 3 + 1, 24 * 7, 1 << 20):  # 1, 1, 3, 7 rows a tile, and all of them
        scores = stream(codes, scan, tile_bytes)
        assert scores.dtype == np.int64 and np.array_equal(scores, expected)


def test_the_launcher_scans_on_its_device(monkeypatch):
    codes, *rest = problem(33, 40, 9)
    expected = reference.popcount_scan(codes, *rest)
    for module in (launch.reference, launch.cpu):
        monkeypatch.setattr(module, "popcount_scan", None)
    scan = PopcountScan(*rest, device=DEVICE)
    for _ in range(2):
        assert np.array_equal(scan(codes), expected)
    assert scan(codes[:0]).shape == (0, 3)
    sparse = np.zeros((66, 80), dtype=np.uint8)
    sparse[::2, ::2] = codes
    assert np.array_equal(scan(sparse[::2, ::2]), expected)


def test_every_output_is_written():
    codes, *rest = problem(17, 24, 9)
    scan = DeviceScan(*rest, torch.device(DEVICE), "count")
    on_device = torch.from_numpy(codes).to(DEVICE)
    plain = scan.counts(on_device), scan.products(on_device)
    with poisoned():
        again = scan.counts(on_device), scan.products(on_device)
    assert all(torch.equal(a, b) for a, b in zip(plain, again, strict=True))
    assert np.array_equal(plain[0].cpu().numpy(), reference.popcount_scan(codes, *rest))


# ------------------------------------------------------------------------------------------------- scaled scores


def scaled_problem(n, n_layers, n_bytes, n_planes, dtype, seed=0):
    rng = np.random.default_rng(seed)
    codes, planes = (rng.integers(0, 256, (rows, n_layers * n_bytes), dtype=np.uint8) for rows in (n, n_planes))
    weights = rng.standard_normal((n_planes, n_layers)).astype(np.float32)
    return codes, planes, weights, rng.uniform(0.1, 2, (n, n_layers)).astype(dtype)


def in_fp32(codes, planes, weights, scales, n_bytes) -> np.ndarray:
    """The same formula in fp32, term after term."""
    n, n_layers = scales.shape
    counts = np.bitwise_count(codes[:, None] & planes).reshape(n, len(planes), n_layers, n_bytes).sum(-1)
    total = np.zeros(n, dtype=np.float32)
    for layer in range(n_layers):
        score = np.zeros(n, dtype=np.float32)
        for q in range(len(planes)):
            score += weights[q, layer] * counts[:, q, layer].astype(np.float32)
        total += scales[:, layer].astype(np.float32) * score
    return total


def one_score(codes, planes, weights, scales, n_bytes) -> np.ndarray:
    """The reference for a single score and layers of one width."""
    owners, ends = np.zeros(len(planes), np.int64), np.arange(scales.shape[1] + 1) * n_bytes
    return reference.scaled_scan(codes, planes, weights, owners, 1, scales, ends)[:, 0]


def on_device(*arrays) -> list[torch.Tensor]:
    return [torch.from_numpy(x).to(DEVICE) for x in arrays]


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize(
    "n, n_layers, n_bytes, n_planes", [(129, 5, 12, 1), (64, 3, 20, 3), (33, 2, 516, 9), (5, 1, 4, 17)]
)
def test_scaled_scores_are_as_good_as_fp32(n, n_layers, n_bytes, n_planes, dtype):
    problem = scaled_problem(n, n_layers, n_bytes, n_planes, dtype, seed=n)
    codes, planes, weights, scales = problem
    expected = one_score(*problem, n_bytes)
    assert expected.dtype == np.float64
    scores = scaled_scores(*on_device(*problem), n_bytes)
    assert scores.dtype == torch.float32 and scores.shape == (n,)
    magnitude = one_score(codes, planes, np.abs(weights), scales, n_bytes)
    error = np.abs(scores.cpu().numpy() - expected) / magnitude
    of_numpy = np.abs(in_fp32(*problem, n_bytes) - expected) / magnitude
    assert error.max() <= 2 * of_numpy.max()


@pytest.mark.parametrize("padding", [4, 12])
def test_scaled_scores_leave_a_rows_padding_out(padding):
    codes, planes, weights, scales = scaled_problem(9, 3, 20, 3, np.float32)
    expected = scaled_scores(*on_device(codes, planes, weights, scales), 20)
    codes, planes = (np.pad(x, ((0, 0), (0, padding)), constant_values=255) for x in (codes, planes))
    np.testing.assert_array_equal(
        one_score(codes, planes, weights, scales, 20),
        one_score(codes[:, :-padding], planes[:, :-padding], weights, scales, 20),
    )
    assert torch.equal(scaled_scores(*on_device(codes, planes, weights, scales), 20), expected)


def test_scaled_scan_by_hand():
    codes = np.array([[0b1011, 0, 0, 0, 0b1, 0, 0, 255]], dtype=np.uint8)
    planes = np.array([[0b0011, 0, 0, 0, 255, 0, 0, 3], [255, 0, 0, 0, 0, 0, 0, 255]], dtype=np.uint8)
    weights = np.array([[1.0, 10.0], [-2.0, 0.5]], dtype=np.float32)  # counts: [2, 3], [3, 8]
    scales = np.array([[0.5, 2.0]], dtype=np.float32)
    assert one_score(codes, planes, weights, scales, 4).tolist() == [0.5 * (2 - 6) + 2 * (30 + 4)]
    assert scaled_scores(*on_device(codes, planes, weights, scales), 4).tolist() == [66.0]


def test_scaled_scores_of_nothing():
    codes, planes, weights, scales = scaled_problem(3, 2, 8, 2, np.float32)
    assert scaled_scores(*on_device(codes[:0], planes, weights, scales[:0]), 8).shape == (0,)
    assert scaled_scores(*on_device(codes, planes[:0], weights[:0], scales), 8).tolist() == [0.0] * 3


def test_scaled_scores_refuse_what_does_not_fit():
    codes, planes, weights, scales = scaled_problem(3, 2, 8, 2, np.float32)
    for wrong in (
        (codes[:, :8], planes[:, :8], weights, scales),
        (codes, planes, weights[:1], scales),
        (codes, planes, weights, scales[:2]),
        (codes[:, :6], planes[:, :6], weights, scales),
    ):
        with pytest.raises(ValueError, match="do not fit"):
            scaled_scores(*on_device(*[np.ascontiguousarray(x) for x in wrong]), 8)
