"""Templates: from a sample to the text of its content.

Only the text up to the last character of the sample's content is kept: what a template writes after it (end-of-turn
marks, EOS) is neither pooled nor, since a decoder looks backwards only, needed.
"""

import hashlib
import json
from dataclasses import replace
from functools import cached_property
from typing import Any

from nait_fast.compatibility import DIGITS
from nait_fast.data.chat import TEMPLATE_DATE, apply_chat_template, clock_of, day_of, draws, sources_of
from nait_fast.data.formats import RowError, Sample
from nait_fast.data.spans import ASSISTANT, SENTINEL, ChatSpans, Span, spans_of_pieces
from nait_fast.data.tokenizer_identity import tokenizer_identity
from nait_fast.data.turns import CALLS, ROLES, as_json, call_texts, plain_call
from nait_fast.data.unread import is_metadata, texts_in
from nait_fast.errors import BadInput, first_line

TEMPLATES = ("auto", "chat", "alpaca", "none")
# What a role is for a chat template that refuses it or leaves its turns out.
_STANDS_FOR = {"developer": "system", "environment": "tool"}

_ALPACA_WITH_INPUT = (
    "Below is an instruction that describes a task, paired with an input that provides further context. "
    "Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{0}\n\n### Input:\n{1}\n\n### Response:\n"
)
_ALPACA = (
    "Below is an instruction that describes a task. "
    "Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{0}\n\n### Response:\n"
)


class Template:
    """Renders samples for one tokenizer. ``kind`` is ``chat``, ``alpaca`` or ``none`` (``auto`` is resolved).

    ``date``: the day (YYYY-MM-DD) that it is for a chat template that asks; ``None`` of a template that does not.
    Raises NaitError for a template that is not there, or that draws at random.
    """

    def __init__(self, kind: str, tokenizer: Any, date: str | None = None):
        if kind not in TEMPLATES:
            raise BadInput(f"choose {', '.join(TEMPLATES)}", where=f"--template {kind}")
        has_chat = bool(getattr(tokenizer, "chat_template", None))
        if kind == "chat" and not has_chat:
            raise BadInput(
                "this tokenizer has no chat template", where="--template chat", remedy="use --template alpaca or none"
            )
        self.kind = ("chat" if has_chat else "alpaca") if kind == "auto" else kind
        self.tokenizer = tokenizer
        self._sources = sources_of(tokenizer) if self.kind == "chat" else {}
        self._words = "\n".join(self._sources.values())
        self._marks = "\0".join([self._words, *ROLES, *map(str, getattr(tokenizer, "special_tokens_map", {}).values())])
        if drawn := next(filter(None, map(draws, self._sources.values())), None):
            raise BadInput(
                f"the chat template draws at random ({drawn})",
                where="--template chat",
                remedy="use --template alpaca or none",
            )
        asks = "strftime_now" in self._words
        if date is not None and not asks:
            raise BadInput("the template asks for no date", where=f"--template-date {date}", remedy="leave it out")
        self.date = day_of(TEMPLATE_DATE if date is None else date).isoformat() if asks else None
        self._clock = clock_of(day_of(self.date)) if self.date else None
        self._closings: dict[str, str | None] = {}
        self._taken: dict[str, bool] = {}
        self._chat_spans = ChatSpans(self._apply)

    @cached_property
    def hash(self) -> str:
        """First ``DIGITS`` hex digits of a SHA-256 over all that decides the rendered text and its ids."""
        chat = self.tokenizer.chat_template if self.kind == "chat" else ""
        date = f"\0{self.date}" if self.date else ""
        identity = f"{self.kind}\0{chat}\0{tokenizer_identity(self.tokenizer)}{date}"
        return hashlib.sha256(identity.encode(errors="backslashreplace")).hexdigest()[:DIGITS]

    def render(self, sample: Sample) -> tuple[str, bool]:
        """(text up to the end of the content, whether the tokenizer's BOS still has to be put in front).

        A sample that is a text loses the template's closing and EOS at its end, as one of ``input_ids`` does. Raises
        RowError if the template refuses the sample.
        """
        if sample.text is not None:
            return self._without_end(sample.text)
        if self.kind == "chat":
            return self._chat(sample), False
        return "".join(text for text, _ in self._pieces(sample)), True

    def response(self, sample: Sample, text: str) -> tuple[Span, ...]:
        """Half-open spans of the characters of ``text``, its rendering, that the assistant says: one a turn, ascending.

        Raises RowError where that cannot be told.
        """
        if not sample.messages:
            kind = "text" if sample.text is not None else "input_ids"
            raise RowError(
                f"a row of the format {kind} does not say which tokens are the assistant's; use --tokens all, and no "
                "--nll"
            )
        if self.kind != "chat":
            return spans_of_pieces(self._pieces(sample))
        if not sample.tools and not any(message.fields for message in sample.messages):
            spans = self._chat_spans.of_plain(self._turns(sample), text)
            if spans is not None:
                return spans

        def cut(last: int) -> str:
            return self._chat(replace(sample, messages=sample.messages[: last + 1]))

        full, turns = self._whole(sample)
        return self._chat_spans.of(turns, _listed(sample.tools), full, text, cut)

    def closing(self, role: str = "assistant") -> str | None:
        """What the chat template writes after the content of a last message of ``role``.

        None if it refuses or hides the plain conversation that would tell.
        """
        if role not in self._closings:
            turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": SENTINEL}]
            if role == "user":
                turns = [{"role": "user", "content": SENTINEL}]
            try:
                _, sentinel, after = self._apply(turns).rpartition(SENTINEL)
            except RowError:
                sentinel, after = "", ""
            self._closings[role] = after if sentinel else None
        return self._closings[role]

    def unshown(self, sample: Sample, text: str) -> tuple[str, ...]:
        """What of ``sample`` is not in its rendered ``text``: names of fields of its turns ("content" of a turn that
        the template leaves out or changes), "tools"."""
        hidden: dict[str, None] = {}
        plain = not sample.tools and not any(message.fields for message in sample.messages)
        if plain and (self.kind != "chat" or self._in_order(sample, text)):
            return ()
        said = _said(sample)
        for place, message in enumerate(sample.messages):
            if not ("content" in hidden or self._shows("content", [message.content], text, sample, place, said)):
                hidden["content"] = None
            for key, value in message.fields.items():
                if key in hidden or key == "content" or is_metadata(key):
                    continue
                texts = [*call_texts(value)] if key in message.calls else [*texts_in(value)]
                if not self._shows(key, texts, text, sample, place, said):
                    hidden[key] = None
        if sample.tools and not self._shows("tools", [*call_texts(list(sample.tools))], text, sample, None, said):
            hidden["tools"] = None
        return tuple(hidden)

    def _in_order(self, sample: Sample, text: str) -> bool:
        """Whether every turn stands in ``text`` behind the one before: none of what the template itself writes."""
        place = 0
        for message in sample.messages:
            part = message.content.strip()
            start = text.find(part, place)
            if start < 0 or (part and part in self._marks):
                return False
            place = start + len(part)
        return True

    def _shows(self, key: str, texts: list[str], text: str, sample: Sample, place: int | None, said: str) -> bool:
        """Whether ``text`` holds the ``texts`` under ``key`` of the turn at ``place`` (None: of the sample) since they
        are there, not for another reason. ``said``: all that the template gets."""
        parts = [part for one in texts if (part := one.strip())]
        if self.kind != "chat" and key == "content":  # which others write as it is
            return True
        if not all(_occurs(part, text) for part in parts):
            return False
        if self.kind != "chat":
            return key in CALLS or not texts
        if not parts:
            return True
        # What the template itself does not write, and stands there as often as in the sample, is there for itself.
        if (key == "content" or key in self._words) and any(
            text.count(part) == said.count(part) and part not in self._marks for part in parts
        ):
            return True
        return self._tells(key, sample, place)

    def _tells(self, key: str, sample: Sample, place: int | None) -> bool:
        """Whether the template writes something else where the value of ``key`` is another."""
        turns, tools = self._turns(sample), _listed(sample.tools)
        try:
            if place is not None and isinstance(turns[place][key], str):
                turns[place] = {**turns[place], key: SENTINEL}
                return _occurs(SENTINEL, self._apply(turns, tools))
            before = self._apply(turns, tools)
            if place is None:
                return self._apply(turns, None) != before
            turns[place] = {k: v for k, v in turns[place].items() if k != key}
            return self._apply(turns, tools) != before
        except RowError:
            return True

    def _apply(self, turns: list[dict[str, Any]], tools: list[Any] | None = None, header: bool = False) -> str:
        """What the chat template makes of ``turns``; ``header``: with what it writes to have the assistant speak."""
        try:
            return apply_chat_template(self.tokenizer, turns, tools, self._clock, header)
        except Exception as error:  # jinja2 raises whatever the template's author chose
            raise RowError(f"the chat template refuses it: {first_line(error, kind=False)}") from None

    def _turns(self, sample: Sample) -> list[dict[str, Any]]:
        """The conversation as the template gets it."""
        turns = []
        for message in sample.messages:
            turn = message.as_dict()
            if message.role in _STANDS_FOR and not self._takes(message.role):
                turn["role"] = _STANDS_FOR[message.role]
            if message.fields and turn["content"] is None and "tool_calls" not in self._words:
                turn["content"] = ""  # a template that knows no calls expects text
            turns.append(turn)
        return turns

    def _takes(self, role: str) -> bool:
        """Whether the template shows what a turn of ``role`` says."""
        if role not in self._taken:
            turns = [{"role": role, "content": SENTINEL}, {"role": "user", "content": "a"}]
            if role != "developer":
                turns = [turns[1], {"role": "assistant", "content": "b"}, turns[0]]
            try:
                self._taken[role] = SENTINEL in self._apply([*turns, {"role": "assistant", "content": "c"}])
            except RowError:
                self._taken[role] = False
        return self._taken[role]

    def _whole(self, sample: Sample) -> tuple[str, list[dict[str, Any]]]:
        """All that the chat template makes of a conversation, and what it got."""
        turns, tools = self._turns(sample), _listed(sample.tools)
        try:
            return self._apply(turns, tools), turns
        except RowError:
            plainer = [_with_plain_calls(turn) for turn in turns]
            if plainer == turns:
                raise
            return self._apply(plainer, tools), plainer

    def _chat(self, sample: Sample) -> str:
        (text, turns), tools = self._whole(sample), _listed(sample.tools)
        last = sample.messages[-1]
        if last.fields and (calls := last.calls):
            place, said = len(turns) - 1, _said(sample)
            if all(self._shows(k, [*call_texts(v)], text, sample, place, said) for k, v in calls.items()):
                return self._up_to_calls(text, turns, tools)
            if not last.content.strip():
                raise RowError(f"the chat template does not show the last message, which has {', '.join(calls)} only")
        closing = self.closing(last.role) if last.role in ("user", "assistant") else None
        if closing is None or not _ends_in(text, last.content, closing):
            # A closing that depends on the conversation: find it with this very conversation.
            marked = self._apply([*turns[:-1], {**turns[-1], "content": SENTINEL}], tools)
            before, sentinel, closing = marked.rpartition(SENTINEL)
            if not sentinel or not text.endswith(closing):
                raise RowError("the chat template does not show the last message")
        return text[: len(text) - len(closing)]

    def _up_to_calls(self, text: str, turns: list[dict[str, Any]], tools: list[Any] | None) -> str:
        """``text`` without what the template writes after the calls of the last turn."""
        said = {k: v for k, v in turns[-1].items() if k not in CALLS}
        try:
            marked = self._apply([*turns[:-1], {**said, "content": SENTINEL}], tools)
        except RowError:
            marked = ""
        _, sentinel, closing = marked.rpartition(SENTINEL)
        if sentinel and closing.strip() and text.endswith(closing):
            return text[: len(text) - len(closing)]
        # It ends calls in another way than answers: with special tokens, as all templates do.
        marks = [mark for mark in self.tokenizer.all_special_tokens if mark]
        while (bare := text.rstrip()) and (mark := next((m for m in marks if bare.endswith(m)), "")):
            text = bare[: -len(mark)]
        return text.rstrip()

    def _without_end(self, text: str) -> tuple[str, bool]:
        """(``text`` without closing, EOS and padding at its end, whether the template has not rendered it, so that BOS
        may be missing)."""
        closing = (self.closing() or "").rstrip() if self.kind == "chat" else ""
        ends = [t for t in (self.tokenizer.eos_token, self.tokenizer.pad_token) if t]
        rendered = False
        while bare := text.rstrip():
            if closing and not rendered and bare.endswith(closing):
                text, rendered = bare[: -len(closing)], True
            elif mark := next((end for end in ends if bare.endswith(end)), ""):
                text = bare[: -len(mark)]
            else:
                break
        return text, not rendered

    def _pieces(self, sample: Sample) -> list[tuple[str, bool]]:
        """The text of a conversation in pieces, and whether the assistant says them: kinds ``alpaca`` and ``none``."""
        if self.kind == "none":
            turns = [[("\n", False), (message.text, message.role == ASSISTANT)] for message in sample.messages]
            return [piece for turn in turns for piece in turn][1:]
        if sample.alpaca is not None and len(sample.messages) == 2:
            instruction, extra, output = sample.alpaca
            return [((_ALPACA_WITH_INPUT if extra else _ALPACA).format(instruction, extra), False), (output, True)]
        # Conversations: a block a turn, the preamble once, system messages in place of the preamble.
        preamble = ""
        pieces: list[tuple[str, bool]] = []
        for message in sample.messages:
            if message.role in ("system", "developer"):
                preamble += message.content + "\n\n"
                continue
            pieces.append(("\n\n" if pieces else "", False))
            if message.role == ASSISTANT:
                pieces += ("### Response:\n", False), (message.text, True)
            else:
                pieces.append(
                    (f"### {'Instruction' if message.role == 'user' else 'Input'}:\n{message.content}", False)
                )
        return [(preamble or _ALPACA.partition("### Instruction:")[0], False), *pieces]


def _listed(tools: tuple[Any, ...] | None) -> list[Any] | None:
    return None if tools is None else list(tools)


def _said(sample: Sample) -> str:
    """All texts that a template gets of ``sample``."""
    parts = [message.content for message in sample.messages]
    for message in sample.messages:
        parts += (value if isinstance(value, str) else as_json(value) for value in message.fields.values())
    if sample.tools:
        parts.append(as_json(sample.tools))
    return "\0".join(parts)


def _occurs(part: str, text: str) -> bool:
    """``part`` is in ``text``, as it is or as JSON writes it."""
    return part in text or any(json.dumps(part, ensure_ascii=a)[1:-1] in text for a in (False, True))


def _with_plain_calls(turn: dict[str, Any]) -> dict[str, Any]:
    """A turn with text for a content that is null, and its calls as most templates want them: the function under
    "function", its arguments as an object."""
    content = "" if turn["content"] is None else turn["content"]
    calls = turn.get("tool_calls")
    if not isinstance(calls, list):
        return {**turn, "content": content}
    return {**turn, "content": content, "tool_calls": [plain_call(call) for call in calls]}


def _ends_in(text: str, content: str, closing: str) -> bool:
    """``text`` is ``content`` (as it is, or trimmed), then ``closing``, at its end."""
    return text.endswith(closing) and text.removesuffix(closing).endswith((content, content.strip()))
