"""The programs of examples/, as a user runs them, on the first layers of the real model."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


def run(name: str, work: Path, model: str) -> str:
    path = os.pathsep.join([str(EXAMPLES.parent), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, str(EXAMPLES / name), str(work), model]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env={**os.environ, "PYTHONPATH": path})
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.model
@pytest.mark.slow
def test_the_three_stories(tmp_path: Path, smollm2_shallow: str) -> None:
    said = run("select_for_sft.py", tmp_path / "sft", smollm2_shallow)
    assert "4 of 36 rows" in said and "{'arithmetic': 4}" in said and '{"messages": [{"role": "user"' in said
    said = run("score_a_stream.py", tmp_path / "stream", smollm2_shallow)
    assert "of 13, code among them: " in said and "refused: ['sample 12: empty response']" in said
    said = run("compare_capabilities.py", tmp_path / "compare", smollm2_shallow)
    assert "arithmetic: best score" in said and "in both top tenths: 0 of 3" in said
