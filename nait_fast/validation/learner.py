"""LoRA on a model's last layers, fast enough for a CPU, and losses on held-out samples.

Below the first adapted layer nothing ever changes, so a sample runs through those layers once and its hidden states are
kept. Above it samples lie packed on one token axis without padding, behind the prefix that they all share (run once a
batch, its gradient included), and the language-model head runs at tokens with a loss alone.
"""

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from torch import nn

from nait_fast.env import keep_freed_memory
from nait_fast.errors import BadInput, missing_extra
from nait_fast.models.find import decoder_layers
from nait_fast.models.load import LoadedModel, apart
from nait_fast.models.pack import Pack, PrefixState, packed_as, running
from nait_fast.models.packed import ATTENTION, packed_attention_on
from nait_fast.notices import warn
from nait_fast.validation.frozen import FrozenHead, freeze_linears, product_kind
from nait_fast.validation.training_samples import TrainingSample

Batch = Sequence[tuple[int, int]]  # (row, how many of its first tokens with a loss)
Item = TypeVar("Item")


@dataclass(frozen=True)
class Recipe:
    """What every arm shares. ``tokens``: response tokens of a run, in ``steps`` steps; ``layers``: how many of the last
    ones are adapted (0: all); ``product``: ``auto`` or one of ``frozen.PRODUCTS``; ``pack_tokens``: of a batch without
    a gradient; ``checkpoint``: layers run again in the backward pass, their insides not kept."""

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
    checkpoint: bool = False


def common_prefix(samples: Sequence[TrainingSample]) -> np.ndarray:
    """The tokens that all samples begin with, int32 [P]; at least one token in front of each response is left."""
    first = samples[0].ids
    n = min(int(s.labels[0]) for s in samples) - 1
    for sample in samples:
        differ = np.flatnonzero(sample.ids[:n] != first[:n])
        n = int(differ[0]) if len(differ) else n
    return first[: max(n, 0)]


def check_peft() -> None:
    """Raises MissingExtra without peft."""
    try:
        import peft  # noqa: F401
    except ImportError:
        raise missing_extra("peft", "validate", "training with LoRA needs peft", "validate") from None


def adapters(model: nn.Module, recipe: Recipe) -> list[Any]:
    """Inject LoRA into every linear module of ``model``; returns its modules. Raises MissingExtra without peft."""
    check_peft()
    from peft import LoraConfig, inject_adapter_in_model
    from peft.tuners.lora import LoraLayer

    names = sorted({name.rpartition(".")[2] for name, m in model.named_modules() if type(m) is nn.Linear})
    if not names:
        raise BadInput("has no plain linear layers to adapt", where="the model")
    layers = getattr(model, "layers", model)
    weights = sum(p.numel() for p in layers.parameters() if p.dim() > 1)
    adapted = sum(m.weight.numel() for m in layers.modules() if type(m) is nn.Linear)
    if adapted < weights:
        warn(
            f"LoRA adapts plain linear layers alone, {adapted / weights:.0%} of the weights of the chosen layers: what "
            "else there is (experts, convolutions, quantised layers) stays as it is"
        )
    config = LoraConfig(r=recipe.rank, lora_alpha=recipe.alpha, target_modules=names, lora_dropout=0.0)
    inject_adapter_in_model(config, model)
    modules = [m for m in model.modules() if isinstance(m, LoraLayer)]
    for module in modules:
        for part in (module.lora_A, module.lora_B):
            part.float()  # half-precision weights would lose small steps
    return modules


class Learner:
    """``loaded`` with LoRA on its last layers, for runs on ``samples`` (pool and held-out ones: rows count in it).

    ``loaded`` has its language-model head. Raises BadInput for a model that does not run packed or cannot be split
    between two layers, and without peft.
    """

    def __init__(self, loaded: LoadedModel, samples: Sequence[TrainingSample], recipe: Recipe):
        assert loaded.head is not None, "load the model with its head"
        self._where = f"model {loaded.name}"
        if not loaded.packs:
            raise BadInput("runs padded, and training wants a model that runs packed", where=self._where)
        keep_freed_memory(
            loaded.device
        )  # logits that are given back fault in anew, which takes as long as their product
        body, n = loaded.body, len(decoder_layers(loaded.body))
        self.below = n - recipe.layers if recipe.layers else 0
        if not 0 <= self.below < n:
            raise BadInput(f"the model has {n} layers", where=f"--layers {recipe.layers}")
        kind = product_kind(body, recipe.product)
        self.samples, self.recipe, self.device, self.product = samples, recipe, loaded.device, kind
        self.trunk, self.upper = apart(body), apart(body)
        self.trunk.layers, self.trunk.norm = self.trunk.layers[: self.below], nn.Identity()
        self.upper.layers = self.upper.layers[self.below :]
        self._check_split(body)
        self.upper.requires_grad_(False)
        freeze_linears(self.trunk, kind)
        freeze_linears(self.upper, kind)  # before the adapters, which are linear modules too
        self.lora = adapters(self.upper, recipe)
        self.head = FrozenHead(loaded.head, kind)
        self.prefix = torch.from_numpy(common_prefix(samples)).long().to(self.device)
        self.attention = ATTENTION
        self._states: dict[int, torch.Tensor] = {}
        self.rows_below, self.seconds_below = 0, 0.0  # what ran through the layers below, and for how long
        self.hidden_width = int(self._embed(torch.zeros(1, dtype=torch.long, device=self.device)).shape[-1])
        self._together: dict[int, list[int]] = {}  # row -> those that run with it
        self._record = PrefixState()
        if len(self.prefix):
            with torch.no_grad(), packed_attention_on(self.trunk, ATTENTION):
                pack = Pack([len(self.prefix)], record=self._record)
                self._prefix_state = self._run(self.trunk, self._embed(self.prefix), pack, 0)
        if loaded.attention is not None and loaded.attention != ATTENTION and self._trains(loaded.attention):
            self.attention = loaded.attention
        if recipe.checkpoint:
            for layer in self.upper.layers:
                layer.__dict__["forward"] = checkpointed(layer)

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
            raise BadInput("cannot be split between two of its layers, as training wants it", where=self._where)

    def _trains(self, attention: str) -> bool:
        """Whether training through ``attention`` gives the gradients that ``ATTENTION`` gives."""
        rows = [(row, self.samples[row].response) for row in range(min(4, len(self.samples)))]
        gradients = []
        for name in (ATTENTION, attention):
            self.attention = name
            try:
                with self.fresh(0) as parameters:
                    self.losses(rows)[0].sum().backward()
                    gradients.append(torch.cat([(p * 0 if p.grad is None else p.grad).reshape(-1) for p in parameters]))
                    self.upper.zero_grad(set_to_none=True)
            except (TypeError, ValueError, AttributeError, IndexError, RuntimeError):
                break
            finally:
                self.attention = ATTENTION
        return len(gradients) == 2 and bool((gradients[1] - gradients[0]).norm() <= 5e-2 * gradients[0].norm())

    def _inputs(self, row: int) -> np.ndarray:
        """Ids between the shared prefix and the last token with a loss, which need predict nothing."""
        sample = self.samples[row]
        return sample.ids[len(self.prefix) : int(sample.labels[-1])]

    def expect(self, rows: Iterable[int]) -> None:
        """Rows that runs will ask for: which of them run together below the adapted layers is settled here, so that no
        state depends on which run comes first, as in one that goes on after a kill."""
        ordered = sorted(set(rows), key=lambda r: (len(self._inputs(r)), r))
        for batch in _batches(ordered, [len(self._inputs(r)) for r in ordered], self.recipe.pack_tokens):
            self._together |= dict.fromkeys(batch, batch)

    def states(self, rows: Sequence[int]) -> list[torch.Tensor]:
        """Hidden states of each row's inputs below the adapted layers, computed at the first call.

        Where all are adapted these are embeddings: sooner looked up than kept.
        """
        by_row = {r: self._states[r] for r in rows if r in self._states}
        asked = {
            other for r in rows if r not in by_row for other in (self._together.get(r, [r]) if self.below else [r])
        }
        missing = sorted(asked, key=lambda r: (len(self._inputs(r)), r))
        started = time.perf_counter()
        with torch.no_grad(), packed_attention_on(self.trunk, ATTENTION):
            for batch in _batches(missing, [len(self._inputs(r)) for r in missing], self.recipe.pack_tokens):
                inputs = [self._inputs(r) for r in batch]
                pack = Pack([len(x) for x in inputs], prefix=self._record)
                ids = torch.from_numpy(np.concatenate(inputs)).long().to(self.device)
                out = self._run(self.trunk, self._embed(ids), pack, len(self.prefix))
                by_row |= zip(batch, (x.clone() for x in out.split(list(pack.lengths))), strict=True)
        self.rows_below, self.seconds_below = (
            self.rows_below + len(missing),
            self.seconds_below + time.perf_counter() - started,
        )
        if self.below:
            self._states |= by_row
        return [by_row[r] for r in rows]

    def losses(self, batch: Batch) -> tuple[torch.Tensor, list[tuple[int, int]]]:
        """(-log p of the first n tokens with a loss of each (row, n), fp32 one after another; the items so ordered)."""
        hidden, labels, ordered = self._hidden(batch)
        return self.head.losses(hidden, labels), ordered

    def _hidden(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor, list[tuple[int, int]]]:
        """(final states in front of each token with a loss, those tokens, the items in their order)."""
        ordered = sorted(batch, key=lambda item: len(self._inputs(item[0])))  # equal lengths attend in one call
        p, states, keep, targets = len(self.prefix), [], [], []
        start = 0
        for (row, n), state in zip(ordered, self.states([row for row, _ in ordered]), strict=True):
            labels = self.samples[row].labels[:n]
            end = int(labels[-1]) - p
            states.append(state[:end])
            keep.append(start + labels - 1 - p)
            targets.append(self.samples[row].ids[labels])
            start += end
        with packed_attention_on(self.upper, self.attention):
            record = PrefixState()
            if p:
                self._run(self.upper, self._prefix_state, Pack([p], record=record), 0)
            out = self._run(self.upper, torch.cat(states), Pack([len(s) for s in states], prefix=record), p)
        hidden = out[torch.from_numpy(np.concatenate(keep)).to(self.device)]
        return hidden, torch.from_numpy(np.concatenate(targets)).long().to(self.device), ordered

    @contextmanager
    def fresh(self, seed: int) -> Iterator[list[nn.Parameter]]:
        """New adapters, drawn with ``seed``; yields their parameters."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            for module in self.lora:
                module.reset_lora_parameters("default", init_lora_weights=True)
        yield [p for p in self.upper.parameters() if p.requires_grad]

    def train(self, steps: Sequence[Batch], seed: int) -> dict[str, Any]:
        """Fresh adapters, trained on ``steps``: AdamW, warm-up and linear decay; all response tokens weigh alike.

        Returns tokens, seconds and the loss of the first and last tenth of the steps. The seconds are the training's
        alone: what lies below the adapters has been run before.
        """
        if self.below:
            self.states([row for batch in steps for row, _ in batch])
        recipe, started, cpu = self.recipe, time.perf_counter(), time.process_time()
        total = sum(n for batch in steps for _, n in batch)
        losses, sizes = [], []
        with self.fresh(seed) as parameters:
            optimiser = torch.optim.AdamW(parameters, lr=recipe.lr, weight_decay=0.0)
            warm = max(1, round(recipe.warmup * len(steps)))
            for number, batch in enumerate(steps):
                rate = min((number + 1) / warm, (len(steps) - number) / max(1, len(steps) - warm + 1))
                for group in optimiser.param_groups:
                    group["lr"] = recipe.lr * rate
                optimiser.zero_grad(set_to_none=True)
                loss = 0.0
                # A step's memory is that of so many tokens, however many the step has.
                lengths = [len(self._inputs(row)) for row, _ in batch]
                for part in _batches(batch, lengths, recipe.pack_tokens):
                    nll, _ = self.losses(part)
                    (nll.sum() * len(steps) / total).backward()
                    loss += float(nll.detach().sum())
                torch.nn.utils.clip_grad_norm_(parameters, recipe.clip)
                optimiser.step()
                losses.append(loss)
                sizes.append(sum(n for _, n in batch))
        tenth = max(1, len(steps) // 10)
        return {
            "steps": len(steps),
            "response_tokens": sum(sizes),
            "all_tokens": sum(int(self.samples[r].labels[n - 1]) + 1 for batch in steps for r, n in batch),
            "samples": sum(map(len, steps)),
            "rows": len({r for batch in steps for r, _ in batch}),
            "first_loss": round(sum(losses[:tenth]) / sum(sizes[:tenth]), 4),
            "last_loss": round(sum(losses[-tenth:]) / sum(sizes[-tenth:]), 4),
            "train_seconds": round(time.perf_counter() - started, 2),
            "train_cpu_seconds": round(time.process_time() - cpu, 2),
        }

    def generate(self, prompts: Sequence[np.ndarray], most: int, end: int) -> list[list[int]]:
        """Greedy continuations of ``prompts`` (ids int32) by the adapters as they are: at most ``most`` tokens each,
        up to ``end``, which is left out."""
        from nait_fast.validation.greedy import continuations

        return continuations(self.trunk, self.upper, self.head, prompts, most, end, self.device)

    def evaluate(self, rows: Sequence[int]) -> dict[str, list[Any]]:
        """Of each row: ``nll``, the sum over its response tokens but for the end; ``tokens``, how many they are;
        ``end``, the end's own (None for a row that was cut)."""
        out: dict[int, tuple[float, int, float | None]] = {}
        ordered = sorted(rows, key=lambda r: len(self._inputs(r)))
        with torch.no_grad():
            for batch in _batches(ordered, [len(self._inputs(r)) for r in ordered], self.recipe.pack_tokens):
                nll, items = self.losses([(row, self.samples[row].response) for row in batch])
                for (row, _), part in zip(items, nll.double().cpu().split([n for _, n in items]), strict=True):
                    ended = self.samples[row].ended
                    content = part[:-1] if ended else part
                    end = round(float(part[-1]), 3) if ended else None
                    out[row] = (round(float(content.sum()), 3), len(content), end)
        sums, tokens, ends = zip(*(out[row] for row in rows), strict=True)
        return {"nll": list(sums), "tokens": list(tokens), "end": list(ends)}


def checkpointed(layer: nn.Module) -> Any:
    """``layer``'s forward, whose insides are computed again in the backward pass, as part of the same pack."""
    from torch.utils.checkpoint import checkpoint

    forward = layer.forward

    @contextmanager
    def again(pack: Pack, attention: str) -> Iterator[None]:
        with packed_as(pack), packed_attention_on(layer, attention):  # the backward pass is outside of the forward's
            yield

    def wrapped(*arguments: Any, **named: Any) -> Any:
        pack = running()
        if pack is None or not torch.is_grad_enabled():
            return forward(*arguments, **named)
        configs: list[Any] = [module.config for module in layer.modules() if hasattr(module, "config")]
        attention = configs[0]._attn_implementation if configs else ATTENTION
        return checkpoint(
            forward,
            *arguments,
            use_reentrant=False,
            preserve_rng_state=False,
            context_fn=lambda: (nullcontext(), again(pack, attention)),
            **named,
        )

    return wrapped


def _batches(items: Sequence[Item], lengths: Sequence[int], tokens: int) -> Iterator[list[Item]]:
    batch: list[Item] = []
    size = 0
    for item, length in zip(items, lengths, strict=True):
        if batch and size + length > tokens:
            yield batch
            batch, size = [], 0
        batch.append(item)
        size += length
    if batch:
        yield batch
