"""Rows in the shapes of published data sets, and what a chat template is to get of each; two templates to try them."""

from dataclasses import dataclass, field
from typing import Any

# SmolLM2-135M-Instruct's own: knows roles and contents only.
SMOLLM2 = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\n"
    "You are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# One that writes tools, reasoning, calls and results.
AGENT = """\
{%- if tools or (messages and messages[0].role == 'system') -%}
<|im_start|>system
{% if messages[0].role == 'system' %}{{ messages[0].content }}
{% endif %}{% if tools %}Functions at hand, one a line:
{% for t in tools %}{{ t | tojson }}
{% endfor %}{% endif %}<|im_end|>
{% endif -%}
{%- for m in messages -%}
{%- if m.role == 'assistant' -%}
<|im_start|>assistant
{% if m.reasoning_content %}<think>
{{ m.reasoning_content }}
</think>

{% endif %}{{ m.content or '' }}{% for c in (m.tool_calls or []) %}
<call>{{ (c.function or c) | tojson }}</call>{% endfor %}<|im_end|>
{% elif m.role == 'tool' -%}
<|im_start|>user
<result>{{ m.content }}</result><|im_end|>
{% elif m.role == 'user' -%}
<|im_start|>user
{{ m.content }}<|im_end|>
{% endif -%}
{%- endfor -%}
{%- if add_generation_prompt %}<|im_start|>assistant
{% endif -%}"""
END = "<|im_end|>\n"


def said(role: str, content: Any, **fields: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **fields}


def call(**arguments: Any) -> dict[str, Any]:
    return {"id": "call_1", "type": "function", "function": {"name": "tide_height", "arguments": arguments}}


TOOL = {
    "type": "function",
    "function": {
        "name": "tide_height",
        "description": "Height of the tide at a port",
        "parameters": {"type": "object", "properties": {"port": {"type": "string"}}, "required": ["port"]},
    },
}
ASK, ANSWER = said("user", "How high is the water at Calais?"), said("assistant", "About three metres.")
RESULT = said("tool", '{"metres": 3.1}', name="tide_height", tool_call_id="call_1")
SYSTEM = said("system", "Answer like a stern harbour master.")
EARLIER = [said("user", "And at Hull?"), said("assistant", "Two metres.")]


@dataclass
class Shape:
    """``turns``, ``tools``: what apply_chat_template would be given for ``row``; ``hidden``: what each of the two
    templates leaves out of it."""

    row: dict[str, Any]
    turns: list[dict[str, Any]]
    tools: list[Any] | None = None
    smollm2: set[str] = field(default_factory=set)
    agent: set[str] = field(default_factory=set)


def of_turns(*turns: dict[str, Any], tools: Any = None, **hidden: set[str]) -> Shape:
    return Shape(
        {"messages": list(turns), **({"tools": tools} if tools is not None else {})}, list(turns), tools, **hidden
    )


_CALLED = {"tool_calls", "tools", "name"}
_PAIRS = [[one["content"], two["content"]] for one, two in [EARLIER]]
_Q, _A = ASK["content"], ANSWER["content"]
SHAPES: dict[str, Shape] = {
    "a call beside text": of_turns(
        ASK,
        said("assistant", "I will look.", tool_calls=[call(port="Calais", hour=8)]),
        RESULT,
        ANSWER,
        tools=[TOOL],
        smollm2=_CALLED,
        agent={"name"},
    ),
    "a call without text": of_turns(
        ASK,
        said("assistant", "", tool_calls=[call(port="Calais")]),
        RESULT,
        ANSWER,
        tools=[TOOL],
        smollm2=_CALLED,
        agent={"name"},
    ),
    "arguments as JSON": of_turns(
        ASK,
        said("assistant", "", tool_calls=[{"function": {"name": "f", "arguments": '{"port": "Calais"}'}}]),
        RESULT,
        ANSWER,
        smollm2={"tool_calls", "name"},
        agent={"name"},
    ),
    "a call that is not nested": of_turns(
        ASK,
        said("assistant", "", tool_calls=[{"name": "tide_height", "arguments": {"port": "Calais"}}]),
        RESULT,
        ANSWER,
        smollm2={"tool_calls", "name"},
        agent={"name"},
    ),
    "ends in text and a call": of_turns(
        ASK,
        said("assistant", "I will look.", tool_calls=[call(port="Calais")]),
        tools=[TOOL],
        smollm2={"tool_calls", "tools"},
    ),
    "ends in two calls": of_turns(
        ASK,
        said("assistant", "Both.", tool_calls=[call(port="Hull"), call(port="Dover")]),
        tools=[TOOL],
        smollm2={"tool_calls", "tools"},
    ),
    "tools that nobody calls": of_turns(ASK, ANSWER, tools=[TOOL], smollm2={"tools"}),
    "reasoning": of_turns(
        ASK, said("assistant", _A, reasoning_content="The tide is in. So it is high."), smollm2={"reasoning_content"}
    ),
    "reasoning under another name": of_turns(
        ASK, said("assistant", _A, thinking="The tide is in."), smollm2={"thinking"}, agent={"thinking"}
    ),
    "calls as text": of_turns(
        said("system", "You may call.", functions='[{"name": "tide"}]'),
        ASK,
        said("assistant", "", function_calls='tide(port="Hull")'),
        said("tool", "3.1"),
        ANSWER,
        smollm2={"function_calls", "functions"},
        agent={"function_calls", "functions"},
    ),
    "tools as JSON text": Shape(
        {"messages": [ASK, ANSWER], "tools": '[{"function": {"name": "f"}}]'},
        [ASK, ANSWER],
        [{"function": {"name": "f"}}],
        {"tools"},
    ),
    "content in parts": Shape(
        {
            "messages": [
                said("user", [{"type": "text", "text": "How high is "}, {"type": "text", "text": _Q[12:]}]),
                said("assistant", [{"type": "text", "text": _A}]),
            ]
        },
        [ASK, ANSWER],
    ),
    "calls as JSON text": Shape(
        {"messages": [ASK, said("assistant", "", tool_calls='[{"name": "f", "arguments": {"a": "Hull"}}]'), ANSWER]},
        [ASK, said("assistant", "", tool_calls=[{"name": "f", "arguments": {"a": "Hull"}}]), ANSWER],
        smollm2={"tool_calls"},
    ),
    "calls of no known keys": of_turns(
        ASK,
        said("assistant", "", tool_calls=[{"tool": "tide", "input": {"port": "Calais at night"}}]),
        RESULT,
        ANSWER,
        smollm2={"tool_calls", "name"},
        agent={"name"},
    ),
    "calls as texts": of_turns(
        ASK, said("assistant", "", tool_calls=["tide(port=Hull)"]), ANSWER, smollm2={"tool_calls"}
    ),
    "parts with more than text": Shape(
        {
            "messages": [
                said("user", [{"type": "text", "text": _Q, "cache_control": {"type": "ephemeral"}}]),
                said("assistant", [{"type": "text", "text": _A, "citation": "The almanac.", "image": None}]),
            ]
        },
        [ASK, {**ANSWER, "citation": ["The almanac."]}],
        smollm2={"citation"},
        agent={"citation"},
    ),
    "nulls of Parquet": Shape(
        {
            "messages": [
                {**ASK, "tool_calls": None, "name": None},
                said("assistant", "Well.", name=None, tool_calls=[call(port="Hull", hour=None)]),
            ],
            "tools": None,
        },
        [ASK, said("assistant", "Well.", tool_calls=[call(port="Hull")])],
        smollm2={"tool_calls"},
    ),
    "system beside messages": Shape({"system": SYSTEM["content"], "messages": [ASK, ANSWER]}, [SYSTEM, ASK, ANSWER]),
    "system_prompt": Shape({"system_prompt": SYSTEM["content"], "prompt": _Q, "response": _A}, [SYSTEM, ASK, ANSWER]),
    "openorca": Shape(
        {"id": "flan.1", "system_prompt": SYSTEM["content"], "question": _Q, "response": _A}, [SYSTEM, ASK, ANSWER]
    ),
    "ms-swift": Shape(
        {"system": SYSTEM["content"], "query": _Q, "response": _A, "history": _PAIRS}, [SYSTEM, *EARLIER, ASK, ANSWER]
    ),
    "data-juicer": Shape({"query": _Q, "response": _A, "history": _PAIRS}, [*EARLIER, ASK, ANSWER]),
    "history of turns": Shape({"query": _Q, "response": _A, "history": EARLIER}, [*EARLIER, ASK, ANSWER]),
    "alpaca": Shape(
        {"instruction": "How high is the water", "input": "at Calais?", "output": _A, "history": _PAIRS},
        [*EARLIER, said("user", "How high is the water\nat Calais?"), ANSWER],
    ),
    "alpaca of several questions": Shape(
        {"instruction": "Read and answer.", "context": "The tide is in.", "question": _Q, "response": _A},
        [said("user", f"Read and answer.\nThe tide is in.\n{_Q}"), ANSWER],
    ),
    "alpaca with NaN": Shape(
        {"instruction": _Q, "input": float("nan"), "output": _A, "system": float("nan")}, [ASK, ANSWER]
    ),
    "magpie": Shape(
        {
            "instruction": EARLIER[0]["content"],
            "response": EARLIER[1]["content"],
            "conversations": [
                {"from": "human", "value": EARLIER[0]["content"]},
                {"from": "gpt", "value": EARLIER[1]["content"]},
                {"from": "human", "value": _Q},
                {"from": "gpt", "value": _A},
            ],
        },
        [*EARLIER, ASK, ANSWER],
    ),
    "sharegpt tools": Shape(
        {
            "conversations": [
                {"from": "human", "value": _Q},
                {"from": "function_call", "value": '{"name": "f"}'},
                {"from": "observation", "value": "3.1"},
                {"from": "gpt", "value": _A},
            ],
            "tools": "[]",
        },
        [ASK, said("assistant", '{"name": "f"}'), said("tool", "3.1"), ANSWER],
    ),
    "conversations of roles": Shape({"conversations": [ASK, ANSWER]}, [ASK, ANSWER]),
    "from user": Shape(
        {"conversations": [{"from": "user", "value": _Q}, {"from": "assistant", "value": _A}]}, [ASK, ANSWER]
    ),
    "from Human": Shape(
        {"conversations": [{"from": "Human", "value": _Q}, {"from": "Assistant", "value": _A}]}, [ASK, ANSWER]
    ),
    "trl prompt and completion": Shape({"prompt": [SYSTEM, ASK], "completion": [ANSWER]}, [SYSTEM, ASK, ANSWER]),
    "kto": Shape({"prompt": _Q, "completion": _A, "label": True}, [ASK, ANSWER]),
    "kto of turns": Shape({"prompt": _Q, "completion": [ANSWER], "label": True}, [ASK, ANSWER]),
}
