"""Templates: from a sample to the text of its content.

Only the text up to the last character of the sample's content is kept: what a template writes after it (end-of-turn
marks, EOS) is neither pooled nor, since a decoder looks backwards only, needed.
"""

import hashlib
from functools import lru_cache
from typing import Any

from nait_fast.data.formats import RowError, Sample
from nait_fast.data.streams import first_line
from nait_fast.errors import NaitError

TEMPLATES = ("auto", "chat", "alpaca", "none")
_SENTINEL = "\u241fcontent\u241f"

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
    """Renders samples for one tokenizer. ``kind`` is ``chat``, ``alpaca`` or ``none`` (``auto`` is resolved)."""

    def __init__(self, kind: str, tokenizer: Any):
        if kind not in TEMPLATES:
            raise NaitError(f"--template {kind}: choose {', '.join(TEMPLATES)}")
        has_chat = bool(getattr(tokenizer, "chat_template", None))
        if kind == "chat" and not has_chat:
            raise NaitError("--template chat: this tokenizer has no chat template; use --template alpaca or none")
        self.kind = ("chat" if has_chat else "alpaca") if kind == "auto" else kind
        self.tokenizer = tokenizer
        self._closings: dict[str, str | None] = {}

    @property
    def hash(self) -> str:
        """First 16 hex digits of a SHA-256 over all that decides the rendered text."""
        chat = self.tokenizer.chat_template if self.kind == "chat" else ""
        return hashlib.sha256(f"{self.kind}\0{chat}\0{len(self.tokenizer)}".encode()).hexdigest()[:16]

    def render(self, sample: Sample) -> tuple[str, bool]:
        """(text up to the end of the content, whether the tokenizer's BOS still has to be put in front).

        Raises RowError if the template refuses the sample.
        """
        if sample.text is not None:
            return sample.text, True
        if self.kind == "chat":
            return self._chat(sample), False
        if self.kind == "alpaca":
            return self._alpaca(sample), True
        return "\n".join(message.content for message in sample.messages), True

    def closing(self, role: str = "assistant") -> str | None:
        """What the chat template writes after the content of a last message of ``role``.

        None if it refuses or hides the plain conversation that would tell.
        """
        if role not in self._closings:
            turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": _SENTINEL}]
            if role == "user":
                turns = [{"role": "user", "content": _SENTINEL}]
            try:
                _, found, after = self._apply(turns).rpartition(_SENTINEL)
            except RowError:
                found, after = "", ""
            self._closings[role] = after if found else None
        return self._closings[role]

    def _apply(self, turns: list[dict[str, str]]) -> str:
        try:
            return _apply_chat_template(self.tokenizer, turns)
        except Exception as error:  # jinja2 raises whatever the template's author chose
            raise RowError(f"the chat template refuses it: {first_line(error)}") from None

    def _chat(self, sample: Sample) -> str:
        turns = [{"role": m.role, "content": m.content} for m in sample.messages]
        text = self._apply(turns)
        last = sample.messages[-1]
        closing = self.closing(last.role) if last.role in ("user", "assistant") else None
        if closing is None or not _ends_in(text, last.content, closing):
            # A closing that depends on the conversation: find it with this very conversation.
            marked = self._apply([*turns[:-1], {"role": last.role, "content": _SENTINEL}])
            before, found, closing = marked.rpartition(_SENTINEL)
            if not found or not text.endswith(closing):
                raise RowError("the chat template does not show the last message")
        return text[: len(text) - len(closing)]

    def _alpaca(self, sample: Sample) -> str:
        if sample.alpaca is not None and len(sample.messages) == 2:
            instruction, extra, output = sample.alpaca
            return (_ALPACA_WITH_INPUT if extra else _ALPACA).format(instruction, extra) + output
        # Conversations: a block a turn, the preamble once, a system message in place of the preamble.
        preamble = _ALPACA.partition("### Instruction:")[0]
        parts = []
        for message in sample.messages:
            if message.role == "system":
                preamble = message.content + "\n\n"
            elif message.role == "assistant":
                parts.append(f"### Response:\n{message.content}")
            else:
                parts.append(f"### {'Instruction' if message.role == 'user' else 'Input'}:\n{message.content}")
        return preamble + "\n\n".join(parts)


def _apply_chat_template(tokenizer: Any, turns: list[dict[str, str]]) -> str:
    """``tokenizer.apply_chat_template(turns, tokenize=False)``, in half the time where that is transformers' own."""
    source = tokenizer.chat_template
    compiled = _compile(tokenizer.__class__, source) if turns and isinstance(source, str) else None
    if compiled is None:
        return tokenizer.apply_chat_template(turns, tokenize=False)
    template, constants = compiled
    variables = {**constants, **tokenizer.special_tokens_map, "messages": turns}
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
    return template, {**template.globals, "tools": None, "documents": None, "add_generation_prompt": False}


def _ends_in(text: str, content: str, closing: str) -> bool:
    """``text`` is ``content`` (as it is, or trimmed), then ``closing``, at its end."""
    return text.endswith(closing) and text.removesuffix(closing).endswith((content, content.strip()))
