"""--export: the tools that train take the files as they are."""

import json
from pathlib import Path

import pytest

import nait_fast
from tests.conftest import write_jsonl
from tests.integrations.conftest import Made


@pytest.fixture(scope="module")
def chosen(tmp_path_factory, made: Made) -> Path:
    """Folder of a selection of 12 out of 60 rows, with all exports, and the pool beside it."""
    folder = tmp_path_factory.mktemp("trainers")
    pool = write_jsonl(folder / "pool.jsonl", made.rows[:60])
    codebook = str(Path(made.signatures[0]).parent / "index")
    nait_fast.build_index(model=made.model, dataset=str(pool), output=str(folder / "index"), codebook=codebook)
    nait_fast.rank(
        index=str(folder / "index"),
        signature=made.signatures[:1],
        output=str(folder),
        top_k=12,
        export=["llama_factory", "dataflex", "messages"],
    )
    return folder


def selected(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "selected.jsonl").read_text().splitlines()]


def test_dataflex_selects_the_rows(chosen: Path, tmp_path: Path) -> None:
    selector = pytest.importorskip("dataflex.train.selector.near_selector")
    pool = [json.loads(line) for line in (chosen / "pool.jsonl").read_text().splitlines()]
    near = selector.near_Selector(pool, None, None, str(tmp_path), indices_path=str(chosen / "top_indices.npy"))
    assert [pool[row] for row in near.select(None, 0, 12)] == selected(chosen)
    assert [pool[row] for row in near.select(None, 0, 5)] == selected(chosen)[:5]


CALL = {"id": "c1", "type": "function", "function": {"name": "tide", "arguments": {"port": "Hull"}}}
TOOL = {"type": "function", "function": {"name": "tide", "description": "the tide", "parameters": {"type": "object"}}}
OTHER = {"type": "function", "function": {"name": "sun", "arguments": {"place": {"north": 3.5}, "days": [1, 2]}}}
OTHER_TOOL = {"type": "function", "function": {"name": "sun", "parameters": {"type": "object", "required": ["place"]}}}
AGENT = [
    {
        "id": "a",
        "tools": [TOOL],
        "messages": [
            {"role": "user", "content": "tide"},
            {"role": "assistant", "content": "so", "tool_calls": [CALL]},
            {"role": "tool", "content": "3.1", "tool_call_id": "c1"},
            {"role": "assistant", "content": "It is 3.1", "reasoning_content": "it was read"},
        ],
    },
    {
        "id": "b",
        "system": "be brief",
        "messages": [{"role": "user", "content": "why"}, {"role": "assistant", "content": "rain"}],
    },
    {
        "id": "c",
        "tools": [OTHER_TOOL],
        "messages": [
            {"role": "user", "content": "sun"},
            {"role": "assistant", "content": "now", "tool_calls": [OTHER]},
        ],
    },
]
SHOWS_ALL = (
    "{% if tools %}{{ tools | tojson }}{% endif %}{% for m in messages %}<|start|>{{ m.role }}:{{ m.content or '' }}"
    "{% if m.reasoning_content %}[{{ m.reasoning_content }}]{% endif %}"
    "{% for call in m.tool_calls or [] %}{{ call.function | tojson }}{% endfor %}"
    "{% if m.tool_call_id %}({{ m.tool_call_id }}){% endif %}<|end|>{% endfor %}"
)


def test_trl_and_datasets_read_calls_tools_and_reasoning(made: Made, tmp_path: Path) -> None:
    """What TRL gives the chat template of a row of messages.jsonl is what the pool's row holds, of calls whose
    arguments differ from row to row, too."""
    datasets = pytest.importorskip("datasets")
    from transformers import AutoTokenizer

    pool = write_jsonl(tmp_path / "pool.jsonl", AGENT)
    codebook = str(Path(made.signatures[0]).parent / "index")
    place = str(tmp_path / "index")
    nait_fast.build_index(model=made.model, dataset=str(pool), output=place, codebook=codebook)
    out = tmp_path / "out"
    nait_fast.rank(index=place, signature=made.signatures[:1], output=str(out), fraction=1.0, export=["messages"])
    table = datasets.load_dataset(
        "json", data_files=str(out / "messages.jsonl"), split="train", cache_dir=str(tmp_path)
    )
    assert sorted(table["id"]) == ["a", "b", "c"]
    tokenizer = AutoTokenizer.from_pretrained(made.model)
    tokenizer.chat_template = SHOWS_ALL
    whole = [row["messages"] for row in AGENT]
    whole[1] = [{"role": "system", "content": "be brief"}, *whole[1]]
    trl = pytest.importorskip("trl")
    for example in table:
        number = "abc".index(example["id"])
        wanted = tokenizer.apply_chat_template(whole[number], tools=AGENT[number].get("tools"), tokenize=False)
        assert trl.is_conversational(example)
        # As its SFT trainer does: a row's tools beside its messages.
        assert trl.apply_chat_template(dict(example), tokenizer, tools=example["tools"])["text"] == wanted
