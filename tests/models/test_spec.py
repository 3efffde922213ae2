"""Which layers are captured: the texts that name them, and that a selection is a slice of all of them."""

import pytest
import torch

from nait_fast.errors import NaitError
from nait_fast.models.find import decoder_layers, find_specs
from nait_fast.models.load import prepare
from nait_fast.models.probe import probe
from nait_fast.models.spec import input_width, parse_layers
from tests.models.tiny import GPT, NEURONS, READINGS, build, config_of, llama, run, sequences


@pytest.mark.parametrize(
    "text, expected",
    [
        ("all", range(12)),
        ("0", [0]),
        ("11", [11]),
        ("-1", [11]),
        ("-12", [0]),
        ("0-9", range(10)),
        ("3-3", [3]),
        ("-10--1", range(2, 12)),
        ("-3-11", [9, 10, 11]),
        ("8--1", [8, 9, 10, 11]),
        ("0,5,-1", [0, 5, 11]),
        ("5,0", [0, 5]),
        ("0-3,2-4,3", [0, 1, 2, 3, 4]),
        (" 1 , 2-3 ", [1, 2, 3]),
    ],
)
def test_layers(text, expected):
    assert parse_layers(text, 12) == list(expected)


@pytest.mark.parametrize("text", ["", "x", "1,", ",1", "1-", "-", "--1", "1.5", "0:3", "1 2", "all,1", "ALL", "1-2-3"])
def test_no_layers(text):
    with pytest.raises(NaitError, match="is no layer or range; write for example all, 0-9 or -10--1"):
        parse_layers(text, 12)


@pytest.mark.parametrize("text", ["12", "-13", "0-12", "-13-3", "5-3", "-1-0", "0,1,40"])
def test_layers_outside_the_model(text):
    with pytest.raises(NaitError, match="does not lie in this model's 12 layers"):
        parse_layers(text, 12)


@pytest.mark.parametrize("model_type, base", [("llama", {}), ("gpt_neox", {}), ("gpt2", GPT), ("falcon", {})])
def test_specs(model_type, base):
    extra = {"head_dim": None, "ffn_hidden_size": NEURONS} if model_type == "falcon" else {}
    model = build(config_of(model_type, base, **extra) if base else config_of(model_type, **extra))
    specs = find_specs(model)
    assert [spec.layer for spec in specs] == [0, 1, 2]
    assert {spec.n_neurons for spec in specs} == {NEURONS}
    layers = decoder_layers(model)
    for spec, layer in zip(specs, layers, strict=True):
        assert spec.module is layer.mlp
        assert input_width(spec.part(spec.family.up)) == 16 and input_width(spec.part(spec.family.down)) == NEURONS
    probe(specs)


@pytest.mark.parametrize("text, chosen", [("0", [0]), ("1", [1]), ("-1", [2]), ("0,-1", [0, 2]), ("1-2", [1, 2])])
@pytest.mark.parametrize("model_type", ["llama", "stablelm"])  # packed, padded
def test_a_selection_is_a_slice_of_all_layers(model_type, text, chosen):
    model = build(config_of(model_type))
    everything, selected = prepare(model, None), prepare(model, None, layers=text)
    assert selected.widths == [NEURONS] * len(chosen)
    assert [spec.layer for spec in selected.specs] == chosen
    prefix = sequences((5,))[0]
    ids = [*sequences(), *sequences(seed=2, prefix=prefix)]
    whole, part = run(everything, ids, prefix=prefix), run(selected, ids, prefix=prefix)
    for reading in READINGS:
        kept = whole.readings[reading].view(len(ids), 3, NEURONS)[:, chosen]
        assert torch.equal(part.readings[reading].view(len(ids), len(chosen), NEURONS), kept)


def test_layers_and_weights_make_the_fingerprint():
    model = llama()
    prints = {prepare(model, None, layers=text).fingerprint for text in ("all", "0", "1", "0,1")}
    assert len(prints) == 4
    assert prepare(model, None, layers="0-2").fingerprint in prints  # all, said in another way
    model.model.layers[1].mlp.up_proj.weight.data[0, 0] += 1
    assert prepare(model, None).fingerprint not in prints
