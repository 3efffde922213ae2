"""Which tokens of a sample have a loss."""

import numpy as np
import pytest

from nait_fast.data.formats import parse_any
from nait_fast.data.template import Template
from nait_fast.data.tokenize import Encoded
from nait_fast.errors import BadInput
from nait_fast.validation.training_samples import end_of_turn, training_encoder, training_sample, training_samples
from tests.conftest import CHAT_TEMPLATE, make_tokenizer
from tests.validation.conftest import CONVERSATION


@pytest.fixture(scope="module")
def words():
    return make_tokenizer()


def encoder_of(tokenizer, max_length: int = 60):
    return training_encoder(tokenizer, Template("auto", tokenizer), max_length, None)


def said(tokenizer, sample) -> str:
    return tokenizer.decode(sample.ids[sample.labels])


def test_the_response_is_told_from_the_prompt(words):
    row = {"instruction": "add seven", "input": "", "output": "plus eight"}
    (sample,), refused = training_samples(encoder_of(words), [parse_any(row, 0)])
    assert not refused and sample.ended
    assert said(words, sample) == "plus eight<|end|>" and sample.response == len(sample.labels) == 4
    assert words.decode(sample.ids[: sample.labels[0]]).endswith("assistant\n")
    assert (sample.ids.dtype, sample.labels.dtype) == (np.int32, np.int64)


def test_every_turn_of_the_assistant_has_a_loss_and_the_last_ones_end(words):
    (sample,), _ = training_samples(encoder_of(words), [parse_any(CONVERSATION, 0)])
    assert said(words, sample) == "plus eightthe sun<|end|>" and sample.ended
    between = set(range(len(sample.ids))) - set(sample.labels.tolist())
    prompts = words.decode(sample.ids[sorted(between)])
    assert "add seven" in prompts and "why" in prompts and "eight" not in prompts and "sun" not in prompts
    asked = {"messages": CONVERSATION["messages"][:-1]}  # the user has the last word: nothing of it has a loss
    (sample,), _ = training_samples(encoder_of(words), [parse_any(asked, 0)])
    assert said(words, sample) == "plus eight" and not sample.ended


def test_a_sample_that_is_cut_has_no_end(words):
    (whole,), _ = training_samples(encoder_of(words), [parse_any(CONVERSATION, 0)])
    for length in range(1, len(whole.ids)):
        (sample,), refused = training_samples(encoder_of(words, length), [parse_any(CONVERSATION, 0)])
        places = whole.labels[:-1][whole.labels[:-1] < length]
        if not len(places):
            assert sample is None and refused[0].row == 0 and f"--max-length {length}" in refused[0].reason
            continue
        # All but the end fits: it is whole, and the end comes behind.
        assert sample.ended == (length == len(whole.ids) - 1)
        assert sample.labels[: len(places)].tolist() == places.tolist()
        assert len(sample.labels) == len(places) + sample.ended
        assert np.array_equal(sample.ids, whole.ids[: len(sample.ids)])


def test_a_token_that_nothing_stands_before_has_no_loss():
    chat = parse_any({"instruction": "a", "input": "", "output": "b"}, 3)
    sample = training_sample(Encoded(3, None, np.array([5, 6], np.int32), 2, response=((0, 2),)), chat, 9)
    assert sample.labels.tolist() == [1, 2] and sample.ids.tolist() == [5, 6, 9]
    assert training_sample(Encoded(3, None, np.array([5], np.int32), 1, response=((0, 1),)), chat, 9) is None


def test_rows_without_a_response_are_told_with_their_number(words):
    rows = [
        {"text": "the cat has apples"},
        {"instruction": "add", "input": "", "output": "plus"},
        {"messages": [{"role": "user", "content": "why"}]},
    ]
    made, refused = training_samples(encoder_of(words), [parse_any(row, i) for i, row in enumerate(rows)])
    assert [sample is None for sample in made] == [True, False, True]
    assert [one.row for one in refused] == [0, 2] and all(one.reason for one in refused)


def test_the_end_is_the_templates_or_the_tokenizers(words):
    assert end_of_turn(encoder_of(words)) == words.convert_tokens_to_ids("<|end|>")
    plain = make_tokenizer(chat_template=None)
    assert end_of_turn(encoder_of(plain)) == plain.eos_token_id
    row = {"instruction": "add seven", "input": "", "output": "plus eight"}
    (sample,), _ = training_samples(encoder_of(plain, 400), [parse_any(row, 0)])
    assert said(plain, sample) == "plus eight</s>"
    plain.eos_token = None
    with pytest.raises(BadInput, match="no end-of-sequence token"):
        end_of_turn(encoder_of(plain))
    assert "<|end|>" in CHAT_TEMPLATE
