"""From samples to the token ids of their content, batched through the tokenizer."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nait_fast.data.formats import RowError, Sample
from nait_fast.data.template import Template


@dataclass(frozen=True, slots=True)
class Encoded:
    """``ids`` int32 [K]: the sample's tokens from the first of its text to the last of its content.

    ``length``: how many there were before truncation (the Encoder always sets it). ``unread``: as of `Sample`;
    ``unshown``: what of the sample the template leaves out, as `Template.unshown` says it.
    """

    row: int
    id: str | None
    ids: np.ndarray
    length: int = 0
    unread: tuple[str, ...] = ()
    unshown: tuple[str, ...] = ()

    @property
    def truncated(self) -> bool:
        return self.length > len(self.ids)


@dataclass(frozen=True, slots=True)
class Refused:
    """A sample that cannot be encoded, and why."""

    row: int
    reason: str


@dataclass(frozen=True, slots=True)
class Prepared:
    """Samples on their way: ``texts`` await the tokenizer, all other samples have their result."""

    samples: Sequence[Sample]
    results: list[Encoded | Refused | None]
    texts: list[str]
    places: list[tuple[int, bool, tuple[str, ...]]]  # of each text: its sample's place, is BOS to come, what is unshown


def bos_prefix(tokenizer: Any) -> list[int]:
    """The ids that this tokenizer puts in front of a plain text (BOS, or nothing); what it appends is left out."""
    plain = tokenizer("a", add_special_tokens=False)["input_ids"]
    full = tokenizer("a", add_special_tokens=True)["input_ids"]
    for start in range(len(full) - len(plain) + 1):
        if full[start : start + len(plain)] == plain:
            return list(full[:start])
    return []


def _rust(tokenizer: Any) -> Any:
    """The Rust tokenizer, if its plain call is all that ``tokenizer(texts, add_special_tokens=False)`` comes to now."""
    from transformers import PreTrainedTokenizerFast

    lineage = type(tokenizer).__mro__
    if PreTrainedTokenizerFast not in lineage:
        return None
    subclasses = lineage[: lineage.index(PreTrainedTokenizerFast)]
    if any(name in vars(c) for c in subclasses for name in ("__call__", "_encode_plus", "_batch_encode_plus")):
        return None  # it may do more to a text
    rust = tokenizer.backend_tokenizer
    # A call elsewhere may have left its truncation or padding behind; transformers' own call takes them off.
    plain = rust.truncation is None and rust.padding is None
    return rust if plain and rust.encode_special_tokens == tokenizer.split_special_tokens else None


class Encoder:
    """Turns samples into ``Encoded``, at most ``max_length`` tokens each (the front is kept)."""

    def __init__(self, tokenizer: Any, template: Template, max_length: int, vocabulary: int | None = None):
        """``vocabulary``: rows of the model's embedding, where they may be fewer than the tokenizer's tokens."""
        self.tokenizer, self.template, self.max_length = tokenizer, template, max_length
        self.vocabulary = min(len(tokenizer), vocabulary or len(tokenizer))
        self._bos = bos_prefix(tokenizer)
        self._front = self._bos or [i for i in (tokenizer.bos_token_id,) if i is not None]
        self._end_ids = {i for i in (tokenizer.eos_token_id, tokenizer.pad_token_id) if i is not None}
        self._pad_ids = self._end_ids - set(self._front)
        closing = template.closing() if template.kind == "chat" else None
        forms = dict.fromkeys((closing, closing.rstrip())) if closing else {}
        self._closings = [list(tokenizer(form, add_special_tokens=False)["input_ids"]) for form in forms if form]

    def encode(self, samples: Sequence[Sample]) -> list[Encoded | Refused]:
        """One result for each sample, in order."""
        return self.tokenise(self.prepare(samples))

    def prepare(self, samples: Sequence[Sample]) -> Prepared:
        """The half of ``encode`` that is Python: renders. May run while another thread is in ``tokenise``."""
        results: list[Encoded | Refused | None] = [None] * len(samples)
        texts, places = [], []
        for i, sample in enumerate(samples):
            if sample.input_ids is not None:
                results[i] = self._finish(sample, self._strip(list(sample.input_ids)))
                continue
            try:
                text, add_bos = self.template.render(sample)
            except RowError as error:
                results[i] = Refused(sample.row, str(error))
                continue
            texts.append(text)
            places.append((i, add_bos, self.template.unshown(sample, text) if sample.messages else ()))
        return Prepared(samples, results, texts, places)

    def tokenise(self, prepared: Prepared) -> list[Encoded | Refused]:
        """The half of ``encode`` that is mostly the tokenizer's, which lets other threads run."""
        results = list(prepared.results)
        if prepared.texts:
            for (i, add_bos, unshown), ids in zip(prepared.places, self._ids(prepared.texts), strict=True):
                results[i] = self._finish(prepared.samples[i], self._bos + ids if add_bos else ids, unshown)
        return [r for r in results if r is not None]

    def _ids(self, texts: list[str]) -> list[list[int]]:
        rust = _rust(self.tokenizer)
        if rust is None:
            return self.tokenizer(texts, add_special_tokens=False)["input_ids"]
        # The same ids as encode_batch, which also makes tokens and offsets.
        return [encoding.ids for encoding in rust.encode_batch_fast(texts, add_special_tokens=False)]

    def _finish(self, sample: Sample, ids: list[int], unshown: tuple[str, ...] = ()) -> Encoded | Refused:
        # A text may bring the BOS that the tokenizer adds as well: never two.
        bos = self._front
        while bos and ids[: len(bos)] == bos == ids[len(bos) : 2 * len(bos)]:
            del ids[: len(bos)]
        if not ids:
            return Refused(sample.row, "no content tokens")
        highest = max(ids)
        if highest >= self.vocabulary:
            return Refused(sample.row, f"token id {highest} is outside the model's {self.vocabulary} tokens")
        front = np.array(ids[: self.max_length], dtype=np.int32)
        return Encoded(sample.row, sample.id, front, len(ids), sample.unread, unshown)

    def _strip(self, ids: list[int]) -> list[int]:
        # Pre-tokenised rows usually end in the template's closing, EOS or padding, and may be padded on the left: none
        # of it is content.
        closings = self._closings
        while ids:
            closing = next((c for c in closings if ids[-len(c) :] == c), None)
            if closing:
                del ids[-len(closing) :]
                closings = []
            elif ids[-1] in self._end_ids:
                ids.pop()
            else:
                break
        while ids and ids[0] in self._pad_ids:
            del ids[0]
        return ids
