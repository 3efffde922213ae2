"""The plugin's reading of axolotl's configuration; tests/integrations/test_training_runs.py trains by it."""

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from nait_fast import NaitError
from nait_fast.storage.files import sha256_file

LAYER = Path(sys.prefix) / "axolotl"


@pytest.fixture(scope="module")
def plugin() -> Iterator[ModuleType]:
    pytest.importorskip("peft")
    if not LAYER.is_dir():
        pytest.skip("needs axolotl (make hosts)")
    sys.path.append(str(LAYER))  # behind what the others use
    try:
        from nait_fast.integrations import axolotl

        yield axolotl
    finally:
        sys.path.remove(str(LAYER))


def config(**changes) -> dict:
    whole = {
        "base_model": "model",
        "datasets": [{"path": "pool.jsonl", "type": "alpaca"}],
        "nait_fast": {"target": ["math=target.jsonl"], "fraction": 0.2},
    }
    return {key: value for key, value in {**whole, **changes}.items() if value is not None}


def test_the_training_says_what_select_needs(plugin: ModuleType) -> None:
    place, options = plugin.asked(config(tokenizer_config="other", dataset_prepared_path="kept"))
    assert (place, options.model, options.tokenizer, options.dataset) == (0, "model", "other", "pool.jsonl")
    assert (options.target, options.fraction, options.output) == (("math=target.jsonl",), 0.2, "kept/nait_fast")
    told = {"target": "t.jsonl", "model": "small", "output": "there", "entry": 1}
    place, options = plugin.asked(config(datasets=[{"path": "a"}, {"path": "b.jsonl"}], nait_fast=told))
    assert (place, options.model, options.dataset, options.output) == (1, "small", "b.jsonl", "there")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"nait_fast": None}, "nait_fast: its options are missing; give target, and fraction or top_k, under it"),
        ({"nait_fast": {"fraction": 0.1}}, "nait_fast: --target is missing"),
        ({"nait_fast": {"target": "t", "fracton": 1}}, "nait_fast: unknown option 'fracton'; known are "),
        ({"nait_fast": {"target": "t", "dataset": "p"}}, "nait_fast: dataset: it selects from datasets, by entry"),
        ({"nait_fast": {"target": "t", "entry": 1}}, "nait_fast: entry: 1: there is no such entry of datasets, of 1"),
        ({"rl": "dpo"}, "nait_fast: rl: rows are selected for supervised training; leave it out"),
        ({"datasets": [{}, {}]}, "nait_fast: 2 entries of datasets; say which one is selected from: entry: 0"),
        ({"datasets": [{"path": "p", "shards": 4}]}, "datasets: entry 0: shards: only whole datasets are"),
        ({"datasets": [{"path": "p", "data_files": ["a", "b"]}]}, "datasets: entry 0: several data_files; name their"),
        ({"datasets": [{"type": "alpaca"}]}, "datasets: entry 0: it has no path"),
    ],
)
def test_what_cannot_be_is_said_as_axolotl_starts(plugin: ModuleType, changes: dict, message: str) -> None:
    with pytest.raises(NaitError) as caught:
        plugin.NaitPlugin().register(config(**changes))
    assert str(caught.value).startswith(message)


def test_where_an_entry_has_its_rows(plugin: ModuleType, tmp_path: Path) -> None:
    assert plugin.source_of({"path": "org/name"}, 0) == "org/name"
    assert plugin.source_of({"path": "org/name", "split": "test"}, 0) == "org/name:test"
    assert plugin.source_of({"path": "org/name", "name": "main", "split": "test"}, 0) == "org/name:main:test"
    assert plugin.source_of({"path": "org/name", "name": "main"}, 0) == "org/name:main:train"
    (tmp_path / "rows.jsonl").touch()
    file = str(tmp_path / "rows.jsonl")
    assert plugin.source_of({"path": "json", "data_files": [file], "split": "train"}, 0) == file


def test_the_entry_keeps_how_its_rows_are_read(plugin: ModuleType, tmp_path: Path, monkeypatch) -> None:
    entry = {"path": "org/pool", "name": "main", "split": "train", "type": "chat_template", "field_messages": "turns"}
    cfg = config(datasets=[{"path": "mine"}, entry], dataset_prepared_path=str(tmp_path))
    cfg["nait_fast"]["entry"] = 1
    file = tmp_path / "nait_fast" / "selected.jsonl"

    def select(options) -> None:
        assert options.dataset == "org/pool:main:train"
        file.parent.mkdir()
        file.write_text("{}\n")

    monkeypatch.setattr(plugin, "_select", select)
    monkeypatch.setitem(sys.modules, "axolotl.common.datasets", SimpleNamespace(load_datasets=lambda cfg: cfg))
    loaded = plugin.NaitPlugin().load_datasets(cfg)
    kept = {"type": "chat_template", "field_messages": "turns"}
    found = {"path": str(file), "ds_type": "json", "revision": sha256_file(file)[:16]}
    assert loaded["datasets"] == [{"path": "mine"}, {**kept, **found}]


def test_a_failed_selection_stops_the_training(plugin: ModuleType, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(plugin.subprocess, "run", lambda command, env: SimpleNamespace(returncode=2))
    with pytest.raises(NaitError, match=r"^nait_fast: select ended with exit status 2; its message is above$"):
        plugin.NaitPlugin().load_datasets(config(dataset_prepared_path=str(tmp_path)))


def test_axolotl_knows_the_plugin(plugin: ModuleType) -> None:
    from axolotl.integrations.base import load_plugin

    made = load_plugin("nait_fast.integrations.axolotl.NaitPlugin")
    assert made.get_input_args() == "nait_fast.integrations.axolotl.NaitFastArgs"
    assert plugin.NaitFastArgs(nait_fast={"target": "t"}).nait_fast == {"target": "t"}
