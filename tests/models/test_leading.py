"""Of a model whose first layers will do, those alone are read and kept, and what is read of them is the same."""

import copy
import json
import warnings
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import LlamaModel

from nait_fast.errors import NaitError
from nait_fast.extract.engine import Engine
from nait_fast.models import checkpoint, find, load
from nait_fast.models.leading import keep_leading
from nait_fast.models.load import load_model
from nait_fast.notices import NaitWarning
from tests.conftest import make_tokenizer
from tests.models import test_experts, test_families
from tests.models.tiny import build, config_of, run, sequences

# A plain one; one whose last layer alone has a sliding window; keys and values that later layers share, by how many
# there are; a mixer; experts that are joined.
KINDS = {
    "llama": test_families.config_for,
    "qwen2": lambda name: config_of(name, use_sliding_window=True, sliding_window=8, max_window_layers=2),
    "gemma3n": test_families.config_for,
    "bamba": test_families.config_for,
    "qwen3_moe": test_experts.config_for,
}


@pytest.fixture
def no_tokenizer(monkeypatch) -> None:
    monkeypatch.setattr(load, "load_tokenizer", lambda *arguments: None)


@pytest.fixture
def folder(tmp_path, no_tokenizer) -> str:
    build(test_families.config_for("llama")).save_pretrained(tmp_path)
    return str(tmp_path)


def rewrite(folder: str, without: str = "\0", **added: torch.Tensor) -> None:
    file = Path(folder) / "model.safetensors"
    weights = {name: weight for name, weight in load_file(file).items() if without not in name}
    save_file(weights | {f"model.{name}": weight for name, weight in added.items()}, file, metadata={"format": "pt"})


@pytest.mark.parametrize("name", KINDS)
def test_the_same_is_read(name, tmp_path, no_tokenizer) -> None:
    build(KINDS[name](name)).save_pretrained(tmp_path)
    part, whole = (load_model(str(tmp_path), layers=Fraction(1, 2), complete=complete) for complete in (False, True))
    assert (part.complete, whole.complete) == (False, True) and part.layers[-1] == 1
    assert (part.fingerprint, part.forward) == (whole.fingerprint, whole.forward)
    assert sum(p.numel() for p in part.body.parameters()) < sum(p.numel() for p in whole.body.parameters())
    readings = ("mean",) if part.has_experts else ("drift", "mean")
    got, expected = (run(loaded, sequences(), readings=readings).readings for loaded in (part, whole))
    assert all(torch.equal(got[reading], expected[reading]) for reading in readings)


def test_layers_behind_the_last_that_has_an_mlp(tmp_path, no_tokenizer) -> None:
    """Chosen or not, one that is nothing but attention need not be there."""
    config = test_experts.config_for("granite 4")
    build(config).save_pretrained(tmp_path)
    whole = load_model(str(tmp_path), layers="0-2", complete=True)
    part = load_model(str(tmp_path), layers=f"0-{config.num_hidden_layers - 1}", complete=False)
    assert part.layers == load_model(str(tmp_path), layers="all", complete=False).layers
    assert whole.layers[-1] <= part.layers[-1]


def test_a_list_of_layers_beside_it_is_not_taken_for_it(monkeypatch) -> None:
    """Where a configuration does not count its layers, the longest list is the decoder's."""
    model = build(test_families.config_for("llama")).model
    model.others = nn.ModuleList(copy.deepcopy(layer) for layer in model.layers)
    monkeypatch.setattr(find, "text_config", lambda decoder: SimpleNamespace(hidden_act="silu"))
    assert find.decoder_layers(model) is model.layers
    keep_leading(model.layers, 2)
    assert find.decoder_layers(model) is model.layers and len(model.layers) == 2
    assert [spec.layer for spec in find.find_specs(model, "-3--2")] == [0, 1]


def test_what_is_not_read_may_be_anything(folder) -> None:
    expected = load_model(folder, layers="0-1").fingerprint
    rewrite(folder, without="layers.2", **{"layers.2.mlp.nonsense": torch.ones(3)})
    assert load_model(folder, layers="0-1", complete=False).fingerprint == expected


@pytest.mark.parametrize(
    "change, message",
    [
        ({"without": "layers.1.mlp.down_proj"}, "lacks 1 weights .* first layers.1.mlp.down_proj.weight"),
        ({"without": "embed_tokens"}, "lacks 1 weights .* first embed_tokens.weight"),
        ({"layers.1.mlp.more": torch.ones(3)}, "holds 1 weights .* has no place for, first layers.1.mlp.more"),
        ({"layers.3.mlp.more": torch.ones(3)}, "holds 1 weights .* has no place for, first layers.3.mlp.more"),
        ({"norm.more": torch.ones(3)}, "holds 1 weights .* has no place for, first norm.more"),
        ({"layers.0.input_layernorm.weight": torch.ones(3)}, r"layers.0.input_layernorm.weight as \[3\] where"),
    ],
)
def test_what_is_read_is_checked_as_ever(folder, change, message) -> None:
    rewrite(folder, **change)
    with warnings.catch_warnings(), pytest.raises(NaitError, match=message):
        warnings.simplefilter("error")  # one line is enough
        load_model(folder, layers="0-1", complete=False)


def test_a_forward_that_asks_for_all_layers_gets_them(folder, monkeypatch) -> None:
    forward = LlamaModel.forward

    def asks(self, *arguments, **named):
        assert self.layers[self.config.num_hidden_layers - 1] is not None
        return forward(self, *arguments, **named)

    monkeypatch.setattr(LlamaModel, "forward", asks)
    with pytest.warns(
        NaitWarning, match=r"its first layers are not loaded alone \(.*out of range.*\), but all of them"
    ):
        loaded = load_model(folder, layers="0-1", complete=False)
    assert loaded.complete and loaded.layers == [0, 1]


def test_nothing_is_read_of_an_end_that_is_not_there(folder) -> None:
    part = load_model(folder, layers="0-1", complete=False)
    with pytest.raises(AssertionError, match="not loaded"):
        part.whole_fingerprint  # noqa: B018
    with pytest.raises(AssertionError, match="loaded as a whole"):
        Engine(part, ("mean", "rds"))
    assert load_model(folder, complete=False).complete and load_model(folder, layers="2", complete=False).complete


@pytest.mark.parametrize("head", [False, True])
def test_weights_go_straight_to_a_device(folder, monkeypatch, head) -> None:
    """As far as is known without one."""
    seen = []

    def from_pretrained(kind, source, **named):
        seen.append(named.get("device_map"))
        raise OSError("far enough")

    monkeypatch.setattr(checkpoint, "_from_pretrained", from_pretrained)
    device = torch.device("cuda", 0)
    monkeypatch.setattr(load, "pick_device", lambda name: device)
    with pytest.raises(NaitError, match="far enough"):
        load_model(folder, layers="0-1", complete=False, head=head)
    assert seen and all(place == {"": device} for place in seen)


def test_a_depth_of_a_folder_with_its_tokenizer(tmp_path) -> None:
    """What the commands load, without a patch."""
    build(test_families.config_for("llama")).save_pretrained(tmp_path)
    make_tokenizer().save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["num_hidden_layers"] == 3
    assert load_model(str(tmp_path), layers=Fraction(1, 3), complete=False).layers == [0]
