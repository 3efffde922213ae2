"""Layers without an MLP are left out and said; a layer whose MLP is of no known kind never is."""

import pytest
import torch
from torch import nn

import nait_fast
from nait_fast.errors import NaitError
from nait_fast.models.find import find_specs
from nait_fast.models.load import prepare
from nait_fast.models.mixers import only_mixes
from nait_fast.notices import NaitWarning
from tests.models.tiny import NEURONS, build, config_of, llama, run, sequences, worst_error

NEMOTRON = {
    "num_hidden_layers": None,
    "layers_block_type": ["linear_attention", "mlp", "full_attention", "mlp"],
    "mamba_num_heads": 4,
    "mamba_head_dim": 8,
    "ssm_state_size": 8,
    "n_groups": 1,
    "chunk_size": 8,
}
SAID = "layers 0, 2 have no MLP \\(attention or a state space alone\\); they are left out"
SAMPLES = sequences()


def nemotron():
    return build(config_of("nemotron_h", **NEMOTRON), "eager")


def test_they_are_left_out() -> None:
    with pytest.warns(NaitWarning, match=SAID):
        loaded = prepare(nemotron(), None)
    assert [spec.layer for spec in loaded.specs] == [1, 3] and loaded.widths == [NEURONS] * 2
    model, seen = nemotron(), []
    for layer in (1, 3):
        model.model.layers[layer].mixer.down_proj.register_forward_pre_hook(lambda m, args: seen.append(args[0][0]))
    sink = run(loaded, SAMPLES, readings=("mean", "drift"))
    for row, ids in enumerate(SAMPLES):
        seen.clear()
        with torch.no_grad():
            model(input_ids=torch.from_numpy(ids).long()[None], use_cache=False)
        for ordinal, a in enumerate(seen):
            neurons = sink.layout.neurons(ordinal)
            mean = (a[1:] if len(a) > 1 else a).double().mean(dim=0)
            assert worst_error(sink.readings["mean"][row, neurons], mean) <= 1e-5
            assert worst_error(sink.readings["drift"][row, neurons], (a[-1] - a[0]).double()) <= 1e-5


def test_capture_says_which_layers_it_reads() -> None:
    model = nemotron()
    with pytest.warns(NaitWarning, match=SAID), nait_fast.capture(model) as captured, torch.no_grad():
        model(input_ids=torch.tensor([[3, 4, 5]]), use_cache=False)
    assert captured.layers == [1, 3] and len(captured["mean"]) == 2


def test_none_of_the_chosen_layers_has_one() -> None:
    with pytest.raises(NaitError, match=r"none of the chosen layers \(0, 2\) has an MLP; choose others with --layers"):
        find_specs(nemotron(), "0,2")


class Hidden(nn.Module):
    """An attention with something else in it."""

    def __init__(self, attention: nn.Module, what: nn.Module):
        super().__init__()
        self.attention, self.what = attention, what


class Packed(nn.Module):
    """As a quantised linear layer may be: no tensor of its own."""

    in_features, out_features = 16, 40


@pytest.mark.parametrize(
    "what", [nn.Linear(16, 40), nn.Conv1d(16, 40, 1), nn.ParameterList([torch.zeros(16, 40)]), Packed()]
)
def test_what_is_not_accounted_for_is_refused(what: nn.Module) -> None:
    model = nemotron()
    layer = model.model.layers[2]
    assert only_mixes(layer)
    layer.mixer = Hidden(layer.mixer, what)
    assert not only_mixes(layer)
    with pytest.raises(
        NaitError, match="layer 2 has no MLP of a known family, and is no attention or state space alone"
    ):
        find_specs(model)


def test_an_unknown_mlp_inside_of_the_mixer_is_refused() -> None:
    model = nemotron()
    model.model.layers[2].mixer.further = nn.Linear(16, 16)
    with pytest.raises(
        NaitError, match="layer 2 has no MLP of a known family, and is no attention or state space alone"
    ):
        find_specs(model)


def test_an_unknown_mlp_beside_known_ones_is_refused() -> None:
    model = llama()
    model.model.layers[1].mlp = nn.Sequential(nn.Linear(16, 40), nn.SiLU(), nn.Linear(40, 16))
    with pytest.raises(
        NaitError, match="layer 1 has no MLP of a known family, and is no attention or state space alone"
    ):
        find_specs(model)


def test_a_list_of_mlps_is_no_list_of_layers() -> None:
    """Two MLPs a layer (LongCat), in a list as long as the configuration counts layers."""
    model = llama()
    first = model.model.layers[0]
    model.model.layers = nn.ModuleList([first])
    first.mlps = nn.ModuleList([nn.Module() for _ in range(3)])
    for mlp in first.mlps:
        mlp.fc1, mlp.fc2, mlp.activation_fn = nn.Linear(16, 40), nn.Linear(40, 16), nn.SiLU()
    with pytest.raises(NaitError, match="its configuration counts 3 layers, but its lists of layers with MLPs hold 1"):
        find_specs(model)


def test_two_mlps_in_a_layer_are_refused() -> None:
    model = llama()
    model.model.layers[2].other = model.model.layers[1].mlp
    with pytest.raises(NaitError, match="layer 2 has 2 MLPs of a known family and 0 modules of experts; more than one"):
        find_specs(model)


def test_a_norms_own_mlp_is_none_of_the_layer() -> None:
    """As AX-K2's norms have: it makes a factor of the hidden state."""
    model = llama()
    model.model.layers[1].input_layernorm.mlp = model.model.layers[0].mlp
    assert [spec.module for spec in find_specs(model)] == [layer.mlp for layer in model.model.layers]
