"""``--columns`` and ``--roles``: rows by the names that formats know, whatever they call them."""

import json
from pathlib import Path
from typing import Any

import pytest

import nait_fast
from nait_fast.config import DataOptions
from nait_fast.data.formats import RowError, also_fitting, detect, parse_any
from nait_fast.data.pool import Pool
from nait_fast.data.row_conventions import NO_CONVENTIONS, RowConventions, conventions_of, make_conventions
from nait_fast.errors import NaitError
from tests.commands import run
from tests.conftest import write_jsonl
from tests.data.pools import refusal


def mapped(*columns: str, roles: tuple[str, ...] = ()) -> RowConventions:
    return make_conventions(roles, (), columns)


def test_what_is_written() -> None:
    said = mapped("prompt=q,response=a", "system=sys", roles=("Human=user, environment=tool",))
    assert said.columns == {"prompt": "q", "response": "a", "system": "sys"}
    assert said.roles == {"Human": "user", "environment": "tool"}
    assert said == mapped("prompt=q", "response=a", "system=sys", roles=("Human=user", "environment=tool"))
    assert conventions_of(json.loads(json.dumps(said.described()))) == said
    odd = mapped("prompt=Question, long,response=A = B")  # a comma belongs to a pair that follows it
    assert odd.columns == {"prompt": "Question, long", "response": "A = B"}
    assert mapped(r"prompt=Question\, a=b,response=A").columns == {"prompt": "Question, a=b", "response": "A"}
    given = DataOptions.from_mapping({"columns": {"prompt": "Question, a=b", "response": "A"}})
    assert mapped(*given.columns).columns == {"prompt": "Question, a=b", "response": "A"}
    assert DataOptions.from_mapping(given.to_mapping()).columns == given.columns
    assert mapped("prompt=response,response=prompt").columns == {"prompt": "response", "response": "prompt"}
    assert mapped("prompt=q", "prompt=q") == mapped("prompt=q")


@pytest.mark.parametrize(
    ("columns", "reason"),
    [
        ("prompt", "--columns prompt: write NAME=COLUMN"),
        ("prompt=", "--columns prompt=: write NAME=COLUMN"),
        ("=q", "--columns =q: write NAME=COLUMN"),
        ("promt=q", "--columns promt=q: no format reads 'promt'; did you mean prompt?"),
        ("foo=q", "--columns foo=q: no format reads 'foo'; name one of answer, "),
        ("prompt=q,prompt=r", "--columns prompt=r: prompt is the column 'q' already"),
        ("prompt=q,response=q", "--columns: the column 'q' cannot be prompt and response; name it once"),
        ("prompt=q,messages=m", "--columns: no format reads prompt and messages together; name messages; prompt and"),
        ("prompt=q,output=a", "--columns: no format reads prompt and output together"),
        ("text=t,system=s", "--columns: no format reads text and system together"),
    ],
)
def test_what_makes_no_sense(columns: str, reason: str) -> None:
    with pytest.raises(NaitError) as error:
        mapped(columns)
    assert str(error.value).startswith(reason) and "\n" not in str(error.value)


@pytest.mark.parametrize("roles", ["Human", "Human=", "=user", "Human=human", "Human=user,Bot=boss"])
def test_roles_that_there_are_not(roles: str) -> None:
    with pytest.raises(NaitError, match=r"^--roles .*: write NAME=ROLE, the role one of system, user, assistant, tool"):
        mapped(roles=(roles,))


Turns = list[tuple[str, str]]
SAID: Turns = [("user", "why"), ("assistant", "rain")]
TURNS = [{"from": "human", "value": "why"}, {"from": "gpt", "value": "rain"}]
CHAT = [{"role": "user", "content": "why"}, {"role": "assistant", "content": "rain"}]


@pytest.mark.parametrize(
    ("columns", "row", "format", "turns", "unread"),
    [
        ("prompt=q,response=a", {"q": "why", "a": "rain"}, "prompt_completion", SAID, ()),
        # One name suffices where the other is known, whichever of a question's and an answer's names they are.
        ("prompt=question", {"question": "why", "answer": "rain"}, "prompt_completion", SAID, ()),
        ("answer=gold", {"query": "why", "gold": "rain"}, "prompt_completion", SAID, ()),
        # What is named wins over what is there under known names; that is told as not read.
        ("response=a", {"prompt": "why", "completion": "no", "a": "rain"}, "prompt_completion", SAID, ("completion",)),
        ("prompt=q", {"prompt": "no", "q": "why", "response": "rain"}, "prompt_completion", SAID, ("prompt",)),
        ("prompt=response,response=prompt", {"prompt": "rain", "response": "why"}, "prompt_completion", SAID, ()),
        (
            "prompt=q,response=a",
            {"q": "why", "a": "rain", "messages": [{"role": "user", "content": "no"}]},
            "prompt_completion",
            SAID,
            ("messages",),
        ),
        (
            "system_prompt=persona",
            {"prompt": "why", "response": "rain", "system": "no", "persona": "be brief"},
            "prompt_completion",
            [("system", "be brief"), *SAID],
            ("system",),
        ),
        ("system=persona", {"prompt": "why", "response": "rain"}, "prompt_completion", SAID, ()),  # this row has none
        (
            "system=persona",
            {"text": "no", "messages": CHAT, "persona": "be brief"},
            "messages",
            [("system", "be brief"), *SAID],
            ("text",),
        ),
        (
            "instruction=task,input=about,output=label_text",
            {"task": "why", "about": "Hull", "label_text": "rain"},
            "alpaca",
            [("user", "why\nHull"), ("assistant", "rain")],
            (),
        ),
        (
            "context=passage",
            {"instruction": "why", "passage": "Hull", "response": "rain"},
            "alpaca",
            [("user", "why\nHull"), ("assistant", "rain")],
            (),
        ),
        (
            "history=before",
            {"query": "why", "response": "rain", "before": [["a", "b"]]},
            "prompt_completion",
            [("user", "a"), ("assistant", "b"), *SAID],
            (),
        ),
        ("conversations=dialog", {"dialog": TURNS}, "sharegpt", SAID, ()),
        ("messages=dialog", {"dialog": CHAT, "conversations": "no"}, "messages", SAID, ("conversations",)),
        # Lists may be JSON text, as tables of text hold them.
        ("messages=dialog", {"dialog": json.dumps(CHAT)}, "messages", SAID, ()),
        ("input_ids=tokens", {"tokens": "[5, 6]"}, "input_ids", [("token ids", "5 6")], ()),
        (
            "history=before",
            {"query": "why", "response": "rain", "before": '[["a", "b"]]'},
            "prompt_completion",
            [("user", "a"), ("assistant", "b"), *SAID],
            (),
        ),
        (
            "prompt=q",
            {"q": "[1, 2]", "response": "[]"},
            "prompt_completion",
            [("user", "[1, 2]"), ("assistant", "[]")],
            (),
        ),
        ("text=body", {"body": "the rain", "text": "no"}, "text", [("text", "the rain")], ("text",)),
        ("input_ids=tokens", {"tokens": [5, 6]}, "input_ids", [("token ids", "5 6")], ()),
    ],
)
def test_what_is_read(columns: str, row: dict[str, Any], format: str, turns: Turns, unread: tuple[str, ...]) -> None:
    conventions = mapped(columns)
    sample = parse_any(row, 0, conventions)
    assert (detect(row, conventions), sample.turns, sample.unread) == (format, turns, unread)


def test_an_id_a_label_and_tools_of_other_names() -> None:
    tool = {"type": "function", "function": {"name": "tide"}}
    row = {"key": 7, "good": False, "functions": [tool], "messages": CHAT}
    sample = parse_any(row, 0, mapped("id=key,tools=functions"))
    assert (sample.id, sample.tools, sample.unread) == ("7", (tool,), ())
    with pytest.raises(RowError, match="its label is false"):
        parse_any(row, 0, mapped("label=good"))
    assert parse_any({**row, "good": 0}, 0, mapped("label=good")).unread == ("functions", "good")


@pytest.mark.parametrize(
    ("columns", "row", "reason"),
    [
        ("prompt=q,response=a", {"q": "why", "b": "rain"}, 'no column "a" for response (the row has: q, b)'),
        ("prompt=q,response=a", {"q": 3, "a": "rain"}, '"q" is int, not a string'),
        ("prompt=q,response=a", {"q": "why", "a": None}, '"a" is null, not a string'),
        ("prompt=q,response=a", {"q": "why", "a": " "}, "empty response"),
        ("messages=dialog", {"dialog": [{"role": "x", "content": "a"}]}, "\"dialog[0]\" has the unknown role 'x'"),
        ("messages=dialog", {"dialog": "x"}, '"dialog" is str, not a list'),
        ("messages=dialog", {"dialog": '{"role": "user"}'}, '"dialog" is str, not a list'),
        ("messages=dialog", {"dialog": "[]"}, "no messages"),
        ("system=s", {"prompt": "a", "completion": "b", "s": 3}, '"s" is int, not a string'),
        ("system=s", {"text": "a", "s": "b"}, "no known format that reads system has these keys: text, s"),
        ("history=h", {"prompt": "a", "completion": "b", "h": [1]}, '"h" is not a list of [user, assistant] pairs'),
        ("input_ids=t,attention_mask=m", {"t": [1], "m": [1, 1]}, '"m" has 2 entries for 1 t'),
    ],
)
def test_rows_that_do_not_have_it(columns: str, row: dict[str, Any], reason: str) -> None:
    with pytest.raises(RowError) as error:
        parse_any(row, 0, mapped(columns))
    assert reason in str(error.value)


def test_a_role_that_nobody_knows_names_the_option() -> None:
    row = {"messages": [{"role": "AI helper", "content": "a"}, {"role": "assistant", "content": "b"}]}
    with pytest.raises(RowError, match=r"unknown role 'AI helper' \(--roles 'AI helper=user' would read it\)"):
        parse_any(row, 0)
    said = mapped(roles=("AI helper=user",))
    assert parse_any(row, 0, said).turns == [("user", "a"), ("assistant", "b")]
    row["messages"][0]["role"] = "x" * 300
    with pytest.raises(RowError, match=r"\(--roles NAME=user would read it\)"):
        parse_any(row, 0)


def test_other_formats_that_fit() -> None:
    row = {"instruction": "a", "output": "b", "q": "c", "prompt": "d", "completion": "e"}
    assert also_fitting(row) == ["prompt_completion"]
    assert also_fitting(row, mapped("prompt=q")) == []  # which no other format reads


ROWS = [{"q": f"why {n}", "a": f"rain {n}", **({"persona": "be brief"} if n > 2 else {})} for n in range(5)]


def test_a_pool_of_other_columns(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "pool.jsonl", ROWS)
    assert refusal(path) == (
        f"{path}:1: no known format (alpaca, sharegpt, messages, prompt_completion, text, input_ids) has these keys: "
        "q, a; name its columns with --columns, or pass --format"
    )
    pool = Pool(path, conventions=mapped("prompt=q,response=a,system=persona"))
    pool.check_columns()
    assert pool.scan().format == "prompt_completion"
    assert [sample.turns for sample in pool.samples()] == [
        [*([("system", "be brief")] if n > 2 else []), ("user", f"why {n}"), ("assistant", f"rain {n}")]
        for n in range(5)
    ]
    assert pool.lines([4]) == [json.dumps(ROWS[4]).encode()]  # as the file has it
    lacking = write_jsonl(tmp_path / "lacking.jsonl", [*ROWS, {"q": "why"}])
    said = f'{lacking}:6: no column "a" for response (the row has: q); fix the row or pass --skip-bad-rows'
    assert refusal(lacking, conventions=mapped("prompt=q,response=a")) == said
    assert Pool(lacking, conventions=mapped("prompt=q,response=a"), skip_bad_rows=True).scan().good == 5


def test_a_column_that_no_row_has(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "pool.jsonl", ROWS)
    with pytest.raises(NaitError) as error:
        Pool(path, conventions=mapped("prompt=q,response=a,system=person")).check_columns()
    assert str(error.value) == (
        f"{path}: --columns system=person: no row has the column 'person' (the first has: q, a); name one that is "
        "there; where only a target has it, build that one apart: nait-fast signature"
    )
    with pytest.raises(NaitError, match="--columns: format text reads no prompt, response; leave it out"):
        Pool(path, format="text", conventions=mapped("prompt=q,response=a"))
    assert Pool(path, conventions=NO_CONVENTIONS).columns_without_rows() == {}


def test_inspect_shows_what_would_be_read(tmp_path: Path, capsys) -> None:
    path = write_jsonl(tmp_path / "pool.jsonl", ROWS)
    error = run(capsys, "inspect", path).error
    assert "name their columns with --columns or pass another --format" in error
    ran = run(capsys, "inspect", path, "--columns", "prompt=q,response=a", "system=persona", "--roles", "boss=user")
    assert ran.status == 0 and "user: why 0" in ran.out.replace("first row   ", "")
    assert " --columns prompt=q,response=a,system=persona --roles boss=user --output chosen" in ran.out
    summary = nait_fast.inspect(path, columns={"text": "a"}, format="text")
    assert (summary["format"], summary["columns"], summary["unread"]) == ("text", {"text": "a"}, {"q": 5, "persona": 2})
    error = run(capsys, "inspect", path, "--columns", "prompt=q,response=b").error
    assert error.startswith(f"{path}: --columns response=b: no row has the column 'b' (the first has: q, a)")
    (tmp_path / "manifest.json").write_text('{"kind": "nait_fast index"}')
    with pytest.raises(NaitError, match="is a nait_fast index, no pool; give the pool itself"):
        nait_fast.inspect(tmp_path, columns=["prompt=q"])
