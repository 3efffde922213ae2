"""The index pass of a whole model beside its bare forward and beside what one writes with hooks.

Samples are random ids with a real pool's lengths and shared prefix (``lengths.py``). The bits of a few samples are
first checked against the reference backend's; without that there is no time. Then, in turn:

1. ``index pass``: the engine from token ids to packed bits in host memory, reading ``mean``.
2. ``bare forward``: the same batches through the same body with the same attention, nothing captured, stopped at the
   same point (before the last down projection). The ratio of the two is what capture costs.
3. ``index pass, plain norms and rotary``: the engine with transformers' own RMSNorm and rotary embedding, where the
   engine has others (``models/fused.py``).
4. ``hooks, padded batches of 8``: what one writes without an engine (``hooked_means``), on as many samples as its
   share of the time allows.

Tokens/s count each sample's own tokens, the shared prefix included, padding not. ``of_matmul`` is the arithmetic really
run (prefix once, no padding, ``shapes.forward_flops``) over the measured rate of a large matrix product.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from nait_fast.bench.checks import Wrong, backend, failure
from nait_fast.bench.lengths import random_ids, sample_lengths
from nait_fast.bench.shapes import forward_flops, unused_flops
from nait_fast.bench.timing import Ceilings, Times, synchronize
from nait_fast.codecs.layout import CodeLayout
from nait_fast.codecs.neuron import NeuronCoder
from nait_fast.data.batching import make_batches, shared_prefix
from nait_fast.data.tokenize import Encoded
from nait_fast.device_copies import to_device
from nait_fast.extract.engine import Engine
from nait_fast.extract.sinks import Collect, Encode
from nait_fast.models.fused import replaced
from nait_fast.models.linear import onednn_linear
from nait_fast.models.load import LoadedModel
from nait_fast.models.pack import Pack, PrefixState
from nait_fast.models.packed import packed_attention_on, packed_forward
from nait_fast.models.patch import StopForward
from nait_fast.models.spec import Spec, dense
from nait_fast.progress import say

CHECKED = {"cpu": 8, "cuda": 64}  # samples; their means are the thresholds too
# How far from its threshold a differing bit may lie, in σ of its neuron, and the share of bits that may differ. In half
# precision one element rounded the other way changes the rounding of all that follows it.
GATE = {torch.float32: (1e-3, 1e-4), torch.bfloat16: (0.1, 1e-2), torch.float16: (0.1, 1e-2)}
MIN_TOKENS = {"cuda": 130_000}  # two batches
MIN_SAMPLES, MAX_SAMPLES = 16, 20_000
HOST_VALUES = 2e8  # features of the hooks that are kept for their check
BATCH = 8  # samples of the hooks
PLAIN = "index pass, plain norms and rotary"


class BareForward:
    """``model``'s forward over the engine's own batches with capture off."""

    def __init__(self, model: LoadedModel, batch_tokens: int):
        self.model, self.batch_tokens = model, batch_tokens
        self._prefix = PrefixState()
        self._prefix_ids = np.zeros(0, dtype=np.int32)

    def run(self, encoded: list[Encoded], prefix: np.ndarray) -> None:
        last = dense(self.model.specs)[-1]

        def stop(module: Any, inputs: Any) -> None:
            raise StopForward

        assert self.model.attention is not None
        with ExitStack() as stack:
            stack.enter_context(torch.inference_mode())
            stack.enter_context(onednn_linear(self.model.body))
            stack.enter_context(replaced(self.model.fused))
            stack.enter_context(packed_attention_on(self.model.body, self.model.attention))
            handle = last.part(last.family.down).register_forward_pre_hook(stop)
            stack.callback(handle.remove)
            if len(prefix) and not np.array_equal(prefix, self._prefix_ids):
                self._prefix = PrefixState()
                self._forward([prefix], Pack([len(prefix)], record=self._prefix), 0)
                self._prefix_ids = prefix
            for batch in make_batches(encoded, prefix, self.batch_tokens):
                sequences = [encoded[i].ids[batch.n_prefix :] for i in batch.items]
                state = self._prefix if batch.n_prefix else PrefixState()
                self._forward(sequences, Pack([len(ids) for ids in sequences], prefix=state), batch.n_prefix)

    def _forward(self, sequences: list[np.ndarray], pack: Pack, first_position: int) -> None:
        ids = to_device(torch.from_numpy(np.concatenate(sequences)).long(), self.model.device)
        with suppress(StopForward):
            packed_forward(self.model.body, ids, pack, first_position)


@torch.inference_mode()
def hooked_means(body: Any, specs: Sequence[Spec], samples: Sequence[Encoded]) -> np.ndarray:
    """Mean activations fp32 [n, N] of ``samples``, first token left out: the engine's reading, by other means.

    Right-padded batches with their mask and transformers' own attention; a forward hook on every down projection takes
    the masked mean of its input; logits come at every position, as AutoModelForCausalLM computes them. The embedding
    stands in for the head, whose shape it has: a body alone is in memory.
    """
    device = body.device
    head = body.get_input_embeddings().weight
    means: list[torch.Tensor] = [torch.empty(0)] * len(specs)
    weights = torch.empty(0)

    def hook_of(ordinal: int):
        def hook(module: Any, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
            means[ordinal] = torch.einsum("btj,bt->bj", inputs[0].float(), weights)

        return hook

    handles = [spec.part(spec.family.down).register_forward_hook(hook_of(i)) for i, spec in enumerate(dense(specs))]
    out = []
    try:
        for begin in range(0, len(samples), BATCH):
            batch = samples[begin : begin + BATCH]
            lengths = torch.tensor([len(sample.ids) for sample in batch])
            width = int(lengths.max())
            ids = np.zeros((len(batch), width), dtype=np.int64)
            for row, sample in zip(ids, batch, strict=True):
                row[: len(sample.ids)] = sample.ids
            mask = torch.arange(width) < lengths[:, None]
            counted = mask.float()
            counted[:, 0] = (lengths == 1).float()
            weights = (counted / counted.sum(dim=1, keepdim=True)).to(device)
            inputs = torch.from_numpy(ids).to(device)
            hidden = body(input_ids=inputs, attention_mask=mask.long().to(device), use_cache=False).last_hidden_state
            F.linear(hidden, head)
            out.append(torch.cat(means, dim=1).cpu().numpy())
    finally:
        for handle in handles:
            handle.remove()
    return np.concatenate(out)


class EndToEnd:
    """One model's measurement."""

    def __init__(self, model: LoadedModel, ceilings: Ceilings, seed: int, max_length: int):
        self.model, self.ceilings, self.seed, self.max_length = model, ceilings, seed, max_length
        self.device, self.layout = model.device, CodeLayout.of(model.widths)
        self.dtype = next(model.body.parameters()).dtype
        self.engine = Engine(model, ("mean",))
        self.plain = Engine(replace(model, fused={}), ("mean",))
        self.checked = self.samples(CHECKED.get(self.device.type, 8))
        self.prefix = shared_prefix(self.checked)
        self.threshold = torch.empty(0)
        self.rate = 0.0  # tokens/s, about

    def samples(self, n: int) -> list[Encoded]:
        """The first ``n`` of the random pool, about; the same prefix whatever ``n``."""
        longest = min(self.max_length, self.model.max_tokens or self.max_length)
        return random_ids(sample_lengths(n, self.seed, longest), self.model.vocabulary, self.seed)

    def bits(self, encoded: list[Encoded], engine: Engine | None = None) -> np.ndarray:
        """Codes uint8 [n, row_bytes] of ``encoded``."""
        coder = NeuronCoder(self.layout, "mean", self.threshold, self.device)
        sink = Encode(len(encoded), self.layout, coder, device=self.device)
        (engine or self.engine).run(encoded, sink, prefix=self.prefix)
        if not sink.finite.all():
            raise Wrong(f"{int((~sink.finite).sum())} samples are not finite")
        return sink.codes

    def gate(self) -> dict[str, Any]:
        """Bits of the checked samples against the reference backend's. Raises Wrong."""
        with backend("reference"):
            collected = Collect(len(self.checked), self.layout, ("mean",))
            self.plain.run(self.checked, collected, prefix=self.prefix)
        values = collected.readings["mean"]
        if not collected.finite.all():
            raise Wrong("the reference's readings are not finite")
        self.threshold = values.double().mean(dim=0).float()
        got: list[np.ndarray] = []
        spent, _ = self.timed(lambda: got.append(self.bits(self.checked)))
        self.rate = sum(len(e.ids) for e in self.checked) / spent
        expected = self.layout.pack((values > self.threshold).numpy())
        differ, worst = self._against(got[0], expected, values.numpy())
        words = f"{differ:,} of {self.layout.n_neurons * len(self.checked):,} bits differ, by up to {worst:.1e} σ"
        farthest, share = GATE[self.dtype]
        if worst > farthest or differ > share * expected.size * 8:
            raise Wrong(words)
        return {"check": f"ok: {words}", "differing_bits": differ, "worst_sigma": worst}

    def _against(self, got: np.ndarray, expected: np.ndarray, values: np.ndarray) -> tuple[int, float]:
        """(bits that differ, how far the farthest one's value lies from its threshold, in σ of its neuron)."""
        differ = self.layout.unpack(got) != self.layout.unpack(expected)
        distance = np.abs(values - self.threshold.numpy()) / np.maximum(values.std(axis=0), 1e-30)
        return int(differ.sum()), float(distance[differ].max()) if differ.any() else 0.0

    def timed(self, job: Any) -> tuple[float, int | None]:
        """(seconds, peak bytes on the GPU) of ``job``, host work and copies included."""
        cuda = self.device.type == "cuda"
        synchronize(self.device)
        if cuda:
            torch.cuda.reset_peak_memory_stats(self.device)
        began = time.perf_counter()
        job()
        synchronize(self.device)
        spent = time.perf_counter() - began
        return spent, torch.cuda.max_memory_allocated(self.device) if cuda else None

    def sized(self, seconds: float) -> list[Encoded]:
        """A pool that one pass takes about ``seconds`` for (at least ``MIN_TOKENS``)."""
        rate = self.rate
        if self.device.type == "cuda":  # a small batch, or the first, says little of a GPU
            probe = self.samples(512)
            self.bits(probe)
            spent, _ = self.timed(lambda: self.bits(probe))
            rate = sum(len(e.ids) for e in probe) / spent
        mean = float(np.mean([len(e.ids) for e in self.checked]))
        tokens = max(MIN_TOKENS.get(self.device.type, 0), rate * seconds)
        return self.samples(int(min(MAX_SAMPLES, max(MIN_SAMPLES, tokens / mean))))

    def measure(self, seconds: float, quiet: bool) -> Iterator[dict[str, Any]]:
        """The rows."""
        encoded = self.sized(seconds / 10)
        tokens = sum(len(e.ids) for e in encoded)
        shared = len(self.prefix)
        about = {
            "samples": len(encoded),
            "tokens": tokens,
            "shared_prefix": shared,
            "max_length": self.max_length,
            "attention": self.model.attention or "padded",
        }
        bare = BareForward(self.model, self.engine.batch_tokens) if self.model.packs else None
        say(f"bench: {len(encoded):,} samples, {tokens:,} tokens a pass", quiet)
        jobs: dict[str, Callable[[], Any]] = {"index pass": lambda: self.bits(encoded)}
        if bare is not None:
            bare.run(self.checked[:2], self.prefix)
            jobs["bare forward"] = lambda: bare.run(encoded, self.prefix)
        if self.model.fused:
            jobs[PLAIN] = lambda: self.bits(encoded, self.plain)
        spent: dict[str, list[float]] = {name: [] for name in jobs}
        peak: dict[str, int | None] = {}
        began, rounds = time.perf_counter(), 0
        while rounds < 3 or (rounds < 20 and time.perf_counter() - began < seconds * 0.6):
            order = list(jobs) if rounds % 2 == 0 else list(reversed(jobs))
            for name in order:
                taken, peak[name] = self.timed(jobs[name])
                spent[name].append(taken)
            rounds += 1
        flops = forward_flops(self.model.body, [len(e.ids) - shared for e in encoded], shared)
        flops -= unused_flops(self.model.specs[-1], tokens - shared * len(encoded))
        for name, seconds_taken in spent.items():
            row = {"name": name, **about, **self._speed(tokens, seconds_taken, peak[name])}
            middle = row["ms"] / 1e3
            yield row | {
                "tflop_per_s": flops / middle / 1e12,
                "of_matmul": flops / middle / self.ceilings.matmul,
                **({"engine_is": middle / float(np.median(spent["index pass"]))} if name == PLAIN else {}),
                **(self._overhead(spent) if name == "index pass" and bare is not None else {}),
            }
        yield self._naive(encoded, tokens / float(np.median(spent["index pass"])), seconds * 0.25, quiet)

    def _speed(self, tokens: int, taken: list[float], peak: int | None) -> dict[str, Any]:
        times = Times.of([1e3 * t for t in taken])
        fields: dict[str, Any] = {**times.fields(), "tokens_per_s": tokens / (times.p50 / 1e3)}
        return fields | ({} if peak is None else {"peak_mb": peak / 2**20})

    def _overhead(self, spent: dict[str, list[float]]) -> dict[str, float]:
        ratios = [100 * (a / b - 1) for a, b in zip(spent["index pass"], spent["bare forward"], strict=True)]
        p20, p50, p80 = (float(q) for q in np.quantile(ratios, (0.2, 0.5, 0.8)))
        return {"overhead_percent": p50, "overhead_percent_p20": p20, "overhead_percent_p80": p80}

    def _naive(self, encoded: list[Encoded], engine_rate: float, seconds: float, quiet: bool) -> dict[str, Any]:
        """The hooks' row: as many of the first samples as ``seconds`` allow, checked against the engine's bits."""
        name = f"hooks, padded batches of {BATCH}"
        say(f"bench: {name}", quiet)
        self._hooked(encoded[: 4 * BATCH if self.device.type == "cuda" else 2])  # warm up
        values, spent, peak = self._hooked(encoded[: 2 * BATCH])
        taken = [spent]
        if spent < seconds / 4:  # room for more than the two batches that are always run
            fitting = min(2 * BATCH * seconds / 2 / spent, HOST_VALUES / self.layout.n_neurons, len(encoded))
            runs = [self._hooked(encoded[: max(2 * BATCH, int(fitting) // BATCH * BATCH)]) for _ in range(2)]
            (values, _, peak), taken = runs[0], [spent for _, spent, _ in runs]
        n = len(values)
        subset = encoded[:n]
        expected = self.layout.pack(values > self.threshold.numpy())
        differ, worst = self._against(self.bits(subset), expected, values)
        words = f"{differ:,} of {values.size:,} bits differ from the engine's, by up to {worst:.1e} σ"
        difference = {"differing_bits": differ, "worst_sigma": worst}
        row: dict[str, Any] = {"name": name, "samples": n, "tokens": sum(len(e.ids) for e in subset), **difference}
        # Half precision through another attention kernel and other batches: noise without a bound here, only reported.
        if self.dtype == torch.float32 and worst > 1e-2:
            return row | {"check": f"failed: {words}"}
        row |= {"check": f"ok: {words}", **self._speed(row["tokens"], taken, peak)}
        return row | {"engine_is": engine_rate / row["tokens_per_s"]}

    def _hooked(self, samples: list[Encoded]) -> tuple[np.ndarray, float, int | None]:
        """(features fp32 [n, N], seconds, peak bytes) of the hooks over ``samples``."""
        features: list[np.ndarray] = []
        spent, peak = self.timed(lambda: features.append(hooked_means(self.model.body, self.model.specs, samples)))
        return features[0], spent, peak


def measure_endtoend(
    model: LoadedModel, ceilings: Ceilings, seconds: float, seed: int = 0, max_length: int = 512, quiet: bool = True
) -> Iterator[dict[str, Any]]:
    """Rows of one model; the first failure of a check or of memory ends them with a row that says so."""
    try:
        job = EndToEnd(model, ceilings, seed, max_length)
        checked = job.gate()
        for row in job.measure(seconds, quiet):
            yield (checked if row["name"] == "index pass" else {}) | row
    except Wrong as wrong:
        yield {"name": "index pass", "check": f"failed: {wrong}"}
    except torch.OutOfMemoryError:
        yield {"name": "index pass", "check": "skipped: no memory for it"}
    except Exception as error:  # one model must not cost the others of a suite
        yield {"name": "index pass", "check": failure(error)}
