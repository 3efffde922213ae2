"""The programs of examples/, as a user runs them, on the first layers of the real model."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


# One after another in a process of their own, each as `python PROGRAM WORK MODEL` runs it: torch is imported once.
PROGRAMS = """
import runpy, sys
from pathlib import Path
folder, work, model, *names = sys.argv[1:]
sys.path[0] = folder
for name in names:
    print(f"== {name}")
    sys.argv = [name, str(Path(work) / name), model]
    runpy.run_path(str(Path(folder) / name), run_name="__main__")
"""


def run(names: list[str], work: Path, model: str) -> list[str]:
    """What each program of EXAMPLES prints."""
    path = os.pathsep.join([str(EXAMPLES.parent), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-c", PROGRAMS, str(EXAMPLES), str(work), model, *names]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env={**os.environ, "PYTHONPATH": path})
    assert done.returncode == 0, done.stderr[-2000:]
    return [part.partition("\n")[2] for part in done.stdout.split("== ")[1:]]


@pytest.mark.model
@pytest.mark.slow
def test_the_three_stories(tmp_path: Path, smollm2_shallow: str) -> None:
    names = ["select_for_sft.py", "score_a_stream.py", "compare_capabilities.py"]
    sft, stream, compare = run(names, tmp_path, smollm2_shallow)
    assert "4 of 36 rows" in sft and "{'arithmetic': 4}" in sft and '{"messages": [{"role": "user"' in sft
    assert "of 13, code among them: " in stream and "refused: ['sample 12: empty response']" in stream
    assert "arithmetic: best score" in compare and "in both top tenths: 0 of 3" in compare
