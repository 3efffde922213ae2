"""Constraint decontaminate: rows that share words with a sample of an evaluation set lose their places.

Compared are the texts of the turns that are not the system's, of rows and samples (``word_grams``); of samples in no
format that is known, all texts that are no metadata.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from nait_fast.data.formats import RowError, Sample, detect, parse
from nait_fast.data.pool import Pool, decode, where_of
from nait_fast.data.row_conventions import conventions_of
from nait_fast.data.unread import is_metadata, texts_in
from nait_fast.errors import BadInput, NaitError
from nait_fast.index.pool_rows import datasets_of
from nait_fast.notices import hushed, warn
from nait_fast.rules.constraints.base import Constraint, ScoredRows, Walk
from nait_fast.rules.constraints.word_grams import FEWEST_WORDS, WordGrams
from nait_fast.urls import without_secrets

if TYPE_CHECKING:
    from nait_fast.config import ConstraintOptions

# Texts of each of the rows at ascending places int64 [n], one row after another.
Texts = Callable[[np.ndarray], Iterable[Sequence[str]]]


class Decontamination(Constraint):
    """Without rows that share a run of ``ngram`` words with one of ``samples``: (the name of what it is in, its number
    there, its texts). ``texts``: of the rows; ``files``: path -> SHA-256 of where the samples are from.

    A dropped row's details: the ``evaluation`` set and the number of the ``sample`` in it, and the ``words`` that both
    have.
    """

    name = "decontaminate"

    def __init__(
        self,
        samples: Sequence[tuple[str, int, Sequence[str]]],
        texts: Texts,
        ngram: int = 13,
        files: Mapping[str, str] = MappingProxyType({}),
    ):
        self._files = dict(files)
        self._of = [(name, number) for name, number, _ in samples]
        self._texts, self._ngram = texts, ngram
        self._grams = WordGrams((texts for _, _, texts in samples), ngram)

    @classmethod
    def wanted(cls, options: "ConstraintOptions") -> bool:
        return bool(options.decontaminate)

    @classmethod
    def check(cls, options: "ConstraintOptions") -> None:
        for path in options.decontaminate:
            read_samples(path)

    @classmethod
    def of(cls, options: "ConstraintOptions", rows: ScoredRows) -> "Decontamination":
        if unreadable := next((d for d in rows.index.datasets if d["format"] == "input_ids"), None):
            raise BadInput("holds token ids, no words to compare", where=f"--decontaminate: {unreadable['path']}")
        samples = [sample for path in options.decontaminate for sample in read_samples(path)]
        files = {without_secrets(path): Pool(path).plan().sha256 for path in options.decontaminate}
        made = cls(samples, lambda places: texts_of(rows, places), options.decontaminate_ngram, files)
        if few := int((~made._grams.sought).sum()):
            least = min(FEWEST_WORDS, options.decontaminate_ngram)
            warn(f"--decontaminate: {few:,} of {len(samples):,} samples have no text of {least} words: not sought")
        return made

    def leave(self, offered: Iterator[np.ndarray], walk: Walk) -> Iterator[np.ndarray]:
        for places in offered:
            ascending = np.argsort(places)  # as they lie in the pool
            found = list(self._grams.find(self._texts(places[ascending])))
            gone = ascending[np.array([shared.row for shared in found], dtype=np.int64)]
            of = [self._of[shared.sample] for shared in found]
            walk.drop(
                self.name,
                places[gone],
                evaluation=np.array([name for name, _ in of], dtype=object),
                sample=np.array([number for _, number in of], dtype=np.int64),
                words=np.array([shared.words for shared in found], dtype=object),
            )
            yield np.delete(places, gone)

    def details(self) -> dict[str, Any]:
        sought = int(self._grams.sought.sum())
        return {"ngram": self._ngram, "samples": len(self._of), "sought": sought, "sha256": self._files}


def read_samples(path: str) -> list[tuple[str, int, list[str]]]:
    """(``path``, its number, its texts) of each row of an evaluation set. Raises NaitError where it cannot be read or
    holds no text."""
    samples = []
    try:
        for number, record in Pool(path).reader().rows():
            try:
                texts = texts_of_sample(decode(record.payload))
            except RowError as error:
                raise BadInput(str(error), where=where_of(record.file, record.line, number)) from None
            samples.append((without_secrets(path), number, texts))
    except NaitError as error:
        raise error.replace(note="of --decontaminate") from None
    if not any(texts for _, _, texts in samples):
        raise BadInput("no row of it has a text", where=f"--decontaminate {path}")
    return samples


def texts_of_sample(row: dict[str, Any]) -> list[str]:
    """The texts of a row of an evaluation set, whatever its keys."""
    if (format := detect(row)) not in (None, "input_ids"):
        try:
            return _turns(parse(row, format, 0))
        except RowError:  # a choice for an answer, or an answer that is not told
            pass
    return [text for key, value in row.items() if not is_metadata(key) for text in texts_in(value)]


def _turns(sample: Sample) -> list[str]:
    return [text for role, text in sample.turns if role != "system"]


def texts_of(rows: ScoredRows, places: np.ndarray) -> Iterator[list[str]]:
    """The texts of the scored rows at ascending ``places`` int64 [n], one row after another. Raises NaitError."""
    numbers = rows.row(places)
    with hushed():  # of what would be written otherwise than it was read: nothing is written here
        for line, dataset in zip(rows.pool.lines(numbers), datasets_of(rows.index, numbers), strict=True):
            try:
                sample = parse(decode(line), dataset["format"], 0, conventions_of(dataset))
            except RowError as error:
                raise NaitError(f"a row of it cannot be read any more ({error})", where=dataset["path"]) from None
            yield _turns(sample)


CONSTRAINT = Decontamination
