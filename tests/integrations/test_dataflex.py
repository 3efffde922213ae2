"""DataFlex's selector of nait_fast, as its own registry builds it."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from nait_fast import NaitError
from tests.integrations.test_in_training import POOL, TARGETS, OneProcess, defined, rows
from tests.models.tiny import llama

registry = pytest.importorskip("dataflex.core.registry")
dataflex = pytest.importorskip("nait_fast.integrations.dataflex")

POOL_ROWS = rows(POOL).dataset
TARGET_ROWS = {name: rows(ids).dataset for name, ids in TARGETS.items()}


def selector(folder: Path, eval_dataset=TARGET_ROWS["near"], pool=POOL_ROWS, **params):
    runtime = {"dataset": pool, "eval_dataset": eval_dataset, "accelerator": OneProcess(), "data_collator": None}
    cfg = {"cache_dir": str(folder), **params}
    return registry.REGISTRY.build("selector", "nait_fast", runtime=runtime, cfg=cfg)


def step_of(folder: Path, step: int) -> dict:
    return json.loads((folder / f"step_{step}.json").read_text())


def moved(model, factor: float = 0.5):
    """As if trained on."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1 + factor * torch.rand(parameter.shape, generator=torch.Generator().manual_seed(1)))
    return model


def best(scores: np.ndarray, count: int) -> list[int]:
    return np.argsort(-scores, kind="stable")[:count].tolist()


def test_the_best_rows_under_the_weights_of_the_step(tmp_path: Path) -> None:
    chooser, model = selector(tmp_path), llama().train()
    first = chooser.select(model, 10, 5, optimizer_state={}, tokenizer=None)
    assert first == best(defined(llama())[:, 0], 5)
    assert model.training
    moved(model)
    expected = defined(moved(llama()))[:, 0]
    second = chooser.select(model, 20, 5)
    assert second == best(expected, 5) != first
    kept = step_of(tmp_path, 20)
    assert kept["indices"] == second
    assert np.allclose(kept["metric"]["eval_dataset"], expected[second])
    assert kept["nait_fast"]["signature_step"] == 20 and kept["nait_fast"]["rows"] == len(POOL)
    assert -1 <= kept["nait_fast"]["spearman_with_length"]["eval_dataset"] <= 1


def test_a_resumed_training_takes_what_was_selected(tmp_path: Path) -> None:
    first = selector(tmp_path).select(llama(), 10, 5)
    assert selector(tmp_path).select(moved(llama()), 10, 5) == first


def test_the_signature_is_made_anew_at_its_interval_and_survives_a_stop(tmp_path: Path) -> None:
    chooser, model = selector(tmp_path, rebuild_steps=10), llama()
    chooser.select(model, 5, 4)
    moved(model)
    whole = [chooser.select(model, step, 4) for step in (14, 15)]
    assert [step_of(tmp_path, step)["nait_fast"]["signature_step"] for step in (5, 14, 15)] == [5, 5, 15]
    (tmp_path / "step_14.json").unlink()  # as if stopped before
    assert selector(tmp_path, rebuild_steps=10).select(model, 14, 4) == whole[0]
    assert step_of(tmp_path, 14)["nait_fast"]["signature_step"] == 5
    fresh = tmp_path / "fresh"
    assert selector(fresh).select(model, 15, 4) == whole[1]  # that of the step itself


def test_several_targets_take_turns(tmp_path: Path) -> None:
    scores = defined(llama())
    taken: list[int] = []
    for turn in range(6):
        taken.append(next(row for row in best(scores[:, turn % 2], len(POOL)) if row not in taken))
    assert selector(tmp_path, TARGET_ROWS).select(llama(), 0, 6) == taken
    assert step_of(tmp_path, 0)["metric"].keys() == TARGETS.keys()


def test_candidates_are_drawn_for_each_step(tmp_path: Path) -> None:
    chosen = [selector(tmp_path / str(n), candidates=8).select(llama(), step, 8) for n, step in enumerate((1, 1, 2))]
    assert chosen[0] == chosen[1] and set(chosen[0]) != set(chosen[2])
    assert len(set(chosen[0])) == 8


def test_only_what_an_earlier_stage_leaves(tmp_path: Path) -> None:
    chooser = selector(tmp_path)
    if not hasattr(chooser, "set_candidate_pool"):
        pytest.skip("this DataFlex has no pipelines")
    chooser.set_candidate_pool([3, 4, 9, 17])
    assert set(chooser.select(llama(), 0, 3)) < {3, 4, 9, 17}
    with pytest.raises(NaitError, match=r"^nait_fast: step 1: 4 rows to select 5 from; lower update_step"):
        chooser.select(llama(), 1, 5)


def test_what_was_kept_of_something_else_is_refused(tmp_path: Path) -> None:
    selector(tmp_path, rebuild_steps=9).select(llama(), 3, 4)
    message = "was made of another pool, target or model, or by other options; empty cache_dir, or name another"
    for other in ({"layers": "0-1"}, {"eval_dataset": TARGET_ROWS["far"]}, {"pool": POOL_ROWS[1:] + POOL_ROWS[:1]}):
        with pytest.raises(NaitError) as caught:
            selector(tmp_path, rebuild_steps=9, **other).select(llama(), 3, 4)
        assert str(caught.value) == f"{tmp_path / 'step_3.json'}: {message}"
        with pytest.raises(NaitError) as caught:
            selector(tmp_path, rebuild_steps=9, **other).select(llama(), 4, 4)
        assert str(caught.value) == f"{tmp_path / 'signature_step_3.safetensors'}: {message}"
    with pytest.raises(NaitError, match=message):
        selector(tmp_path, rebuild_steps=9).select(llama(hidden_size=32), 3, 4)
    (tmp_path / "step_3.json").write_text('{"indices": [1], "metric": {}}')  # another selector's
    with pytest.raises(NaitError, match=message):
        selector(tmp_path, rebuild_steps=9).select(llama(), 3, 4)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"eval_dataset": None}, "nait_fast: no eval_dataset, which is its target; name one in the training's file"),
        ({"calibration_size": 1e3}, "nait_fast: calibration_size: 1000.0: must be a whole number, at least 2"),
        ({"candidates": 1}, "nait_fast: candidates: 1: must be a whole number, at least 2"),
        ({"rebuild_steps": None}, "nait_fast: rebuild_steps: None: must be a whole number, at least 0"),
    ],
)
def test_options_that_cannot_be(tmp_path: Path, params: dict, message: str) -> None:
    with pytest.raises(NaitError) as caught:
        selector(tmp_path, **params)
    assert str(caught.value) == message


def test_layers_outside_the_model(tmp_path: Path) -> None:
    with pytest.raises(NaitError, match="3 layers"):
        selector(tmp_path, layers="9").select(llama(), 0, 2)


def test_the_launcher_says_an_error_in_one_line(monkeypatch, capsys) -> None:
    def launch() -> None:
        raise NaitError("so it is", where="here")

    monkeypatch.setitem(sys.modules, "dataflex.launcher", SimpleNamespace(launch=launch))
    with pytest.raises(SystemExit) as ended:
        dataflex.main()
    assert ended.value.code == 2 and capsys.readouterr().err == "nait_fast: error: here: so it is\n"
