"""oumi: the analyzer ``nait_fast``, which scores each conversation with a signature.

oumi's registry finds it by the path of this file in the file that OUMI_EXTRA_DEPS_FILE names, or by its import.
"""

import os
from typing import Any

from oumi.analyze.base import ConversationAnalyzer
from oumi.core.registry import register_sample_analyzer
from oumi.core.types.conversation import Conversation
from pydantic import BaseModel, ConfigDict, Field

from nait_fast.integrations.batch import BatchScorer

ROWS = 1024  # of which batches are formed by length


class NaitAnalyzerConfig(BaseModel):
    """What ``params`` of the analyzer holds."""

    model_config = ConfigDict(extra="forbid")

    model: str = Field(description="model folder, GGUF file or Hub id")
    signature: str = Field(description="signature file, made with that model")
    bad_rows: str = Field(
        default="raise", description="raise, or null: conversations that cannot be scored have no score"
    )
    options: dict[str, Any] = Field(default_factory=dict, description="those of nait_fast.Scorer")


class NaitMetrics(BaseModel):
    """What the analyzer says of a conversation."""

    score: float | None = Field(description="how strongly it exercises the signature's capability")
    error: str | None = Field(default=None, description="why it has no score")


@register_sample_analyzer("nait_fast")
class NaitAnalyzer(ConversationAnalyzer[NaitMetrics]):
    """Scores conversations, with their tools, calls and reasoning, by ``signature``; one analyzer a signature.

    ``bad_rows``: 'raise' (NaitError) at a conversation that cannot be scored, or 'null': its score is None, and
    ``error`` says why. ``options``: those of ``nait_fast.Scorer``. The model is loaded at the first conversation.
    """

    _result_model = NaitMetrics

    @classmethod
    def get_config_schema(cls) -> dict[str, Any]:
        return NaitAnalyzerConfig.model_json_schema()

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "NaitAnalyzer":
        asked = NaitAnalyzerConfig(**config)
        return cls(asked.model, asked.signature, bad_rows=asked.bad_rows, **asked.options)

    def __init__(self, model: str, signature: str | os.PathLike[str], *, bad_rows: str = "raise", **options: Any):
        self._scorer = BatchScorer(model, signature, bad_rows=bad_rows, **options)

    def analyze(self, conversation: Conversation) -> NaitMetrics:
        return self.analyze_batch([conversation])[0]

    def analyze_batch(self, conversations: list[Conversation]) -> list[NaitMetrics]:
        made = []
        for start in range(0, len(conversations), ROWS):
            samples = [_sample(conversation) for conversation in conversations[start : start + ROWS]]
            scores, problems = self._scorer.rows(samples)
            made += [NaitMetrics(score=row[0], error=why) for row, why in zip(scores, problems, strict=True)]
        return made


def _sample(conversation: Conversation) -> dict[str, Any]:
    whole = conversation.to_dict()
    return {key: whole[key] for key in ("messages", "tools") if key in whole}
