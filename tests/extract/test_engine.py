"""The engine's batches: memory that runs out, bits packed in the pass."""

import weakref

import numpy as np
import pytest
import torch

from nait_fast.codecs.layout import CodeLayout
from nait_fast.codecs.neuron import NeuronCoder
from nait_fast.data.template import Template
from nait_fast.data.tokenize import Encoded, Encoder
from nait_fast.errors import NaitError
from nait_fast.extract.engine import Engine
from nait_fast.extract.moments import Moments
from nait_fast.extract.session import Session
from nait_fast.extract.sinks import Collect, Encode
from nait_fast.kernels import pack_bits
from nait_fast.models.load import prepare
from tests.models.tiny import READINGS, llama, run, sequences

LENGTHS = (1, 2, 9, 9, 33, 60, 20, 21, 5)


def encoded(ids):
    return [Encoded(i, None, x) for i, x in enumerate(ids)]


@pytest.fixture
def loaded():
    return prepare(llama(), None)


def room_for(monkeypatch, tokens: int) -> list[int]:
    """A device with room for ``tokens`` a forward; the sizes that were tried are appended to the list."""
    tried: list[int] = []
    forward = Engine._forward

    def limited(self, sequences, *rest):
        tried.append(sum(map(len, sequences)))
        if tried[-1] > tokens:
            raise torch.OutOfMemoryError("out of memory")
        return forward(self, sequences, *rest)

    monkeypatch.setattr(Engine, "_forward", limited)
    return tried


def test_out_of_memory_halves_the_budget_and_goes_on(loaded, monkeypatch):
    ids = sequences(LENGTHS)
    expected = run(loaded, ids, batch_tokens=1000)
    tried = room_for(monkeypatch, 70)
    sink = Collect(len(ids), CodeLayout.of(loaded.widths), READINGS)
    engine = Engine(loaded, READINGS, batch_tokens=1000)
    done = []
    engine.run(encoded(ids), sink, on_batch=lambda samples, tokens: done.append((samples, tokens)))
    for reading in READINGS:
        torch.testing.assert_close(sink.readings[reading], expected.readings[reading], rtol=1e-5, atol=1e-6)
    assert sink.finite.all()
    assert tried[0] == sum(LENGTHS) and engine.batch_tokens < sum(LENGTHS)
    assert sum(samples for samples, _ in done) == len(ids) and sum(tokens for _, tokens in done) == sum(LENGTHS)


def test_a_batch_that_breaks_off_counts_once(loaded, monkeypatch):
    ids, layout = sequences(LENGTHS), CodeLayout.of(loaded.widths)
    expected, got = Moments(layout, "mean"), Moments(layout, "mean")
    Engine(loaded, ["mean"], batch_tokens=60).run(encoded(ids), expected)
    layer, failures = Moments.layer, iter([True])

    def full(self, items, ordinal, readings, codes):
        layer(self, items, ordinal, readings, codes)
        if ordinal == 1 and next(failures, False):
            raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr(Moments, "layer", full)
    Engine(loaded, ["mean"], batch_tokens=60).run(encoded(ids), got)
    for ordinal in range(len(loaded.widths)):
        np.testing.assert_allclose(got.variance(ordinal), expected.variance(ordinal), rtol=1e-3, atol=1e-9)


def test_what_a_run_is_for_goes_with_it(loaded, tokenizer):
    """The engine that a session keeps holds no sink: a calibration sample's readings are gigabytes."""
    ids = sequences(LENGTHS)
    session = Session(loaded, Encoder(tokenizer, Template("alpaca", tokenizer), 100), quiet=True)
    sink = Collect(len(ids), CodeLayout.of(loaded.widths), ["mean"])
    gone = weakref.ref(sink)
    session.run(encoded(ids), sink, ["mean"])
    del sink
    assert gone() is None


def test_a_session_remembers_what_fits(loaded, monkeypatch, tokenizer):
    ids = sequences(LENGTHS)
    tried = room_for(monkeypatch, 70)
    encoder = Encoder(tokenizer, Template("alpaca", tokenizer), 100)
    session = Session(loaded, encoder, batch_tokens=1000, quiet=True)
    for _ in range(2):
        start = len(tried)
        session.run(encoded(ids), Collect(len(ids), CodeLayout.of(loaded.widths), ["mean"]), ["mean"], np.zeros(0))
    assert all(tokens <= 70 for tokens in tried[start:])
    assert session.batch_tokens == 1000  # the option, which an index's identity holds, stays


def test_one_sample_too_long_for_memory_is_one_clear_line(loaded, monkeypatch):
    room_for(monkeypatch, 50)
    ids = sequences(LENGTHS)
    with pytest.raises(NaitError, match=r"no memory for one sample of 60 tokens; lower --max-length"):
        Engine(loaded, ["mean"], batch_tokens=1000).run(
            encoded(ids), Collect(len(ids), CodeLayout.of(loaded.widths), ["mean"])
        )


MEMORY = [
    MemoryError(),
    RuntimeError("[enforce fail at alloc_cpu.cpp:118] DefaultCPUAllocator: can't allocate memory: you tried to"),
    RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    torch.OutOfMemoryError("CUDA out of memory."),
]


def fail_beyond(loaded, tokens: int, error: Exception) -> list[int]:
    """Its second MLP has no room for more than ``tokens``; how many it was given is appended to the list."""
    tried: list[int] = []

    def before(module, args) -> None:
        tried.append(args[0].numel() // args[0].shape[-1])
        if tried[-1] > tokens:
            raise error

    loaded.specs[1].module.register_forward_pre_hook(before)
    return tried


@pytest.mark.parametrize("error", MEMORY, ids=repr)
def test_whatever_says_that_memory_ran_out_halves_the_budget(loaded, error):
    ids = sequences(LENGTHS)
    expected = run(loaded, ids, batch_tokens=1000).readings["mean"]
    tried = fail_beyond(loaded, 70, error)
    torch.testing.assert_close(run(loaded, ids, batch_tokens=1000).readings["mean"], expected, rtol=1e-5, atol=1e-6)
    assert tried[0] == sum(LENGTHS)


@pytest.mark.parametrize("what", ["an illegal memory access was encountered", "CUBLAS_STATUS_NOT_INITIALIZED"])
def test_a_device_that_fails_is_not_tried_again(loaded, what):
    tried = fail_beyond(loaded, 70, RuntimeError(f"CUDA error: {what}"))
    with pytest.raises(NaitError, match=rf"a forward of 9 samples, .* fails \(RuntimeError: CUDA error: {what}\)"):
        run(loaded, sequences(LENGTHS), batch_tokens=1000)
    assert tried == [sum(LENGTHS)]


@pytest.mark.parametrize("first_token", ["exclude", "include"])
@pytest.mark.parametrize("n_prefix", [0, 7])
def test_bits_packed_in_the_pass_are_those_of_the_mean(loaded, n_prefix, first_token):
    prefix = np.random.default_rng(5).integers(3, 60, n_prefix).astype(np.int32)
    ids = [*sequences(LENGTHS, prefix=prefix), *sequences(LENGTHS[:3], seed=9)]
    layout = CodeLayout.of(loaded.widths)
    means = run(loaded, ids, prefix=prefix, readings=["mean"], first_token=first_token).readings["mean"]
    threshold = means.mean(dim=0)
    sink = Encode(len(ids), layout, NeuronCoder(layout, "mean", threshold))
    assert sink.threshold_of(1) is not None
    Engine(loaded, ["mean"], first_token=first_token, batch_tokens=40).run(encoded(ids), sink, prefixes=[prefix])
    for position in range(len(loaded.widths)):
        neurons = layout.neurons(position)
        expected = pack_bits(means[:, neurons], threshold[neurons]).numpy()
        np.testing.assert_array_equal(sink.codes[:, layout.bytes(position)], expected)
