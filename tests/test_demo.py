"""The demonstration from the command line, with the real model."""

import json
import subprocess
import sys

import pytest

from nait_fast.verbs.demo import find_model
from nait_fast.verbs.inspection import inspect

pytestmark = [pytest.mark.model, pytest.mark.slow]


def test_demo(smollm2_shallow, tmp_path):
    command = [sys.executable, "-m", "nait_fast", "demo", "--json", "--model", smollm2_shallow]
    command += ["--output", str(tmp_path / "demo")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.strip().splitlines()[-1])
    assert result["precision"]["arithmetic"]["contrast"] >= 0.9
    assert result["precision"]["code"]["contrast"] >= 0.6
    assert result["precision"]["arithmetic"]["nait"] >= 0.4  # 0.14 by chance
    for method in ("contrast", "nait"):
        assert inspect(str(tmp_path / "demo" / method))["rows_selected"] == 42
        selected = (tmp_path / "demo" / method / "selected.jsonl").read_text().splitlines()
        assert len(selected) == 42
        assert {json.loads(line)["source"] for line in selected} <= {
            "arithmetic",
            "code",
            "facts",
            "chat",
            "writing",
            "translation",
            "summarising",
        }


def test_its_own_model(smollm2):
    assert find_model() == smollm2
