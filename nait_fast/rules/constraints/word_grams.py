"""Texts that share a run of words: which rows hold one of an evaluation set's.

Words are what is left of a text in small letters without punctuation, as GPT-3's authors compared them (Brown et al.
2020, appendix C: 13-grams); a character of Chinese or Japanese is a word. A sample is looked for by all
runs of n words in its texts, or, where none of these has so many, by its longest text as a whole. Memory grows with
the samples, not with the rows.
"""

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

FEWEST_WORDS = 5  # of a whole text that is looked for: "yes, of course" is everywhere
_CJK = r"\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"  # kana and ideographs, which no spaces part
_WORD = re.compile(rf"[{_CJK}]|[^\W_{_CJK}]+")
_APOSTROPHE = re.compile(r"(?<=\w)['’](?=\w)")  # "don't" is one word
_FACTOR = np.uint64(0x9E3779B97F4A7C15)
_BATCH_WORDS = 1 << 17


def words_of(text: str) -> list[str]:
    """The words of ``text`` as they are compared."""
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)
    return _WORD.findall(_APOSTROPHE.sub("", text.lower()))


@dataclass(frozen=True)
class Shared:
    """Row number ``row`` of those searched has the ``words`` of ``sample``."""

    row: int
    sample: int
    words: str


class WordGrams:
    """The runs of ``n`` words of ``samples``, each a list of texts. ``sought`` bool [s]: of which there are any.

    Of a run that several samples have, the first one is named.
    """

    def __init__(self, samples: Iterable[Sequence[str]], n: int):
        self._numbers: dict[str, int] = {}
        words: list[int] = []
        starts: dict[int, list[int]] = {}  # words of a run -> where runs begin in ``words``
        owners: dict[int, list[int]] = {}
        sought: list[bool] = []
        for number, texts in enumerate(samples):
            runs = [[self._number(word) for word in words_of(text)] for text in texts]
            longest = max(runs, key=len, default=[])
            size = n if len(longest) >= n else len(longest)
            sought.append(size >= min(n, FEWEST_WORDS))
            for run in runs if size == n else [longest] if sought[-1] else []:
                first = range(len(words), len(words) + len(run) - size + 1)
                starts.setdefault(size, []).extend(first)
                owners.setdefault(size, []).extend([number] * len(first))
                words += run
        self.sought = np.array(sought, dtype=bool)
        self._words, self._text = np.array(words, dtype=np.int64), list(self._numbers)
        self._runs = {}
        for size, at in starts.items():
            places = np.array(at, dtype=np.int64)
            keys = _rolling(self._words, size)[places]
            by_key = np.argsort(keys, kind="stable")
            self._runs[size] = keys[by_key], places[by_key], np.array(owners[size])[by_key]

    def _number(self, word: str) -> int:
        return self._numbers.setdefault(word, len(self._numbers) + 1)

    def find(self, rows: Iterable[Sequence[str]]) -> Iterator[Shared]:
        """Of each of ``rows``, lists of texts, that shares a run with a sample: the first that it shares."""
        waiting: list[int] = []
        owner: list[int] = []
        for number, texts in enumerate(rows):
            for text in texts:
                found = [self._numbers.get(word, 0) for word in words_of(text)]
                waiting += found
                waiting.append(0)
                owner += [number] * (len(found) + 1)
            if len(waiting) >= _BATCH_WORDS:
                yield from self._within(np.array(waiting), np.array(owner))
                waiting, owner = [], []
        yield from self._within(np.array(waiting, dtype=np.int64), np.array(owner, dtype=np.int64))

    def _within(self, words: np.ndarray, owner: np.ndarray) -> Iterator[Shared]:
        """Those of rows whose words, 0 for one that no sample has and between texts, lie one after another."""
        best: dict[int, tuple[int, int, int]] = {}  # row -> (place of its first run, the run's words, sample)
        unknown = np.cumsum(words == 0)
        for size, (keys, places, owners) in self._runs.items():
            if len(words) < size:
                continue
            # Runs without an unknown word: so none reaches from one text into the next.
            known = unknown[size - 1 :] - unknown[: len(words) - size + 1] + (words[: len(words) - size + 1] == 0) == 0
            first = np.flatnonzero(known)
            mine = _rolling(words, size)[first]
            at = np.minimum(np.searchsorted(keys, mine), len(keys) - 1)
            hit = np.flatnonzero(keys[at] == mine)
            first, at = first[hit], at[hit]
            steps = np.arange(size)
            same = (words[first[:, None] + steps] == self._words[places[at][:, None] + steps]).all(axis=1)
            for place, number in zip(first[same].tolist(), owners[at[same]].tolist(), strict=True):
                row = int(owner[place])
                if row not in best or place < best[row][0]:
                    best[row] = place, size, number
        for row, (place, size, number) in sorted(best.items()):
            run = " ".join(self._text[word - 1] for word in words[place : place + size].tolist())
            yield Shared(row, number, run)


def _rolling(words: np.ndarray, size: int) -> np.ndarray:
    """A hash uint64 [n - size + 1] of each run of ``size`` numbers: equal for equal runs."""
    number = max(0, len(words) - size + 1)
    out = np.zeros(number, dtype=np.uint64)
    for step in range(size):
        out = (out ^ words[step : step + number].astype(np.uint64)) * _FACTOR
        out ^= out >> np.uint64(29)
    return out
