"""A tiny model with its head, and samples to train it on; the last of them a conversation of two turns."""

import pytest

from nait_fast.data.formats import parse_any
from nait_fast.data.template import Template
from nait_fast.models.load import load_model
from nait_fast.validation.training_samples import training_encoder, training_samples
from tests.conftest import make_rows

CONVERSATION = {
    "messages": [
        {"role": "user", "content": "add seven"},
        {"role": "assistant", "content": "plus eight"},
        {"role": "user", "content": "why"},
        {"role": "assistant", "content": "the sun"},
    ]
}


@pytest.fixture(scope="module")
def headed(tiny_model):
    pytest.importorskip("peft")
    return load_model(tiny_model, dtype="float32", device="cpu", head=True)


@pytest.fixture(scope="module")
def encoder(headed):
    return training_encoder(headed.tokenizer, Template("auto", headed.tokenizer), 60, headed.vocabulary)


@pytest.fixture(scope="module")
def samples(encoder):
    rows = [*make_rows(40), CONVERSATION]
    made, refused = training_samples(encoder, [parse_any(row, i) for i, row in enumerate(rows)])
    assert not refused
    return made
