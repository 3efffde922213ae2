"""Which part of a rendered conversation the assistant says: spans of characters, and the tokens that they come to.

The response of an assistant's turn is all that the assistant writes in it (reasoning, content, calls): from behind what
the template writes to have it speak, its generation header, to the end of the content or of the calls.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nait_fast.data.turns import CALLS, Message, RowError

Span = tuple[int, int]  # half-open
Turn = dict[str, Any]
Apply = Callable[..., str]  # (turns, tools, header=False) -> what the chat template makes of them; raises RowError

ASSISTANT = "assistant"
SENTINEL = "\u241fcontent\u241f"
_UNKNOWN = "the chat template does not tell which tokens are the assistant's; use --tokens all, and no --nll"
_REASONING = ("reasoning_content", "reasoning", "thinking")
# Two answers whose tokens must give them back: distinct, with spaces around, of one and of several bytes a character.
PROBE = (
    Message("user", "Why is 7 × 8 = 56?"),
    Message(ASSISTANT, "  First: sieben mal acht, 七乘八, é 🙂 done "),
    Message("user", "First what?"),
    Message(ASSISTANT, " Second\n\nnaïve 答え 👩‍🚀, 12.5% of x "),
)


@dataclass(frozen=True, slots=True)
class Frame:
    """What a chat template writes around plain turns of certain roles, whatever their contents.

    pieces: what stands in front of each content. kept: whether white space stays at the start and the end of each.
    own: of an assistant's turn, how many characters at the end of its piece are its own; of others None.
    """

    pieces: tuple[str, ...]
    kept: tuple[tuple[bool, bool], ...]
    own: tuple[int | None, ...]

    def spans(self, text: str, contents: Sequence[str]) -> tuple[Span, ...] | None:
        """The assistant's spans in ``text``, which ends with the last content; None where ``text`` is not exactly these
        pieces and contents."""
        parts: list[str] = []
        spans, place = [], 0
        for piece, (left, right), own, content in zip(self.pieces, self.kept, self.own, contents, strict=True):
            content = content if left else content.lstrip()
            content = content if right else content.rstrip()
            parts += piece, content
            place += len(piece) + len(content)
            if own is not None:
                spans.append((place - len(content) - own, place))
        return tuple(spans) if "".join(parts) == text else None


class ChatSpans:
    """The assistant's spans in what one chat template renders."""

    def __init__(self, apply: Apply):
        self._apply = apply
        self._frames: dict[tuple[str, ...], Frame | None] = {}
        self._headers: dict[str, str] = {}

    def of_plain(self, turns: Sequence[Turn], text: str) -> tuple[Span, ...] | None:
        """Those of ``turns`` that have roles and contents only, without rendering them: None where that fails."""
        roles = tuple(turn["role"] for turn in turns)
        if roles not in self._frames:
            self._frames[roles] = self._frame(roles)
        frame = self._frames[roles]
        return None if frame is None else frame.spans(text, [turn["content"] for turn in turns])

    def of(
        self, turns: Sequence[Turn], tools: list[Any] | None, full: str, text: str, cut: Callable[[int], str]
    ) -> tuple[Span, ...]:
        """Those of any ``turns``, ``full`` their rendering and ``text`` the part of it that ends with the last content.

        ``cut(i)``: the rendering of the turns up to the i-th, up to the end of its content. Raises RowError.
        """
        spans: list[Span] = []
        for i, turn in enumerate(turns):
            if turn["role"] != ASSISTANT:
                continue
            start = self._start(turns, i, tools, full)
            end = len(text) if i == len(turns) - 1 else self._end(turns, i, tools, full, cut, start or 0)
            if start is None or end is None:
                if self._rendered([*turns[:i], *turns[i + 1 :]], tools) == full:
                    continue  # the template leaves the turn out
                raise RowError(_UNKNOWN)
            if not (spans[-1][1] if spans else 0) <= start <= end <= len(text):
                raise RowError(_UNKNOWN)
            spans.append((start, end))
        for i, turn in enumerate(turns):
            if turn["role"] == "tool":  # some write results, and what the assistant says of them, into its turn
                mark = _mark_for(full)
                marked = self._marked(turns, i, tools, {**turn, "content": mark}, mark)
                if marked is not None and any(start < len(marked[0]) < end for start, end in spans):
                    raise RowError(_UNKNOWN)
        return tuple(spans)

    def _start(self, turns: Sequence[Turn], i: int, tools: list[Any] | None, full: str) -> int | None:
        """Where the i-th turn's own words begin in ``full``."""
        before, content = self._up_to_header(turns[:i], tools), turns[i]["content"] or ""
        starts = []
        if before is not None and full.startswith(before):
            starts = [len(before)]
            if not any(before.endswith(content[:n]) for n in range(1, len(content) + 1)):
                return starts[0]
        # What precedes makes another text alone, the header of a turn to come is not that of one that is over, or what
        # the turn says begins like the end of the header: then from its first word.
        mark = _mark_for(full)
        said = {"role": ASSISTANT, "content": mark}
        thought = {**turns[i], **{key: mark for key in _REASONING if isinstance(turns[i].get(key), str)}}
        thought["content"] = mark + content[max(content.find("</think>"), 0) :]
        for turn in (said, thought):
            marked = self._marked(turns, i, tools, turn, mark)
            if marked is not None and full.startswith(marked[0]):
                return min([*starts, len(marked[0])])
        return starts[0] if starts else None

    def _end(
        self, turns: Sequence[Turn], i: int, tools: list[Any] | None, full: str, cut: Callable[[int], str], start: int
    ) -> int | None:
        """Where the i-th turn, which is not the last, ends in ``full``."""
        try:
            text = cut(i)
        except RowError:
            text = ""
        if len(text) >= start and text and full.startswith(text):
            return len(text)
        said, mark = {k: v for k, v in turns[i].items() if k not in CALLS}, _mark_for(full)
        marked = self._marked(turns, i, tools, {**said, "content": mark}, mark)
        return None if marked is None or not full.endswith(marked[1]) else len(full) - len(marked[1])

    def _marked(
        self, turns: Sequence[Turn], i: int, tools: list[Any] | None, turn: Turn, mark: str
    ) -> tuple[str, str] | None:
        """What stands before and after the ``mark`` in ``turn``, in place of the i-th one; None if it is not shown."""
        text = self._rendered([*turns[:i], turn, *turns[i + 1 :]], tools)
        before, found, after = (text or "").partition(mark)
        return (before, after) if found else None

    def _up_to_header(self, turns: Sequence[Turn], tools: list[Any] | None) -> str | None:
        """``turns`` and the header of an answer to them; None where the template writes no header."""
        text = self._rendered(turns, tools, header=True) if turns else None
        if text is None:
            return None
        role = turns[-1]["role"]
        if (known := self._headers.get(role)) and text.endswith(known):
            return text
        plain = self._rendered(turns, tools)
        if plain is None or plain.startswith(text):
            return None
        same = next((i for i, (a, b) in enumerate(zip(plain, text, strict=False)) if a != b), len(plain))
        self._headers[role] = text[same:]  # some write it in place of an EOS
        return text

    def _rendered(self, turns: Sequence[Turn], tools: list[Any] | None, header: bool = False) -> str | None:
        try:
            return self._apply(list(turns), tools, header)
        except RowError:
            return None

    def _frame(self, roles: tuple[str, ...]) -> Frame | None:
        """What the template makes of turns of these ``roles`` whose contents are marks; None if it hides one."""
        marks = [f"\u241f{i}\u241f" for i in range(len(roles))]
        turns = [{"role": role, "content": mark} for role, mark in zip(roles, marks, strict=True)]
        text = self._rendered(turns, None)
        spaced = self._rendered([{**turn, "content": f" {turn['content']}\n"} for turn in turns], None)
        pieces, around = _split(text, marks), _split(spaced, marks)
        if text is None or pieces is None or around is None:
            return None
        left, right, place = [], [], 0
        own: list[int | None] = []
        for i, (piece, wider) in enumerate(zip(pieces, around, strict=True)):
            ends = "\n" if i and wider.startswith(f"\n{piece}") else ""
            starts = " " if i < len(roles) and wider == f"{ends}{piece} " else ""
            if wider != f"{ends}{piece}{starts}":
                return None
            left.append(bool(starts))
            right.append(bool(ends))
            if i == len(roles):
                break
            place += len(piece)
            own.append(None)
            if roles[i] == ASSISTANT:
                before = self._up_to_header(turns[:i], None)
                begins = len(before) if before is not None and text.startswith(before) else place
                if not place - len(piece) <= begins <= place:
                    return None
                own[-1] = place - begins
            place += len(marks[i])
        return Frame(tuple(pieces[:-1]), tuple(zip(left[:-1], right[1:], strict=True)), tuple(own))


def _mark_for(text: str) -> str:
    """A mark for a content that ``text`` does not hold itself."""
    mark = SENTINEL
    while mark in text:
        mark = f"\u241f{mark}\u241f"
    return mark


def _split(text: str | None, marks: Sequence[str]) -> list[str] | None:
    """What stands around the ``marks`` in ``text``; None unless each is there once, in order."""
    pieces, rest = [], text or ""
    for mark in marks:
        piece, found, rest = rest.partition(mark)
        if not found:
            return None
        pieces.append(piece)
    return None if any(mark in piece for piece in (*pieces, rest) for mark in marks) else [*pieces, rest]


def spans_of_pieces(pieces: Sequence[tuple[str, bool]]) -> tuple[Span, ...]:
    """Spans of those ``pieces`` (text, whether the assistant says it) of a text that are the assistant's."""
    spans, place = [], 0
    for text, own in pieces:
        if own:
            spans.append((place, place + len(text)))
        place += len(text)
    return tuple(spans)


def token_ranges(
    spans: Sequence[Span], ids: Sequence[int], offsets: Sequence[Span], added: frozenset[int]
) -> tuple[Span, ...]:
    """Half-open ranges of the tokens that belong to ``spans`` of characters, ascending, none empty.

    ``offsets``: each token's characters. A token belongs to the span in which its last character lies (one that stands
    for a part of a character: in which that lies); one of the ``added``, such as a mark of the template that swallows
    the white space beside it, only if all of it does.
    """
    if not ids or not spans:
        return ()
    bounds = np.array(offsets, dtype=np.int64).reshape(-1, 2)
    inside = np.zeros(len(bounds) + 2, dtype=bool)
    for start, end in spans:
        within = (bounds[:, 1] > start) & (bounds[:, 1] <= end)
        for place in np.flatnonzero(within & (bounds[:, 0] < start)).tolist():
            within[place] = ids[place] not in added
        inside[1:-1] |= within
    edges = np.flatnonzero(inside[1:] != inside[:-1]).tolist()
    return tuple(zip(edges[::2], edges[1::2], strict=True))


def beside(ranges: Sequence[Span], length: int) -> tuple[Span, ...]:
    """Those ranges of ``length`` tokens that are not among ``ranges``."""
    edges = [0, *(edge for span in ranges for edge in span), length]
    return tuple((start, end) for start, end in zip(edges[::2], edges[1::2], strict=True) if start < end)


def moved(ranges: Sequence[Span], by: int, length: int) -> tuple[Span, ...]:
    """``ranges`` of tokens ``by`` positions further on, cut to the first ``length``."""
    there = ((max(start + by, 0), min(end + by, length)) for start, end in ranges)
    return tuple((start, end) for start, end in there if start < end)
