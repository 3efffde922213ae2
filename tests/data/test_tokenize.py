"""Token ids of a sample's content: one BOS at most, no end tokens, truncation counted, bad rows refused."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nait_fast.data.formats import Message, Sample, parse
from nait_fast.data.template import Template
from nait_fast.data.tokenize import Encoded, Encoder, Refused, bos_prefix
from tests.conftest import make_tokenizer

BOS, EOS, START, END = 0, 1, 2, 3
WITH_BOS = "{{ bos_token }}{% for m in messages %}<|start|>{{ m['content'] }}<|end|>{% endfor %}"
BEHAVIOURS = {"none": (False, False), "bos": (True, False), "eos": (False, True), "both": (True, True)}


def tokenizers(chat_template: str | None = WITH_BOS) -> dict:
    return {name: make_tokenizer(chat_template, *adds) for name, adds in BEHAVIOURS.items()}


def encode(tokenizer, samples: list[Sample], kind: str = "auto", max_length: int = 512, **options) -> list:
    return Encoder(tokenizer, Template(kind, tokenizer), max_length, **options).encode(samples)


def ids(tokenizer, sample: Sample, kind: str = "auto", max_length: int = 512) -> list[int]:
    (encoded,) = encode(tokenizer, [sample], kind, max_length)
    assert isinstance(encoded, Encoded), encoded
    return encoded.ids.tolist()


def plain(text: str) -> list[int]:
    return make_tokenizer()(text, add_special_tokens=False)["input_ids"]


def text(value: str) -> Sample:
    return Sample(0, None, text=value)


def tokens(*values: int) -> Sample:
    return Sample(0, None, input_ids=values)


def talk(*contents: str) -> Sample:
    roles = ("user", "assistant") * len(contents)
    return Sample(0, None, tuple(Message(r, c) for r, c in zip(roles, contents, strict=False)))


@pytest.mark.parametrize("behaviour", BEHAVIOURS)
def test_never_two_bos(behaviour: str) -> None:
    tokenizer = tokenizers()[behaviour]
    adds_bos, _ = BEHAVIOURS[behaviour]
    front = [BOS] if adds_bos else []
    assert bos_prefix(tokenizer) == front
    story = plain("the story")
    assert ids(tokenizer, text("the story")) == front + story
    assert ids(tokenizer, text("<s>the story")) == [BOS, *story]
    assert ids(tokenizer, text("<s><s><s>the story")) == [BOS, *story]
    assert ids(tokenizer, tokens(BOS, *story)) == [BOS, *story]
    assert ids(tokenizer, tokens(BOS, BOS, *story)) == [BOS, *story]
    assert ids(tokenizer, tokens(*story)) == story
    spoken = [BOS, START, *plain("why"), END, START, *story]
    assert ids(tokenizer, talk("why", "the story"), "chat") == spoken
    assert ids(tokenizer, talk("the story"), "none") == front + story
    assert ids(tokenizer, talk("<s>the story"), "none") == [BOS, *story]
    assert ids(tokenizer, talk("why", "the story"), "alpaca")[: len(front) + 1].count(BOS) == len(front)
    for sample in (text("<s>the story"), tokens(BOS, BOS, *story), talk("why", "the story")):
        assert EOS not in ids(tokenizer, sample)


@pytest.mark.parametrize("behaviour", BEHAVIOURS)
def test_a_template_that_writes_bos_where_the_tokenizer_adds_one(behaviour: str) -> None:
    doubled = "{{ bos_token }}" + WITH_BOS
    assert ids(make_tokenizer(doubled, *BEHAVIOURS[behaviour]), talk("why"), "chat") == [BOS, START, *plain("why")]


def test_a_front_of_several_tokens_is_not_doubled() -> None:
    from tokenizers import processors

    tokenizer = make_tokenizer(None)
    tokenizer._tokenizer.post_processor = processors.TemplateProcessing(
        single="<|start|> <|end|> $A </s>", special_tokens=[("<|start|>", START), ("<|end|>", END), ("</s>", EOS)]
    )
    assert bos_prefix(tokenizer) == [START, END]
    for value in ("the story", "<|start|><|end|>the story"):
        assert ids(tokenizer, text(value)) == [START, END, *plain("the story")]


def test_truncation_is_exact_and_counted() -> None:
    tokenizer = make_tokenizer(add_bos=True)
    whole = ids(tokenizer, text("the cat and the dog run for the moon"))
    for length in (1, 2, len(whole) - 1, len(whole), len(whole) + 1):
        (encoded,) = encode(tokenizer, [text("the cat and the dog run for the moon")], max_length=length)
        assert encoded.ids.tolist() == whole[:length]
        assert encoded.truncated == (length < len(whole))
        assert encoded.ids.dtype == np.int32
    (encoded,) = encode(tokenizer, [tokens(BOS, BOS, 9, 8, 7, EOS)], max_length=4)
    assert encoded.ids.tolist() == [BOS, 9, 8, 7] and not encoded.truncated  # what is cut anyway does not count


def test_pre_tokenised_rows_lose_their_end() -> None:
    tokenizer = make_tokenizer("{% for m in messages %}<|start|>{{ m['content'] }}<|end|>\n{% endfor %}")
    closing = [END, *plain("\n")]
    assert len(closing) == 2
    for pad in (None, "</s>", "<|start|>"):
        tokenizer.pad_token = pad
        padding = [] if pad is None else [tokenizer.pad_token_id] * 3
        for end in ([], [EOS], [END], closing, [*closing, EOS], [EOS, EOS]):
            row = tokens(START, 9, END, 8, *end, *padding)
            assert ids(tokenizer, row)[-3:] == [9, END, 8], (pad, end)
        assert ids(tokenizer, tokens(9, *closing, *closing, *padding)) == [9, *closing]  # one is the template's
        if pad:
            assert ids(tokenizer, tokens(*padding, 9, 8)) == [9, 8]


def test_a_closing_behind_which_the_eos_belongs_to_it() -> None:
    tokenizer = make_tokenizer("{% for m in messages %}<|start|>{{ m['content'] }}\n{{ eos_token }}{% endfor %}")
    newline = plain("\n")
    for end in ([*newline, EOS], [*newline, EOS, EOS]):
        assert ids(tokenizer, tokens(START, 9, 8, *end)) == [START, 9, 8]


def test_what_ends_a_row_of_its_own_is_kept() -> None:
    tokenizer = make_tokenizer(None)  # no chat template: no closing to cut
    assert ids(tokenizer, tokens(9, END)) == [9, END]
    assert ids(tokenizer, tokens(9, EOS, 8)) == [9, EOS, 8]


def test_rows_that_cannot_be_encoded_are_refused() -> None:
    tokenizer = make_tokenizer()
    size = len(tokenizer)
    results = encode(
        tokenizer,
        [
            Sample(3, None, input_ids=(5, size, 6)),
            Sample(4, "x", input_ids=(5, size - 1)),
            Sample(5, None, input_ids=(EOS, EOS)),
            Sample(6, None, input_ids=(END, *plain("\n"), EOS)),
        ],
    )
    assert results[0] == Refused(3, f"token id {size} is outside the model's {size} tokens")
    assert isinstance(results[1], Encoded) and (results[1].row, results[1].id) == (4, "x")
    assert results[2:] == [Refused(5, "no content tokens"), Refused(6, "no content tokens")]


def test_a_tokenizer_larger_than_the_model() -> None:
    tokenizer = make_tokenizer()
    (good, bad) = encode(tokenizer, [tokens(5, 99), tokens(5, 100)], vocabulary=100)
    assert isinstance(good, Encoded)
    assert bad == Refused(0, "token id 100 is outside the model's 100 tokens")


def test_without_a_chat_template_auto_is_alpaca() -> None:
    tokenizer = make_tokenizer(None, add_bos=True)
    row = parse({"instruction": "sort", "input": "", "output": "the list"}, "alpaca", 0)
    assert ids(tokenizer, row) == ids(tokenizer, row, "alpaca")
    assert tokenizer.decode(ids(tokenizer, row)).startswith("<s>Below is an instruction")


words = st.text(st.sampled_from("the cat <s> é😀\n"), min_size=1, max_size=12).filter(str.strip)
samples = st.one_of(
    st.builds(text, words),
    st.lists(words, min_size=1, max_size=4).map(lambda w: talk(*w)),
    st.lists(st.integers(0, 610), min_size=1, max_size=6).map(lambda t: tokens(*t)),
    st.builds(lambda a, b: parse({"instruction": a, "output": b}, "alpaca", 0), words, words),
)
BOTH = make_tokenizer(WITH_BOS, add_bos=True, add_eos=True)


@settings(max_examples=60, deadline=None)
@given(st.lists(samples, max_size=6), st.sampled_from(["chat", "alpaca", "none"]), st.integers(1, 30))
def test_a_batch_equals_one_at_a_time(pool: list[Sample], kind: str, max_length: int) -> None:
    together = encode(BOTH, pool, kind, max_length)
    assert len(together) == len(pool)
    for sample, result in zip(pool, together, strict=True):
        (alone,) = encode(BOTH, [sample], kind, max_length)
        if isinstance(alone, Refused):
            assert result == alone
            continue
        assert result.ids.tolist() == alone.ids.tolist() and result.truncated == alone.truncated
        assert 1 <= len(alone.ids) <= max_length
        assert alone.ids[:2].tolist() != [BOS, BOS]
        assert alone.ids[-1] != EOS or alone.truncated


@pytest.mark.model
def test_the_real_tokenizer(smollm2: str) -> None:
    from nait_fast.models.load import load_tokenizer

    tokenizer = load_tokenizer(smollm2)
    sample = talk("What is 2 + 2?", "It is 4.")
    got = ids(tokenizer, sample)
    assert bos_prefix(tokenizer) == []
    assert tokenizer.decode(got).endswith("<|im_start|>assistant\nIt is 4.")
    full = tokenizer.apply_chat_template([{"role": m.role, "content": m.content} for m in sample.messages])
    full = list(full["input_ids"] if hasattr(full, "keys") else full)
    assert full[: len(got)] == got and tokenizer.decode(full[len(got) :]) == "<|im_end|>\n"
    assert ids(tokenizer, tokens(*full)) == got
