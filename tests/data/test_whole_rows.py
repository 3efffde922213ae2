"""Nothing of a row is lost: the ids are those of apply_chat_template on whole turns and tools, the rest is said."""

import json
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nait_fast.data.formats import Message, RowError, RowLeftOut, Sample, also_fitting, detect, parse, parse_any
from nait_fast.data.pool import Pool
from nait_fast.data.row_conventions import conventions_of, make_conventions
from nait_fast.data.template import Template
from nait_fast.data.tokenize import Encoded, Encoder, Refused
from nait_fast.data.unread import METADATA, candidates, unread_of
from nait_fast.errors import NaitError
from nait_fast.notices import NaitWarning
from tests.conftest import make_tokenizer, write_jsonl
from tests.data.shapes import AGENT, ANSWER, ASK, END, SHAPES, SMOLLM2, SYSTEM, TOOL, call, of_turns, said

TEMPLATES = {"smollm2": SMOLLM2, "agent": AGENT}


def encode(template: str, sample: Sample) -> Encoded | Refused:
    tokenizer = make_tokenizer(template)
    return Encoder(tokenizer, Template("chat", tokenizer), 4096).encode([sample])[0]


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("name", SHAPES)
def test_ids_are_those_of_apply_chat_template(name: str, template: str) -> None:
    shape, tokenizer = SHAPES[name], make_tokenizer(TEMPLATES[template])
    whole = tokenizer.apply_chat_template(shape.turns, tools=shape.tools, tokenize=False)
    assert whole.endswith(END)
    got = encode(TEMPLATES[template], parse_any(shape.row, 0))
    assert isinstance(got, Encoded), got
    assert got.ids.tolist() == tokenizer(whole.removesuffix(END), add_special_tokens=False)["input_ids"]
    assert got.unread == () and set(got.unshown) == getattr(shape, template)


@pytest.mark.parametrize("name", SHAPES)
def test_turns_are_those_of_the_row(name: str) -> None:
    shape, sample = SHAPES[name], parse_any(SHAPES[name].row, 0)
    assert [message.as_dict() for message in sample.messages] == shape.turns
    if shape.row.get("tools") != "[]":
        assert sample.tools == (None if shape.tools is None else tuple(shape.tools))


def test_a_turn_of_nothing_but_calls() -> None:
    row = {"messages": [ASK, said("assistant", None, tool_calls=[call(port="Calais")])], "tools": [TOOL]}
    sample = parse_any(row, 0)
    assert sample.messages[1].as_dict() == row["messages"][1] and sample.messages[1].content == ""
    tokenizer = make_tokenizer(AGENT)
    whole = tokenizer.apply_chat_template(row["messages"], tools=[TOOL], tokenize=False)
    text, _ = Template("chat", tokenizer).render(sample)
    assert text == whole.removesuffix(END) and text.endswith('{"port": "Calais"}}</call>')
    # A template that knows no calls has nothing to show; in the midst of a conversation that is counted only.
    refused = encode(SMOLLM2, sample)
    assert isinstance(refused, Refused) and refused.reason.endswith("the last message, which has tool_calls only")
    middle = parse_any({"messages": [*row["messages"], said("tool", "3.1"), ANSWER]}, 0)
    got = encode(SMOLLM2, middle)
    assert isinstance(got, Encoded) and got.unshown == ("tool_calls",)
    # Alpaca's prompt and none write the call themselves.
    for kind in ("alpaca", "none"):
        text, _ = Template(kind, tokenizer).render(sample)
        assert text.endswith('"name":"tide_height","arguments":{"port":"Calais"}}}]')
        (got,) = Encoder(tokenizer, Template(kind, tokenizer), 512).encode([sample])
        assert got.unshown == ("tools",)
    for nothing in ({"tool_calls": []}, {"function_calls": ""}, {"reasoning_content": "So."}):
        with pytest.raises(RowError, match="empty response"):
            parse_any({"messages": [ASK, said("assistant", "", **nothing)]}, 0)


def test_calls_that_end_otherwise_than_answers() -> None:
    llama = (
        "{% for m in messages %}<|start|>{{ m.role }}\n{{ m.content }}{% for c in m.tool_calls or [] %}"
        "{{ c.function | tojson }}{% endfor %}{{ '</s>' if m.tool_calls else '<|end|>' }}\n{% endfor %}"
    )
    text, _ = Template("chat", make_tokenizer(llama)).render(
        parse_any(of_turns(ASK, said("assistant", "Well.", tool_calls=[call(port="Hull")])).row, 0)
    )
    assert text.endswith('"arguments": {"port": "Hull"}}')


def test_a_template_that_needs_nested_calls_and_objects() -> None:
    strict = (
        "{% for m in messages %}<|start|>{{ m.role }}\n{{ '' + m.content }}{% for c in m.tool_calls or [] %}"
        "{{ c.function.name }}({% for k, v in c.function.arguments | items %}{{ k }}={{ v }}{% endfor %})"
        "{% endfor %}<|end|>\n{% endfor %}"
    )
    template = Template("chat", make_tokenizer(strict))
    for one in (
        {"name": "tide", "arguments": '{"port": "Hull"}'},
        {"name": "tide", "arguments": {"port": "Hull"}},
        {"type": "function", "function": {"name": "tide", "arguments": '{"port": "Hull"}'}},
    ):
        sample = parse_any({"messages": [ASK, said("assistant", None, tool_calls=[one])]}, 0)
        assert template.render(sample)[0].endswith("<|start|>assistant\ntide(port=Hull)")


SAME = "Ships leave twice a day, at nine and at four."


def test_what_a_template_hides_is_found_turn_by_turn() -> None:
    last_only = (
        "{% for m in messages %}<|start|>{{ m.role }}\n"
        "{% if loop.last and m.reasoning_content %}({{ m.reasoning_content }}){% endif %}{{ m.content }}<|end|>\n"
        "{% endfor %}"
    )
    twice = [
        ASK,
        said("assistant", "Low.", reasoning_content="Ebb."),
        ASK,
        said("assistant", "High.", reasoning_content="Flood."),
    ]
    got = encode(last_only, parse_any({"messages": twice}, 0))
    assert got.unshown == ("reasoning_content",)
    assert encode(last_only, parse_any({"messages": twice[2:]}, 0)).unshown == ()
    # A field that the template does not name is hidden, wherever else its text stands.
    named = [ASK, said("assistant", "Calais, of course.", place="Calais")]
    assert encode(SMOLLM2, parse_any({"messages": named}, 0)).unshown == ("place",)
    # A turn that is left out, whole.
    assert encode(AGENT, parse_any({"messages": [ASK, SYSTEM, ANSWER]}, 0)).unshown == ("content",)
    # So is one whose text stands elsewhere: in another turn, in a mark, or twice.
    for words in ("Calais", "assistant", "e", SAME):
        left_out = [ASK, said("system", words), said("assistant", "To Calais, of course." if words != SAME else SAME)]
        assert encode(AGENT, parse_any({"messages": left_out}, 0)).unshown == ("content",)
    for words in ("Calais", "assistant", "e", SAME):
        shown = [said("system", words), said("user", words), said("assistant", words)]
        for template in (SMOLLM2, AGENT):
            assert encode(template, parse_any({"messages": shown}, 0)).unshown == ()
    for reason, answer in (("Ebb.", "Ebb."), ("assistant", "Low."), ("Flood.", "High.")):
        hidden = [ASK, said("assistant", answer, reasoning_content=reason), *twice[2:]]
        assert encode(last_only, parse_any({"messages": hidden}, 0)).unshown == ("reasoning_content",)
        assert encode(last_only, parse_any({"messages": hidden[:2]}, 0)).unshown == ()
    # Ids, flags and times of a turn are none.
    for key, value in {"tool_call_id": "c1", "id": "x", "weight": 1, "timestamp": "2024"}.items():
        assert encode(SMOLLM2, parse_any({"messages": [ASK, {**ANSWER, key: value}]}, 0)).unshown == ()


@pytest.mark.parametrize(
    ("name", "role"),
    [
        ("Human", "user"),
        ("ASSISTANT", "assistant"),
        ("tool_response", "tool"),
        ("function", "tool"),
        ("ipython", "tool"),
        ("function-call", "assistant"),
        ("prompter", "user"),
        ("model", "assistant"),
        ("developer", "developer"),
    ],
)
def test_names_of_roles(name: str, role: str) -> None:
    for row in ({"messages": [said(name, "a"), ANSWER]}, {"conversations": [{"from": name, "value": "a"}, ANSWER]}):
        assert parse_any(row, 0).messages[0].role == role


def test_roles_that_a_template_does_not_take() -> None:
    row = {"messages": [said("developer", "Be brief."), ASK, ANSWER, said("environment", "3.1"), ANSWER]}
    for template, developer, environment in (
        (SMOLLM2, "<|im_start|>developer\nBe brief.", "<|im_start|>environment\n3.1"),
        (AGENT, "<|im_start|>system\nBe brief.", "<|im_start|>user\n<result>3.1</result>"),
    ):
        text, _ = Template("chat", make_tokenizer(template)).render(parse_any(row, 0))
        assert developer in text and environment in text


def test_roles_of_the_user() -> None:
    row = {"messages": [said("Kritiker", "a"), ANSWER]}
    with pytest.raises(RowError, match=r"unknown role 'Kritiker' \(--roles Kritiker=user would read it\)"):
        parse_any(row, 0)
    conventions = make_conventions(["Kritiker=user", "user=system"])
    assert parse_any(row, 0, conventions).messages[0].role == "user"
    assert parse_any({"messages": [ASK, ANSWER]}, 0, conventions).messages[0].role == "system"
    assert conventions.described() == {"roles": {"Kritiker": "user", "user": "system"}}
    assert conventions_of(conventions.described()).roles == conventions.roles
    for bad in ("user", "a=critic", "=user"):
        with pytest.raises(NaitError, match="write NAME=ROLE"):
            make_conventions([bad])
    with pytest.raises(NaitError, match="a is user already"):
        make_conventions(["a=user", "a=tool"])


def test_labels_of_kto() -> None:
    for row in (
        {"prompt": "a", "completion": "b", "label": False},
        {"messages": [ASK, ANSWER], "label": False},
        {"conversations": [ASK, ANSWER], "label": False},
        {"messages": [ASK, ANSWER], "label": "False"},
    ):
        with pytest.raises(RowLeftOut, match="label is false"):
            parse_any(row, 0)
        assert parse_any(row, 0, make_conventions(ignore=["label"])).messages
    # What no answer is, is a class.
    assert parse_any({"text": "a", "label": False}, 0).text == "a"
    for label, named in (
        (0, ("label",)),
        (0.0, ("label",)),
        ("0", ("label",)),
        (1, ()),
        (True, ()),
        ("true", ()),
        (None, ()),
        ([], ()),
    ):
        assert parse_any({"messages": [ASK, ANSWER], "label": label}, 0).unread == named


def test_rows_with_a_false_label_are_left_out_without_asking(tmp_path: Path) -> None:
    rows = [{"prompt": f"a{i}", "completion": "b", "label": i % 3 > 0} for i in range(9)]
    info = Pool(write_jsonl(tmp_path / "pool.jsonl", rows)).scan()
    assert (info.rows, info.good) == (9, 6) and [s.row for s in info.skipped] == [0, 3, 6]
    assert {s.reason for s in info.skipped} == {"its label is false: an answer not to learn from"}
    with pytest.raises(NaitError, match=r"not one of its 1 rows can be used.*label is false"):
        Pool(write_jsonl(tmp_path / "pool.jsonl", rows[:1])).scan()


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "a", "chosen": "b", "rejected": "c"},
        {"chosen": [ASK, ANSWER], "rejected": [ASK, ANSWER]},
        {"instruction": "a", "chosen": "b", "rejected": "c"},
        {
            "conversations": [{"from": "human", "value": "a"}],
            "chosen": {"from": "gpt", "value": "b"},
            "rejected": {"from": "gpt", "value": "c"},
        },
    ],
)
def test_preference_rows_are_refused(row: dict) -> None:
    with pytest.raises(RowError, match=r"a preference row \(chosen, rejected\): write what is to be learnt as prompt"):
        parse_any(row, 0)


# ------------------------------------------------------------------------------ the table of formats: docs/data.md

_TURNS: dict[str, Any] = {"messages": [said("system", "?"), said("user", "?"), said("assistant", "?")]}
_FROM = {
    "conversations": [{"from": "system", "value": "?"}, {"from": "human", "value": "?"}, {"from": "gpt", "value": "?"}]
}
_TOOLS = [{"type": "function", "function": {"name": "?", "description": "?"}}]
# Rows of the table's formats with all of their keys; "?" stands for text of its own.
TABLE: dict[str, dict[str, Any]] = {
    "alpaca": {
        "instruction": "?",
        "input": "?",
        "output": "?",
        "system": "?",
        "history": [["?", "?"]],
        "tools": _TOOLS,
    },
    "dolly": {"instruction": "?", "context": "?", "response": "?", "category": "c"},
    "sharegpt": {**_FROM, "tools": _TOOLS},
    "sharegpt, its system beside": {"conversations": _FROM["conversations"][1:], "system": "?"},
    "sharegpt with tools": {
        "conversations": [
            {"from": "human", "value": "?"},
            {"from": "function_call", "value": "?"},
            {"from": "observation", "value": "?"},
            {"from": "gpt", "value": "?"},
        ],
        "system": "?",
        "tools": _TOOLS,
    },
    "messages": {
        "messages": [
            *_TURNS["messages"][:2],
            said(
                "assistant",
                "?",
                reasoning_content="?",
                thinking="?",
                tool_calls=[{"id": "c1", "type": "function", "function": {"name": "?", "arguments": {"a": "?"}}}],
            ),
            said("tool", "?", name="?", tool_call_id="c1"),
            said("assistant", "?", name="?"),
        ],
        "tools": _TOOLS,
    },
    "messages of parts": {
        "messages": [
            said("user", [{"type": "text", "text": "?"}, {"type": "text", "text": "?"}]),
            said("assistant", "?"),
        ],
        "system": "?",
    },
    "prompt_completion": {"system": "?", "prompt": "?", "completion": "?"},
    "prompt_completion of turns": {
        "prompt": [said("system", "?"), said("user", "?")],
        "completion": [said("assistant", "?")],
        "tools": _TOOLS,
    },
    "openorca": {"id": "1", "system_prompt": "?", "question": "?", "response": "?"},
    "ms-swift": {"system": "?", "query": "?", "response": "?", "history": [["?", "?"], ["?", "?"]]},
    "ms-swift messages": {**_TURNS, "tools": json.dumps(_TOOLS), "rejected_response": "?", "images": ["?"]},
    "data-juicer": {"system": "?", "instruction": "?", "query": "?", "response": "?", "history": [["?", "?"]]},
    "data-juicer text": {"text": "?", "images": ["?"], "meta": {"date": "2024", "source": "web"}},
    "magpie": {
        "instruction": "?",
        "response": "?",
        **_FROM,
        "intent": "?",
        "knowledge": "?",
        "difficulty": "easy",
        "model": "m",
        "uuid": "u",
        "task_category": "c",
        "language": "EN",
        "gen_input_configs": {"top_p": 1.0},
    },
    "kto": {"prompt": "?", "completion": "?", "label": True},
    "kto of turns": {**_TURNS, "label": True},
    "binarized": {
        "prompt": "?",
        "prompt_id": "p",
        **_TURNS,
        "chosen": [said("user", "?"), said("assistant", "?")],
        "rejected": [said("user", "?"), said("assistant", "?")],
        "score_chosen": 8.0,
    },
    "text and more": {"text": "?", "title": "?", "rationale": "?", "url": "u"},
}


def marked(value: Any, marks: Iterator[str]) -> Any:
    if value == "?":
        return next(marks)
    if isinstance(value, dict):
        return {k: marked(v, marks) for k, v in value.items()}
    return [marked(v, marks) for v in value] if isinstance(value, list) else value


def marks_in(value: Any) -> set[str]:
    return set(re.findall(r"mark\d\d\dx", value if isinstance(value, str) else json.dumps(value)))


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("name", TABLE)
def test_every_key_of_every_format_is_read_or_named(name: str, template: str) -> None:
    row = marked(TABLE[name], (f"mark{i:03d}x" for i in range(1000)))
    sample = parse_any(row, 0)
    tokenizer = make_tokenizer(TEMPLATES[template])
    got = encode(TEMPLATES[template], sample)
    assert isinstance(got, Encoded), got
    read = marks_in(tokenizer.decode(got.ids))
    named = {mark for key in got.unread for mark in marks_in(row[key])}
    for message in sample.messages:
        named |= {mark for key in got.unshown if key in message.fields for mark in marks_in(message.fields[key])}
    if "tools" in got.unshown:
        named |= marks_in(list(sample.tools or ()))
    assert marks_in(row), "the row holds no mark"
    assert read | named == marks_in(row)
    assert not read & {mark for key in got.unread for mark in marks_in(row[key])}
    # What the template gets is what a row of messages.jsonl holds: all that was read of the row, and more.
    if sample.messages:
        held = marks_in([[m.as_dict() for m in sample.messages], sample.tools])
        assert held >= read and held | {m for key in got.unread for m in marks_in(row[key])} == marks_in(row)


def test_the_table_is_that_of_the_docs() -> None:
    page = (Path(__file__).parents[2] / "docs" / "data.md").read_text()
    for row in TABLE.values():
        for key in {k for k, value in row.items() if k not in ("title", "rationale") and "?" in json.dumps(value)}:
            assert f"`{key}`" in page, key
    assert set(re.findall(r"`([^`]+)`", page.split("## Metadata")[1])) >= METADATA


# ------------------------------------------------------------------------------------------------- what is unread


@pytest.mark.parametrize(
    ("extra", "unread"),
    [
        ({"rationale": "because of the moon"}, ("rationale",)),
        ({"notes": ["a", "b"], "more": [{"role": "user", "content": "x"}]}, ("notes", "more")),
        ({"extra": {"deep": ["", {"text": "x"}]}}, ("extra",)),
        ({"rationale": None, "notes": "", "more": [], "blank": " \n", "n": 3, "x": 0.5, "ok": True, "nums": [1]}, ()),
        (
            {"source": "web", "dataset": "d", "category": "c", "task_name": "t", "prompt_id": "p", "created_at": "now"},
            (),
        ),
        ({"__index_level_0__": "x", "Source": "web", "URL": "u"}, ()),
        ({"first": ASK["content"], "all": [ASK, ANSWER], "part": ASK["content"][3:30]}, ()),  # said already
        ({"part": ASK["content"][:5]}, ("part",)),  # too short to tell
        ({"system_prompt": "another"}, ()),
    ],
)
def test_keys_that_are_not_read(extra: dict, unread: tuple) -> None:
    assert parse_any({"messages": [ASK, ANSWER], **extra}, 0).unread == unread


_ALPACA = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
)
_WITH_INPUT = _ALPACA.replace("task.", "task, paired with an input that provides further context.")
_BODY = "### Instruction:\nAdd them up.\n\n### Input:\n7 and 8\n\n### Response:\n"


@pytest.mark.parametrize(
    ("text", "named"),
    [
        (f"{_WITH_INPUT}{_BODY}15", False),
        (f"{_WITH_INPUT}{_BODY}", False),
        ("<|im_start|>user\nAdd them up.\n7 and 8<|im_end|>\n<|im_start|>assistant\n15<|im_end|>", False),
        ("[INST] Add them up. 7 and 8 [/INST] 15 </s>", False),
        ("### Human: Add them up.\n7 and 8\n### Assistant: 15", False),
        (f"{_WITH_INPUT}{_BODY}Seven and eight are 15", True),  # reasoning that the row lacks else
        (f"Be brief.\n{_BODY}15", True),
        ("15, Add them up. 7 and 8", True),  # another order
        ("Nothing of the row, nor a mark.", True),
    ],
)
def test_a_rendering_of_what_was_read_says_nothing_else(tmp_path: Path, text: str, named: bool) -> None:
    row = {"instruction": "Add them up.", "input": "7 and 8", "output": "15", "text": text, "prompt": text}
    assert parse_any(row, 0).unread == (("text", "prompt") if named else ())
    pool = Pool(write_jsonl(tmp_path / "pool.jsonl", [row]))
    with warnings.catch_warnings(record=True) as said_of:
        warnings.simplefilter("always")
        pool.warn_of_formats()
    assert len(said_of) == named
    short = {**row, "query": "Add them up.", "question": "7 and 8", "text": "", "prompt": "15"}
    assert parse_any(short, 0).unread == ()


def test_rows_of_published_sets_raise_no_false_alarm() -> None:
    beside = {
        "avatarUrl": "https://x/y.png",
        "modelName": "m",
        "hashed_ip": "ab",
        "reasoning": "off",
        "used_in": "v3",
        "used_in_training": "yes",
        "problem_is_valid": "Yes",
        "finish_reasons": ["stop"],
        "is_checked": "no",
        "instruction_id_list": ["a:b"],
        "langdetect": "en",
        "nait_error": "empty response",
        "verified": "true",
    }
    assert parse_any({"messages": [ASK, {**ANSWER, "hashed_ip": "ab"}], **beside}, 0).unread == ()
    named = {"reasoning": "The tide is in.", "title": "Tides", "images": [{"bytes": b"\x89PNG", "path": None}]}
    assert parse_any({"messages": [ASK, ANSWER], **named}, 0).unread == tuple(named)


def test_a_system_prompt_that_gives_way_is_named() -> None:
    row = {"messages": [SYSTEM, ASK, ANSWER], "system": "Another one altogether."}
    assert parse_any(row, 0).unread == ("system",)
    assert parse_any({**row, "system": SYSTEM["content"]}, 0).unread == ()
    both = parse_any({"messages": [ASK, ANSWER], "system": "One.", "system_prompt": "Two."}, 0)
    assert both.messages[0].content == "One." and both.unread == ("system_prompt",)


def test_tools_that_are_none_are_named() -> None:
    sample = parse_any({"messages": [ASK, ANSWER], "tools": "search and calculator"}, 0)
    assert sample.tools is None and sample.unread == ("tools",)
    assert parse_any({"text": "a", "tools": [TOOL]}, 0).unread == ("tools",)


def test_keys_of_crowded_rows_are_not_kept() -> None:
    before = candidates.cache_info().currsize
    assert len(parse_any({"messages": [ASK, ANSWER], **{f"k{i}": "x" for i in range(200)}}, 0).unread) == 200
    assert candidates.cache_info().currsize == before


def test_what_is_no_mapping_of_text() -> None:
    assert unread_of({1: "a", "b": object()}, frozenset(), ()) == ()


@pytest.mark.parametrize(
    ("row", "others"),
    [
        ({"conversations": [ASK, ANSWER], "instruction": "a", "response": "b"}, ["alpaca"]),
        ({"messages": [ASK, ANSWER], "text": "a"}, ["text"]),
        ({"messages": [ASK, ANSWER], "conversations": [ASK, ANSWER]}, ["sharegpt"]),
        ({"instruction": "a", "query": "q", "response": "b"}, []),  # all of them are read
        ({"instruction": "a", "output": "b", "question": "q", "answer": "b"}, ["prompt_completion"]),
        ({"conversations": [], "instruction": "a", "response": "b"}, []),
        ({"messages": [ASK, ANSWER], "prompt": "a"}, []),
    ],
)
def test_two_formats_that_fit_are_said(tmp_path: Path, row: dict, others: list) -> None:
    assert also_fitting(row) == others
    pool = Pool(write_jsonl(tmp_path / "pool.jsonl", [row]))
    if not others:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            pool.warn_of_formats()
        return
    with pytest.warns(NaitWarning, match=f"read as {detect(row)}, but have the keys of {others[0]}, too; --format"):
        pool.warn_of_formats()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Pool(pool.path, format=detect(row) or "").warn_of_formats()


def test_turns_that_cannot_be_taken() -> None:
    deep: Any = "x"
    for _ in range(150):
        deep = [deep]
    for turn, reason in (
        ({**ANSWER, "tool_calls": "tide()"}, "tool_calls.* is text, but not JSON of a list"),
        ({**ANSWER, "reasoning_content": "\ud83d"}, "surrogate"),
        ({**ANSWER, "more": deep}, "nested too deep"),
    ):
        with pytest.raises(RowError, match=reason):
            parse_any({"messages": [ASK, turn]}, 0)
    with pytest.raises(RowError, match='both "value" and "content"'):
        parse_any({"conversations": [{"from": "gpt", "value": "a", "content": "b"}]}, 0)
    both = parse_any({"conversations": [{"from": "gpt", "value": "a", "content": "a", "role": "x"}]}, 0)
    assert both.messages == (Message("assistant", "a"),)


def test_a_text_of_the_template_has_the_ids_of_its_turns() -> None:
    turns = [SYSTEM, ASK, ANSWER]
    for template in TEMPLATES.values():
        tokenizer = make_tokenizer(template, add_bos=True)
        encoder = Encoder(tokenizer, Template("chat", tokenizer), 512)
        (wanted,) = encoder.encode([parse_any({"messages": turns}, 0)])
        whole = tokenizer.apply_chat_template(turns, tokenize=False)
        for end in ("", "\n\n", "</s>", "\n</s>\n"):
            for text in (whole + end, whole.rstrip("\n") + end):
                (got,) = encoder.encode([parse_any({"text": text}, 0)])
                assert got.ids.tolist() == wanted.ids.tolist(), (text,)
        ids = tokenizer(whole, add_special_tokens=False)["input_ids"]
        (got,) = encoder.encode([parse_any({"input_ids": ids}, 0)])
        assert got.ids.tolist() == wanted.ids.tolist()


def test_alpaca_writes_every_system_turn() -> None:
    template = Template("alpaca", make_tokenizer())
    second = said("system", "And in rhymes.")
    for turns in ([SYSTEM, second, ASK, ANSWER], [SYSTEM, ASK, ANSWER, second, ASK, ANSWER]):
        text, _ = template.render(parse_any({"messages": turns}, 0))
        assert text.startswith(f"{SYSTEM['content']}\n\nAnd in rhymes.\n\n### Instruction:\n{ASK['content']}")
    assert template.render(parse_any({"messages": [ASK, ANSWER]}, 0))[0].startswith("Below is an instruction")


def test_a_text_of_its_own_keeps_its_end() -> None:
    tokenizer = make_tokenizer(SMOLLM2, add_bos=True)
    encoder = Encoder(tokenizer, Template("chat", tokenizer), 512)
    for text, kept in (
        ("A story.\n", "A story.\n"),
        ("A story.</s>", "A story."),
        ("A story. </s> </s>\n", "A story. "),
    ):
        (got,) = encoder.encode([parse_any({"text": text}, 0)])
        assert tokenizer.decode(got.ids) == "<s>" + kept
    (nothing,) = encoder.encode([parse_any({"text": "</s>"}, 0)])
    assert nothing == Encoder(tokenizer, Template("chat", tokenizer), 512).encode([parse_any({"text": "<s>"}, 0)])[0]


def test_parse_of_a_named_format() -> None:
    row = {"instruction": "a", "response": "b", "conversations": [ASK, ANSWER]}
    assert parse(row, "alpaca", 0).alpaca == ("a", "", "b")
    assert parse(row, "alpaca", 0).unread == ("conversations",)


def test_inspect_names_what_is_not_read(tmp_path: Path) -> None:
    from nait_fast.verbs.inspection import inspect

    rows = [{"messages": [ASK, ANSWER], **({"rationale": "so it is"} if i % 2 else {})} for i in range(5)]
    assert inspect(str(write_jsonl(tmp_path / "pool.jsonl", rows)))["unread"] == {"rationale": 2}


def test_a_report_shows_rows_whatever_their_label() -> None:
    from nait_fast.reporting.samples import text_of

    assert text_of({"prompt": "a", "completion": "b", "label": False}, None, {}).turns == [
        ("user", "a"),
        ("assistant", "b"),
    ]
