"""A template that asks for the date gets the recorded one; other things that change by themselves are refused."""

import locale
import time

import pytest

from nait_fast.data.chat import clock_of, day_of
from nait_fast.data.formats import Message, Sample
from nait_fast.data.template import Template
from nait_fast.errors import NaitError
from tests.conftest import CHAT_TEMPLATE, make_tokenizer

# As Llama 3.1, SmolLM3 and Granite ask for it.
LLAMA = (
    "{% if not date_string is defined %}{% if strftime_now is defined %}"
    "{% set date_string = strftime_now('%d %b %Y') %}{% else %}{% set date_string = '26 Jul 2024' %}{% endif %}"
    "{% endif %}Today Date: {{ date_string }}\n"
) + CHAT_TEMPLATE
SMOLLM3 = "{%- set today = strftime_now('%d %B %Y') -%}Today Date: {{ today }}\n" + CHAT_TEMPLATE
GRANITE = "Today's Date: {{ strftime_now('%B %d, %Y') }}.\n" + CHAT_TEMPLATE
STATIC = "Today Date: {{ date_string or '26 Jul 2024' }}\n" + CHAT_TEMPLATE
SAMPLE = Sample(0, None, (Message("user", "a"), Message("assistant", "b")))


def head(template: Template) -> str:
    return template.render(SAMPLE)[0].partition("\n")[0]


@pytest.mark.parametrize(
    ("source", "first", "second"),
    [
        (LLAMA, "Today Date: 26 Jul 2024", "Today Date: 03 Mar 2031"),
        (SMOLLM3, "Today Date: 26 July 2024", "Today Date: 03 March 2031"),
        (GRANITE, "Today's Date: July 26, 2024.", "Today's Date: March 03, 2031."),
    ],
)
def test_the_date_stands_still(source: str, first: str, second: str) -> None:
    tokenizer = make_tokenizer(source)
    one, other = Template("chat", tokenizer), Template("auto", tokenizer, "2031-03-03")
    assert (head(one), head(other)) == (first, second)
    assert (one.date, other.date) == ("2024-07-26", "2031-03-03")
    assert one.hash != other.hash and one.hash == Template("chat", tokenizer, "2024-07-26").hash
    # As transformers renders it with the same clock, in its own way, too.
    stopped = {"strftime_now": clock_of(day_of("2024-07-26"))}
    turns = [message.as_dict() for message in SAMPLE.messages]
    assert one._apply(turns) == tokenizer.apply_chat_template(turns, tokenize=False, **stopped)
    several = make_tokenizer({"default": source, "tool_use": "tools"})
    assert head(Template("chat", several)) == first
    tokenizer.__class__ = type("Own", (type(tokenizer),), {"apply_chat_template": type(tokenizer).apply_chat_template})
    assert head(Template("chat", tokenizer)) == first


def test_a_template_that_asks_for_no_date_has_none() -> None:
    for source in (CHAT_TEMPLATE, STATIC):
        tokenizer = make_tokenizer(source)
        assert Template("chat", tokenizer).date is None
        with pytest.raises(NaitError, match="--template-date 2024-07-26: the template asks for no date; leave it out"):
            Template("chat", tokenizer, "2024-07-26")
    tokenizer = make_tokenizer(LLAMA)
    assert Template("alpaca", tokenizer).date is None and Template("none", tokenizer).date is None
    with pytest.raises(NaitError, match="asks for no date"):
        Template("alpaca", tokenizer, "2024-07-26")


@pytest.mark.parametrize(
    "text", ["today", "2024-7-26", "26-07-2024", "2024-02-30", "", "20240726", "2024-W30-5", "0" * 99]
)
def test_what_is_no_date(text: str) -> None:
    with pytest.raises(NaitError, match="write YYYY-MM-DD") as error:
        day_of(text)
    assert len(str(error.value)) < 100


FORMS = "%a %A %b %B %h %p %c %x %X %Z%z %s %% %%B %d %m %Y %y %H:%M:%S %j %f"
WANTED = (
    "Fri Friday Jul July Jul AM Fri Jul 26 00:00:00 2024 07/26/24 00:00:00  1721952000 % %B 26 07 2024 24 00:00:00 "
    "208 000000"
)


def test_the_clock_knows_no_place(monkeypatch: pytest.MonkeyPatch) -> None:
    assert clock_of(day_of("2024-07-26"))(FORMS) == WANTED
    try:
        monkeypatch.setenv("TZ", "Pacific/Kiritimati")
        time.tzset()
        for name in ("de_DE.UTF-8", "fr_FR.UTF-8", "C.UTF-8"):
            try:
                locale.setlocale(locale.LC_TIME, name)
            except locale.Error:
                continue
            assert clock_of(day_of("2024-07-26"))(FORMS) == WANTED
    finally:
        locale.setlocale(locale.LC_TIME, "C")
        monkeypatch.undo()
        time.tzset()


@pytest.mark.parametrize("source", ["{{ ['a', 'b'] | random }}", "{{ lipsum(n=1) }}", "{% set x = [1] | random %}"])
def test_templates_that_draw_are_refused(source: str) -> None:
    with pytest.raises(NaitError, match="the chat template draws at random"):
        Template("chat", make_tokenizer(source + CHAT_TEMPLATE))
    assert Template("alpaca", make_tokenizer(source + CHAT_TEMPLATE)).kind == "alpaca"
    Template("chat", make_tokenizer("{{ 'a | random' }}" + CHAT_TEMPLATE))
