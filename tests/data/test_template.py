"""The rendered text of a sample ends with the last character of its content, in every style of template."""

import pytest

from nait_fast.data.chat import _compile
from nait_fast.data.formats import Message, RowError, Sample, parse
from nait_fast.data.template import Template
from nait_fast.data.tokenize import Encoded, Encoder, Refused
from nait_fast.errors import NaitError
from tests import naive
from tests.conftest import CHAT_TEMPLATE, make_tokenizer

CHATML = CHAT_TEMPLATE
LLAMA2 = (
    "{% for m in messages %}{% if m['role'] == 'user' %}{{ bos_token + '[INST] ' + m['content'] + ' [/INST]' }}"
    "{% elif m['role'] == 'system' %}{{ '<<SYS>>' + m['content'] + '<</SYS>>' }}"
    "{% else %}{{ ' ' + m['content'] + ' ' + eos_token }}{% endif %}{% endfor %}"
)
LLAMA3 = (
    "{{ bos_token }}{% for m in messages %}<|start|>{{ m['role'] }}<|end|>\n\n{{ m['content'] | trim }}<|end|>"
    "{% endfor %}{% if add_generation_prompt %}<|start|>assistant<|end|>\n\n{% endif %}"
)
GEMMA = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if m['role'] == 'system' %}{{ raise_exception('System role not supported\nsecond line') }}{% endif %}"
    "{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}"
    "{% set role = 'model' if m['role'] == 'assistant' else m['role'] %}"
    "{{ '<|start|>' + role + '\n' + m['content'] | trim + '<|end|>\n' }}{% endfor %}"
)
# Its closing: a mark that grows with the conversation, and that ends like the closing of the shortest one.
GROWING = (
    "{% for m in messages %}<|start|>{{ m['role'] }}\n{{ m['content'] }}"
    "{% if loop.last and messages | length > 2 %}{{ ' (turn ' ~ messages | length ~ ')' }}{% endif %}<|end|>\n"
    "{% endfor %}"
)
THINKING = (
    "{% for m in messages %}{% set said = m['content'].split('</think>')[-1].lstrip('\n') %}"
    "{{ '<|start|>' + m['role'] + '\n' + said + '<|end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant\n<think>\n\n</think>\n\n{% endif %}"
)
NEEDS_SYSTEM = (
    "{% if messages[0]['role'] != 'system' %}{{ raise_exception('a system message first') }}{% endif %}" + CHATML
)
STYLES = {"chatml": CHATML, "llama2": LLAMA2, "llama3": LLAMA3, "gemma": GEMMA, "growing": GROWING, "think": THINKING}
# What each style writes in front of the answer to "sort the list", and after it.
AROUND = {
    "chatml": ("<|start|>user\nsort the list<|end|>\n<|start|>assistant\n", "<|end|>\n"),
    "llama2": ("<s>[INST] sort the list [/INST] ", " </s>"),
    "llama3": ("<s><|start|>user<|end|>\n\nsort the list<|end|><|start|>assistant<|end|>\n\n", "<|end|>"),
    "gemma": ("<s><|start|>user\nsort the list<|end|>\n<|start|>model\n", "<|end|>\n"),
    "growing": ("<|start|>user\nsort the list<|end|>\n<|start|>assistant\n", "<|end|>\n"),
    "think": ("<|start|>user\nsort the list<|end|>\n<|start|>assistant\n", "<|end|>\n"),
}


def chat(*contents: str, first: str = "user") -> Sample:
    roles = ["system"] * (first == "system") + ["user", "assistant"] * len(contents)
    return Sample(0, None, tuple(Message(r, c) for r, c in zip(roles, contents, strict=False)))


def turns(sample: Sample) -> list[dict]:
    return [{"role": m.role, "content": m.content} for m in sample.messages]


@pytest.mark.parametrize("style", STYLES)
def test_one_turn_ends_with_the_content(style: str) -> None:
    tokenizer = make_tokenizer(STYLES[style])
    before, closing = AROUND[style]
    template = Template("auto", tokenizer)
    assert template.kind == "chat"
    for answer in ("a list, sorted", "x", "0", ".", "end", "<|end", "sort the list", "user\nassistant", "né 😀"):
        sample = chat("sort the list", answer)
        text, add_bos = template.render(sample)
        assert (text, add_bos) == (before + answer, False)
        assert tokenizer.apply_chat_template(turns(sample), tokenize=False) == text + closing


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize(
    "contents",
    [
        ("a", "b"),
        ("a list", "b", "how", "  a story about\n\nrain"),
        ("one", "two", "three"),  # the last message is the user's
        ("only the question",),
        ("x", "x", "x", "x"),
        ("why", "rain and sun", "why", "<|start|>"),
    ],
)
def test_ids_are_those_of_the_naive_span(style: str, contents: tuple[str, ...]) -> None:
    tokenizer = make_tokenizer(STYLES[style])
    sample = chat(*contents)
    (encoded,) = Encoder(tokenizer, Template("chat", tokenizer), 512).encode([sample])
    assert isinstance(encoded, Encoded)
    assert encoded.ids.tolist() == naive.content_ids(tokenizer, turns(sample))


@pytest.mark.parametrize("style", STYLES)
def test_no_end_among_the_ids(style: str) -> None:
    tokenizer = make_tokenizer(STYLES[style], add_bos=True, add_eos=True)
    sample = chat("sort", "the list is sorted")
    (encoded,) = Encoder(tokenizer, Template("chat", tokenizer), 512).encode([sample])
    assert tokenizer.eos_token_id not in encoded.ids
    assert tokenizer.decode(encoded.ids).endswith("the list is sorted")
    full = tokenizer(tokenizer.apply_chat_template(turns(sample), tokenize=False), add_special_tokens=False)
    assert full["input_ids"][: len(encoded.ids)] == encoded.ids.tolist()


def test_a_closing_that_grows_is_left_out_whole() -> None:
    template = Template("chat", make_tokenizer(GROWING))
    text, _ = template.render(chat("a", "b", "c", "d"))
    assert text.endswith("<|start|>assistant\nd")


@pytest.mark.parametrize("style", STYLES)
def test_content_that_looks_like_the_closing(style: str) -> None:
    template = Template("chat", make_tokenizer(STYLES[style]))
    before, closing = AROUND[style]
    trimmed = style in ("llama3", "gemma")
    for answer in (closing, "a" + closing, closing * 3):
        text, _ = template.render(chat("sort the list", answer))
        assert text == before + (answer.strip() if trimmed else answer)


def test_trimmed_content() -> None:
    for style in ("llama3", "gemma"):
        template = Template("chat", make_tokenizer(STYLES[style]))
        assert template.render(chat("sort the list", " \n a b \n\n"))[0] == AROUND[style][0] + "a b"
    template = Template("chat", make_tokenizer(CHATML))
    assert template.render(chat("sort the list", " a b \n"))[0] == AROUND["chatml"][0] + " a b \n"


def test_thinking_is_left_to_the_template() -> None:
    template = Template("chat", make_tokenizer(THINKING))
    text, _ = template.render(chat("sort the list", "<think>\nwell\n</think>\n\ndone"))
    assert text == AROUND["think"][0] + "done"


def test_last_message_of_any_role() -> None:
    template = Template("chat", make_tokenizer(CHATML))
    for role in ("user", "tool", "system", "assistant"):
        sample = Sample(0, None, (Message("user", "a"), Message("assistant", "b"), Message(role, "7")))
        assert template.render(sample)[0].endswith(f"<|start|>{role}\n7")
    only_roles = "{% for m in messages %}{{ m['role'] }}{% endfor %}"
    with pytest.raises(RowError, match="does not show the last message"):
        Template("chat", make_tokenizer(only_roles)).render(chat("a", "b"))


def test_system_messages() -> None:
    template = Template("chat", make_tokenizer(LLAMA2))
    assert template.render(chat("be kind", "hi", "hello", first="system"))[0] == (
        "<<SYS>>be kind<</SYS>><s>[INST] hi [/INST] hello"
    )


def test_a_refusal_says_why() -> None:
    tokenizer = make_tokenizer(GEMMA)
    encoder = Encoder(tokenizer, Template("chat", tokenizer), 512)
    good, system, order = encoder.encode(
        [chat("a", "b"), chat("s", "a", "b", first="system"), Sample(2, None, (Message("assistant", "a"),))]
    )
    assert isinstance(good, Encoded)
    assert isinstance(system, Refused) and isinstance(order, Refused)
    assert system.reason == "the chat template refuses it: System role not supported"
    assert order.reason == "the chat template refuses it: roles must alternate"


def test_a_template_that_refuses_the_shortest_conversation() -> None:
    tokenizer = make_tokenizer(NEEDS_SYSTEM)
    encoder = Encoder(tokenizer, Template("chat", tokenizer), 512)
    good, bad = encoder.encode([chat("s", "a", "b", first="system"), chat("a", "b")])
    assert isinstance(good, Encoded) and tokenizer.decode(good.ids).endswith("<|start|>assistant\nb")
    assert isinstance(bad, Refused) and "a system message first" in bad.reason


def test_a_broken_template_is_a_refusal() -> None:
    for broken in ("{{ messages[0]['nothing'].x }}", "{{ 1 / 0 }}", "{% for %}", "{{ raise_exception('') }}"):
        tokenizer = make_tokenizer(broken)
        (result,) = Encoder(tokenizer, Template("chat", tokenizer), 8).encode([chat("a", "b")])
        assert isinstance(result, Refused) and "\n" not in result.reason


# All that a template can read besides its messages, and the syntax that transformers adds to jinja's.
EVERYTHING = (
    "{{ bos_token }}{{ eos_token }}{{ unk_token }}{{ pad_token is defined }}{{ tools }}{{ documents }}"
    "{{ add_generation_prompt }}{{ tools is defined }}{{ enable_thinking is defined }}{{ strftime_now('%Y') }}"
    "{% macro turn(m) %}{{ m.role }}:{{ m | tojson }}{{ messages | length }}{% endmacro %}{% set n = namespace(i=0) %}"
    "{% for m in messages %}{% if m.content == 'skip' %}{% continue %}{% endif %}{% set n.i = n.i + 1 %}"
    "{% generation %}{{ turn(m) }} {{ n.i }}{{ range(2) | list }}{% endgeneration %}\n    {% endfor %}\n"
)


def outcome(render, conversation: list[dict]) -> str:
    try:
        return render(conversation)
    except RowError as error:
        return str(error)
    except Exception as error:
        return "the chat template refuses it: " + (str(error).splitlines() or [type(error).__name__])[0]


BROKEN = (
    "{{ messages[0]['nothing'].x }}",
    "{{ 1 / 0 }}",
    "{% for %}",
    "{{ messages.append(1) }}",
    "{{ lipsum.__globals__ }}",
)


@pytest.mark.parametrize("source", [*STYLES.values(), EVERYTHING, NEEDS_SYSTEM, *BROKEN])
def test_rendered_as_transformers_does(source: str) -> None:
    tokenizer = make_tokenizer(source)
    template = Template("chat", tokenizer)
    conversations = [turns(chat(*c)) for c in (("a",), ("a", "b"), ("skip", "b", 'é <b>"', "d"))]
    conversations += [turns(chat("s", "a", first="system")), []]
    stopped = {"strftime_now": lambda form: "2024"} if "strftime_now" in source else {}
    for change in ({}, {"unk_token": "<|start|>"}, {"pad_token": "<|end|>", "bos_token": "<|end|>"}):
        for name, token in change.items():
            setattr(tokenizer, name, token)
        for conversation in conversations:
            own = outcome(lambda c: tokenizer.apply_chat_template(c, tokenize=False, **stopped), conversation)
            assert outcome(template._apply, conversation) == own


def test_where_transformers_own_rendering_is_not_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers.utils import chat_template_utils

    several = make_tokenizer({"default": CHATML, "tool_use": "tools"})
    sample = chat("a", "b")
    assert Template("chat", several).render(sample) == Template("chat", make_tokenizer(CHATML)).render(sample)

    own = make_tokenizer(CHATML)
    own.__class__ = type("Own", (type(own),), {"apply_chat_template": lambda self, c, **_: f"<{c[-1]['content']}>"})
    assert Template("chat", own).render(sample) == ("<b", False)

    monkeypatch.delattr(chat_template_utils, "_compile_jinja_template")
    _compile.cache_clear()
    with pytest.raises(RowError, match="_compile_jinja_template"):  # transformers itself is broken now, but it is asked
        Template("chat", make_tokenizer(CHATML)).render(sample)
    _compile.cache_clear()


ALPACA = "Below is an instruction that describes a task"
TASK = "Write a response that appropriately completes the request."


def test_alpaca_is_the_published_prompt() -> None:
    template = Template("alpaca", make_tokenizer())
    row = {"instruction": "Add {0}.", "input": "1 {x}", "output": "3 "}
    assert template.render(parse(row, "alpaca", 0)) == (
        f"{ALPACA}, paired with an input that provides further context. {TASK}\n\n"
        "### Instruction:\nAdd {0}.\n\n### Input:\n1 {x}\n\n### Response:\n3 ",
        True,
    )
    plain = f"{ALPACA}. {TASK}\n\n### Instruction:\nAdd.\n\n### Response:\n3"
    assert template.render(parse({"instruction": "Add.", "output": "3"}, "alpaca", 0))[0] == plain
    messages = {"messages": [{"role": "user", "content": "Add."}, {"role": "assistant", "content": "3"}]}
    assert template.render(parse(messages, "messages", 0))[0] == plain


def test_alpaca_of_several_turns() -> None:
    template = Template("alpaca", make_tokenizer())
    sample = Sample(0, None, tuple(Message(r, r[0]) for r in ("user", "assistant", "tool", "assistant", "user")))
    assert template.render(sample)[0] == (
        f"{ALPACA}. {TASK}\n\n### Instruction:\nu\n\n### Response:\na\n\n### Input:\nt\n\n### Response:\na\n\n"
        "### Instruction:\nu"
    )
    row = {"instruction": "c", "input": "d", "output": "e", "history": [["a", "b"]], "system": "Be kind."}
    assert template.render(parse(row, "alpaca", 0))[0] == (
        "Be kind.\n\n### Instruction:\na\n\n### Response:\nb\n\n### Instruction:\nc\nd\n\n### Response:\ne"
    )


def test_text_and_none_are_left_as_they_are() -> None:
    sample = Sample(0, None, text=" Once upon a time\n")
    for kind in ("chat", "alpaca", "none"):
        assert Template(kind, make_tokenizer()).render(sample) == (" Once upon a time\n", True)
    assert Template("none", make_tokenizer()).render(chat("s", "a", "b", first="system")) == ("s\na\nb", True)


def test_which_template() -> None:
    plain = make_tokenizer(None)
    assert Template("auto", plain).kind == "alpaca"
    with pytest.raises(NaitError, match="no chat template; use --template alpaca"):
        Template("chat", plain)
    with pytest.raises(NaitError, match="--template jinja: choose auto"):
        Template("jinja", plain)
    hashes = {Template(kind, make_tokenizer(s)).hash for kind in ("chat", "alpaca", "none") for s in STYLES.values()}
    assert len(hashes) == len(STYLES) + 2  # the chat template counts only where it is used
