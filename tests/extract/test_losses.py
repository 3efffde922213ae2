"""Losses of the response in the engine's pass: those of transformers' whole model, one sample at a time."""

import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from benchmarks.tiny_configs import tiny_config
from nait_fast.codecs.layout import CodeLayout
from nait_fast.data.tokenize import Encoded
from nait_fast.errors import NaitError
from nait_fast.extract.engine import Engine
from nait_fast.extract.sinks import Collect
from nait_fast.models.load import prepare
from tests.models.tiny import GPT, VOCABULARY, build, config_of, sequences

PREFIX = np.random.default_rng(1).integers(3, 60, 12).astype(np.int32)
SMALL = {"vocab_size": VOCABULARY, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
MODELS = {
    "llama": lambda: config_of("llama"),
    "llama, tied": lambda: config_of("llama", tie_word_embeddings=True),
    "gemma2": lambda: config_of("gemma2", final_logit_softcapping=4.0, sliding_window=8),
    "cohere": lambda: config_of("cohere", logit_scale=0.3),
    "granite": lambda: config_of("granite", logits_scaling=3.0),
    "gpt2": lambda: config_of("gpt2", GPT),
    "lfm2": lambda: tiny_config("lfm2", **SMALL),
}
# Response of each sample: the rest; several turns; one token; from the first token on; of both sides of the prefix.
IDS = [*sequences((9, 33, 2, 5, 60)), *sequences((1, 9, 20, 30), seed=2, prefix=PREFIX)]
RESPONSES = [
    ((4, 9),),
    ((3, 7), (11, 12), (20, 33)),
    ((1, 2),),
    ((0, 5),),
    ((30, 60),),
    ((12, 13),),
    ((12, 21),),
    ((15, 18), (30, 32)),
    ((3, 6), (10, 20), (40, 42)),
]
FRONT = [1]


def token_losses(model, ids) -> np.ndarray:
    """float64 [K], of the first token NaN."""
    ids = torch.tensor(np.asarray(ids), dtype=torch.long)
    with torch.no_grad():
        logits = model(input_ids=ids[None]).logits[0]
    losses = F.cross_entropy(logits[:-1].double(), ids[1:], reduction="none")
    return np.concatenate([[np.nan], losses.numpy()])


def expected(model, ids, response, front=FRONT) -> tuple[float, float]:
    """(nll, ifd)."""
    nll = np.nanmean(np.concatenate([token_losses(model, ids)[a:b] for a, b in response]))
    alone = token_losses(model, [*front, *(int(i) for a, b in response for i in ids[a:b])])
    return nll, nll / np.nanmean(alone[len(front) :])


def run(loaded, prefix=None, ids=IDS, responses=RESPONSES, front=FRONT, batch_tokens=70) -> Collect:
    readings = ("mean", "nll", "ifd")
    sink = Collect(len(ids), CodeLayout.of(loaded.widths), readings)
    encoded = [Encoded(i, None, x, len(x), response=r) for i, (x, r) in enumerate(zip(ids, responses, strict=True))]
    Engine(loaded, readings, batch_tokens=batch_tokens, front=front).run(
        encoded, sink, prefixes=[] if prefix is None else [prefix]
    )
    return sink


@pytest.mark.parametrize("name", MODELS)
def test_losses_and_their_ratio(name):
    """Behind a shared prefix and without one, which also other readings are as without losses."""
    model = build(MODELS[name]())
    loaded = prepare(model, None, head=True)
    wanted = np.array([expected(model, x, r) for x, r in zip(IDS, RESPONSES, strict=True)])
    for prefix in (None, PREFIX):
        sink = run(loaded, prefix)
        assert sink.finite.all()
        np.testing.assert_allclose(sink.losses["nll"].numpy(), wanted[:, 0], rtol=1e-5)
        np.testing.assert_allclose(sink.losses["ifd"].numpy(), wanted[:, 1], rtol=2e-5)
        plain = Collect(len(IDS), CodeLayout.of(loaded.widths), ("mean",))
        Engine(loaded, ("mean",), batch_tokens=70).run(
            [Encoded(i, None, x) for i, x in enumerate(IDS)], plain, prefixes=[] if prefix is None else [prefix]
        )
        assert torch.equal(plain.readings["mean"], sink.readings["mean"])
    assert loaded.packs


def test_padded():
    model = build(config_of("llama"))
    loaded = prepare(model, None, head=True)
    loaded.attention = None
    wanted = np.array([expected(model, x, r) for x, r in zip(IDS, RESPONSES, strict=True)])
    sink = run(loaded, PREFIX)
    np.testing.assert_allclose(sink.losses["nll"].numpy(), wanted[:, 0], rtol=1e-5)
    np.testing.assert_allclose(sink.losses["ifd"].numpy(), wanted[:, 1], rtol=2e-5)


def test_of_the_first_layers_only():
    """Losses come out of all layers, whichever are read."""
    model = build(config_of("llama"))
    some, every = (run(prepare(model, None, layers=layers, head=True), PREFIX) for layers in ("0", "all"))
    np.testing.assert_allclose(some.losses["nll"].numpy(), every.losses["nll"].numpy(), rtol=1e-6)


def test_without_a_front():
    """The first token of a response alone has no loss then."""
    model = build(config_of("llama"))
    ids, responses = IDS[:2], RESPONSES[:2]
    sink = run(prepare(model, None, head=True), None, ids, responses, front=[])
    wanted = [expected(model, x, r, [])[1] for x, r in zip(ids, responses, strict=True)]
    # expected() cuts none off: its own first loss is NaN, and left out of the mean
    np.testing.assert_allclose(sink.losses["ifd"].numpy(), wanted, rtol=2e-5)


def test_no_memory_for_a_batch(monkeypatch):
    """The forward of responses alone may be the one that fails: the batch is run again in halves."""
    model = build(config_of("llama"))
    loaded = prepare(model, None, head=True)
    plain, forward, failed = run(loaded), Engine._forward, []

    def failing(self, sequences, pack, first_position, captured):
        if captured is None and len(sequences) > 1 and not failed:
            failed.append(len(sequences))
            raise torch.OutOfMemoryError
        return forward(self, sequences, pack, first_position, captured)

    monkeypatch.setattr(Engine, "_forward", failing)
    again = run(loaded)
    assert failed
    for name in ("nll", "ifd"):
        np.testing.assert_allclose(again.losses[name].numpy(), plain.losses[name].numpy(), rtol=1e-5)


def test_a_response_that_is_too_long_alone():
    """One that its sample begins with has the front's token more than that."""
    loaded = prepare(build(config_of("gpt2", GPT)), None, head=True)
    ids = sequences((128,))
    run(loaded, None, ids, [((1, 128),)], batch_tokens=200)
    with pytest.raises(NaitError, match="it has 128 positions, and a sample 129 tokens; use --max-length 127"):
        run(loaded, None, ids, [((0, 128),)], batch_tokens=200)


def test_a_loss_that_is_not_finite():
    model = build(config_of("llama"))
    loaded = prepare(model, None, head=True)
    loaded.head.weight[7] = torch.nan
    assert not run(loaded).finite.any()


def test_a_response_that_is_certain_alone():
    """Its loss alone is 0, which nothing can be divided by."""
    loaded = prepare(build(config_of("llama")), None, head=True)
    bias = torch.zeros(len(loaded.head.weight))
    bias[9] = 1e4
    loaded.head = dataclasses.replace(loaded.head, bias=bias)
    ids = [np.array(own, dtype=np.int32) for own in ([1, 7, 9, 9], [1, 7, 9, 8])]
    sink = run(loaded, None, ids, [((2, 4),), ((3, 4),)])
    assert sink.finite.all() and sink.losses["nll"][0] == sink.losses["ifd"][0] == 0
    assert abs(sink.losses["ifd"][1] - 1) < 1e-3 and sink.losses["nll"][1] > 9e3
