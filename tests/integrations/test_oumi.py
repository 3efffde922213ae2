"""oumi's analyzer, in its own pipeline."""

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from nait_fast import NaitError
from tests.integrations.conftest import BAD, Made


@pytest.fixture(scope="module")
def oumi() -> Iterator[SimpleNamespace]:
    """Its registry, pipeline and conversations, and our analyzer. Its packages' own __init__ would bring all of oumi
    (mlflow, SkyPilot …), and are empty here."""
    found = importlib.util.find_spec("oumi")
    if found is None or not found.submodule_search_locations:
        pytest.skip("needs oumi (make hosts)")
    (place,) = found.submodule_search_locations
    for name in ("", ".analyze"):
        package = ModuleType(f"oumi{name}")
        package.__path__ = [str(Path(place, name.removeprefix(".")))]
        sys.modules[package.__name__] = package
    from oumi.core.registry import REGISTRY

    REGISTRY._initialized = True  # else it imports all that registers itself
    from oumi.analyze.pipeline import AnalysisPipeline
    from oumi.core.types.conversation import Conversation

    from nait_fast.integrations import oumi_analyzer

    yield SimpleNamespace(
        registry=REGISTRY, pipeline=AnalysisPipeline, conversation=Conversation, analyzer=oumi_analyzer
    )
    for name in [name for name in sys.modules if name.split(".")[0] == "oumi"]:
        del sys.modules[name]


def turns(row: dict) -> dict:
    return {
        "messages": [{"role": "user", "content": row["instruction"]}, {"role": "assistant", "content": row["output"]}]
    }


def test_conversations_are_scored_in_the_pipeline(oumi: SimpleNamespace, made: Made) -> None:
    rows = made.rows[:12]
    analyzer = oumi.registry.get_sample_analyzer("nait_fast").from_config(
        {"model": made.model, "signature": made.signatures[0]}
    )
    results = oumi.pipeline([analyzer]).run([oumi.conversation(**turns(row)) for row in rows])
    (scored,) = results.values()
    assert np.allclose([result.score for result in scored], made.scores[:12, 0], rtol=1e-5, atol=1e-6)
    assert analyzer.get_scope() == "conversation" and analyzer.get_metric_names() == ["score", "error"]


def test_calls_and_tools_reach_the_model(oumi: SimpleNamespace) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "tide", "arguments": '{"port": "Hull"}'}}
    tool = {"type": "function", "function": {"name": "tide", "parameters": {"type": "object", "properties": {}}}}
    messages = [
        {"role": "user", "content": "tide"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "3.1", "tool_call_id": "c1"},
        {"role": "assistant", "content": "It is 3.1", "reasoning_content": "it was read"},
    ]
    whole = oumi.conversation(messages=messages, tools=[tool], conversation_id="x", metadata={"a": 1})
    sample = oumi.analyzer._sample(whole)
    assert sample["messages"] == messages
    assert sample.keys() == {"messages", "tools"} and sample["tools"][0]["function"]["name"] == "tide"


def test_what_cannot_be_scored(oumi: SimpleNamespace, made: Made) -> None:
    bad = oumi.conversation(**turns(BAD))
    kept = oumi.analyzer.NaitAnalyzer(made.model, made.signatures[0], bad_rows="null").analyze(bad)
    assert (kept.score, kept.error) == (None, "empty response")
    with pytest.raises(NaitError, match="empty response"):
        oumi.analyzer.NaitAnalyzer(made.model, made.signatures[0]).analyze(bad)
    with pytest.raises(ValueError, match="extra_forbidden"):
        oumi.analyzer.NaitAnalyzer.from_config({"model": "m", "signature": "s", "signatures": "t"})
