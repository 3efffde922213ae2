"""Token ids of a sample's content: one BOS at most, no end tokens, truncation counted, bad rows refused."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nait_fast.data.formats import Message, Sample, parse
from nait_fast.data.template import Template
from nait_fast.data.tokenize import Encoded, Encoder, Refused, _rust, bos_prefix
from tests.conftest import make_slow_tokenizer, make_tokenizer

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
        assert encoded.length == len(whole)
        assert encoded.ids.dtype == np.int32
    (encoded,) = encode(tokenizer, [tokens(BOS, BOS, 9, 8, 7, EOS)], max_length=4)
    assert encoded.ids.tolist() == [BOS, 9, 8, 7] and not encoded.truncated  # what is cut anyway does not count
    assert encoded.length == 4


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
        assert result.ids.tolist() == alone.ids.tolist() and result.length == alone.length
        assert 1 <= len(alone.ids) <= max_length
        assert alone.ids[:2].tolist() != [BOS, BOS]
        assert alone.ids[-1] != EOS or alone.truncated


TEXTS = [
    "the story",
    " a  Cat\n\nand é😀 ½",
    "<s> sun</s> rain",
    "<|start|>why<|end|>\n",
    "x" * 300,
    "中文",
    "\u200b \t",
]


def rust_tokenizers() -> dict:
    """One of each model, with what usually surrounds it."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    pieces = {p: i for i, p in enumerate(["<unk>", "<s>", "</s>", *"abehnortuwy▁", "th", "##h", "##e"])}
    in_bytes = {**pieces, **{f"<0x{i:02X}>": len(pieces) + i for i in range(256)}}
    llama = Tokenizer(models.BPE(in_bytes, [("t", "h")], unk_token="<unk>", byte_fallback=True))
    llama.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    bert = Tokenizer(models.WordPiece(pieces, unk_token="<unk>"))
    bert.normalizer, bert.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    bert.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 1))
    t5 = Tokenizer(models.Unigram([(piece, -float(i)) for piece, i in pieces.items()], unk_id=0))
    t5.normalizer, t5.pre_tokenizer = normalizers.NFKC(), pre_tokenizers.Metaspace()
    special = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    made = {"llama": llama, "bert": bert, "t5": t5}
    wrapped = {name: PreTrainedTokenizerFast(tokenizer_object=one, **special) for name, one in made.items()}
    return {"byte level": make_tokenizer(None), **wrapped}


@pytest.mark.parametrize("model", rust_tokenizers())
@pytest.mark.parametrize("split", [False, True])
def test_ids_are_those_of_the_tokenizers_own_call(model: str, split: bool) -> None:
    tokenizer = rust_tokenizers()[model]
    tokenizer.split_special_tokens = split
    front = bos_prefix(tokenizer)
    expected = [front + one for one in tokenizer(TEXTS, add_special_tokens=False)["input_ids"]]
    assert _rust(tokenizer) is not None
    for want, got in zip(expected, encode(tokenizer, [text(t) for t in TEXTS]), strict=True):
        assert got.ids.tolist() == (want[1:] if want[:2] == [tokenizer.bos_token_id] * 2 else want)


def test_settings_that_another_call_left_on_the_tokenizer() -> None:
    tokenizer = make_tokenizer(None)
    tokenizer.pad_token = "</s>"
    encoder = Encoder(tokenizer, Template("none", tokenizer), 512)
    values = ["the cat and the dog", "sun", "<|end|>sun"]
    for left in ({"truncation": True, "max_length": 2}, {"padding": True}, {"split_special_tokens": True}):
        tokenizer(values, **left)
        assert _rust(tokenizer) is None
        got = encoder.encode([text(v) for v in values])
        assert [g.ids.tolist() for g in got] == [plain(values[0]), plain("sun"), [END, *plain("sun")]], left


def test_a_tokenizer_in_python() -> None:
    tokenizer = make_slow_tokenizer(WITH_BOS)
    assert not tokenizer.is_fast
    assert ids(tokenizer, text("ab")) == [97, 98]
    assert ids(tokenizer, talk("ab")) == [tokenizer.bos_token_id, *map(ord, "<|start|>ab")]


@pytest.mark.parametrize("method", ["__call__", "_encode_plus"])
def test_a_tokenizer_with_a_call_of_its_own(method: str) -> None:
    tokenizer = make_tokenizer(None)
    parent = type(tokenizer)

    def lowering(self, text, *args, **options):
        return getattr(parent, method)(self, [t.lower() for t in text] if isinstance(text, list) else text, **options)

    tokenizer.__class__ = type("Lowering", (parent,), {method: lowering})
    assert ids(tokenizer, text("THE STORY")) == plain("the story")


@pytest.mark.parametrize("kind", ["chat", "alpaca", "none"])
def test_prepare_and_tokenise_in_threads(kind: str) -> None:
    def seen(results: list) -> list:
        return [r if isinstance(r, Refused) else (r.row, r.id, r.ids.tolist(), r.length) for r in results]

    encoder = Encoder(BOTH, Template(kind, BOTH), 20)
    chunks = [
        [talk("why " * (i % 5 + 1), f"a story {i} {j}") if i % 3 else tokens(9, 700 * (j % 2)) for i in range(40)]
        for j in range(12)
    ]
    expected = [seen(encoder.encode(chunk)) for chunk in chunks]
    with ThreadPoolExecutor(2) as rendering, ThreadPoolExecutor(2) as tokenising:
        assert [seen(r) for r in tokenising.map(encoder.tokenise, rendering.map(encoder.prepare, chunks))] == expected
        assert [seen(r) for r in tokenising.map(encoder.encode, chunks)] == expected
    prepared = encoder.prepare(chunks[0])
    assert seen(encoder.tokenise(prepared)) == seen(encoder.tokenise(prepared)) == expected[0]


@pytest.mark.model
def test_the_real_tokenizer(smollm2_folder: str) -> None:
    from nait_fast.models.load import load_tokenizer

    tokenizer = load_tokenizer(smollm2_folder)
    sample = talk("What is 2 + 2?", "It is 4.")
    got = ids(tokenizer, sample)
    assert bos_prefix(tokenizer) == []
    assert tokenizer.decode(got).endswith("<|im_start|>assistant\nIt is 4.")
    full = tokenizer.apply_chat_template([{"role": m.role, "content": m.content} for m in sample.messages])
    full = list(full["input_ids"] if hasattr(full, "keys") else full)
    assert full[: len(got)] == got and tokenizer.decode(full[len(got) :]) == "<|im_end|>\n"
    assert ids(tokenizer, tokens(*full)) == got
    talked = [talk("What is 2 + 2?", " It is 4.", "And 3?", "七 🙂"), talk("user", "assistant"), talk("only this")]
    for one, answers in zip(
        encode(tokenizer, talked, spans=True), ([" It is 4.", "七 🙂"], ["assistant"], []), strict=True
    ):
        assert [tokenizer.decode(one.ids[start:end]) for start, end in one.response] == answers
