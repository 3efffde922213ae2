"""Rows of every format, and the reasons for which a row is refused."""

import pytest

from nait_fast.data.formats import FORMATS, Message, RowError, Sample, detect, parse


def turns(sample: Sample) -> list[tuple[str, str]]:
    return [(message.role, message.content) for message in sample.messages]


ALPACA = {"instruction": "Add.", "input": "1 2", "output": "3"}
SHAREGPT = {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]}
MESSAGES = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]}
EXAMPLES: dict[str, dict] = {
    "alpaca": ALPACA,
    "sharegpt": SHAREGPT,
    "messages": MESSAGES,
    "prompt_completion": {"prompt": "Hi", "completion": "Hello"},
    "text": {"text": "Once upon a time"},
    "input_ids": {"input_ids": [1, 2, 3]},
}


@pytest.mark.parametrize("fmt", FORMATS)
def test_each_format_is_detected_and_read(fmt: str) -> None:
    row = {"id": 7, "other": [1], **EXAMPLES[fmt]}
    assert detect(row) == fmt
    sample = parse(row, fmt, 4)
    assert (sample.row, sample.id) == (4, "7")
    assert sum(part not in (None, ()) for part in (sample.messages, sample.text, sample.input_ids)) == 1
    assert (sample.alpaca is not None) == (fmt == "alpaca")


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"instruction": "a", "response": "b"}, "alpaca"),
        ({"conversation": []}, "sharegpt"),
        ({"prompt": "a", "response": "b"}, "prompt_completion"),
        ({"query": "a", "response": "b"}, "prompt_completion"),
        ({"question": "a", "answer": "b"}, "prompt_completion"),
        ({**ALPACA, "text": "all of it"}, "alpaca"),
        ({**MESSAGES, "prompt": "a", "completion": "b"}, "messages"),
        ({"text": "a", "input_ids": [1]}, "text"),
        ({"messages": None, "text": "a"}, "text"),
        ({"instruction": "a", "output": None}, "alpaca"),
        ({"instruction": "a"}, None),
        ({}, None),
    ],
)
def test_detect(row: dict, expected: str | None) -> None:
    assert detect(row) == expected


def test_alpaca_joins_instruction_and_input() -> None:
    sample = parse(ALPACA, "alpaca", 0)
    assert turns(sample) == [("user", "Add.\n1 2"), ("assistant", "3")]
    assert sample.alpaca == ("Add.", "1 2", "3")
    assert sample.id is None


@pytest.mark.parametrize("extra", [{}, {"input": ""}, {"input": None}])
def test_alpaca_without_input(extra: dict) -> None:
    sample = parse({"instruction": "Sing.", "output": "La", **extra}, "alpaca", 0)
    assert turns(sample) == [("user", "Sing."), ("assistant", "La")]
    assert sample.alpaca == ("Sing.", "", "La")


def test_alpaca_system_and_history_become_earlier_turns() -> None:
    row = {**ALPACA, "system": "Be brief.", "history": [["Hi", "Hello"], ["How?", "Well"]]}
    assert turns(parse(row, "alpaca", 0)) == [
        ("system", "Be brief."),
        ("user", "Hi"),
        ("assistant", "Hello"),
        ("user", "How?"),
        ("assistant", "Well"),
        ("user", "Add.\n1 2"),
        ("assistant", "3"),
    ]


def test_alpaca_response_stands_in_for_output() -> None:
    assert parse({"instruction": "a", "response": "b", "output": None}, "alpaca", 0).alpaca == ("a", "", "b")
    assert parse({"instruction": "a", "response": "b", "output": "c"}, "alpaca", 0).alpaca == ("a", "", "c")
    dolly = {"instruction": "a", "context": "facts", "response": "b"}
    assert parse(dolly, "alpaca", 0).alpaca == ("a", "facts", "b")


def test_sharegpt_roles() -> None:
    names = ["system", "human", "gpt", "user", "assistant", "human", "function_call", "observation", "chatgpt", "bard"]
    row = {"conversations": [{"from": name, "value": name} for name in names], "tools": "[…]"}
    roles = ["system", "user", "assistant", "user", "assistant", "user", "assistant", "tool", "assistant", "assistant"]
    assert [role for role, _ in turns(parse(row, "sharegpt", 0))] == roles


def test_sharegpt_row_level_system_gives_way_to_the_conversations_own() -> None:
    assert turns(parse({**SHAREGPT, "system": "S"}, "sharegpt", 0))[0] == ("system", "S")
    own = {"conversations": [{"from": "system", "value": "own"}, *SHAREGPT["conversations"]], "system": "S"}
    assert [turn for turn in turns(parse(own, "sharegpt", 0)) if turn[0] == "system"] == [("system", "own")]


def test_sharegpt_takes_turns_named_as_in_messages() -> None:
    row = {"conversations": MESSAGES["messages"]}
    assert turns(parse(row, "sharegpt", 0)) == [("user", "Hi"), ("assistant", "Hello")]


def test_messages_with_parts_and_tool_calls() -> None:
    row = {
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "Wea"}, {"type": "text", "text": "ther?"}]},
            {"role": "assistant", "content": None, "tool_calls": [{"name": "météo", "arguments": {"in": "Bern"}}]},
            {"role": "tool", "content": "sunny"},
            {"role": "assistant", "content": "Sunny."},
        ]
    }
    assert parse(row, "messages", 0).turns == [
        ("user", "Weather?"),
        ("assistant", '[{"name":"météo","arguments":{"in":"Bern"}}]'),
        ("tool", "sunny"),
        ("assistant", "Sunny."),
    ]


def test_prompt_completion_as_strings_and_as_messages() -> None:
    expected = [("user", "Hi"), ("assistant", "Hello")]
    for prompt, answer in (("prompt", "completion"), ("prompt", "response"), ("query", "response")):
        assert turns(parse({prompt: "Hi", answer: "Hello"}, "prompt_completion", 0)) == expected
    user, assistant = MESSAGES["messages"]
    assert turns(parse({"prompt": [user], "completion": [assistant]}, "prompt_completion", 0)) == expected
    with_system = parse({"system": "S", "prompt": "Hi", "completion": "Hello"}, "prompt_completion", 0)
    assert turns(with_system) == [("system", "S"), *expected]


def test_input_ids_are_masked() -> None:
    assert parse({"input_ids": [0, 5, 6, 0]}, "input_ids", 0).input_ids == (0, 5, 6, 0)
    row = {"input_ids": [0, 5, 6, 0], "attention_mask": [0, 1, 1, 0]}
    assert parse(row, "input_ids", 0).input_ids == (5, 6)


def test_text_is_kept_as_it_is() -> None:
    assert parse({"text": " a\n"}, "text", 0).text == " a\n"


def message(content: object, role: object = "assistant", **more: object) -> dict:
    return {"messages": [{"role": role, "content": content, **more}]}


@pytest.mark.parametrize(
    ("fmt", "row", "reason"),
    [
        ("alpaca", {"instruction": "a"}, r'no key "output".*the row has: instruction'),
        ("alpaca", {"output": "a"}, 'no key "instruction"'),
        ("alpaca", {"instruction": "a", "output": 3}, '"output" is int, not a string'),
        ("alpaca", {"instruction": "a", "output": None}, '"output" is null, not a string'),
        ("alpaca", {**ALPACA, "input": ["x"]}, '"input" is list, not a string'),
        ("alpaca", {**ALPACA, "system": 1}, '"system" is int'),
        ("alpaca", {**ALPACA, "history": [["only"]]}, "pairs"),
        ("alpaca", {**ALPACA, "history": "x"}, '"history" is str, not a list'),
        ("alpaca", {**ALPACA, "output": "  \n"}, "empty response"),
        ("alpaca", {**ALPACA, "output": "\ud83d"}, "surrogate"),
        ("sharegpt", {"text": "a"}, 'no key "conversations"'),
        ("sharegpt", {"conversations": "a"}, "str, not a list"),
        ("sharegpt", {"conversations": ["a"]}, r'"conversations\[0\]" is str'),
        ("sharegpt", {"conversations": []}, "no messages"),
        ("sharegpt", {"conversations": [{"from": "martian", "value": "a"}]}, r"conversations\[0\].*unknown role.*mar"),
        ("sharegpt", {"conversations": [{"from": ["gpt"], "value": "a"}]}, "unknown role"),
        ("sharegpt", {"conversations": [{"value": "a"}]}, 'lacks the key "from"'),
        ("sharegpt", {"conversations": [{"from": "gpt"}]}, r'"conversations\[0\].value" is null'),
        ("sharegpt", {"conversations": [{"from": "gpt", "value": ""}]}, "empty response"),
        ("messages", {"messages": {}}, "dict, not a list"),
        ("messages", {"messages": []}, "no messages"),
        ("messages", {"messages": [1]}, r'"messages\[0\]" is int'),
        ("messages", message("a", role="critic"), "unknown role"),
        ("messages", message("a", role=None), 'lacks the key "role"'),
        ("messages", message(None), r'"messages\[0\].content" is null'),
        ("messages", message(None, tool_calls=[]), "null"),
        ("messages", message([{"type": "image_url"}]), "not text.*image_url"),
        ("messages", message(["a"]), "not text"),
        ("messages", message([]), "empty response"),
        ("prompt_completion", {"prompt": "a"}, 'no key "completion"'),
        ("prompt_completion", {"prompt": "a", "completion": ["b"]}, '"completion" is list'),
        ("prompt_completion", {"prompt": "a", "completion": ""}, "empty response"),
        ("prompt_completion", {"prompt": MESSAGES["messages"], "completion": []}, "empty response"),
        ("text", {"text": "\t"}, "empty response"),
        ("text", {"text": 1}, '"text" is int'),
        ("input_ids", {"input_ids": []}, "empty response"),
        ("input_ids", {"input_ids": [1, 2], "attention_mask": [0, 0]}, "empty response"),
        ("input_ids", {"input_ids": [1, -2]}, "non-negative integers"),
        ("input_ids", {"input_ids": [1, True]}, "non-negative integers"),
        ("input_ids", {"input_ids": [1.0]}, "non-negative integers"),
        ("input_ids", {"input_ids": "12"}, "str, not a list"),
        ("input_ids", {"input_ids": [1, 2], "attention_mask": [1]}, "1 entries for 2"),
        ("input_ids", {"input_ids": [1, 2], "attention_mask": [1, 2]}, "0 and 1"),
        ("input_ids", {"input_ids": [1, 2], "attention_mask": [1, [1]]}, "0 and 1"),
    ],
)
def test_refused_rows_say_why(fmt: str, row: dict, reason: str) -> None:
    with pytest.raises(RowError, match=reason) as error:
        parse(row, fmt, 0)
    assert "\n" not in str(error.value) and len(str(error.value)) < 300


def test_samples_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        parse(ALPACA, "alpaca", 0).row = 1
    assert Message("user", "a") == Message("user", "a")
