"""Readings over the response, or the prompt, alone: in the engine against plain hooks, and end to end."""

import dataclasses

import numpy as np
import pytest

from nait_fast.codecs.layout import CodeLayout
from nait_fast.data.batching import make_batches
from nait_fast.data.prefixes import shared_prefixes
from nait_fast.data.spans import beside
from nait_fast.data.tokenize import Encoded
from nait_fast.extract.engine import Engine
from nait_fast.extract.sinks import Collect
from nait_fast.models.load import prepare
from tests import naive
from tests.models.tiny import GPT, build, config_of, llama, sequences, worst_error

ALL = ("drift", "mean", "up_abs", "hidden", "rds")
# Lengths and responses: in the middle, several, at the start, at the end, one token, everything, behind the prefix of 7
# or in it, long enough for several chunks of the op.
SAMPLES = [
    (20, [(9, 20)]),
    (33, [(10, 14), (20, 33)]),
    (33, [(8, 9), (12, 13)]),
    (12, [(0, 3)]),
    (15, [(0, 1)]),
    (9, [(8, 9)]),
    (30, [(3, 9), (20, 25)]),
    (11, [(7, 11)]),
    (1, [(0, 1)]),
    (9, [(0, 9)]),
    (600, [(250, 258), (300, 599)]),
    (20, []),
]


def make(tokens: str, prefix: np.ndarray) -> list[Encoded]:
    """Those of SAMPLES that have a chosen token; the first seven tokens are those of ``prefix`` in most."""
    made = []
    for i, (length, response) in enumerate(SAMPLES):
        ids = sequences([length], seed=i)[0] if length else np.zeros(0, dtype=np.int32)
        if i != 8 and i != 5:
            ids[: len(prefix)] = prefix[:length]
        spans = tuple(response)
        chosen = {"all": None, "response": spans, "prompt": beside(spans, length)}[tokens]
        if chosen is None or chosen:
            made.append(Encoded(len(made), None, ids, length, response=spans, reading_spans=chosen))
    return made


def positions(item: Encoded) -> list[int] | None:
    return None if item.reading_spans is None else [i for start, end in item.reading_spans for i in range(start, end)]


def gptj():
    return build(config_of("gptj", {}, **{**GPT, "n_positions": 1024}, rotary_dim=4))


@pytest.fixture(scope="module")
def models():
    long = {"max_position_embeddings": 1024}
    return {"packed": llama(**long), "padded": gptj()}


@pytest.mark.parametrize("tokens", ["response", "prompt"])
@pytest.mark.parametrize("first_token", ["exclude", "include"])
@pytest.mark.parametrize(("how", "n_prefix"), [("packed", 0), ("packed", 7), ("padded", 0)])
def test_readings_are_those_of_plain_hooks(models, tokens: str, first_token: str, how: str, n_prefix: int) -> None:
    model, loaded = models[how], prepare(models[how], None)
    assert loaded.forward.startswith(how)
    prefix = sequences([7], seed=99)[0]
    samples = make(tokens, prefix)
    sink = Collect(len(samples), CodeLayout.of(loaded.widths), ALL)
    engine = Engine(loaded, ALL, first_token=first_token, tokens=tokens, batch_tokens=90, hidden_at=1)
    engine.run(samples, sink, prefixes=[prefix[:n_prefix]])
    assert sink.finite.all()
    ends = [naive.rds(model, item.ids, positions(item)) for item in samples]
    assert worst_error(sink.rds.numpy(), np.stack(ends)) < 2e-5
    if n_prefix:
        behind = {i for b in make_batches(samples, [prefix], 90) if b.n_prefix for i in b.items}
        assert 3 <= len(behind) < len(samples)
    expected = [naive.pooled(model, item.ids.tolist(), positions(item)) for item in samples]
    shape = (len(samples), len(loaded.widths), -1)
    for reading in ("drift", "mean", "up_abs"):
        name = "mean_all" if (reading, first_token) == ("mean", "include") else reading
        wanted = np.stack([e[name] for e in expected])
        assert worst_error(sink.readings[reading].numpy().reshape(shape), wanted) < 2e-5, reading
    if first_token == "exclude":
        hidden = [naive.mean_hidden(model, item.ids.tolist(), positions(item))[1] for item in samples]
        assert worst_error(sink.hidden.numpy(), np.stack(hidden)) < 2e-5


@pytest.mark.parametrize("tokens", ["response", "prompt"])
def test_bits_packed_in_the_pass_are_those_of_the_mean(models, tokens: str) -> None:
    from nait_fast.codecs.neuron import NeuronCoder
    from nait_fast.extract.sinks import Encode
    from nait_fast.kernels import pack_bits

    loaded, prefix = prepare(models["packed"], None), sequences([7], seed=99)[0]
    samples, layout = make(tokens, prefix), CodeLayout.of(loaded.widths)
    collected = Collect(len(samples), layout, ["mean"])
    Engine(loaded, ["mean"], tokens=tokens, batch_tokens=90).run(samples, collected, prefixes=[prefix])
    means = collected.readings["mean"]
    sink = Encode(len(samples), layout, NeuronCoder(layout, "mean", means.mean(dim=0)))
    Engine(loaded, ["mean"], tokens=tokens, batch_tokens=90).run(samples, sink, prefixes=[prefix])
    for ordinal in range(len(loaded.widths)):
        neurons = layout.neurons(ordinal)
        expected = pack_bits(means[:, neurons], means.mean(dim=0)[neurons]).numpy()
        np.testing.assert_array_equal(sink.codes[:, layout.bytes(ordinal)], expected)


def test_a_prefix_holds_no_response_and_leaves_a_chosen_token() -> None:
    front = np.arange(10, 22, dtype=np.int32)

    def item(i: int, length: int, response: list[tuple[int, int]], tokens: str) -> Encoded:
        ids = np.concatenate([front, np.full(length, 30 + i, dtype=np.int32)])
        spans = tuple(response)
        chosen = {"all": None, "response": spans, "prompt": beside(spans, len(ids))}[tokens]
        return Encoded(i, None, ids, len(ids), response=spans, reading_spans=chosen)

    for tokens, longest in (("all", 12), ("response", 8), ("prompt", 8)):
        samples = [item(i, 5, [(8, 17)], tokens) for i in range(5)]
        assert [len(prefix) for prefix in shared_prefixes(samples)] == [longest]
    samples = [item(0, 5, [(6, 17)], "response"), item(1, 5, [(8, 17)], "response"), item(2, 5, [(9, 10)], "response")]
    assert [(b.items, b.n_prefix) for b in make_batches(samples, [front[:8]], 100)] == [([1, 2], 8), ([0], 0)]
    samples = [item(0, 5, [(8, 17)], "prompt"), item(1, 5, [(9, 17)], "prompt"), item(2, 5, [(9, 11)], "prompt")]
    assert [(b.items, b.n_prefix) for b in make_batches(samples, [front[:8]], 100)] == [([1, 2], 8), ([0], 0)]
    plain = [dataclasses.replace(s, reading_spans=None) for s in samples]
    assert [b.n_prefix for b in make_batches(plain, [front], 100)] == [12]
