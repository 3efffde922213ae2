"""The popcount scan: both backends against plain Python integers, and the checks and choices of its launcher."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nait_fast.kernels import popcount_scan
from nait_fast.kernels.popcount import cpu, launch, reference
from tests.ops.scans import problem

BACKENDS = ("reference", "cpu")


def by_hand(codes, planes, weights, owners, n_scores):
    """Scores of arbitrary-precision integers: one per row and score, as lists."""
    wide = [int.from_bytes(row.tobytes(), "little") for row in codes]
    plane = [int.from_bytes(row.tobytes(), "little") for row in planes]
    out = [[0] * n_scores for _ in wide]
    for i, row in enumerate(wide):
        for p, weight, owner in zip(plane, weights, owners, strict=True):
            out[i][owner] += int(weight) * (row & p).bit_count()
    return out


@pytest.mark.parametrize("width", [8, 16, 24, 5760])
@pytest.mark.parametrize("n", [0, 1, 31, 33, 1000])
@pytest.mark.parametrize("n_planes", [0, 1, 4, 17])
def test_backends_and_python_agree(n, width, n_planes, monkeypatch):
    args = problem(n, width, n_planes, seed=n + width + n_planes)
    scores = {}
    for backend in BACKENDS:
        monkeypatch.setenv("NAIT_FAST_BACKEND", backend)
        scores[backend] = popcount_scan(*args)
        assert scores[backend].dtype == np.int64 and scores[backend].shape == (n, 3)
    assert np.array_equal(scores["reference"], scores["cpu"])
    assert scores["cpu"].tolist() == by_hand(*args)


@settings(deadline=None, max_examples=60)
@given(
    st.integers(0, 40),
    st.integers(1, 9),
    st.integers(0, 17),
    st.integers(1, 5),
    st.sampled_from([1, 8, 1 << 40]),
    st.integers(0, 2**32 - 1),
)
def test_any_problem(n, words, n_planes, n_scores, largest, seed):
    args = problem(n, 8 * words, n_planes, seed, n_scores, largest)
    expected = by_hand(*args)
    assert reference.popcount_scan(*args).tolist() == expected
    assert cpu.popcount_scan(*args).tolist() == expected


@pytest.mark.parametrize("backend", BACKENDS)
def test_full_and_empty_rows(backend, monkeypatch):
    monkeypatch.setenv("NAIT_FAST_BACKEND", backend)
    codes = np.stack([np.full(24, 255, np.uint8), np.zeros(24, np.uint8)])
    planes = codes[[0, 0, 1]]
    assert popcount_scan(codes, planes, [5, -7, 100], [0, 1, 1], 4).tolist() == [[960, -1344, 0, 0], [0] * 4]


@pytest.mark.parametrize("backend", BACKENDS)
def test_views_of_other_memory(backend, monkeypatch):
    monkeypatch.setenv("NAIT_FAST_BACKEND", backend)
    codes, planes, weights, owners, n_scores = problem(33, 24, 5, seed=1)
    expected = by_hand(codes, planes, weights, owners, n_scores)
    # Codes that start at an odd address and cannot be written to, as a memory-mapped file may hold them.
    shifted = np.frombuffer(b"x" + codes.tobytes(), dtype=np.uint8, offset=1).reshape(codes.shape)
    assert popcount_scan(shifted, planes, weights, owners, n_scores).tolist() == expected
    # Every second row and column, Fortran order, narrow integers.
    sparse = np.zeros((66, 48), dtype=np.uint8)
    sparse[::2, ::2] = codes
    again = popcount_scan(
        sparse[::2, ::2], np.asfortranarray(planes), weights.astype(np.int16), owners.astype(np.uint8), n_scores
    )
    assert again.tolist() == expected


def test_reference_does_not_depend_on_its_chunks(monkeypatch):
    args = problem(31, 24, 4, seed=2)
    whole = reference.popcount_scan(*args)
    for chunk in (1, 24, 25, 24 * 30):
        monkeypatch.setattr(reference, "CHUNK_BYTES", chunk)
        assert np.array_equal(reference.popcount_scan(*args), whole)


# ------------------------------------------------------------------------------------------ checks and choices

CODES, PLANES = np.zeros((4, 16), np.uint8), np.zeros((2, 16), np.uint8)


@pytest.mark.parametrize(
    "args, message",
    [
        ((CODES.astype(np.int8), PLANES, [1, 1], [0, 0], 1), "codes must be a uint8 matrix"),
        (
            (CODES, PLANES.view(np.uint16), [1, 1], [0, 0], 1),
            "planes must be a uint8 matrix with rows of a multiple of 8 bytes",
        ),
        ((CODES[0], PLANES, [1, 1], [0, 0], 1), "codes must be a uint8 matrix"),
        ((CODES, PLANES[None], [1], [0], 1), "planes must be a uint8 matrix with rows of a multiple of 8 bytes"),
        ((CODES, PLANES[:, :8], [1, 1], [0, 0], 1), "row bytes differ: codes have 16, planes 8"),
        ((CODES[:, :12], PLANES[:, :12], [1, 1], [0, 0], 1), "rows of a multiple of 8 bytes"),
        ((CODES, PLANES, [1], [0, 0], 1), "planes, weights and owners differ in length"),
        ((CODES, PLANES, [1, 1], [0], 1), "planes, weights and owners differ in length"),
        ((CODES, PLANES[:1], [1, 1], [0, 0], 1), "planes, weights and owners differ in length"),
        ((CODES, PLANES, [1, 1], [0, 1], 1), r"owners must lie in \[0, 1\)"),
        ((CODES, PLANES, [1, 1], [-1, 0], 2), r"owners must lie in \[0, 2\)"),
        ((CODES, PLANES, [1, 0.5], [0, 0], 1), "weights and owners must be integers"),
        ((CODES, PLANES, [1, 1], np.zeros(2), 1), "weights and owners must be integers"),
    ],
)
@pytest.mark.parametrize("backend", BACKENDS)
def test_what_does_not_fit_is_refused(args, message, backend, monkeypatch):
    monkeypatch.setenv("NAIT_FAST_BACKEND", backend)
    with pytest.raises(ValueError, match=message):
        popcount_scan(*args)


@pytest.mark.parametrize(
    "variable, small, expected",
    [
        (None, True, "reference"),
        (None, False, "cpu"),
        ("reference", True, "reference"),
        ("reference", False, "reference"),
        ("cpu", True, "cpu"),
        ("cpu", False, "cpu"),
    ],
)
def test_backend_choice(variable, small, expected, monkeypatch):
    if variable is None:
        monkeypatch.delenv("NAIT_FAST_BACKEND", raising=False)
    else:
        monkeypatch.setenv("NAIT_FAST_BACKEND", variable)
    size = CODES.size * len(PLANES)
    monkeypatch.setattr(launch, "SMALL_SCAN_BYTES", size + 1 if small else size)
    called = []
    for module in (reference, cpu):
        name = module.__name__.rpartition(".")[2]
        monkeypatch.setattr(module, "popcount_scan", lambda *args, name=name: called.append(name))
    launch.popcount_scan(CODES, PLANES, [1, 1], [0, 0], 1)
    assert called == [expected]


def test_omp_num_threads_holds_for_numba():
    """Numba's OpenMP pool is torch's as well: a worker told to use one thread must not come back with more."""
    program = (
        "import numpy as np; from nait_fast.kernels.popcount import cpu; x = np.zeros((2, 8), np.uint8);"
        "i = np.zeros(2, np.int64); cpu.popcount_scan(x, x, i, i, 1); import numba; print(numba.get_num_threads())"
    )
    environment = {k: v for k, v in os.environ.items() if k != "NUMBA_NUM_THREADS"} | {"OMP_NUM_THREADS": "1"}
    root = Path(__file__).parents[2]  # a source tree need not be installed
    command = [sys.executable, "-c", program]
    out = subprocess.run(command, env=environment, cwd=root, capture_output=True, text=True, check=True)
    assert out.stdout.split() == ["1"]


def test_the_size_of_the_whole_scan_decides_about_its_parts(monkeypatch):
    monkeypatch.delenv("NAIT_FAST_BACKEND", raising=False)
    whole = launch.SMALL_SCAN_BYTES // len(PLANES)
    for code_bytes, call, expected in ((0, 64, False), (0, whole, True), (whole - 1, 64, False), (whole, 0, True)):
        scan = launch.PopcountScan(PLANES, np.ones(2, np.int64), np.zeros(2, np.int64), 1, code_bytes=code_bytes)
        assert scan.compiles(call) == expected
