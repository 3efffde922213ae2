"""Which tokens the assistant says, in every style of template and of tokenizer: against transformers' own masks."""

import json
from functools import cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nait_fast.data.formats import Message, RowError, Sample, parse, parse_any
from nait_fast.data.spans import ChatSpans, moved, token_ranges
from nait_fast.data.template import Template
from nait_fast.data.tokenize import Encoded, Encoder, Refused
from nait_fast.errors import BadInput
from tests.conftest import make_slow_tokenizer, make_tokenizer
from tests.data.test_template import GEMMA, STYLES
from tests.data.test_tokenize import rust_tokenizers

# As the models' own templates write them, with the marks from which transformers makes its mask.
CHATML = (
    "{% for m in messages %}{% if loop.first and m['role'] != 'system' %}"
    "{{ '<|start|>system\nYou are a helpful assistant<|end|>\n' }}{% endif %}"
    "{{ '<|start|>' + m['role'] + '\n' }}{% if m['role'] == 'assistant' %}"
    "{% generation %}{{ m['content'] }}{% endgeneration %}{% else %}{{ m['content'] }}{% endif %}{{ '<|end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|start|>assistant\n' }}{% endif %}"
)
LLAMA3 = (
    "{{ bos_token }}{% for m in messages %}{{ '<|start|>' + m['role'] + '<|end|>\n\n' }}"
    "{% if m['role'] == 'assistant' %}{% generation %}{{ m['content'] | trim }}{% endgeneration %}"
    "{% else %}{{ m['content'] | trim }}{% endif %}<|end|>"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|start|>assistant<|end|>\n\n' }}{% endif %}"
)
GEMMA3 = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}"
    "{{ '<|start|>' + ('model' if m['role'] == 'assistant' else m['role']) + '\n' }}{% if m['role'] == 'assistant' %}"
    "{% generation %}{{ m['content'] | trim }}{% endgeneration %}{% else %}{{ m['content'] | trim }}{% endif %}"
    "{{ '<|end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|start|>model\n' }}{% endif %}"
)
# No header; tools stand in front of the last question, and so elsewhere as the conversation goes on.
MISTRAL = (
    "{{ bos_token }}{% set users = messages | selectattr('role', 'equalto', 'user') | list %}"
    "{% for m in messages %}{% if m['role'] == 'user' %}"
    "{% if tools and m == users[-1] %}{{ '[TOOLS] ' + (tools | tojson) + '[/TOOLS]' }}{% endif %}"
    "{{ '[INST] ' + m['content'] + '[/INST] ' }}"
    "{% elif m['role'] == 'tool' %}{{ '[RESULT] ' + m['content'] + '[/RESULT]' }}"
    "{% elif m['tool_calls'] %}{{ '[CALLS] ' + (m['tool_calls'] | tojson) + eos_token }}"
    "{% else %}{% generation %}{{ m['content'] }}{% endgeneration %}{{ eos_token }}{% endif %}{% endfor %}"
)
# Reasoning stays behind the last question only, where an answer without any gets an empty one.
QWEN3 = (
    "{% set n = namespace(last=0) %}"
    "{% for m in messages %}{% if m['role'] == 'user' %}{% set n.last = loop.index0 %}{% endif %}{% endfor %}"
    "{% for m in messages %}{{ '<|start|>' + ('user' if m['role'] == 'tool' else m['role']) + '\n' }}"
    "{% if m['role'] == 'assistant' %}{% generation %}"
    "{% set c = m['content'] or '' %}{% set r = m['reasoning_content'] or '' %}{% if '</think>' in c %}"
    "{% set r = c.split('</think>')[0].rstrip('\n').split('<think>')[-1].lstrip('\n') %}"
    "{% set c = c.split('</think>')[-1].lstrip('\n') %}{% endif %}"
    "{% if loop.index0 > n.last and (loop.last or r) %}{{ '<think>\n' + r + '\n</think>\n\n' + c.lstrip('\n') }}"
    "{% else %}{{ c }}{% endif %}"
    "{% for call in m['tool_calls'] or [] %}{{ '\n<call>' + (call['function'] | tojson) + '</call>' }}{% endfor %}"
    "{% endgeneration %}{% else %}{{ m['content'] }}{% endif %}{{ '<|end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start|>assistant\n' }}"
    "{% if enable_thinking is defined and not enable_thinking %}{{ '<think>\n\n</think>\n\n' }}{% endif %}{% endif %}"
)
# The header of an answer to come opens its reasoning; that of an answer that is over does not.
DEEPSEEK = (
    "{% for m in messages %}{% if m['role'] == 'assistant' %}{{ '<|start|>A' }}"
    "{% generation %}{{ m['content'] }}{% endgeneration %}{{ eos_token }}{% else %}{{ '<|start|>U' + m['content'] }}"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|start|>A<think>\n' }}{% endif %}"
)
# What it writes at the end is either a header or an EOS.
PHI3 = (
    "{% for m in messages %}{{ '<|start|>' + m['role'] + '\n' }}"
    "{% if m['role'] == 'assistant' %}{% generation %}{{ m['content'] }}{% endgeneration %}"
    "{% else %}{{ m['content'] }}{% endif %}{{ '<|end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start|>assistant\n' }}{% else %}{{ eos_token }}{% endif %}"
)
REAL = {
    "chatml": CHATML,
    "llama3": LLAMA3,
    "gemma": GEMMA3,
    "mistral": MISTRAL,
    "qwen3": QWEN3,
    "deepseek": DEEPSEEK,
    "phi3": PHI3,
}
TALKS = [
    ("sort the list", "a list, sorted"),
    ("a", "b", "a", "b", "a", "b"),
    ("user", "assistant", "assistant", "user\nassistant", "user", "user"),
    ("x", "", "y", "z"),
    ("x", "y", "z", ""),
    (" why ", "  rain\n\nand sun", "\nhow", " a story\n", "x", "\n\nend of it "),
    ("why", "né 😀 中文 sun", "中", "</s>", "q", "<|end|> x <|start|>"),
    ("one", "two", "three"),
    ("only the question",),
    ("q", "<think>\nwell\n</think>\n\nyes", "q", "<think>\nhm\n</think>\n\nno"),
    ("q", "no reason", "q", "<think>\n\n</think>\n\nno"),
]


def talk(*contents: str, system: str | None = None) -> Sample:
    turns = [Message(role, said) for role, said in zip(("user", "assistant") * len(contents), contents, strict=False)]
    return Sample(0, None, (*([Message("system", system)] if system is not None else []), *turns))


def encode(tokenizer, sample: Sample, kind: str = "auto", max_length: int = 2048) -> Encoded:
    (one,) = Encoder(tokenizer, Template(kind, tokenizer), max_length, spans=True).encode([sample])
    assert isinstance(one, Encoded), one
    return one


def said(tokenizer, sample: Sample, kind: str = "auto") -> list[str]:
    one = encode(tokenizer, sample, kind)
    return [tokenizer.decode(one.ids[start:end]) for start, end in one.response]


def mask(encoded: Encoded) -> list[int]:
    return [int(any(start <= i < end for start, end in encoded.response)) for i in range(len(encoded.ids))]


@cache
def real_tokenizer(style: str) -> Any:
    return make_tokenizer(REAL[style])


@pytest.mark.parametrize("style", REAL)
@pytest.mark.parametrize("contents", TALKS)
def test_as_transformers_masks_them(style: str, contents: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = real_tokenizer(style)
    for sample in [talk(*contents)] + [talk(*contents, system="be kind")] * (style not in ("gemma", "mistral")):
        turns = [message.as_dict() for message in sample.messages]
        theirs = tokenizer.apply_chat_template(turns, return_dict=True, return_assistant_tokens_mask=True)
        ours = encode(tokenizer, sample)
        length = len(ours.ids)
        assert theirs["input_ids"][:length] == ours.ids.tolist()
        assert mask(ours) == theirs["assistant_masks"][:length]
        assert not any(theirs["assistant_masks"][length:])
        with monkeypatch.context() as patch:  # and without what is known of plain turns
            patch.setattr(ChatSpans, "of_plain", lambda *_: None)
            assert encode(tokenizer, sample).response == ours.response


@pytest.mark.parametrize("style", STYLES)
def test_the_response_of_templates_without_a_header_too(style: str) -> None:
    """Among them one that writes a header and asks for no generation prompt, and one whose header is another."""
    tokenizer = make_tokenizer(STYLES[style])
    for contents in (
        ("sort", "a list"),
        ("x", "x", "x", "x"),
        ("user", "assistant", "a", "model"),
        ("a", "", "b", "c"),
    ):
        answers = [content for content in contents[1::2] if content]
        found = said(tokenizer, talk(*contents))
        # The space in front of an answer is part of its token, where there is one for both.
        assert [one.lstrip(" ") if style == "llama2" else one for one in found] == answers


CALL = {"id": "c1", "type": "function", "function": {"name": "tide", "arguments": {"port": "Hull"}}}
TOOLS = [{"type": "function", "function": {"name": "tide", "parameters": {"type": "object", "properties": {}}}}]
WRITTEN = '{"name": "tide", "arguments": {"port": "Hull"}}'
AGENT = [
    {"role": "user", "content": "Tide at Hull?"},
    {"role": "assistant", "content": "I look.", "reasoning_content": "hm", "tool_calls": [CALL]},
    {"role": "tool", "content": '{"metres": 3}', "tool_call_id": "c1"},
    {"role": "assistant", "content": "3 metres.", "reasoning_content": "so"},
    {"role": "user", "content": "And now?"},
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
]


def row(messages: list[dict], **more: object) -> Sample:
    return parse({"messages": messages, **more}, "messages", 0)


def test_calls_and_reasoning_are_the_assistants() -> None:
    tokenizer = make_tokenizer(QWEN3)
    call = f"<call>{WRITTEN}</call>"
    assert said(tokenizer, row(AGENT[:4], tools=TOOLS)) == [
        f"<think>\nhm\n</think>\n\nI look.\n{call}",
        "<think>\nso\n</think>\n\n3 metres.",
    ]
    # Another question is asked: the template leaves the reasoning before it out.
    assert said(tokenizer, row(AGENT, tools=TOOLS)) == [
        f"I look.\n{call}",
        "3 metres.",
        f"<think>\n\n</think>\n\n\n{call}",
    ]
    assert said(tokenizer, row([*AGENT[:4], AGENT[4]], tools=TOOLS))[-1] == "3 metres."
    with_text = [AGENT[0], {"role": "assistant", "content": "", "function_calls": 'tide(port="Hull")'}]
    assert said(
        make_tokenizer(QWEN3.replace("m['tool_calls'] or []", "[{'function': m['function_calls']}]")), row(with_text)
    ) == ['<think>\n\n</think>\n\n\n<call>"tide(port=\\"Hull\\")"</call>']


def test_a_template_whose_tools_move_with_the_conversation() -> None:
    tokenizer = make_tokenizer(MISTRAL)
    plain = [
        {k: v for k, v in turn.items() if k in ("role", "content")} for turn in AGENT if not turn.get("tool_calls")
    ]
    plain.insert(1, {"role": "assistant", "content": "Wait."})
    assert said(tokenizer, row([*plain[:2], *plain[4:], *plain[3:4]], tools=TOOLS)) == ["Wait.", "3 metres."]


def test_a_header_that_is_not_that_of_a_turn_with_reasoning() -> None:
    """Its header for an answer to come closes the reasoning at once."""
    tokenizer = make_tokenizer(QWEN3.replace("enable_thinking is defined and not enable_thinking", "true"))
    turns = [AGENT[0], {"role": "assistant", "content": "3.", "reasoning_content": "so"}]
    assert said(tokenizer, row(turns)) == ["so\n</think>\n\n3."]
    assert said(tokenizer, talk("q", "<think>\nso\n</think>\n\n3.")) == ["so\n</think>\n\n3."]
    assert said(tokenizer, talk("q", "3.")) == ["3."]


@pytest.mark.parametrize(
    "template",
    [
        "{% for m in messages %}<|start|>{{ m['role'] }}\n{{ m['content'] | upper }}<|end|>{% endfor %}",
        # results of tools, and what is said of them, in the turn that called
        "{% for m in messages %}{% if m['role'] == 'assistant' %}<|start|>assistant\n"
        "{% for c in m['tool_calls'] or [] %}{{ c['function'] | tojson }}{% endfor %}"
        "{% if m['tool_calls'] %}{{ messages[loop.index0 + 1]['content'] }}{% endif %}{{ m['content'] }}<|end|>"
        "{% elif m['role'] == 'user' %}<|start|>user\n{{ m['content'] }}<|end|>{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}<|start|>assistant\n{% endif %}",
    ],
)
def test_a_template_that_does_not_tell(template: str) -> None:
    tokenizer = make_tokenizer(template)
    encoder = Encoder(tokenizer, Template("chat", tokenizer), 512, spans=True)
    (refused,) = encoder.encode([row(AGENT[:4], tools=TOOLS)])
    assert isinstance(refused, Refused)
    assert "show the last message" in refused.reason or refused.reason == (
        "the chat template does not tell which tokens are the assistant's; use --tokens all, and no --nll"
    )


def test_a_turn_that_the_template_leaves_out_has_no_tokens() -> None:
    skipping = CHATML.replace("{% for m in messages %}", "{% for m in messages if m['content'] != 'skip' %}")
    assert said(make_tokenizer(skipping), talk("a", "skip", "b", "c")) == ["c"]


def test_rows_without_roles_are_refused() -> None:
    tokenizer = make_tokenizer()
    encoder = Encoder(tokenizer, Template("chat", tokenizer), 512, spans=True)
    text, ids, bad = encoder.encode(
        [Sample(0, None, text="a story"), Sample(1, None, input_ids=(5, 6)), Sample(2, None, input_ids=(10**6,))]
    )
    assert text == Refused(
        0, "a row of the format text does not say which tokens are the assistant's; use --tokens all, and no --nll"
    )
    assert isinstance(ids, Refused) and ids.reason.startswith("a row of the format input_ids does not say")
    assert isinstance(bad, Refused)


def test_alpaca_and_none_know_what_they_write() -> None:
    tokenizer = make_tokenizer(None, add_bos=True)
    alpaca = {"instruction": "Add.", "input": "1 2", "output": "3 of them"}
    assert said(tokenizer, parse(alpaca, "alpaca", 0)) == ["3 of them"]
    history = {**alpaca, "history": [["a", "b"], ["a", "output"]], "system": "Be kind."}
    assert said(tokenizer, parse(history, "alpaca", 0)) == ["b", "output", "3 of them"]
    assert said(tokenizer, row(AGENT[:4]), "alpaca") == [
        "I look.\n" + json.dumps([CALL]).replace(": ", ":").replace(", ", ","),
        "3 metres.",
    ]
    for kind in ("alpaca", "none"):
        assert said(tokenizer, talk("user", "### Response:", "x", "y"), kind) == ["### Response:", "y"]
    assert said(tokenizer, talk("a", "b", "c", system="s"), "none") == ["b"]
    assert said(tokenizer, talk("a"), "none") == []


def test_truncation_and_bos() -> None:
    for adds_bos in (False, True):
        tokenizer = make_tokenizer("{{ bos_token }}" * 2 + CHATML, add_bos=adds_bos)  # of two BOS one stays
        sample = talk("why", "the cat and the dog", "how", "run code")
        whole = encode(tokenizer, sample)
        assert [tokenizer.decode(whole.ids[a:b]) for a, b in whole.response] == ["the cat and the dog", "run code"]
        edges = {place + beside for span in whole.response for place in span for beside in (-1, 0, 1)}
        for length in sorted(edges & {*range(1, len(whole.ids) + 1)} | {1, len(whole.ids)}):
            cut = encode(tokenizer, sample, max_length=length)
            assert mask(cut) == mask(whole)[:length]
            assert all(0 <= start < end <= length for start, end in cut.response)
    tokenizer = make_tokenizer(None, add_bos=True)
    doubled = encode(tokenizer, Sample(0, None, (Message("assistant", "<s>sun"), Message("user", "x"))), "none")
    assert doubled.ids.tolist()[:2] != [0, 0]
    assert [tokenizer.decode(doubled.ids[a:b]) for a, b in doubled.response] == ["<s>sun"]


def test_nothing_changes_where_spans_are_not_asked_for() -> None:
    tokenizer = make_tokenizer(CHATML)
    for sample in (talk("né 😀", " a "), Sample(0, None, text="x"), Sample(0, None, input_ids=(5, 6))):
        (one,) = Encoder(tokenizer, Template("chat", tokenizer), 512).encode([sample])
        assert one.response is None
    assert encode(tokenizer, talk("né 😀", " a ")).ids.tolist() == (
        Encoder(tokenizer, Template("chat", tokenizer), 512).encode([talk("né 😀", " a ")])[0].ids.tolist()
    )


@pytest.mark.parametrize("model", rust_tokenizers())
@pytest.mark.parametrize("kind", ["none", "alpaca"])
def test_every_kind_of_tokenizer(model: str, kind: str) -> None:
    tokenizer = rust_tokenizers()[model]
    answers = ["the é 😀 中 other", "  one\n\ntwo "]
    found = said(tokenizer, talk("ab", answers[0], "the", answers[1]), kind)
    alone = [tokenizer.decode(tokenizer(a, add_special_tokens=False)["input_ids"]) for a in answers]
    assert ["".join(one.replace("\u2581", " ").split()) for one in found] == [
        "".join(one.replace("\u2581", " ").split()) for one in alone
    ]


def test_offsets_without_the_spaces() -> None:
    from tokenizers import processors

    tokenizer = make_tokenizer(CHATML)
    tokenizer._tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)  # as GPT-2's
    assert said(tokenizer, talk("x ", " a  b ", " ", "  c")) == [" a  b ", "  c"]


def test_marks_that_swallow_the_spaces_beside_them() -> None:
    from tokenizers import AddedToken

    tokenizer = make_tokenizer(PHI3)
    tokenizer.add_special_tokens(
        {"additional_special_tokens": [AddedToken("<|start|>", rstrip=True), AddedToken("<|bot|>", rstrip=True)]}
    )
    tokenizer.chat_template = tokenizer.chat_template.replace(
        "m['role'] + '\n'", "'' + ('<|bot|>' if m['role'] == 'assistant' else '')"
    )
    found = said(tokenizer, talk("x", "  a cat", "y", "\n dog "))
    assert found == ["a cat", "dog "]


def test_a_token_belongs_where_its_last_character_does() -> None:
    #        H  e     l     lo    (two for one character)  mark
    offsets = [(0, 2), (2, 4), (4, 5), (4, 5), (5, 5), (5, 8), (8, 9)]
    ids = [1, 2, 3, 3, 4, 9, 5]
    nothing: frozenset[int] = frozenset()
    assert token_ranges([(3, 5)], ids, offsets, nothing) == ((1, 5),)
    assert token_ranges([(2, 3)], ids, offsets, nothing) == ()
    assert token_ranges([(7, 9)], ids, offsets, nothing) == ((5, 7),)
    assert token_ranges([(7, 9)], ids, offsets, frozenset({9})) == ((6, 7),)
    assert token_ranges([(5, 9)], ids, offsets, frozenset({9})) == ((5, 7),)
    assert token_ranges([(0, 2), (4, 5), (8, 9)], ids, offsets, nothing) == ((0, 1), (2, 5), (6, 7))
    assert token_ranges([(0, 0), (9, 9)], ids, offsets, nothing) == () == token_ranges([(0, 3)], [], [], nothing)
    assert moved([(0, 1), (2, 5), (6, 7)], 1, 5) == ((1, 2), (3, 5))
    assert moved([(0, 1), (2, 5)], -1, 9) == ((1, 4),)


def test_tokenizers_whose_offsets_do_not_tell_are_refused() -> None:
    slow = make_slow_tokenizer(CHATML)
    with pytest.raises(BadInput, match=r"--tokens prompt: .* where its tokens stand .*; use --tokens all"):
        Encoder(slow, Template("chat", slow), 512, tokens="prompt")
    assert Encoder(slow, Template("chat", slow), 512).encode([talk("a", "b")])

    shifted = make_tokenizer(CHATML)

    def call(self, text, *args, **options):
        made = type(shifted).__mro__[1].__call__(self, text, *args, **options)
        if "offset_mapping" in made:
            made["offset_mapping"] = [[(a + 3, b + 3) for a, b in one] for one in made["offset_mapping"]]
        return made

    shifted.__class__ = type("Shifted", (type(shifted),), {"__call__": call})
    with pytest.raises(BadInput, match="offsets do not tell"):
        Encoder(shifted, Template("chat", shifted), 512, spans=True)


pieces = [
    "a",
    "user",
    "assistant",
    " ",
    "\n",
    "é",
    "😀",
    "<|end|>",
    "<|start|>",
    "\u241f0\u241f",
    "\u241fcontent\u241f",
]
words = st.lists(st.sampled_from(pieces), max_size=5).map("".join)
PLAIN = {name: make_tokenizer(REAL[name]) for name in ("chatml", "llama3", "phi3")}
SPANS = {name: Template("chat", tokenizer) for name, tokenizer in PLAIN.items()}


@settings(max_examples=150, deadline=None)
@given(st.lists(words, min_size=2, max_size=6), st.sampled_from(sorted(PLAIN)), st.booleans())
def test_any_contents(contents: list[str], style: str, system: bool) -> None:
    """Against the text written down turn by turn."""
    sample = talk(*contents, system="be kind" if system else None)
    template, trims = SPANS[style], style == "llama3"
    try:
        text, _ = template.render(sample)
    except RowError:
        return
    spans, expected = template.response(sample, text), []
    written = "<s>" if trims else ""
    if style == "chatml" and not system:
        written += "<|start|>system\nYou are a helpful assistant<|end|>\n"
    for message in sample.messages:
        content = message.content.strip() if trims else message.content
        written += f"<|start|>{message.role}" + ("<|end|>\n\n" if trims else "\n")
        if message.role == "assistant":
            expected.append((len(written), len(written) + len(content)))
        written += content + ("<|end|>" if trims else "<|end|>\n")
    assert written.startswith(text)
    assert list(spans) == expected
    with pytest.MonkeyPatch.context() as patch:  # and without what is known of plain turns
        patch.setattr(ChatSpans, "of_plain", lambda *_: None)
        assert list(template.response(sample, text)) == expected


def test_two_rows_of_one_pool_in_two_formats() -> None:
    tokenizer = make_tokenizer(CHATML)
    shares = {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}], "system": "be kind"}
    assert said(tokenizer, parse_any(shares, 0)) == ["b"]
    assert said(tokenizer, parse_any({"prompt": "a", "completion": "b c"}, 0)) == ["b c"]
    assert said(tokenizer, Sample(0, None, (Message("assistant", "a"), Message("user", "b")))) == ["a"]


def test_gemma_refuses_a_system_turn_and_nothing_else_changes() -> None:
    tokenizer = make_tokenizer(GEMMA)
    encoder = Encoder(tokenizer, Template("chat", tokenizer), 512, spans=True)
    refused, good = encoder.encode([talk("a", "b", system="s"), talk("a", "b")])
    assert isinstance(refused, Refused) and "System role" in refused.reason
    assert tokenizer.decode(good.ids[slice(*good.response[0])]) == "b"
