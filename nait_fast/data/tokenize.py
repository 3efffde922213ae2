"""From samples to the token ids of their content, batched through the tokenizer."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nait_fast.data.formats import RowError, Sample
from nait_fast.data.template import Template


@dataclass(frozen=True, slots=True)
class Encoded:
    """``ids`` int32 [K]: the sample's tokens from the first of its text to the last of its content."""

    row: int
    id: str | None
    ids: np.ndarray
    truncated: bool = False


@dataclass(frozen=True, slots=True)
class Refused:
    """A sample that cannot be encoded, and why."""

    row: int
    reason: str


def bos_prefix(tokenizer: Any) -> list[int]:
    """The ids that this tokenizer puts in front of a plain text (BOS, or nothing); what it appends is left out."""
    plain = tokenizer("a", add_special_tokens=False)["input_ids"]
    full = tokenizer("a", add_special_tokens=True)["input_ids"]
    for start in range(len(full) - len(plain) + 1):
        if full[start : start + len(plain)] == plain:
            return list(full[:start])
    return []


class Encoder:
    """Turns samples into ``Encoded``, at most ``max_length`` tokens each (the front is kept)."""

    def __init__(self, tokenizer: Any, template: Template, max_length: int):
        self.tokenizer, self.template, self.max_length = tokenizer, template, max_length
        self._bos = bos_prefix(tokenizer)
        self._end_ids = {i for i in (tokenizer.eos_token_id, tokenizer.pad_token_id) if i is not None}
        self._closing: list[int] = []
        if template.kind == "chat":
            self._closing = tokenizer(template.closing(), add_special_tokens=False)["input_ids"]

    def encode(self, samples: Sequence[Sample]) -> list[Encoded | Refused]:
        """One result for each sample, in order."""
        results: list[Encoded | Refused | None] = [None] * len(samples)
        texts, places = [], []
        for i, sample in enumerate(samples):
            if sample.input_ids is not None:
                results[i] = self._finish(sample, self._strip_end(list(sample.input_ids)))
                continue
            try:
                text, add_bos = self.template.render(sample)
            except RowError as error:
                results[i] = Refused(sample.row, str(error))
                continue
            texts.append(text)
            places.append((i, add_bos))
        if texts:
            encoded = self.tokenizer(texts, add_special_tokens=False)["input_ids"]
            for (i, add_bos), ids in zip(places, encoded, strict=True):
                results[i] = self._finish(samples[i], (self._bos if add_bos else []) + ids)
        return [r for r in results if r is not None]

    def _finish(self, sample: Sample, ids: list[int]) -> Encoded | Refused:
        # A text may bring the BOS that the tokenizer adds as well: never two.
        while len(ids) > 1 and ids[0] == ids[1] == (self._bos[0] if self._bos else self.tokenizer.bos_token_id):
            del ids[0]
        if not ids:
            return Refused(sample.row, "no content tokens")
        if not 0 <= min(ids) <= max(ids) < len(self.tokenizer):
            return Refused(sample.row, f"token id {max(ids)} is not in the tokenizer's {len(self.tokenizer)} tokens")
        truncated = len(ids) > self.max_length
        return Encoded(sample.row, sample.id, np.array(ids[: self.max_length], dtype=np.int32), truncated)

    def _strip_end(self, ids: list[int]) -> list[int]:
        # Pre-tokenised rows usually end in the template's closing and EOS or padding: not content.
        while ids and ids[-1] in self._end_ids:
            ids.pop()
        n = len(self._closing)
        if n and ids[-n:] == self._closing:
            del ids[-n:]
        while ids and ids[-1] in self._end_ids:
            ids.pop()
        return ids
