"""Samples to train on: their tokens, and which of them have a loss."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nait_fast.data.formats import Sample
from nait_fast.data.spans import ASSISTANT
from nait_fast.data.template import Template
from nait_fast.data.tokenize import Encoded, Encoder, Refused
from nait_fast.errors import BadInput


@dataclass(frozen=True, slots=True)
class TrainingSample:
    """``ids`` int32 [K]: a sample's tokens, the end-of-turn token last if ``ended``; ``labels`` int64 [R]: places of
    those with a loss, ascending: what the assistant says in any turn, and that end.

    A sample that was cut to the maximum length has no end.
    """

    ids: np.ndarray
    labels: np.ndarray
    ended: bool

    @property
    def response(self) -> int:
        """Tokens with a loss, the end among them."""
        return len(self.labels)


def training_encoder(tokenizer: Any, template: Template, max_length: int, vocabulary: int | None) -> Encoder:
    """The encoder that ``training_sample`` wants. Raises BadInput where this tokenizer cannot tell the response."""
    return Encoder(tokenizer, template, max_length, vocabulary, tokens="response")


def end_of_turn(encoder: Encoder) -> int:
    """The token that ends a response. Raises BadInput if neither template nor tokenizer has one."""
    template, tokenizer = encoder.template, encoder.tokenizer
    closing = template.closing() if template.kind == "chat" else None
    ids = tokenizer(closing, add_special_tokens=False)["input_ids"] if closing else []
    end = ids[0] if ids else tokenizer.eos_token_id
    if end is None:
        raise BadInput("has no end-of-sequence token to train on", where="the tokenizer")
    return int(end)


def training_sample(encoded: Encoded, sample: Sample, end: int) -> TrainingSample | None:
    """``sample``, encoded by ``training_encoder``; None if no token of the response has another before it."""
    ids, ended = encoded.ids, not encoded.truncated and bool(sample.messages) and sample.messages[-1].role == ASSISTANT
    spans = [np.arange(max(start, 1), stop) for start, stop in encoded.response or ()]
    labels = np.concatenate(spans) if spans else np.zeros(0, dtype=np.int64)
    if not len(labels):
        return None
    if ended:
        ids, labels = np.append(ids, np.int32(end)), np.append(labels, len(ids))
    return TrainingSample(ids, labels.astype(np.int64), ended)


def training_samples(encoder: Encoder, samples: Sequence[Sample]) -> tuple[list[TrainingSample | None], list[Refused]]:
    """(each of ``samples`` to train on, None where that cannot be; why not, of each that is refused)."""
    end, out, refused = end_of_turn(encoder), list[TrainingSample | None](), list[Refused]()
    for sample, encoded in zip(samples, encoder.encode(samples), strict=True):
        if isinstance(encoded, Refused):
            refused.append(encoded)
            out.append(None)
            continue
        out.append(training_sample(encoded, sample, end))
        if out[-1] is None:
            refused.append(Refused(encoded.row, "no token of its response that another stands before"))
    return out, refused
