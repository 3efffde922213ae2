"""docs/trainers.md: each of its files trains a tiny model for two steps on a selection, in the trainer itself."""

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

import nait_fast
from tests.conftest import make_rows, write_jsonl

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "trainers.md").read_text(encoding="utf-8")
LAYER = Path(sys.prefix)  # of make hosts; with a folder for each trainer that pins other releases
TRAINERS = {"llamafactory": ("llama_factory", "dataflex"), "axolotl": ("axolotl",)}


def lines_of(file: Path) -> list[dict]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory, tiny_model: str) -> Path:
    """A user's folder: the page's files, a pool, a target, a model, and the page's selection, of six rows."""
    folder = tmp_path_factory.mktemp("training")
    for name, text in re.findall(r"^```yaml\n# (\S+)\n(.*?)^```", PAGE, re.S | re.M):
        (folder / name).write_text(text, encoding="utf-8")
    (info,) = re.findall(r"^```json\n(.*?)^```", PAGE, re.S | re.M)
    (folder / "dataset_info.json").write_text(info, encoding="utf-8")
    pool = write_jsonl(folder / "pool.jsonl", make_rows(60))
    target = write_jsonl(folder / "target.jsonl", [r for r in make_rows(40, seed=1) if r["source"] == "sums"])
    (folder / "model").symlink_to(tiny_model)
    nait_fast.select(
        model=tiny_model,
        dataset=str(pool),
        target=[f"math={target}"],
        fraction=0.1,
        output=str(folder / "chosen"),
        export=["llama_factory", "messages"],
    )
    assert len(lines_of(folder / "chosen" / "selected.jsonl")) == 6
    return folder


@dataclass
class Trainings:
    """What runs beside the other tests, and its output."""

    processes: dict[str, subprocess.Popen]
    said: dict[str, str]

    def of(self, layer: str) -> str:
        """What the trainings of a layer said, once they are done."""
        if layer not in self.processes:
            pytest.skip(f"needs {layer} (make hosts)")
        if layer not in self.said:
            self.said[layer] = self.processes[layer].communicate(timeout=500)[0]
        assert self.processes[layer].returncode == 0, self.said[layer][-4000:]
        return self.said[layer]


@pytest.fixture(scope="module")
def trainings(work: Path):
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "AXOLOTL_DO_NOT_TRACK": "1", "OMP_NUM_THREADS": "1"}
    processes = {}
    for layer in (name for name in TRAINERS if (LAYER / name).is_dir()):
        command = [sys.executable, "-m", "tests.integrations.trainings", str(work), *TRAINERS[layer]]
        path = os.pathsep.join([str(ROOT), str(LAYER / layer)])
        processes[layer] = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**environment, "PYTHONPATH": path},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
    yield Trainings(processes, {})
    for process in processes.values():
        process.kill()
        process.communicate()


def steps_of(folder: Path) -> int:
    return json.loads((folder / "trainer_state.json").read_text())["global_step"]


def test_trl(work: Path, trainings: Trainings, monkeypatch: pytest.MonkeyPatch) -> None:
    trl = pytest.importorskip("trl")
    sft = pytest.importorskip("trl.scripts.sft")
    made = []

    class Kept(trl.SFTTrainer):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            made.append(self)

    monkeypatch.setattr(trl, "SFTTrainer", Kept)
    monkeypatch.chdir(work)
    tiny = "--model_name_or_path model --pad_token </s> --max_length 96 --use_cpu true --bf16 false --max_steps 2"
    more = "--per_device_train_batch_size 2 --save_strategy no --disable_tqdm true --report_to none"
    options = ["--config", "trl.yaml", *tiny.split(), *more.split(), "--output_dir", "trained-trl"]
    sft.main(*sft.make_parser().parse_args_and_config(options))
    (trainer,) = made
    assert trainer.state.global_step == 2 and len(trainer.train_dataset) == 6
    text = trainer.processing_class.decode(trainer.train_dataset[0]["input_ids"])
    assert lines_of(work / "chosen" / "selected.jsonl")[0]["instruction"][:40] in text
    assert (work / "trained-trl" / "model.safetensors").exists()


def test_llama_factory(work: Path, trainings: Trainings) -> None:
    said = trainings.of("llamafactory").partition("== dataflex")[0]
    assert "Num examples = 6" in said
    assert steps_of(work / "trained-llama_factory") == 2


def test_dataflex(work: Path, trainings: Trainings) -> None:
    trainings.of("llamafactory")
    assert steps_of(work / "trained-dataflex") == 2
    assert (work / "trained-dataflex" / "adapter_model.safetensors").exists()
    (file,) = (work / "chosen_by_step").glob("step_*.json")
    about = json.loads(file.read_text())
    assert file.name == "step_1.json" and about["nait_fast"]["rows"] == 60
    assert len(set(about["indices"])) == 2 and set(about["indices"]) < set(range(60))


def test_axolotl(work: Path, trainings: Trainings) -> None:
    datasets, transformers = pytest.importorskip("datasets"), pytest.importorskip("transformers")
    said = trainings.of("axolotl")
    assert "Loading dataset: prepared/nait_fast/selected.jsonl with base_type: alpaca" in said
    assert "== another revision is prepared anew: True" in said
    assert steps_of(work / "trained-axolotl" / "checkpoint-2") == 2
    (prepared,) = {file.parent for file in (work / "prepared").glob("*/dataset_info.json")} - {
        work / "prepared/nait_fast"
    }
    tokenizer = transformers.AutoTokenizer.from_pretrained(work / "model")
    texts = [tokenizer.decode(row["input_ids"]) for row in datasets.load_from_disk(str(prepared))]
    chosen = lines_of(work / "prepared" / "nait_fast" / "selected.jsonl")
    assert len(chosen) == len(texts) == 6
    assert all(any(row["instruction"] in text and row["output"] in text for text in texts) for row in chosen)
