"""The demonstration from the command line, with the real model."""

import json
import subprocess
import sys

import pytest

from nait_fast.verbs.demo import find_model
from nait_fast.verbs.inspection import inspect

pytestmark = [pytest.mark.model, pytest.mark.slow]


LAYERS = 16  # of 30, which take half of the time


def test_demo(smollm2_folder, tmp_path):
    from transformers import AutoModel, AutoTokenizer

    model = tmp_path / "model"
    AutoModel.from_pretrained(smollm2_folder, num_hidden_layers=LAYERS).save_pretrained(model)
    AutoTokenizer.from_pretrained(smollm2_folder).save_pretrained(model)
    command = [sys.executable, "-m", "nait_fast", "demo", "--json", "--model", str(model)]
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
