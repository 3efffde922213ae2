"""Where the kernels of these tests run."""

import subprocess
import sys

import pytest

from nait_fast.kernels.common.dispatch import has_triton, interpreted
from tests.ops.device import DEVICE


@pytest.mark.skipif(not has_triton(), reason="no Triton")
def test_kernels_run_on_the_gpu_or_in_the_interpreter():
    from triton.runtime.interpreter import InterpretedFunction

    from nait_fast.kernels.capture.kernel import capture_kernel

    assert interpreted() == (DEVICE == "cpu") == isinstance(capture_kernel, InterpretedFunction)


def test_nothing_imports_triton_before_a_test_does():
    """Triton reads TRITON_INTERPRET as it is imported: conftest.py must come first."""
    program = "import sys, torch, transformers; torch.cuda.is_available(); assert 'triton' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True)
