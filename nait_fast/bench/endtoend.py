"""The index pass of a whole model beside its bare forward and beside what one writes with hooks.

Samples are random ids with a real pool's lengths and shared prefix (``lengths.py``). The bits of a few samples are
first checked against the reference backend's; without that there is no time. Then, warmed up and in turn, in as many
rounds for each:

1. ``index pass``: the engine from token ids to packed bits in host memory, reading ``mean``.
2. ``bare forward``: the same batches through the same body with the same attention, nothing captured, stopped at the
   same point (before the last down projection).
3. ``bare forward, fused activation``: the same with activation and product in one kernel, where transformers has two.
   What the index pass takes longer than this one is what capture costs.
4. ``index pass, plain norms and rotary``: the engine with transformers' own RMSNorm and rotary embedding, where the
   engine has others (``models/fused.py``).
5. Two baselines with hooks (``hook_baselines.py``): a strong one, and a naive one, on as many of the samples as take it
   about as long as the engine takes for all.

``tokens`` are those served, each sample's own with the shared prefix in it; ``tokens_run`` those that went through the
model in a timed round, a shared prefix not among them: the engine keeps what the warm-up has left of it. Padding, in
neither, is a share of what was run besides. ``of_matmul`` is the arithmetic really run (``shapes.forward_flops``, no
padding, no head) over the measured rate of a large matrix product, ``of_peak`` over the data sheet's. ``engine_is``
compares tokens served a second: the median of the rounds, ``engine_is_min`` the least.
"""

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import torch

from nait_fast.bench.checks import Wrong, backend, failure
from nait_fast.bench.hook_baselines import BATCH, NAIVE, STRONG, naive_means, sorted_batches, strong_bits, strong_means
from nait_fast.bench.lengths import random_ids, sample_lengths
from nait_fast.bench.peaks import peak_of
from nait_fast.bench.results import state_of
from nait_fast.bench.shapes import forward_flops, unused_flops
from nait_fast.bench.timing import Ceilings, Times, synchronize
from nait_fast.codecs.layout import CodeLayout
from nait_fast.codecs.neuron import NeuronCoder
from nait_fast.data.batching import make_batches
from nait_fast.data.prefixes import shared_prefixes
from nait_fast.data.tokenize import Encoded
from nait_fast.extract.engine import Engine
from nait_fast.extract.sinks import Collect, Encode, Sink
from nait_fast.models.load import LoadedModel
from nait_fast.models.patch import StopForward, uncaptured
from nait_fast.models.spec import dense
from nait_fast.progress import say

CHECKED = {"cpu": 8, "cuda": 64}  # samples; their means are the thresholds too
# How far from its threshold a differing bit may lie, in σ of its neuron, and the share of bits that may differ. In half
# precision one element rounded the other way changes the rounding of all that follows it.
GATE = {torch.float32: (1e-3, 1e-4), torch.bfloat16: (0.1, 1e-2), torch.float16: (0.1, 1e-2)}
MIN_TOKENS = {"cuda": 130_000}  # two batches
MIN_SAMPLES, MAX_SAMPLES = 16, 20_000
HOST_VALUES = 2e8  # features of the hooks that are kept for their check
DEVICE_VALUES = {"cpu": 2e8}  # features of the strong hooks, which stay on the device
PLAIN = "index pass, plain norms and rotary"
BARE, BARE_FUSED = "bare forward", "bare forward, fused activation"


class _Nothing(Sink):
    """Keeps nothing."""

    def layer(
        self, items: Sequence[int], ordinal: int, readings: dict[str, torch.Tensor], codes: torch.Tensor | None
    ) -> None:
        return

    def finish(self, items: Sequence[int], finite: torch.Tensor) -> None:
        return


class BareForward(Engine):
    """The engine's own batches through the same body as transformers runs it, up to the same point."""

    def run(self, encoded: Sequence[Encoded], sink: Sink, **options: Any) -> None:
        last = dense(self.model.specs)[-1]

        def stop(module: Any, inputs: Any) -> None:
            raise StopForward

        handle = last.part(last.family.down).register_forward_pre_hook(stop)
        try:
            super().run(encoded, sink, **options)
        finally:
            handle.remove()

    def _forward(self, *arguments: Any) -> torch.Tensor | None:
        with uncaptured():
            return super()._forward(*arguments)


@dataclass
class TimedPass:
    """``run`` serves samples of ``lengths`` in ``flops`` operations; ``engine``: whose counts tell the tokens that it
    runs."""

    run: Callable[[], Any]
    lengths: list[int]
    flops: float
    engine: Engine | None = None
    about: dict[str, Any] = field(default_factory=dict)
    spent: list[float] = field(default_factory=list)
    peak: int | None = None

    @property
    def tokens(self) -> int:
        return sum(self.lengths)

    def rates(self) -> list[float]:
        """Tokens served a second, round by round."""
        return [self.tokens / seconds for seconds in self.spent]


class EndToEnd:
    """One model's measurement."""

    def __init__(self, model: LoadedModel, ceilings: Ceilings, seed: int, max_length: int):
        self.model, self.ceilings, self.seed, self.max_length = model, ceilings, seed, max_length
        self.device, self.layout = model.device, CodeLayout.of(model.widths)
        self.dtype = next(model.body.parameters()).dtype
        self.engine = Engine(model, ("mean",))
        self.plain = Engine(replace(model, fused={}), ("mean",))
        self.bare, self.bare_fused = BareForward(model, ()), Engine(model, ())
        self.checked = self.samples(CHECKED.get(self.device.type, 8))
        self.prefixes = shared_prefixes(self.checked) if model.packs else []  # padded batches stand behind none
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
        (engine or self.engine).run(encoded, sink, prefixes=self.prefixes)
        if not sink.finite.all():
            raise Wrong(f"{int((~sink.finite).sum())} samples are not finite")
        return sink.codes

    def gate(self) -> dict[str, Any]:
        """Bits of the checked samples against the reference backend's. Raises Wrong."""
        with backend("reference"):
            collected = Collect(len(self.checked), self.layout, ("mean",))
            self.plain.run(self.checked, collected, prefixes=self.prefixes)
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

    def measure(self, seconds: float, quiet: bool, only: Collection[str] = ()) -> Iterator[dict[str, Any]]:
        """The rows; ``only`` of these names, the index pass among them."""
        encoded = self.sized(seconds / 10)
        say(f"bench: {len(encoded):,} samples, {sum(len(e.ids) for e in encoded):,} tokens a pass", quiet)
        jobs = {name: job for name, job in self.jobs(encoded).items() if not only or name in only}
        for job in jobs.values():
            job.run()  # warm
        makers: dict[str, Callable[[list[Encoded]], TimedPass]] = {
            STRONG: self._strong,
            NAIVE: partial(self._naive, seconds=seconds / 10),
        }
        for name, make in makers.items():
            if only and name not in only:
                continue
            lost = ""
            try:
                job = make(encoded)
                job.run()  # warm
                jobs[name] = job
            except Exception as error:  # a baseline must not cost the engine's rows
                lost = failure(error)
            if lost:  # out of the handler, whose traceback holds the memory of what has failed
                if self.device.type == "cuda":
                    torch.cuda.empty_cache()
                yield {"name": name, "check": lost}
        began, rounds = time.perf_counter(), 0
        while rounds < 3 or (rounds < 20 and time.perf_counter() - began < seconds * 0.85):
            order = list(jobs.values())
            for job in order if rounds % 2 == 0 else reversed(order):
                before = job.engine.run_tokens if job.engine else 0
                taken, job.peak = self.timed(job.run)
                job.spent.append(taken)
                if job.engine:
                    job.about["tokens_run"] = job.engine.run_tokens - before
            rounds += 1
        for name, job in jobs.items():
            wrong = state_of(job.about) == "failed"
            yield {"name": name, **job.about} if wrong else self._row(name, job, jobs)

    def flops(self, encoded: list[Encoded]) -> float:
        """Operations of the engine's forwards over ``encoded``: each sample's tokens behind its own prefix, up to where
        the engine stops."""
        total = 0.0
        # With room for all, there is one batch a prefix.
        for batch in make_batches(encoded, self.prefixes, sum(len(e.ids) for e in encoded)):
            own = [len(encoded[i].ids) - batch.n_prefix for i in batch.items]
            total += forward_flops(self.model.body, own, batch.n_prefix) - unused_flops(self.model.specs[-1], sum(own))
        return total

    def jobs(self, encoded: list[Encoded]) -> dict[str, TimedPass]:
        """What is timed of the engine, by name."""
        shared, lengths = max(map(len, self.prefixes), default=0), [len(e.ids) for e in encoded]
        flops = self.flops(encoded)
        about = {"shared_prefix": shared, "attention": self.model.attention or "padded"}

        def nothing(engine: Engine) -> Callable[[], None]:
            return lambda: engine.run(encoded, _Nothing(), prefixes=self.prefixes)

        jobs = {
            "index pass": TimedPass(lambda: self.bits(encoded), lengths, flops, self.engine, {**about}),
            BARE: TimedPass(nothing(self.bare), lengths, flops, self.bare, {**about}),
            BARE_FUSED: TimedPass(nothing(self.bare_fused), lengths, flops, self.bare_fused, {**about}),
        }
        if self.model.fused:
            jobs[PLAIN] = TimedPass(lambda: self.bits(encoded, self.plain), lengths, flops, self.plain, {**about})
        return jobs

    def _row(self, name: str, job: TimedPass, jobs: dict[str, TimedPass]) -> dict[str, Any]:
        times = Times.of([1e3 * t for t in job.spent])
        middle = times.p50 / 1e3
        tokens = {"samples": len(job.lengths), "tokens": job.tokens, "tokens_run": job.tokens}
        row = {"name": name, **tokens, "max_length": self.max_length, **job.about, **times.fields()}
        row |= {"tokens_per_s": job.tokens / middle, "run_tokens_per_s": row["tokens_run"] / middle}
        if job.peak is not None:
            row["peak_mb"] = job.peak / 2**20
        row |= {"tflop_per_s": job.flops / middle / 1e12, "of_matmul": job.flops / middle / self.ceilings.matmul}
        if self.device.type == "cuda" and (peak := peak_of(torch.cuda.get_device_name(self.device), self.dtype)):
            row["of_peak"] = job.flops / middle / peak
        ours = jobs["index pass"].rates()
        if name == "index pass":
            row |= _overhead(job.spent, jobs[BARE].spent) if BARE in jobs else {}
        elif name == BARE_FUSED:
            row |= _overhead(jobs["index pass"].spent, job.spent)
        elif name != BARE:
            ratios = [a / b for a, b in zip(ours, job.rates(), strict=True)]
            row |= {"engine_is": float(np.median(ratios)), "engine_is_min": min(ratios)}
        return row

    def _strong(self, encoded: list[Encoded]) -> TimedPass:
        body, specs, budget = self.model.body, self.model.specs, self.engine.batch_tokens
        fitting = int(DEVICE_VALUES.get(self.device.type, 1e9) / self.layout.n_neurons)
        samples = encoded[: max(BATCH, fitting)]
        lengths = [len(sample.ids) for sample in samples]
        padded = sum(max(lengths[i] for i in batch) * len(batch) for batch in sorted_batches(lengths, budget))
        checked = samples[: min(len(samples), CHECKED.get(self.device.type, 8))]
        values = strong_means(body, specs, checked, budget).cpu().numpy()
        about = {"padding": 1 - sum(lengths) / padded, **self._agreement(checked, values)}
        flops = forward_flops(body, lengths)
        return TimedPass(lambda: strong_bits(body, specs, samples, budget, self.threshold), lengths, flops, None, about)

    def _naive(self, encoded: list[Encoded], seconds: float) -> TimedPass:
        """On as many of ``encoded`` as take it about ``seconds``."""
        body, specs = self.model.body, self.model.specs
        self.timed(lambda: naive_means(body, specs, encoded[: 4 * BATCH if self.device.type == "cuda" else 2]))
        probe = encoded[: 2 * BATCH]
        kept: list[np.ndarray] = []
        spent, _ = self.timed(lambda: kept.append(naive_means(body, specs, probe)))
        fitting = min(len(probe) * seconds / spent, HOST_VALUES / self.layout.n_neurons, len(encoded))
        samples = encoded[: max(len(probe), int(fitting) // BATCH * BATCH)]
        lengths = [len(sample.ids) for sample in samples]
        padded = sum(max(lengths[i : i + BATCH]) * len(lengths[i : i + BATCH]) for i in range(0, len(lengths), BATCH))
        about = {"padding": 1 - sum(lengths) / padded, **self._agreement(probe, kept[0])}
        flops = forward_flops(body, lengths)
        return TimedPass(lambda: naive_means(body, specs, samples), lengths, flops, None, about)

    def _agreement(self, samples: list[Encoded], values: np.ndarray) -> dict[str, Any]:
        """A baseline's means fp32 [n, N] against the engine's bits of the same samples."""
        expected = self.layout.pack(values > self.threshold.numpy())
        differ, worst = self._against(self.bits(samples), expected, values)
        words = f"{differ:,} of {values.size:,} bits differ from the engine's, by up to {worst:.1e} σ"
        # Half precision through another attention kernel and other batches: noise without a bound here, only reported.
        wrong = self.dtype == torch.float32 and worst > 1e-2
        return {"check": f"{'failed' if wrong else 'ok'}: {words}", "differing_bits": differ, "worst_sigma": worst}


def _overhead(spent: list[float], bare: list[float]) -> dict[str, float]:
    """What a job costs over another one of the same rounds."""
    ratios = [100 * (a / b - 1) for a, b in zip(spent, bare, strict=True)]
    p20, p50, p80 = (float(q) for q in np.quantile(ratios, (0.2, 0.5, 0.8)))
    return {"overhead_percent": p50, "overhead_percent_p20": p20, "overhead_percent_p80": p80}


def measure_endtoend(
    model: LoadedModel,
    ceilings: Ceilings,
    seconds: float,
    seed: int = 0,
    max_length: int = 512,
    quiet: bool = True,
    only: Collection[str] = (),
) -> Iterator[dict[str, Any]]:
    """Rows of one model, ``only`` these as ``EndToEnd.measure`` takes them; a failure of the engine, of a check or of
    memory, ends them with a row that says so, and one of a baseline costs that baseline's times alone."""
    try:
        job = EndToEnd(model, ceilings, seed, max_length)
        checked = job.gate()
        for row in job.measure(seconds, quiet, only):
            yield (checked if row["name"] == "index pass" else {}) | row
    except Exception as error:  # one model must not cost the others of a suite
        yield {"name": "index pass", "check": failure(error)}
