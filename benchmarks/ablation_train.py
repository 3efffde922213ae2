"""Fine-tuning with LoRA on a model's last layers, fast enough for a CPU, and losses on held-out samples.

Below the first adapted layer nothing ever changes, so a sample runs through those layers once in the whole benchmark
and its hidden states are kept. Above it samples lie packed on one token axis without padding, behind the prefix that
they all share (run once a batch, its gradient included), and the LM head runs at response positions alone, a piece of
the logits at a time.

Training an adapter needs no gradient of a frozen weight. On an x86 CPU both products with one, forward and back to the
input, go to oneDNN with weights laid out for it once (torch's own go to MKL, which is half as fast on AMD), in fp32 or
with operands rounded to bf16.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.ablation_data import Sft
from nait_fast.errors import NaitError
from nait_fast.models.find import decoder_layers
from nait_fast.models.linear import usable
from nait_fast.models.load import LoadedModel, apart
from nait_fast.models.pack import Pack, PrefixState, packed_as
from nait_fast.models.packed import ATTENTION, packed_attention_on

HEAD_ROWS, GPU_HEAD_ROWS = 128, 1024  # positions whose logits are alive at once
PRODUCTS = ("torch", "onednn", "onednn-bf16")


@dataclass(frozen=True)
class Recipe:
    """What every arm shares. ``tokens``: response tokens of a run, in ``steps`` steps; ``layers``: how many of the last
    ones are adapted (0: all); ``product``: ``auto`` or one of ``PRODUCTS``; ``pack_tokens``: of a batch
    without a gradient."""

    tokens: int = 20480
    steps: int = 32
    rank: int = 8
    alpha: int = 16
    layers: int = 6
    lr: float = 1e-3
    warmup: float = 0.1
    clip: float = 1.0
    product: str = "auto"
    pack_tokens: int = 2048

    def check(self, longest: int) -> None:
        """Raises NaitError if a step could be shorter than a response of ``longest`` tokens."""
        if self.steps < 1 or self.tokens < self.steps * longest:
            raise NaitError(
                f"--tokens {self.tokens} in {self.steps} steps: a step would be shorter than the longest response "
                f"({longest} tokens); raise --batch-tokens or lower --max-length"
            )


def load_causal(model: str, dtype: str, device: str) -> tuple[Any, Any, LoadedModel]:
    """(causal LM in evaluation mode, tokenizer, its body as nait_fast sees it). Raises NaitError."""
    from transformers import AutoModelForCausalLM

    from nait_fast.env import pick_device
    from nait_fast.models.load import load_tokenizer, locate, pick_dtype, prepare, without_bars

    target = pick_device(device)
    source, extra = locate(model)
    with without_bars():
        causal = AutoModelForCausalLM.from_pretrained(source, dtype=pick_dtype(dtype, target), **extra)
    causal, tokenizer = causal.to(target).eval(), load_tokenizer(model)
    return causal, tokenizer, prepare(causal, tokenizer, name=model)


def common_prefix(samples: Sequence[Sft]) -> np.ndarray:
    """The tokens that all samples begin with, int32 [P]; at least one token of each prompt is left behind it."""
    first = samples[0].ids
    n = min(s.start for s in samples) - 1
    for sample in samples:
        differ = np.flatnonzero(sample.ids[:n] != first[:n])
        n = int(differ[0]) if len(differ) else n
    return first[: max(n, 0)]


def adapters(model: nn.Module, recipe: Recipe) -> list[Any]:
    """Inject LoRA into every linear module of ``model``; returns its modules. Raises NaitError without peft."""
    try:
        from peft import LoraConfig, inject_adapter_in_model
        from peft.tuners.lora import LoraLayer
    except ImportError:
        raise NaitError('the ablation trains with LoRA: pip install "nait-fast[ablation]"') from None
    names = sorted({name.rpartition(".")[2] for name, m in model.named_modules() if type(m) is nn.Linear})
    config = LoraConfig(r=recipe.rank, lora_alpha=recipe.alpha, target_modules=names, lora_dropout=0.0)
    inject_adapter_in_model(config, model)
    modules = [m for m in model.modules() if isinstance(m, LoraLayer)]
    for module in modules:
        for part in (module.lora_A, module.lora_B):
            part.float()  # half-precision weights would lose small steps
    return modules


class Learner:
    """``causal`` with LoRA on its last layers, for runs on ``samples`` (pool and held-out ones: rows count in it).

    Raises NaitError for a model that does not run packed or cannot be split between two layers, and without peft.
    """

    def __init__(self, causal: Any, loaded: LoadedModel, samples: Sequence[Sft], recipe: Recipe):
        if not loaded.packs or getattr(causal.config, "final_logit_softcapping", None):
            raise NaitError(f"model {loaded.name}: the ablation needs a model that runs packed, without logit caps")
        body, n = loaded.body, len(decoder_layers(loaded.body))
        self.below = n - recipe.layers if recipe.layers else 0
        if not 0 <= self.below < n:
            raise NaitError(f"--layers {recipe.layers}: the model has {n}")
        kind = product_kind(causal, recipe.product)
        self.samples, self.recipe, self.device = samples, replace(recipe, product=kind), loaded.device
        self.trunk, self.upper = apart(body), apart(body)
        self.trunk.layers, self.trunk.norm = self.trunk.layers[: self.below], nn.Identity()
        self.upper.layers = self.upper.layers[self.below :]
        self._check_split(body)
        self.upper.requires_grad_(False)
        freeze_linears(self.trunk, kind)
        freeze_linears(self.upper, kind)  # before the adapters, which are linear modules too
        self.lora = adapters(self.upper, recipe)
        self.head = Frozen(causal.get_output_embeddings().weight, kind)
        self.prefix = torch.from_numpy(common_prefix(samples)).long().to(self.device)
        self.attention = ATTENTION
        self._states: dict[int, torch.Tensor] = {}
        self._record = PrefixState()
        if len(self.prefix):
            with torch.no_grad(), packed_attention_on(self.trunk, ATTENTION):
                pack = Pack([len(self.prefix)], record=self._record)
                self._prefix_state = self._run(self.trunk, self._embed(self.prefix), pack, 0)
        if loaded.attention != ATTENTION and self._trains(loaded.attention):
            self.attention = loaded.attention

    def _embed(self, ids: torch.Tensor) -> torch.Tensor:
        return self.trunk.get_input_embeddings()(ids)

    def _run(self, model: Any, states: torch.Tensor, pack: Pack, first: int) -> torch.Tensor:
        """Hidden states [T, H] -> [T, H] behind ``model``'s layers; positions restart at ``first`` per sequence."""
        positions = torch.cat([torch.arange(first, first + n) for n in pack.lengths]).to(self.device)
        with packed_as(pack):
            out = model(inputs_embeds=states[None], position_ids=positions[None], use_cache=False)
        return out.last_hidden_state[0]

    def _check_split(self, body: Any) -> None:
        ids = torch.arange(3, 12, device=self.device)
        with torch.no_grad():
            whole = body(input_ids=ids[None], use_cache=False).last_hidden_state[0]
            try:
                with packed_attention_on(self.trunk, ATTENTION), packed_attention_on(self.upper, ATTENTION):
                    lower = self._run(self.trunk, self._embed(ids), Pack([len(ids)]), 0)
                    split = self._run(self.upper, lower, Pack([len(ids)]), 0)
            except (TypeError, ValueError, AttributeError, IndexError, RuntimeError):
                split = torch.full_like(whole, float("nan"))
        bound = 1e-3 if whole.dtype == torch.float32 else 5e-2
        if not (split - whole).float().norm() <= bound * whole.float().norm():
            raise NaitError("this model cannot be split between two of its layers: the ablation does not support it")

    def _trains(self, attention: str) -> bool:
        """Whether training through ``attention`` gives the gradients that ``ATTENTION`` gives."""
        rows = [(row, self.samples[row].response) for row in range(min(4, len(self.samples)))]
        gradients = []
        for name in (ATTENTION, attention):
            self.attention = name
            try:
                with self.fresh(0) as parameters:
                    self.nll(rows)[0].sum().backward()
                    gradients.append(torch.cat([(p * 0 if p.grad is None else p.grad).reshape(-1) for p in parameters]))
                    self.upper.zero_grad(set_to_none=True)
            except (TypeError, ValueError, AttributeError, IndexError, RuntimeError):
                break
            finally:
                self.attention = ATTENTION
        return len(gradients) == 2 and bool((gradients[1] - gradients[0]).norm() <= 5e-2 * gradients[0].norm())

    def _inputs(self, row: int) -> np.ndarray:
        """Ids between the shared prefix and the last token, which predicts nothing."""
        return self.samples[row].ids[len(self.prefix) : -1]

    def states(self, rows: Sequence[int]) -> list[torch.Tensor]:
        """Hidden states [K - 1 - P, H] of each row below the adapted layers, computed at the first call.

        Where all are adapted these are embeddings: sooner looked up than kept.
        """
        by_row = {r: self._states[r] for r in rows if r in self._states}
        missing = sorted({r for r in rows if r not in by_row}, key=lambda r: len(self._inputs(r)))
        with torch.no_grad(), packed_attention_on(self.trunk, ATTENTION):
            for batch in _batches(missing, [len(self._inputs(r)) for r in missing], self.recipe.pack_tokens):
                inputs = [self._inputs(r) for r in batch]
                pack = Pack([len(x) for x in inputs], prefix=self._record)
                ids = torch.from_numpy(np.concatenate(inputs)).long().to(self.device)
                out = self._run(self.trunk, self._embed(ids), pack, len(self.prefix))
                by_row |= zip(batch, (x.clone() for x in out.split(list(pack.lengths))), strict=True)
        if self.below:
            self._states |= by_row
        return [by_row[r] for r in rows]

    def nll(self, batch: Sequence[tuple[int, int]]) -> tuple[torch.Tensor, list[tuple[int, int]]]:
        """(-log p of the first n response tokens of each (row, n), fp32 one after another; the items in that order)."""
        batch = sorted(batch, key=lambda item: len(self._inputs(item[0])))  # equal lengths attend in one call
        p, states, keep, targets = len(self.prefix), [], [], []
        start = 0
        for (row, n), state in zip(batch, self.states([row for row, _ in batch]), strict=True):
            sample = self.samples[row]
            first = sample.start - 1 - p
            states.append(state[: first + n])
            keep.append(torch.arange(start + first, start + first + n))
            targets.append(torch.from_numpy(sample.ids[sample.start : sample.start + n]))
            start += first + n
        with packed_attention_on(self.upper, self.attention):
            record = PrefixState()
            if p:
                self._run(self.upper, self._prefix_state, Pack([p], record=record), 0)
            out = self._run(self.upper, torch.cat(states), Pack([len(s) for s in states], prefix=record), p)
        hidden = out[torch.cat(keep).to(self.device)]
        return head_nll(hidden, self.head, torch.cat(targets).long().to(self.device)), list(batch)

    @contextmanager
    def fresh(self, seed: int) -> Iterator[list[nn.Parameter]]:
        """New adapters, drawn with ``seed``; yields their parameters."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            for module in self.lora:
                module.reset_lora_parameters("default", init_lora_weights=True)
        yield [p for p in self.upper.parameters() if p.requires_grad]

    def train(self, steps: Sequence[Sequence[tuple[int, int]]], seed: int) -> dict[str, Any]:
        """Fresh adapters, trained on ``steps``: AdamW, warm-up and linear decay; all response tokens weigh alike.

        Returns tokens, seconds and the loss of the first and last tenth of the steps. The seconds are the training's
        alone: what lies below the adapters has been run before.
        """
        if self.below:
            self.states([row for batch in steps for row, _ in batch])
        recipe, started, cpu = self.recipe, time.perf_counter(), time.process_time()
        losses, sizes = [], []
        with self.fresh(seed) as parameters:
            optimiser = torch.optim.AdamW(parameters, lr=recipe.lr, weight_decay=0.0)
            warm = max(1, round(recipe.warmup * len(steps)))
            for number, batch in enumerate(steps):
                rate = min((number + 1) / warm, (len(steps) - number) / max(1, len(steps) - warm + 1))
                for group in optimiser.param_groups:
                    group["lr"] = recipe.lr * rate
                nll, _ = self.nll(batch)
                optimiser.zero_grad(set_to_none=True)
                (nll.sum() * len(steps) / recipe.tokens).backward()
                torch.nn.utils.clip_grad_norm_(parameters, recipe.clip)
                optimiser.step()
                losses.append(float(nll.detach().sum()))
                sizes.append(len(nll))
        tenth = max(1, len(steps) // 10)
        return {
            "steps": len(steps),
            "response_tokens": sum(sizes),
            "all_tokens": sum(self.samples[r].start + n for batch in steps for r, n in batch),
            "samples": sum(map(len, steps)),
            "rows": len({r for batch in steps for r, _ in batch}),
            "first_loss": round(sum(losses[:tenth]) / sum(sizes[:tenth]), 4),
            "last_loss": round(sum(losses[-tenth:]) / sum(sizes[-tenth:]), 4),
            "train_seconds": round(time.perf_counter() - started, 2),
            "train_cpu_seconds": round(time.process_time() - cpu, 2),
        }

    def evaluate(self, rows: Sequence[int]) -> dict[str, list[Any]]:
        """Of each row: ``nll``, the sum over its response tokens but for the end; ``tokens``, how many they are;
        ``end``, the end's own (None for a row that was cut)."""
        out: dict[int, tuple[float, int, float | None]] = {}
        ordered = sorted(rows, key=lambda r: len(self._inputs(r)))
        with torch.no_grad():
            for batch in _batches(ordered, [len(self._inputs(r)) for r in ordered], self.recipe.pack_tokens):
                nll, items = self.nll([(row, self.samples[row].response) for row in batch])
                for (row, _), part in zip(items, nll.double().cpu().split([n for _, n in items]), strict=True):
                    ended = self.samples[row].ended
                    content = part[:-1] if ended else part
                    end = round(float(part[-1]), 3) if ended else None
                    out[row] = (round(float(content.sum()), 3), len(content), end)
        nll, tokens, ends = zip(*(out[row] for row in rows), strict=True)
        return {"nll": list(nll), "tokens": list(tokens), "end": list(ends)}


def _batches(rows: Sequence[int], lengths: Sequence[int], tokens: int) -> Iterator[list[int]]:
    batch: list[int] = []
    size = 0
    for row, length in zip(rows, lengths, strict=True):
        if batch and size + length > tokens:
            yield batch
            batch, size = [], 0
        batch.append(row)
        size += length
    if batch:
        yield batch


class Frozen:
    """``W`` [N, K] as a pair of products: ``times(x)`` = x Wᵀ and ``back(g)`` = g W, without autograd.

    ``kind``: one of ``PRODUCTS``; ``onednn-bf16`` rounds operands and results to bf16 and sums in fp32.
    """

    def __init__(self, weight: torch.Tensor, kind: str):
        self.weight = weight.detach()
        self.dtype = torch.bfloat16 if kind == "onednn-bf16" else torch.float32
        self.packed: list[torch.Tensor] | None = None
        if kind != "torch":
            pair = (self.weight, self.weight.t())
            self.packed = [torch.ops.mkldnn._reorder_linear_weight(w.to(self.dtype).contiguous()) for w in pair]

    def _product(self, x: torch.Tensor, which: int) -> torch.Tensor:
        if self.packed is None:
            return x @ (self.weight.t() if which == 0 else self.weight)
        flat = x.reshape(-1, x.shape[-1]).to(self.dtype).contiguous()
        out = torch.ops.mkldnn._linear_pointwise(flat, self.packed[which], None, "none", [], "")
        return out.to(x.dtype).reshape(*x.shape[:-1], -1)

    def times(self, x: torch.Tensor) -> torch.Tensor:
        return self._product(x, 0)

    def back(self, g: torch.Tensor) -> torch.Tensor:
        return self._product(g, 1)


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, frozen: Frozen) -> torch.Tensor:
        ctx.frozen = frozen
        return frozen.times(x)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        return ctx.frozen.back(gradients[0]), None


def product_kind(model: nn.Module, wanted: str) -> str:
    """``auto``: oneDNN where it is usable, in bf16 where the processor multiplies bf16; else torch."""
    if wanted != "auto":
        return wanted
    if not usable(model):
        return "torch"
    return "onednn-bf16" if torch.cpu.get_capabilities().get("avx512_bf16") else "onednn"


def freeze_linears(model: nn.Module, kind: str) -> None:
    """Every plain ``nn.Linear`` of ``model`` multiplies as ``kind`` from now on; its weight gets no gradient."""
    for module in model.modules():
        if type(module) is nn.Linear:
            module.requires_grad_(False)
            if kind != "torch":
                module.__dict__["forward"] = _bind(module, Frozen(module.weight, kind))


def _bind(module: nn.Linear, frozen: Frozen) -> Any:
    bias = None if module.bias is None else module.bias.detach()

    def forward(x: torch.Tensor) -> torch.Tensor:
        y = _Linear.apply(x, frozen)
        return y if bias is None else y + bias

    return forward


class _HeadLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor, head: Frozen, targets: torch.Tensor) -> torch.Tensor:
        nll, gradients = [], []
        rows = HEAD_ROWS if hidden.device.type == "cpu" else GPU_HEAD_ROWS
        for h, t in zip(hidden.split(rows), targets.split(rows), strict=True):
            logits = head.times(h).float()
            chosen = logits.gather(1, t[:, None])
            highest = logits.amax(dim=1, keepdim=True)
            p = logits.sub_(highest).exp_()  # in place: the logits of a large vocabulary are what takes the memory
            total = p.sum(dim=1, keepdim=True)
            nll.append((highest + total.log() - chosen)[:, 0])
            if ctx.needs_input_grad[0]:
                p /= total
                p.scatter_add_(1, t[:, None], torch.full_like(chosen, -1.0))
                gradients.append(head.back(p.to(h.dtype)))
        ctx.gradient = torch.cat(gradients) if gradients else None
        return torch.cat(nll)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        return ctx.gradient * gradients[0][:, None].to(ctx.gradient.dtype), None, None


def head_nll(hidden: torch.Tensor, head: Frozen, targets: torch.Tensor) -> torch.Tensor:
    """-log p(targets) fp32 [R] of ``hidden`` [R, H] under logits = hidden · headᵀ; ``targets`` int64 [R].

    The gradient goes to ``hidden`` alone; logits exist for ``HEAD_ROWS`` (``GPU_HEAD_ROWS``) positions at a time.
    """
    return _HeadLoss.apply(hidden, head, targets)
