"""The tutorial's last step, as it stands on the page, with a tiny model and two steps."""

import json
import re
from pathlib import Path

import pytest

from tests.commands import ROOT
from tests.conftest import write_jsonl
from tests.integrations.conftest import Made


def test_the_tutorial_trains(made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trl = pytest.importorskip("trl")
    (program,) = re.findall(r"^```python\n(.*?)^```", (ROOT / "docs" / "tutorial.md").read_text(), re.S | re.M)
    turns = [
        [{"role": "user", "content": row["instruction"]}, {"role": "assistant", "content": row["output"]}]
        for row in made.rows[:4]
    ]
    (tmp_path / "chosen").mkdir()
    write_jsonl(tmp_path / "chosen" / "messages.jsonl", [{"messages": one} for one in turns])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    asked = trl.SFTConfig
    less = {"max_steps": 2, "use_cpu": True, "bf16": False, "per_device_train_batch_size": 2, "disable_tqdm": True}
    monkeypatch.setattr(trl, "SFTConfig", lambda **options: asked(**{**options, **less}))
    names = {"MODEL": made.model}
    exec(program, names)
    assert names["trainer"].state.global_step == 2 and len(names["trainer"].train_dataset) == 4
    assert json.loads((tmp_path / "trained" / "config.json").read_text())["model_type"] == "llama"
