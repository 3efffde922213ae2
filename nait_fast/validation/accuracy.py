"""How many held-out samples a model answers right: greedily, or by which of its choices it finds likeliest."""

from collections.abc import Sequence
from typing import Any

from nait_fast.validation.answers import correct
from nait_fast.validation.training_samples import TrainingSample, end_of_turn


def correct_of(
    kind: str, learner: Any, encoder: Any, texts: Sequence[Any], samples: Sequence[TrainingSample], most: int
) -> list[float]:
    """1.0 or 0.0 for each of ``samples``, made of ``texts``: whether the greedy answer of at most ``most`` tokens gives
    the last response's answer, as ``answers.ANSWERS[kind]`` reads both."""
    prompts, references = [], []
    for sample, text in zip(samples, texts, strict=True):
        prompts.append(sample.ids[: _last_start(sample)])
        references.append(text.messages[-1].content)
    said = learner.generate(prompts, most, end_of_turn(encoder))
    decoded = encoder.tokenizer.batch_decode(said, skip_special_tokens=True)
    return [float(correct(kind, one, reference)) for one, reference in zip(decoded, references, strict=True)]


def likeliest(learner: Any, choices: Sequence[Sequence[int]]) -> list[float]:
    """1.0 or 0.0 for each of ``choices``, rows of the learner's samples, the right one first: whether its tokens (but
    for the end) have the least loss in all."""
    out = []
    nll = learner.evaluate([row for rows in choices for row in rows])["nll"]
    for rows in choices:
        own, nll = nll[: len(rows)], nll[len(rows) :]
        out.append(float(own[0] < min(own[1:])))
    return out


def _last_start(sample: TrainingSample) -> int:
    """Where the last response begins: its places follow one another."""
    labels = sample.labels
    start = len(labels) - 1
    while start and labels[start - 1] == labels[start] - 1:
        start -= 1
    return int(labels[start])
