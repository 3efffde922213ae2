"""What a whole command needs, made up: rows as long as Alpaca's, and a model of a shape with random weights and a
tokenizer, saved as a folder.

Lengths are drawn from the quantiles of Alpaca's rows (those of ``lengths.py``) in tokens of SmolLM2's tokenizer: of the
instruction, the input where there is one, and the output. Texts are runs of common words, most of them one token of any
English vocabulary, and now and then a word of random letters.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nait_fast.bench.shapes import Shape, build

SHARES = (*(i / 16 for i in range(16)), 31 / 32, 63 / 64, 127 / 128, 1.0)
INSTRUCTION = (4, 7, 8, 9, 9, 10, 10, 11, 11, 12, 12, 13, 14, 15, 17, 19, 22, 25, 29, 94)
INPUT = (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 13, 16, 19, 25, 37, 53, 67, 85, 305)
OUTPUT = (1, 4, 8, 11, 14, 18, 23, 32, 43, 53, 64, 74, 86, 98, 116, 147, 190, 237, 285, 928)
INPUT_SHARE = 0.396
COMMON = """
    the of and to in is that for it as was with be by on not he his but at are this have from or had an they which
    one you were all her she there would their we him been has when who will no more if out so up said what its
    about than into them can only other time new some could these two may first then do any like my now over such
    our man me even most made after also did many off before must well back through years much where your way down
    should because long each just state people those too mr how little good world make very year still see work life
    great while write list give name three sentence following example number describe create given word text answer
    question food water music
""".split()  # noqa: SIM905 - easier to read so
TEMPLATE = (  # Alpaca's, so that it is as long as under a tokenizer of English
    "Below is an instruction that describes a task, paired with an input that provides further context. "
    "Write a response that appropriately completes the request.\n\n### Instruction:\n\n### Input:\n\n### Response:\n"
)
RARE = 0.03  # share of words of random letters; ``_Words.some`` takes each for three tokens
STREAM = 400_000  # words that texts are cut from


class _Words:
    """A long text of random words; any run of them is a text."""

    def __init__(self, generator: np.random.Generator):
        odds = 1 / np.arange(2, len(COMMON) + 2)
        words = np.array(COMMON)[generator.choice(len(COMMON), STREAM, p=odds / odds.sum())].tolist()
        letters = generator.integers(ord("a"), ord("z") + 1, (STREAM, 7), dtype=np.uint8)
        for place in np.flatnonzero(generator.random(STREAM) < RARE):
            words[place] = letters[place].tobytes().decode()
        self.text = " ".join(words)
        self.starts = np.cumsum([0, *(len(word) + 1 for word in words)])

    def some(self, first: int, tokens: int) -> str:
        """A run of about ``tokens`` tokens from word ``first`` on."""
        words = max(1, round(tokens / (1 + 2 * RARE)))
        return self.text[self.starts[first] : self.starts[first + words] - 1]


def write_rows(path: Path, rows: int, seed: int = 0, responses: float = 1.0) -> None:
    """``rows`` rows of Alpaca's format and lengths into the file ``path``, outputs ``responses`` times as long."""
    generator = np.random.default_rng(seed)
    words = _Words(generator)
    drawn = generator.random((3, rows))
    lengths = [
        np.interp(x, SHARES, quantiles) for x, quantiles in zip(drawn, (INSTRUCTION, INPUT, OUTPUT), strict=True)
    ]
    instruction, given, output = lengths[0], lengths[1], lengths[2] * responses
    given[generator.random(rows) >= INPUT_SHARE] = 0
    first = generator.integers(0, STREAM - int(max(x.max() for x in (instruction, given, output))) - 1, (3, rows))
    with open(path, "w", encoding="utf-8") as file:
        for row in range(rows):
            texts = {
                "instruction": words.some(int(first[0, row]), int(instruction[row])),
                "input": words.some(int(first[1, row]), int(given[row])) if given[row] else "",
                "output": words.some(int(first[2, row]), int(output[row])),
            }
            file.write(json.dumps(texts) + "\n")


def make_tokenizer(vocabulary: int) -> Any:
    """A byte-level BPE tokenizer of at most ``vocabulary`` tokens, most of the words that ``write_rows`` uses among
    them, without a chat template."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=min(vocabulary, 4096),
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    text = _Words(np.random.default_rng(0)).text[:200_000]
    tokenizer.train_from_iterator([text, *[TEMPLATE] * 50], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="</s>")


def save_model(shape: Shape, folder: Path, device: torch.device, dtype: torch.dtype, seed: int = 0) -> None:
    """A folder of a model of ``shape``: its body's random weights, made on ``device``, and a tokenizer."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        build(shape, device, dtype, seed).save_pretrained(folder, max_shard_size="2GB")
    finally:
        if shown:
            logging.enable_progress_bar()
    make_tokenizer(shape.vocabulary).save_pretrained(folder)
