"""Chat templates: jinja as transformers renders it, with a clock that stands still."""

import datetime
import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from nait_fast.errors import BadInput

TEMPLATE_DATE = "2024-07-26"  # the date that Llama 3's own template falls back to
_MONTHS = (
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
)
_WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")


def sources_of(tokenizer: Any) -> dict[str, str]:
    """The tokenizer's chat templates by name."""
    source = tokenizer.chat_template
    if isinstance(source, str):
        return {"default": source}
    return {k: v for k, v in source.items() if isinstance(v, str)} if isinstance(source, dict) else {}


@lru_cache
def draws(source: str) -> str:
    """What in a chat template gives another text each time; empty where nothing does."""
    try:
        from transformers.utils.chat_template_utils import _compile_jinja_template

        tree = _compile_jinja_template(source).environment.parse(source)
    except Exception:  # a broken template says so where it is used
        return ""
    from jinja2 import nodes

    if any(used.name == "random" for used in tree.find_all(nodes.Filter)):
        return "filter random"
    called = [call.node for call in tree.find_all(nodes.Call)]
    return "lipsum()" if any(isinstance(one, nodes.Name) and one.name == "lipsum" for one in called) else ""


def day_of(text: str) -> datetime.date:
    try:
        if re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", text):
            return datetime.date.fromisoformat(text)
    except ValueError:
        pass
    raise BadInput("write YYYY-MM-DD", where=f"--template-date {text[:40]}")


def clock_of(day: datetime.date) -> Callable[[str], str]:
    """``strftime_now`` of transformers' templates, stopped at the midnight that begins ``day``, in English whatever the
    locale."""
    moment = datetime.datetime(day.year, day.month, day.day, tzinfo=datetime.timezone.utc)
    month, weekday = _MONTHS[day.month - 1], _WEEKDAYS[day.weekday()]
    clock, date = "00:00:00", f"{day.month:02d}/{day.day:02d}/{day.year % 100:02d}"
    words = {
        "%": "%%",
        "A": weekday,
        "a": weekday[:3],
        "B": month,
        "b": month[:3],
        "h": month[:3],
        "p": "AM",
        "c": f"{weekday[:3]} {month[:3]} {day.day:2d} {clock} {day.year}",
        "x": date,
        "X": clock,
        "Z": "",
        "z": "",
        "s": str(int(moment.timestamp())),
    }

    def strftime_now(format: str) -> str:
        return moment.strftime(re.sub(r"%([%AaBbhpXxcZzs])", lambda match: words[match[1]], format))

    return strftime_now


def apply_chat_template(
    tokenizer: Any,
    turns: list[dict[str, Any]],
    tools: list[Any] | None,
    clock: Callable[[str], str] | None,
    header: bool = False,
) -> str:
    """``tokenizer.apply_chat_template(turns, tools=tools, tokenize=False)``, in half the time where that is
    transformers' own. ``clock``: what tells the date, where the template asks for it; ``header``: as
    ``add_generation_prompt``."""
    sources = sources_of(tokenizer)
    source = sources.get("tool_use" if tools is not None and "tool_use" in sources else "default")
    compiled = _compile(tokenizer.__class__, source) if turns and source is not None else None
    if compiled is None:
        more: dict[str, Any] = {} if tools is None else {"tools": tools}
        if clock is not None:
            more["strftime_now"] = clock
        if header:
            more["add_generation_prompt"] = True
        return tokenizer.apply_chat_template(turns, tokenize=False, **more)
    template, constants = compiled
    variables = {**constants, **tokenizer.special_tokens_map, "messages": turns, "tools": tools}
    if clock is not None:
        variables["strftime_now"] = clock
    if header:
        variables["add_generation_prompt"] = True
    # As jinja's own render(), which copies its globals, slowly, for every conversation.
    return "".join(template.root_render_func(template.new_context(variables, shared=True)))


@lru_cache
def _compile(tokenizer_class: type, source: str) -> tuple[Any, dict[str, Any]] | None:
    """(compiled template, the variables that no conversation changes), or None where there is no way to it."""
    from transformers import PreTrainedTokenizerBase

    names = ("apply_chat_template", "get_chat_template")
    if any(getattr(tokenizer_class, n, None) is not getattr(PreTrainedTokenizerBase, n) for n in names):
        return None
    try:
        from transformers.utils.chat_template_utils import _compile_jinja_template
    except ImportError:  # transformers does not promise that function
        return None
    template = _compile_jinja_template(source)
    return template, {**template.globals, "documents": None, "add_generation_prompt": False}
