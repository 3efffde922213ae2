"""What transformers makes of a GGUF file's tokenizer comes to what the file says: SentencePiece's BPE, and BOS."""

import itertools
import random
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from nait_fast.data.tokenize import bos_prefix
from nait_fast.models.gguf_tokenizer import mend_tokenizer
from nait_fast.models.load import load_tokenizer
from nait_fast.notices import NaitWarning, recorded

gguf = pytest.importorskip("gguf")
CONTROLS = ["<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>"]
DEFINED = ["\n", "\n\n", "  ", "   ", "<b>"]
BYTES = [f"<0x{number:02X}>" for number in range(256)]
LETTERS = "abcde\u2581."


def words() -> list[str]:
    """Pieces that are made by merging, best first: of two letters, then of three and four, not all of them."""
    some = random.Random(1)
    made = ["".join(pair) for pair in itertools.product(LETTERS, repeat=2)]
    for length in (3, 4):
        made += {"".join(some.choices(LETTERS, k=length)) for _ in range(150)}
    runs = [piece for piece in dict.fromkeys(made) if set(piece) != {"\u2581"}]
    some.shuffle(runs)
    return runs


PIECES = [*CONTROLS, *DEFINED, *BYTES, *words(), *LETTERS]
SCORES = [-1000.0] * (len(CONTROLS) + len(DEFINED)) + [0.0] * len(BYTES)
SCORES += [-float(rank) for rank in range(len(PIECES) - len(SCORES))]
KINDS = [3] * len(CONTROLS) + [4] * len(DEFINED) + [6] * len(BYTES)
KINDS += [1] * (len(PIECES) - len(KINDS))


def as_sentencepiece(text: str) -> list[str]:
    """The pieces of ``text`` by SentencePiece's rules, slowly: what is defined first, then the best pair at a time."""
    rank = {piece: score for piece, score, kind in zip(PIECES, SCORES, KINDS, strict=True) if kind == 1}
    defined = sorted((piece.replace(" ", "\u2581") for piece in [*CONTROLS, *DEFINED]), key=len, reverse=True)
    text, out, start = text.replace(" ", "\u2581"), list[str](), 0

    def merged(part: str) -> list[str]:
        pieces = list(part)
        while pairs := [(rank[a + b], -i) for i, (a, b) in enumerate(itertools.pairwise(pieces)) if a + b in rank]:
            place = -max(pairs)[1]
            pieces[place : place + 2] = ["".join(pieces[place : place + 2])]
        return [p for piece in pieces for p in ([piece] if piece in rank else _bytes(piece))]

    for place in range(len(text) + 1):
        if place < start:
            continue
        found = next((piece for piece in defined if text.startswith(piece, place)), None)
        if place == len(text) or found:
            out += merged(text[start:place]) + ([found] if found else [])
            start = place + len(found or "")
    return out + merged(text[start:])


def _bytes(piece: str) -> list[str]:
    return [f"<0x{byte:02X}>" for byte in piece.encode()]


def write(path: Path, kind: str = "llama", bos: bool | None = True, pieces: list[str] = PIECES) -> str:
    file = gguf.GGUFWriter(str(path), "gemma3")
    file.add_tokenizer_model(kind)
    file.add_token_list(pieces)
    file.add_token_scores(SCORES)
    file.add_token_types(KINDS)
    for number, name in enumerate(("pad", "eos", "bos", "unk")):
        getattr(file, f"add_{name}_token_id")(number)
    if bos is not None:
        file.add_add_bos_token(bos)
    file.write_header_to_file()
    file.write_kv_data_to_file()
    file.write_tensors_to_file()
    file.close()
    return str(path)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    with recorded() as warnings:
        tokenizer = load_tokenizer(write(tmp_path_factory.mktemp("gguf") / "tiny.gguf"))
    assert not warnings
    return tokenizer


def test_pieces_are_sentencepieces(made) -> None:
    assert type(made.backend_tokenizer.model).__name__ == "BPE"
    some = random.Random(2)
    texts = [
        "",
        "a",
        " ",
        "  ",
        "   ",
        "    ",
        "a     b",
        "\n\n\n",
        "a\r\n",
        "<b>a</b>",
        "\u00e9",
        "<start_of_turn>ab",
        "a" * 999,
    ]
    texts += ["".join(some.choices("abcde  .", k=some.randrange(60))) for _ in range(500)]
    texts += ["".join(some.choices("ab \n<b>\u00e9\U0001f600", k=some.randrange(30))) for _ in range(200)]
    differ = [text for text in texts if made.tokenize(text) != as_sentencepiece(text)]
    assert not differ, (differ[0], made.tokenize(differ[0]), as_sentencepiece(differ[0]))
    ids = made("ab  <b>", add_special_tokens=False)["input_ids"]
    assert [PIECES[number] for number in ids][-2:] == ["  ", "<b>"]
    assert made.decode(made("a  b\u00e9\n", add_special_tokens=False)["input_ids"]) == "a  b\u00e9\n"


def test_bos_is_put_where_the_file_wants_it(made, tmp_path) -> None:
    assert bos_prefix(made) == [PIECES.index("<bos>")]
    for wants in (False, None):
        assert bos_prefix(load_tokenizer(write(tmp_path / f"{wants}.gguf", bos=wants))) == []


def test_special_tokens_are_the_files(made, smollm2) -> None:
    assert (made.bos_token, made.eos_token, made.unk_token, made.pad_token) == ("<bos>", "<eos>", "<unk>", "<pad>")
    real = load_tokenizer(smollm2)
    assert (real.bos_token, real.eos_token, real.unk_token) == ("<|im_start|>", "<|im_end|>", "<|endoftext|>")
    assert real.pad_token == "<|im_end|>" and bos_prefix(real) == []


def test_a_unigram_model_that_cannot_be_mended_is_told(tmp_path) -> None:
    with pytest.warns(NaitWarning, match="t5.gguf: transformers reads this GGUF file's tokenizer as a unigram model"):
        assert (
            type(load_tokenizer(write(tmp_path / "t5.gguf", kind="t5")).backend_tokenizer.model).__name__ == "Unigram"
        )


def test_a_piece_that_is_there_twice_is_told(tmp_path) -> None:
    twice = [*PIECES[:-1], PIECES[-2]]
    with pytest.warns(NaitWarning, match="as a unigram model"):
        load_tokenizer(write(tmp_path / "twice.gguf", pieces=twice))


def test_other_tokenizers_are_left_as_they_are(tokenizer, tmp_path) -> None:
    before = tokenizer.backend_tokenizer.to_str()
    with recorded() as warnings:
        mend_tokenizer("any", tokenizer, write(tmp_path / "any.gguf", bos=False))
    assert not warnings and tokenizer.backend_tokenizer.to_str() == before
    pieces = [("<unk>", 0.0), ("\u2581t", -0.0), ("he", -1.0), ("\u2581the", -300.0)]
    ranks = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.Unigram(pieces, unk_id=0)), unk_token="<unk>")
    assert ranks.tokenize("\u2581the") == ["\u2581t", "he"]  # what the ranks of Gemma's come to
