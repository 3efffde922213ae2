"""Fixtures of the ops' tests."""

import pytest


@pytest.fixture(scope="module")
def triton_backend():
    """The launchers run Triton's kernels: for a whole module, as Hypothesis wants it."""
    pytest.importorskip("triton")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NAIT_FAST_BACKEND", "triton")
        yield
