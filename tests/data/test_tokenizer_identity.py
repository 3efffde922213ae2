"""A tokenizer's identity, as part of a template's hash: what changes it and what does not."""

import copy
import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizer, PreTrainedTokenizerFast

from nait_fast.data.formats import Sample
from nait_fast.data.template import Template
from nait_fast.data.tokenize import Encoder
from nait_fast.data.tokenizer_identity import tokenizer_identity
from nait_fast.errors import NaitError
from tests.conftest import make_tokenizer


def changed(change, **named) -> PreTrainedTokenizerFast:
    """The test's tokenizer with another tokenizer.json."""
    told = json.loads(make_tokenizer().backend_tokenizer.to_str())
    change(told)
    special = {"bos_token": "<s>", "eos_token": "</s>", "additional_special_tokens": ["<|start|>", "<|end|>"]}
    made = Tokenizer.from_str(json.dumps(told))
    return PreTrainedTokenizerFast(tokenizer_object=made, **{**special, **named})


def swap_ids(told) -> None:
    vocabulary = told["model"]["vocab"]
    names = sorted(vocabulary, key=lambda name: vocabulary[name])
    vocabulary[names[300]], vocabulary[names[400]] = vocabulary[names[400]], vocabulary[names[300]]


def drop_merge(told) -> None:
    told["model"]["merges"].pop()


def normalise(told) -> None:
    told["normalizer"] = {"type": "Lowercase"}


def add_space(told) -> None:
    told["pre_tokenizer"]["add_prefix_space"] = True


def not_normalised(told) -> None:
    told["added_tokens"][2]["lstrip"] = True


def nothing(told) -> None: ...


def test_the_whole_content_counts():
    same = {tokenizer_identity(t) for t in (make_tokenizer(), changed(nothing), copy.deepcopy(make_tokenizer()))}
    assert len(same) == 1
    others = [changed(c) for c in (swap_ids, drop_merge, normalise, add_space, not_normalised)]
    others += [changed(nothing, eos_token="<|end|>"), changed(nothing, split_special_tokens=True)]
    others += [make_tokenizer(add_bos=True), make_tokenizer(add_eos=True)]
    found = same | {tokenizer_identity(t) for t in others}
    assert len(found) == 1 + len(others)
    assert len({Template("chat", t).hash for t in (make_tokenizer(), make_tokenizer(add_bos=True))}) == 2
    assert len(Template("none", make_tokenizer()).hash) == 32


def test_saved_and_loaded_is_the_same(tmp_path: Path):
    from nait_fast.models.load import load_tokenizer

    make_tokenizer().save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    assert tokenizer_identity(load_tokenizer(str(tmp_path))) == tokenizer_identity(make_tokenizer())


def test_what_a_call_left_behind_does_not_count():
    tokenizer = make_tokenizer()
    before = tokenizer_identity(tokenizer)
    tokenizer.backend_tokenizer.enable_truncation(max_length=7)
    tokenizer.backend_tokenizer.enable_padding(length=9, pad_token="</s>", pad_id=1)
    assert '"max_length":7' in tokenizer.backend_tokenizer.to_str()
    assert tokenizer_identity(tokenizer) == before


def test_ids_drawn_at_random_are_refused():
    def dropout(told):
        told["model"]["dropout"] = 0.1

    with pytest.raises(NaitError, match=r"dropout 0\.1"):
        tokenizer_identity(changed(dropout))


class Letters(PreTrainedTokenizer):
    """In Python alone: a letter a token."""

    def __init__(self, letters: str = "abcdef ", shift: int = 0, **named):
        self.letters, self.shift = letters, shift
        super().__init__(unk_token="a", shift=shift, **named)

    @property
    def vocab_size(self) -> int:
        return len(self.letters)

    def get_vocab(self) -> dict[str, int]:
        return {letter: i for i, letter in enumerate(self.letters)}

    def _tokenize(self, text, **named):
        return list(text)

    def _convert_token_to_id(self, token):
        return (self.get_vocab().get(token, 0) + self.shift) % len(self.letters)

    def _convert_id_to_token(self, index):
        return self.letters[index]


def test_a_tokenizer_in_python():
    variants = [Letters(), Letters("abcedf "), Letters(shift=1)]
    assert len({tokenizer_identity(t) for t in variants}) == 3
    assert tokenizer_identity(Letters()) == tokenizer_identity(copy.deepcopy(variants[0]))


def test_padding_with_the_eos_is_the_same_tokenizer() -> None:
    plain, padding = make_tokenizer(), make_tokenizer()
    padding.pad_token = padding.eos_token  # what batching asks for
    assert tokenizer_identity(padding) == tokenizer_identity(plain)
    ids = [plain.eos_token_id] * 3 + plain("a cat")["input_ids"]
    rows = [Sample(0, None, input_ids=tuple(ids))]
    encoders = [Encoder(words, Template("none", words), 40) for words in (plain, padding)]
    first, second = ([e.ids.tolist() for e in encoder.encode(rows)] for encoder in encoders)
    assert first == second == [plain("a cat")["input_ids"]]
    padding.pad_token = "<|end|>"
    assert tokenizer_identity(padding) != tokenizer_identity(plain)
