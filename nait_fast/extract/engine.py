"""The engine: token ids in, the readings of every captured layer out, layer by layer.

Only the decoder body runs, and it stops at the last captured activation, unless a reading is of its end. A layer's
activations live until they are pooled; what is kept of them is the sink's business.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from nait_fast.data.batching import Batch, make_batches
from nait_fast.data.spans import Span, moved
from nait_fast.data.tokenize import Encoded
from nait_fast.device_copies import to_device
from nait_fast.errors import BadInput, NaitError, first_line, is_out_of_memory
from nait_fast.extract.body_end import LEAST_LOSS, LOSSES, OF_THE_END, PositionSums, mean_losses, position_sums, rds_of
from nait_fast.extract.pooling import combine, mean_counts, statistics_for
from nait_fast.extract.sinks import Sink
from nait_fast.kernels.capture.types import BitSpec, Segments, Stats
from nait_fast.kernels.common.dispatch import current
from nait_fast.models.fork_safety import at_work
from nait_fast.models.fused import replaced
from nait_fast.models.linear import products_as
from nait_fast.models.load import LoadedModel
from nait_fast.models.pack import Pack, PrefixState
from nait_fast.models.packed import packed_attention_on, packed_forward
from nait_fast.models.patch import Capture, CapturedForward, StopForward, patched
from nait_fast.progress import say

# Tokens a batch. On a CPU the activations of a batch should stay in cache; a GPU wants many.
BATCH_TOKENS = {"cpu": 2048, "cuda": 65536}
MAX_PADDING = 0.03  # share of padding in a batch of a model that cannot be run packed


@dataclass
class _SharedPrefix:
    """``ids`` int32 [P] that have been run. What they leave for the samples behind them: ``state`` in attention and
    mixers, ``stats`` of each layer, ``end``, the sums of the body's end, and ``states`` [P, H], its hidden states."""

    ids: np.ndarray
    state: PrefixState = field(default_factory=PrefixState)
    stats: list[Stats] = field(default_factory=list)
    end: PositionSums | None = None
    states: torch.Tensor | None = None


NO_PREFIX = _SharedPrefix(np.zeros(0, dtype=np.int32))


class _Prefix(CapturedForward):
    """Keeps the statistics of each layer."""

    def __init__(self, segments: Segments):
        super().__init__(segments)
        self.stats: list[Stats] = []

    def take(self, ordinal: int, stats: Stats) -> None:
        self.stats.append(stats)


class _BatchForward(CapturedForward):
    """Combines each layer's statistics with ``prefix``, those of the shared tokens (none: empty), into ``readings``,
    and hands them to ``sink`` for the samples ``items``; ``lengths``, ``with_first``: as of ``combine``."""

    def __init__(
        self,
        segments: Segments,
        items: Sequence[int],
        lengths: torch.Tensor,
        sink: Sink,
        prefix: Sequence[Stats],
        first_token: str,
        readings: Sequence[str],
        with_first: torch.Tensor | None = None,
    ):
        super().__init__(segments)
        self._items, self._lengths, self._sink, self._prefix = items, lengths, sink, prefix
        self._first_token, self._readings, self._with_first = first_token, readings, with_first
        self.finite = torch.ones(len(items), dtype=torch.bool, device=lengths.device)

    def bits(self, ordinal: int) -> BitSpec | None:
        threshold = self._sink.threshold_of(ordinal)
        if threshold is None:
            return None
        return BitSpec(threshold, self._prefix[ordinal].sum if self._prefix else None)

    def take(self, ordinal: int, stats: Stats) -> None:
        before = self._prefix[ordinal] if self._prefix else None
        readings = combine(stats, self._lengths, before, self._first_token, self._readings, self._with_first)
        for reading in readings.values():
            self.finite.logical_and_(torch.isfinite(reading).all(dim=1))
        self._sink.layer(self._items, ordinal, readings, stats.codes)


class Engine:
    """Runs one model for one set of readings. What the shared prefixes of a run have left serves the next one, too."""

    def __init__(
        self,
        model: LoadedModel,
        readings: Sequence[str],
        *,
        first_token: str = "exclude",
        tokens: str = "all",
        batch_tokens: int | None = None,
        quiet: bool = True,
        hidden_at: int | None = None,
        front: Sequence[int] = (),
    ):
        """``tokens``: which of its samples' tokens are ``chosen``, of TOKENS; ``hidden_at``: ordinal of the captured
        layer whose hidden state the reading ``hidden`` is; ``front``: ids that a response alone stands behind. Losses
        need a model with its head."""
        self.model, self.readings, self.first_token, self.quiet = model, tuple(readings), first_token, quiet
        self.tokens, self.hidden_at = tokens, hidden_at
        self.batch_tokens = batch_tokens or BATCH_TOKENS.get(model.device.type, 8192)
        self.run_tokens, self.padded_tokens = 0, 0  # through the model, without and with padding
        self._prefixes: list[_SharedPrefix] = []  # of the last run
        self._front = np.array(front, dtype=np.int32)
        self._losses = [name for name in LOSSES if name in readings]
        self._of_layers = [reading for reading in readings if reading not in OF_THE_END]
        self._to_the_end = len(self._of_layers) < len(self.readings)
        assert model.complete or not self._to_the_end, "the body's end is of a model that is loaded as a whole"
        stop = not self._to_the_end
        self._capture = Capture(model.specs, statistics_for(readings), stop=stop, hidden_at=hidden_at)

    def run(
        self,
        encoded: Sequence[Encoded],
        sink: Sink,
        *,
        prefixes: Sequence[np.ndarray] = (),
        on_batch: Callable[[int, int], None] | None = None,
    ) -> None:
        """Capture all of ``encoded`` in length-bucketed batches.

        ``prefixes``: leading ids int32 [P] that many samples share; each is run once. ``on_batch(samples, tokens)`` is
        called after each batch, tokens counting each sample's own K.
        """
        limit, longest, beyond = self.model.max_tokens, max((len(e.ids) for e in encoded), default=0), 0
        if "ifd" in self._losses:  # a response that its sample begins with is longer alone, behind its front
            alone = max((len(self._front) + sum(b - a for a, b in e.response or ()) for e in encoded), default=0)
            longest, beyond = max(longest, alone), max(0, alone - longest)
        if limit is not None and longest > limit:
            raise BadInput(
                f"its RoPE changes for a whole batch when a sample passes {limit} tokens (one has {longest})",
                where=f"model {self.model.name}",
                remedy=f"use --max-length {limit - beyond}",
            )
        positions = self.model.positions
        if positions is not None and longest > positions:
            raise BadInput(
                f"it has {positions} positions, and a sample {longest} tokens",
                where=f"model {self.model.name}",
                remedy=f"use --max-length {positions - beyond}",
            )
        with ExitStack() as stack:
            stack.enter_context(torch.inference_mode())
            stack.enter_context(current(self.model.device))
            stack.enter_context(products_as(self.model.products.form, self.model.body))
            stack.enter_context(replaced(self.model.fused))
            stack.enter_context(patched(self._capture))
            if self.model.attention is not None:
                stack.enter_context(packed_attention_on(self.model.body, self.model.attention))
            # One token alone: no mean without it.
            prefixes = [ids for ids in prefixes if len(ids) >= 2] if self.model.packs else []
            with at_work():
                self._prefixes = [self._known(ids) or self._run_prefix(ids) for ids in prefixes]
            max_padding = None if self.model.packs else MAX_PADDING
            for planned in make_batches(encoded, prefixes, self.batch_tokens, max_padding):
                for batch in self._run_fitting(encoded, planned, sink):
                    if on_batch:
                        on_batch(len(batch.items), sum(len(encoded[i].ids) for i in batch.items))
            sink.flush()

    def _run_fitting(self, encoded: Sequence[Encoded], planned: Batch, sink: Sink) -> Iterator[Batch]:
        """Run ``planned``, in pieces where memory has no room for it; yields each piece that is done."""
        waiting = [planned]
        while waiting:
            batch = waiting.pop()
            tokens = sum(len(encoded[i].ids) - batch.n_prefix for i in batch.items)
            if tokens > self.batch_tokens and len(batch.items) > 1:
                middle = len(batch.items) // 2
                halves = batch.items[middle:], batch.items[:middle]
                waiting += [replace(batch, items=half) for half in halves]
                continue
            try:
                with at_work():
                    self._run_batch([encoded[i] for i in batch.items], batch, sink)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                if len(batch.items) == 1:
                    raise NaitError(
                        f"no memory for one sample of {tokens} tokens",
                        where=f"model {self.model.name}",
                        remedy="lower --max-length, or try --dtype bfloat16",
                    ) from None
                waiting.append(batch)
                self.batch_tokens = max(1, tokens // 2)
                say(f"out of memory at {tokens:,} tokens a batch: going on with {self.batch_tokens:,}", self.quiet)
            else:
                yield batch
                continue
            torch.cuda.empty_cache()  # here the failed forward's frames are gone

    def _known(self, ids: np.ndarray) -> _SharedPrefix | None:
        return next((known for known in self._prefixes if np.array_equal(known.ids, ids)), None)

    def _run_prefix(self, ids: np.ndarray) -> _SharedPrefix:
        prefix = _SharedPrefix(ids)
        pack = Pack([len(ids)], record=prefix.state)
        # It is all prompt where that makes a difference.
        chosen = None if self.tokens == "all" else [((0, len(ids)),) if self.tokens == "prompt" else ()]
        forward = _Prefix(self._segments(pack.lengths, 0, chosen=chosen))
        states = self._forward([ids], pack, 0, forward)
        prefix.stats = forward.stats
        if states is not None and "rds" in self.readings:
            prefix.end = position_sums(states, forward.segments, 0)
        if states is not None and self._losses:
            prefix.states = states[0]
        if self.tokens == "response":
            for stats in prefix.stats:
                stats.first = None
        return prefix

    def _run_batch(self, samples: list[Encoded], batch: Batch, sink: Sink) -> None:
        prefix, n_prefix = NO_PREFIX if batch.prefix is None else self._prefixes[batch.prefix], batch.n_prefix
        beyond = [sample.ids[n_prefix:] for sample in samples]
        pack = Pack([len(ids) for ids in beyond], prefix=prefix.state)
        if self.tokens == "all":
            chosen, with_first = None, None
            lengths = torch.tensor([len(sample.ids) for sample in samples])
        else:
            every = [sample.reading_spans or () for sample in samples]
            chosen = [moved(ranges, -n_prefix, len(ids)) for ranges, ids in zip(every, beyond, strict=True)]
            lengths = torch.tensor([sum(end - start for start, end in ranges) for ranges in every])
            with_first = torch.tensor([ranges[0][0] == 0 for ranges in every])
        segments = self._segments(
            pack.lengths, n_prefix, mean_counts(lengths, self.first_token, with_first), chosen=chosen
        )
        lengths = to_device(lengths, self.model.device)
        with_first = None if with_first is None else to_device(with_first, self.model.device)
        forward = _BatchForward(
            segments, batch.items, lengths, sink, prefix.stats, self.first_token, self._of_layers, with_first
        )
        states = self._forward(beyond, pack, n_prefix, forward)
        if states is not None:
            end: dict[str, torch.Tensor] = {}
            if "rds" in self.readings:
                end["rds"] = rds_of(position_sums(states, segments, n_prefix), prefix.end)
            if self._losses:
                end |= self._losses_of(samples, states, segments, prefix)
            for values in end.values():
                forward.finite.logical_and_(torch.isfinite(values).reshape(len(samples), -1).all(dim=1))
            sink.of_body(batch.items, end)
        sink.finish(batch.items, forward.finite)

    def _losses_of(
        self, samples: Sequence[Encoded], states: torch.Tensor, segments: Segments, prefix: _SharedPrefix
    ) -> dict[str, torch.Tensor]:
        """``nll`` fp32 [B] of ``samples`` with these last hidden states behind ``prefix``; ``ifd``, where asked
        for, after a forward of their responses alone: the tokens of all their turns, one behind the other."""
        head = self.model.head
        assert head is not None, "losses are of a model that was loaded with its head"
        ids, ranges = [sample.ids for sample in samples], [sample.response or () for sample in samples]
        nll = mean_losses(head, states, segments.starts.tolist(), ids, ranges, len(prefix.ids), prefix.states)
        if "ifd" not in self._losses:
            return {"nll": nll}
        del states  # of a batch as large as the next
        alone = [
            np.concatenate([self._front, *(sample.ids[start:end] for start, end in own)])
            for sample, own in zip(samples, ranges, strict=True)
        ]
        pack = Pack([len(each) for each in alone])
        last = self._forward(alone, pack, 0, None)
        assert last is not None
        own = [((len(self._front), len(each)),) for each in alone]
        starts = self._segments(pack.lengths, 0).starts.tolist()
        return {"nll": nll, "ifd": nll / mean_losses(head, last, starts, alone, own).clamp(min=LEAST_LOSS)}

    def _segments(
        self,
        lengths: Sequence[int],
        n_prefix: int,
        counts: torch.Tensor | None = None,
        chosen: Sequence[Sequence[Span]] | None = None,
    ) -> Segments:
        """Where sequences of ``lengths`` lie: packed, or padded to the longest of them.

        ``chosen``: ranges of each one's own tokens that readings run over; None: all."""
        tokens = torch.tensor(lengths)
        starts = tokens.cumsum(0) - tokens if self.model.packs else torch.arange(len(tokens)) * int(tokens.max())
        skip = torch.full((len(tokens),), self.first_token == "exclude" and n_prefix == 0)
        segments = Segments(starts, starts + tokens, skip, counts)
        if chosen is not None:
            n_tokens = sum(lengths) if self.model.packs else max(lengths) * len(lengths)
            _choose(segments, chosen, n_tokens)
        return segments

    def _forward(
        self, sequences: Sequence[np.ndarray], pack: Pack, first_position: int, forward: CapturedForward | None
    ) -> torch.Tensor | None:
        """The body's last hidden states, [1, T, H] packed or [B, W, H] padded; None where it stopped before.

        ``forward``: what is captured; None: nothing, and it does not stop."""
        width, packs = max(pack.lengths), self.model.packs
        self.run_tokens += sum(pack.lengths)
        self.padded_tokens += sum(pack.lengths) if packs else width * len(pack.lengths)
        self._capture.forward = forward
        device = self.model.device
        try:
            if packs:
                ids = to_device(torch.from_numpy(np.concatenate(sequences)).long(), device)
                output = packed_forward(self.model.body, ids, pack, first_position)
            else:
                padded, mask = _right_padded(sequences, width)
                padded, mask = to_device(padded, device), to_device(mask, device)
                output = self.model.body(input_ids=padded, attention_mask=mask, use_cache=False)
            return output.last_hidden_state if self._to_the_end else None
        except StopForward:
            return None
        except (AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
            if is_out_of_memory(error):
                raise
            raise NaitError(
                f"a forward of {len(sequences)} samples, the longest of {width} tokens, fails ({first_line(error)})",
                where=f"model {self.model.name}",
            ) from error
        finally:
            self._capture.forward = None  # which holds the sink


def _choose(segments: Segments, chosen: Sequence[Sequence[Span]], n_tokens: int) -> None:
    """Let ``segments`` of ``n_tokens`` in all be read over the ``chosen`` ranges of each sequence's tokens only."""
    weights, first, last, alone = np.zeros(n_tokens, dtype=np.float32), [], [], []
    for start, ranges in zip(segments.starts.tolist(), chosen, strict=True):
        for begin, end in ranges:
            weights[start + begin : start + end] = 1
        first.append(start + ranges[0][0] if ranges else -1)
        last.append(start + ranges[-1][1] - 1 if ranges else -1)
        alone.append(sum(end - begin for begin, end in ranges) == 1)
    segments.weights = torch.from_numpy(weights)
    segments.first_at, segments.last_at = torch.tensor(first), torch.tensor(last)
    segments.skip_first &= ~torch.tensor(alone)  # a first token that is the only one counts


def _right_padded(sequences: Sequence[np.ndarray], width: int) -> tuple[torch.Tensor, torch.Tensor]:
    ids = torch.zeros(len(sequences), width, dtype=torch.long)
    mask = torch.zeros(len(sequences), width, dtype=torch.long)
    for i, sequence in enumerate(sequences):
        ids[i, : len(sequence)] = torch.from_numpy(sequence)
        mask[i, : len(sequence)] = 1
    return ids, mask
