"""From samples to the token ids of their content, batched through the tokenizer."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nait_fast.data.formats import RowError, Sample
from nait_fast.data.spans import ASSISTANT, PROBE, Span, beside, moved, spans_of_pieces, token_ranges
from nait_fast.data.template import Template
from nait_fast.errors import BadInput


@dataclass(frozen=True, slots=True)
class Encoded:
    """``ids`` int32 [K]: the sample's tokens from the first of its text to the last of its content.

    ``length``: how many there were before truncation (the Encoder always sets it). ``unread``: as of `Sample`;
    ``unshown``: what of the sample the template leaves out, as `Template.unshown` says it. ``response``: half-open
    ranges of the tokens among ``ids`` that the assistant says, ascending, none empty; None where not asked for.
    ``reading_spans``: likewise those over which readings run, at least one; None: all.
    """

    row: int
    id: str | None
    ids: np.ndarray
    length: int = 0
    unread: tuple[str, ...] = ()
    unshown: tuple[str, ...] = ()
    response: tuple[Span, ...] | None = None
    reading_spans: tuple[Span, ...] | None = None

    @property
    def lead(self) -> int:
        """Tokens in front of the response, where readings do not run over all tokens; else all."""
        return self.response[0][0] if self.reading_spans is not None and self.response else len(self.ids)

    @property
    def truncated(self) -> bool:
        return self.length > len(self.ids)


@dataclass(frozen=True, slots=True)
class Refused:
    """A sample that cannot be encoded, and why."""

    row: int
    reason: str


@dataclass(frozen=True, slots=True)
class _Rendered:
    """Of a text: its sample's place, whether BOS is to come, what is unshown, and the characters that the assistant
    says (None where they are not asked for)."""

    sample: int
    add_bos: bool
    unshown: tuple[str, ...]
    response: tuple[Span, ...] | None


@dataclass(frozen=True, slots=True)
class Prepared:
    """Samples on their way: ``texts`` await the tokenizer, all other samples have their result."""

    samples: Sequence[Sample]
    results: list[Encoded | Refused | None]
    texts: list[str]
    places: list[_Rendered]  # of each text


def bos_prefix(tokenizer: Any) -> list[int]:
    """The ids that this tokenizer puts in front of a plain text (BOS, or nothing); what it appends is left out."""
    plain = tokenizer("a", add_special_tokens=False)["input_ids"]
    full = tokenizer("a", add_special_tokens=True)["input_ids"]
    for start in range(len(full) - len(plain) + 1):
        if full[start : start + len(plain)] == plain:
            return list(full[:start])
    return []


def _rust(tokenizer: Any) -> Any:
    """The Rust tokenizer, if its plain call is all that ``tokenizer(texts, add_special_tokens=False)`` comes to now."""
    from transformers import PreTrainedTokenizerFast

    lineage = type(tokenizer).__mro__
    if PreTrainedTokenizerFast not in lineage:
        return None
    subclasses = lineage[: lineage.index(PreTrainedTokenizerFast)]
    if any(name in vars(c) for c in subclasses for name in ("__call__", "_encode_plus", "_batch_encode_plus")):
        return None  # it may do more to a text
    rust = tokenizer.backend_tokenizer
    # A call elsewhere may have left its truncation or padding behind; transformers' own call takes them off.
    plain = rust.truncation is None and rust.padding is None
    return rust if plain and rust.encode_special_tokens == tokenizer.split_special_tokens else None


class Encoder:
    """Turns samples into ``Encoded``, at most ``max_length`` tokens each (the front is kept)."""

    def __init__(
        self,
        tokenizer: Any,
        template: Template,
        max_length: int,
        vocabulary: int | None = None,
        spans: bool = False,
        tokens: str = "all",
        nll: str = "none",
    ):
        """``vocabulary``: rows of the model's embedding, where they may be fewer than the tokenizer's tokens.

        ``spans``: whether ``Encoded.response`` is wanted; ``tokens``: of TOKENS, over which readings run: samples
        without any are refused; ``nll``: of NLL: samples without the losses that it asks for are refused. Raises
        BadInput where this tokenizer cannot give the response."""
        self.tokenizer, self.template, self.max_length = tokenizer, template, max_length
        self.vocabulary = min(len(tokenizer), vocabulary or len(tokenizer))
        self._bos = bos_prefix(tokenizer)
        self._front = self._bos or [i for i in (tokenizer.bos_token_id,) if i is not None]
        self._end_ids = {i for i in (tokenizer.eos_token_id, tokenizer.pad_token_id) if i is not None}
        self._pad_ids = self._end_ids - set(self._front)
        closing = template.closing() if template.kind == "chat" else None
        forms = dict.fromkeys((closing, closing.rstrip())) if closing else {}
        self._closings = [list(tokenizer(form, add_special_tokens=False)["input_ids"]) for form in forms if form]
        self.tokens, self.nll, self.spans = tokens, nll, spans or tokens != "all" or nll != "none"
        self._added = frozenset(getattr(tokenizer, "added_tokens_decoder", ()))
        if self.spans:
            self._check_spans()

    def encode(self, samples: Sequence[Sample]) -> list[Encoded | Refused]:
        """One result for each sample, in order."""
        return self.tokenise(self.prepare(samples))

    def prepare(self, samples: Sequence[Sample]) -> Prepared:
        """The half of ``encode`` that is Python: renders. May run while another thread is in ``tokenise``."""
        results: list[Encoded | Refused | None] = [None] * len(samples)
        texts, places = [], []
        for i, sample in enumerate(samples):
            try:
                if sample.input_ids is not None:
                    if self.spans:
                        self.template.response(sample, "")
                    results[i] = self._finish(sample, self._strip(list(sample.input_ids)))
                    continue
                text, add_bos = self.template.render(sample)
                response = self.template.response(sample, text) if self.spans else None
            except RowError as error:
                results[i] = Refused(sample.row, str(error))
                continue
            texts.append(text)
            unshown = self.template.unshown(sample, text) if sample.messages else ()
            places.append(_Rendered(i, add_bos, unshown, response))
        return Prepared(samples, results, texts, places)

    def tokenise(self, prepared: Prepared) -> list[Encoded | Refused]:
        """The half of ``encode`` that is mostly the tokenizer's, which lets other threads run."""
        results = list(prepared.results)
        if not prepared.texts:
            return [r for r in results if r is not None]
        spans = [place.response for place in prepared.places]
        tokens = self._ranges(prepared.texts, spans) if self.spans else self._ids(prepared.texts)
        for place, (ids, response) in zip(prepared.places, tokens, strict=True):
            if place.add_bos:
                ids = self._bos + ids
                response = response and moved(response, len(self._bos), len(ids))
            results[place.sample] = self._finish(prepared.samples[place.sample], ids, place.unshown, response)
        return [r for r in results if r is not None]

    def _ids(self, texts: list[str]) -> list[tuple[list[int], None]]:
        rust = _rust(self.tokenizer)
        if rust is None:
            return [(ids, None) for ids in self.tokenizer(texts, add_special_tokens=False)["input_ids"]]
        # The same ids as encode_batch, which also makes tokens and offsets.
        return [(encoding.ids, None) for encoding in rust.encode_batch_fast(texts, add_special_tokens=False)]

    def _ranges(
        self, texts: list[str], spans: Sequence[tuple[Span, ...] | None]
    ) -> list[tuple[list[int], tuple[Span, ...]]]:
        """Of each text its ids, and the ranges of them that ``spans`` of its characters come to."""
        rust = _rust(self.tokenizer)
        if rust is None:
            batch = self.tokenizer(texts, add_special_tokens=False, return_offsets_mapping=True)
            tokens = list(zip(batch["input_ids"], batch["offset_mapping"], strict=True))
        else:
            tokens = [(e.ids, e.offsets) for e in rust.encode_batch(texts, add_special_tokens=False)]
        return [
            (ids, token_ranges(own or (), ids, offsets, self._added))
            for own, (ids, offsets) in zip(spans, tokens, strict=True)
        ]

    def _check_spans(self) -> None:
        """Raises BadInput unless this tokenizer's offsets lead to the very tokens of two answers."""
        where = f"--nll {self.nll}" if self.tokens == "all" else f"--tokens {self.tokens}"
        remedy = "leave it out"
        if self.tokens != "all":
            remedy = "use --tokens all" + ", and no --nll" * (self.nll != "none")
        if not getattr(self.tokenizer, "is_fast", False):
            raise BadInput("this tokenizer does not say where its tokens stand in the text", where=where, remedy=remedy)
        sample = Sample(0, None, PROBE)
        try:
            text, _ = self.template.render(sample)
            spans = self.template.response(sample, text)
        except RowError:  # it may take other conversations
            pieces = [piece for turn in PROBE for piece in ((turn.content, turn.role == ASSISTANT), ("\n", False))]
            text, spans = "".join(piece for piece, _ in pieces), spans_of_pieces(pieces)
        said = [text[start:end] for start, end in spans]
        ids, ranges = self._ranges([text], [spans])[0]
        alone = self.tokenizer(said, add_special_tokens=False)["input_ids"]
        if [self._decoded(ids[a:b]) for a, b in ranges] != [self._decoded(one) for one in alone]:
            raise BadInput("this tokenizer's offsets do not tell its tokens apart", where=where, remedy=remedy)

    def _decoded(self, ids: list[int]) -> str:
        """What ``ids`` say, without white space, of which tokenizers add some in front of a text."""
        return "".join(self.tokenizer.decode(ids, clean_up_tokenization_spaces=False).replace("\u2581", " ").split())

    def _finish(
        self, sample: Sample, ids: list[int], unshown: tuple[str, ...] = (), response: tuple[Span, ...] | None = None
    ) -> Encoded | Refused:
        # A text may bring the BOS that the tokenizer adds as well: never two.
        bos, whole = self._front, len(ids)
        while bos and ids[: len(bos)] == bos == ids[len(bos) : 2 * len(bos)]:
            del ids[: len(bos)]
        if not ids:
            return Refused(sample.row, "no content tokens")
        highest = max(ids)
        if highest >= self.vocabulary:
            return Refused(sample.row, f"token id {highest} is outside the model's {self.vocabulary} tokens")
        front = np.array(ids[: self.max_length], dtype=np.int32)
        response = response and moved(response, len(ids) - whole, len(front))
        reading_spans = None
        if self.tokens != "all" and response is not None:
            reading_spans = response if self.tokens == "response" else beside(response, len(front))
            if not reading_spans:
                within = f" within --max-length {self.max_length}" if len(ids) > len(front) else ""
                return Refused(sample.row, f"no token of its {self.tokens}{within}")
        if self.nll != "none" and (reason := self._lacks_losses(response or (), len(ids) > len(front))):
            return Refused(sample.row, reason)
        return Encoded(sample.row, sample.id, front, len(ids), sample.unread, unshown, response, reading_spans)

    @property
    def front(self) -> list[int]:
        """The ids that a text of its own stands behind: BOS, or none."""
        return list(self._front)

    def _lacks_losses(self, response: tuple[Span, ...], cut: bool) -> str:
        """Why a sample with these tokens of its response has not the losses that are asked for; "" where it has."""
        within = f" within --max-length {self.max_length}" if cut else ""
        if not any(end > max(start, 1) for start, end in response):
            return f"no token of its response{within} that another stands before, and so no loss (--nll)"
        if self.nll == "ifd" and not self._front and sum(end - start for start, end in response) == 1:
            return f"one token of its response{within}, which has no loss alone: the tokenizer has no BOS (--nll ifd)"
        return ""

    def _strip(self, ids: list[int]) -> list[int]:
        # Pre-tokenised rows usually end in the template's closing, EOS or padding, and may be padded on the left: none
        # of it is content.
        closings = self._closings
        while ids:
            closing = next((c for c in closings if ids[-len(c) :] == c), None)
            if closing:
                del ids[-len(closing) :]
                closings = []
            elif ids[-1] in self._end_ids:
                ids.pop()
            else:
                break
        while ids and ids[0] in self._pad_ids:
            del ids[0]
        return ids
