"""The engine: token ids in, the readings of every captured layer out, layer by layer.

Only the decoder body runs, and it stops at the last captured activation. A layer's activations live until they are
pooled; what is kept of them is the sink's business.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import Protocol

import numpy as np
import torch

from nait_fast.data.batching import Batch, make_batches
from nait_fast.data.tokenize import Encoded
from nait_fast.device_copies import to_device
from nait_fast.errors import NaitError, first_line
from nait_fast.extract.pooling import combine, mean_counts, statistics_for
from nait_fast.kernels.capture.reference import BitSpec, Segments, Stats
from nait_fast.kernels.common.dispatch import current
from nait_fast.models.fork_safety import at_work
from nait_fast.models.fused import replaced
from nait_fast.models.linear import onednn_linear
from nait_fast.models.load import LoadedModel
from nait_fast.models.packed import KeysValues, Pack, packed_attention_on, packed_forward
from nait_fast.models.patch import Capture, StopForward, patched
from nait_fast.progress import say

# Tokens a batch. On a CPU the activations of a batch should stay in cache; a GPU wants many.
BATCH_TOKENS = {"cpu": 2048, "cuda": 65536}
MAX_PADDING = 0.03  # share of padding in a batch of a model that cannot be run packed


class Sink(Protocol):
    """Takes the readings of one batch: ``layer`` once a layer in order, then ``finish``."""

    def threshold_of(self, position: int) -> torch.Tensor | None:
        """fp32 [J] if the capture op shall pack bits of the mean of layer ``position`` (passed as ``codes``)."""

    def layer(
        self, items: Sequence[int], position: int, readings: dict[str, torch.Tensor], codes: torch.Tensor | None
    ) -> None:
        """Readings fp32 (drift fp64) [B, J] of captured layer ``position`` for the samples ``items`` of the window."""

    def finish(self, items: Sequence[int], finite: torch.Tensor) -> None:
        """The batch is done; ``finite`` bool [B]: no reading of the sample was NaN or infinite."""

    def flush(self) -> None:
        """The run is done: whatever is still on its way must arrive."""


class Engine:
    """Runs one model for one set of readings."""

    def __init__(
        self,
        model: LoadedModel,
        readings: Sequence[str],
        *,
        first_token: str = "exclude",
        batch_tokens: int | None = None,
        quiet: bool = True,
        hidden_at: int | None = None,
    ):
        """``hidden_at``: position of the captured layer whose hidden state the reading ``hidden`` is."""
        self.model, self.readings, self.first_token, self.quiet = model, tuple(readings), first_token, quiet
        self.batch_tokens = batch_tokens or BATCH_TOKENS.get(model.device.type, 8192)
        self.run_tokens, self.padded_tokens = 0, 0  # through the model, without and with padding
        self._prefix_ids = np.zeros(0, dtype=np.int32)
        self._prefix_keys: dict[int, KeysValues] = {}
        self._prefix_stats: list[Stats] = []
        self._on_stats: Callable[[int, Stats], None] = lambda position, stats: None
        self._capture = Capture(model.specs, statistics_for(readings), self._stats, stop=True, hidden_at=hidden_at)

    def _stats(self, position: int, stats: Stats) -> None:
        self._on_stats(position, stats)

    def run(
        self,
        encoded: Sequence[Encoded],
        sink: Sink,
        *,
        prefix: np.ndarray | None = None,
        on_batch: Callable[[int, int], None] | None = None,
    ) -> None:
        """Capture all of ``encoded`` in length-bucketed batches.

        ``prefix``: leading ids that many samples share; they are run once. ``on_batch(samples, tokens)`` is called
        after each batch, tokens counting each sample's own K.
        """
        limit, longest = self.model.max_tokens, max((len(e.ids) for e in encoded), default=0)
        if limit is not None and longest > limit:
            raise NaitError(
                f"model {self.model.name}: its RoPE changes for a whole batch when a sample passes {limit} tokens "
                f"(one has {longest}); use --max-length {limit}"
            )
        positions = self.model.positions
        if positions is not None and longest > positions:
            raise NaitError(
                f"model {self.model.name}: it has {positions} positions, and a sample {longest} tokens; "
                f"use --max-length {positions}"
            )
        with ExitStack() as stack:
            stack.enter_context(torch.inference_mode())
            stack.enter_context(current(self.model.device))
            stack.enter_context(onednn_linear(self.model.body))
            stack.enter_context(replaced(self.model.fused))
            stack.enter_context(patched(self._capture))
            if self.model.attention is not None:
                stack.enter_context(packed_attention_on(self.model.body, self.model.attention))
            if prefix is None or len(prefix) < 2 or not self.model.packs:  # one token alone: no mean without it
                prefix = np.zeros(0, dtype=np.int32)
            if len(prefix) and not np.array_equal(prefix, self._prefix_ids):
                with at_work():
                    self._run_prefix(prefix)
            max_padding = None if self.model.packs else MAX_PADDING
            for planned in make_batches(encoded, prefix, self.batch_tokens, max_padding):
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
                waiting += [Batch(batch.items[middle:], batch.n_prefix), Batch(batch.items[:middle], batch.n_prefix)]
                continue
            try:
                with at_work():
                    self._run_batch([encoded[i] for i in batch.items], batch, sink)
            except torch.OutOfMemoryError:
                if len(batch.items) == 1:
                    raise NaitError(
                        f"model {self.model.name}: no memory for one sample of {tokens} tokens; lower --max-length, "
                        "or try --dtype bfloat16"
                    ) from None
                waiting.append(batch)
                self.batch_tokens = max(1, tokens // 2)
                say(f"out of memory at {tokens:,} tokens a batch: going on with {self.batch_tokens:,}", self.quiet)
            else:
                yield batch
                continue
            torch.cuda.empty_cache()  # here the failed forward's frames are gone

    def _run_prefix(self, prefix: np.ndarray) -> None:
        self._prefix_ids, self._prefix_keys, self._prefix_stats = prefix[:0], {}, []
        self._on_stats = lambda position, stats: self._prefix_stats.append(stats)
        self._capture.bits = lambda position: None
        self._forward([prefix], Pack([len(prefix)], record=self._prefix_keys), 0)
        self._prefix_ids = prefix  # only now: a forward that failed is run again

    def _run_batch(self, samples: list[Encoded], batch: Batch, sink: Sink) -> None:
        device = self.model.device
        lengths = torch.tensor([len(sample.ids) for sample in samples])
        lengths_there = to_device(lengths, device)
        finite = torch.ones(len(samples), dtype=torch.bool, device=device)

        def on_stats(position: int, stats: Stats) -> None:
            before = self._prefix_stats[position] if batch.n_prefix else None
            readings = combine(stats, lengths_there, before, self.first_token, self.readings)
            for reading in readings.values():
                finite.logical_and_(torch.isfinite(reading).all(dim=1))
            sink.layer(batch.items, position, readings, stats.codes)

        def bits(position: int) -> BitSpec | None:
            threshold = sink.threshold_of(position)
            if threshold is None:
                return None
            return BitSpec(threshold, self._prefix_stats[position].sum if batch.n_prefix else None)

        self._on_stats, self._capture.bits = on_stats, bits
        own = [sample.ids[batch.n_prefix :] for sample in samples]
        keys = self._prefix_keys if batch.n_prefix else {}
        counts = mean_counts(lengths, self.first_token)
        self._forward(own, Pack([len(ids) for ids in own], prefix=keys), batch.n_prefix, counts)
        sink.finish(batch.items, finite)

    def _forward(
        self, sequences: Sequence[np.ndarray], pack: Pack, first_position: int, counts: torch.Tensor | None = None
    ) -> None:
        lengths = torch.tensor(pack.lengths)
        width = int(lengths.max())
        packs = self.model.packs
        own = int(lengths.sum())
        self.run_tokens += own
        self.padded_tokens += own if packs else width * len(lengths)
        starts = lengths.cumsum(0) - lengths if packs else torch.arange(len(lengths)) * width
        skip = torch.full((len(lengths),), self.first_token == "exclude" and first_position == 0)
        self._capture.segments = Segments(starts, starts + lengths, skip, counts)
        device = self.model.device
        try:
            if packs:
                ids = to_device(torch.from_numpy(np.concatenate(sequences)).long(), device)
                packed_forward(self.model.body, ids, pack, first_position)
            else:
                padded, mask = _right_padded(sequences, width)
                padded, mask = to_device(padded, device), to_device(mask, device)
                self.model.body(input_ids=padded, attention_mask=mask, use_cache=False)
        except StopForward:
            pass
        except (torch.OutOfMemoryError, NaitError):
            raise
        except (AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
            raise NaitError(
                f"model {self.model.name}: a forward of {len(lengths)} samples, the longest of {width} tokens, fails "
                f"({first_line(error)})"
            ) from error


def _right_padded(sequences: Sequence[np.ndarray], width: int) -> tuple[torch.Tensor, torch.Tensor]:
    ids = torch.zeros(len(sequences), width, dtype=torch.long)
    mask = torch.zeros(len(sequences), width, dtype=torch.long)
    for i, sequence in enumerate(sequences):
        ids[i, : len(sequence)] = torch.from_numpy(sequence)
        mask[i, : len(sequence)] = 1
    return ids, mask
