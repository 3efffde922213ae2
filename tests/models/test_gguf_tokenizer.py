"""A tokenizer that transformers makes of a GGUF file: one that cannot be the model's own is told."""

import pytest
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from nait_fast.models import load
from nait_fast.models.load import load_tokenizer, warn_of_unigram
from nait_fast.notices import NaitWarning, recorded


def unigram() -> PreTrainedTokenizerFast:
    # As of Gemma's file: scores are ranks, so that two frequent pieces cost less than the word that they make.
    pieces = [("<unk>", 0.0), ("\u2581t", -0.0), ("he", -1.0), ("\u2581the", -300.0)]
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.Unigram(pieces, unk_id=0)), unk_token="<unk>")


def test_a_unigram_model_of_a_gguf_file_is_told(tokenizer, monkeypatch):
    made = unigram()
    assert made.tokenize("\u2581the") == ["\u2581t", "he"]
    with pytest.warns(
        NaitWarning, match="gemma.gguf: transformers reads this GGUF file's tokenizer as a unigram model"
    ):
        warn_of_unigram("gemma.gguf", made)
    monkeypatch.setattr("transformers.AutoTokenizer.from_pretrained", lambda *a, **k: made)
    monkeypatch.setattr(load, "locate", lambda name: ("folder", {"gguf_file": "gemma.gguf"}))
    with pytest.warns(NaitWarning, match="pass --tokenizer"):
        assert load_tokenizer("gemma.gguf") is made
    with recorded() as warnings:
        warn_of_unigram("llama.gguf", tokenizer)  # BPE
    assert not warnings
