"""--export: the tools that train take the files as they are."""

import json
from pathlib import Path

import pytest

import nait_fast
from tests.conftest import write_jsonl
from tests.integrations.conftest import Made


@pytest.fixture(scope="module")
def chosen(tmp_path_factory, made: Made) -> Path:
    """Folder of a selection of 12 out of 60 rows, with all exports, and the pool beside it."""
    folder = tmp_path_factory.mktemp("trainers")
    pool = write_jsonl(folder / "pool.jsonl", made.rows[:60])
    codebook = str(Path(made.signatures[0]).parent / "index")
    nait_fast.build_index(model=made.model, dataset=str(pool), output=str(folder / "index"), codebook=codebook)
    nait_fast.rank(
        index=str(folder / "index"), signature=made.signatures[:1], output=str(folder), top_k=12,
        export=["llama_factory", "dataflex", "messages"],
    )  # fmt: skip
    return folder


def selected(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "selected.jsonl").read_text().splitlines()]


def test_trl_trains_on_the_messages(chosen: Path, made: Made, tmp_path: Path) -> None:
    trl = pytest.importorskip("trl")
    from datasets import load_dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer

    rows = load_dataset("json", data_files=str(chosen / "messages.jsonl"), split="train", cache_dir=str(tmp_path / "c"))
    assert trl.is_conversational(rows[0])
    tokenizer = AutoTokenizer.from_pretrained(made.model, pad_token="</s>")
    model = AutoModelForCausalLM.from_pretrained(made.model)
    options = trl.SFTConfig(
        output_dir=str(tmp_path / "out"), max_steps=2, per_device_train_batch_size=2, max_length=96, use_cpu=True,
        bf16=False, report_to=[], save_strategy="no", disable_tqdm=True,
    )  # fmt: skip
    trainer = trl.SFTTrainer(model=model, args=options, train_dataset=rows, processing_class=tokenizer)
    text = tokenizer.decode(trainer.train_dataset[0]["input_ids"])
    best = selected(chosen)[0]
    assert best["instruction"][:40] in text and len(trainer.train_dataset) == 12
    assert trainer.train().global_step == 2


def test_dataflex_selects_the_rows(chosen: Path, tmp_path: Path) -> None:
    selector = pytest.importorskip("dataflex.train.selector.near_selector")
    pool = [json.loads(line) for line in (chosen / "pool.jsonl").read_text().splitlines()]
    near = selector.near_Selector(pool, None, None, str(tmp_path), indices_path=str(chosen / "top_indices.npy"))
    assert [pool[row] for row in near.select(None, 0, 12)] == selected(chosen)
    assert [pool[row] for row in near.select(None, 0, 5)] == selected(chosen)[:5]
