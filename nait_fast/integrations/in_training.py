"""Scores of tokenised rows by a model in the middle of its training: bits of its neurons, through ``capture``."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from nait_fast.codecs.layout import CodeLayout
from nait_fast.codecs.neuron import NeuronCoder
from nait_fast.errors import BadInput, Mismatch
from nait_fast.extract.pooling import FIRST_TOKEN
from nait_fast.kernels import PopcountScan
from nait_fast.live_capture import Captured, capture
from nait_fast.methods.base import LEAST_WEIGHT
from nait_fast.methods.planes import signed_planes
from nait_fast.models.spec import text_decoder
from nait_fast.storage.files import sha256

CHUNK = 4096  # rows that are in memory at once, and sorted by length
CPU_BATCH_TOKENS, GPU_BATCH_TOKENS = 2048, 8192  # a GPU's memory holds the optimiser's state, too
PLANES = 4  # as method contrast has them
_END = torch.tensor([-1])  # no token
MEDIA = ("images", "videos", "audios", "pixel_values")


class TokenRows(NamedTuple):
    """Rows ``positions`` of a ``dataset`` of tokenised features, which messages call ``name``."""

    dataset: Any
    positions: Sequence[int]
    name: str

    def digest(self) -> str:
        """16 hex digits of their tokens. Raises NaitError."""
        return sha256(b"".join(one.numpy().tobytes() for _, ids in self.chunks() for one in (*ids, _END)))[:16]

    def chunks(self) -> Iterator[tuple[int, list[torch.Tensor]]]:
        """(place of the first, token ids int64 [T] of each) of a few thousand rows at a time. Raises NaitError."""
        many = getattr(self.dataset, "__getitems__", None)
        for start in range(0, len(self.positions), CHUNK):
            some = [int(position) for position in self.positions[start : start + CHUNK]]
            features = many(some) if many is not None else [self.dataset[position] for position in some]
            yield (start, [_ids_of(one, f"{self.name}, row {row}") for row, one in zip(some, features, strict=True)])


def _ids_of(feature: Mapping[str, Any], where: str) -> torch.Tensor:
    if "input_ids" not in feature:
        raise BadInput("it has no input_ids", where=where, remedy="give tokenised rows")
    if media := next((key for key in MEDIA if feature.get(key) is not None and len(feature[key])), None):
        raise BadInput(f"it holds {media}, and only text is read", where=where)
    ids = torch.as_tensor(feature["input_ids"], dtype=torch.int64)
    if (given := feature.get("attention_mask")) is not None:
        mask = torch.as_tensor(given)
        if mask.shape != ids.shape or not ((mask == 0) | (mask == 1)).all():
            raise BadInput("its attention_mask is of several packed samples", where=where, remedy="do not pack")
        ids = ids[mask.bool()]
    if not len(ids):
        raise BadInput("it has no tokens", where=where)
    return ids


@dataclass(frozen=True)
class LiveSignature:
    """What targets looked like to the model of one ``step``: ``threshold`` fp32 [N], the pool's mean of each neuron;
    ``weights`` fp32 [targets, N], how much oftener it is above that than in the pool. N counts the neurons of all
    layers read, of ``widths``."""

    step: int
    names: tuple[str, ...]
    widths: tuple[int, ...]
    threshold: np.ndarray
    weights: np.ndarray

    @property
    def layout(self) -> CodeLayout:
        return CodeLayout.of(self.widths)

    @cached_property
    def scan(self) -> tuple[PopcountScan, np.ndarray]:
        """What counts codes, and the scale float64 [targets] of its counts."""
        planes, weights, scales = zip(*(signed_planes(w, PLANES, self.layout) for w in self.weights), strict=True)
        owners = np.repeat(np.arange(len(self.names)), PLANES)
        return PopcountScan(np.concatenate(planes), np.concatenate(weights), owners, len(self.names)), np.array(scales)


class LiveScorer:
    """Reads rows with the model that a trainer trains, as it is at the moment, each process its share of the batches.

    ``accelerator``: the trainer's own (``accelerate.Accelerator``). ``layers``: as ``--layers``; ``first_token``: as of
    ``capture``; ``batch_tokens``: tokens a batch with its padding (default: 2048 on a CPU, 8192 elsewhere). The model's
    modes, gradients and random numbers are afterwards what they were. All processes must call, and get the same. Raises
    NaitError.
    """

    def __init__(
        self, accelerator: Any, *, layers: str = "all", first_token: str = "exclude", batch_tokens: int | None = None
    ):
        if first_token not in FIRST_TOKEN:
            raise BadInput(f"choose {' or '.join(FIRST_TOKEN)}", where=f"first_token {first_token}")
        refuse_sharded(accelerator)
        self.accelerator, self.layers, self.first_token = accelerator, layers, first_token
        usual = CPU_BATCH_TOKENS if accelerator.device.type == "cpu" else GPU_BATCH_TOKENS
        self.batch_tokens = batch_tokens or usual

    def signature(
        self, model: nn.Module, pool: TokenRows, targets: Mapping[str, TokenRows], step: int
    ) -> LiveSignature:
        """What ``targets`` look like beside ``pool``, a sample of what is selected from. Raises NaitError."""
        with self._reading(model) as read:
            values = self._values(read, pool)
            threshold = self._mean(values, pool).float()
            frequency = self._mean(values > threshold, pool)
            of_targets = {name: self._values(read, rows) > threshold for name, rows in targets.items()}
            weights = [self._mean(bits, targets[name]) - frequency for name, bits in of_targets.items()]
        for name, of_one in zip(targets, weights, strict=True):
            if of_one.abs().max() < LEAST_WEIGHT:
                raise BadInput("its rows fire the neurons that the pool's do, and tell no row from another", where=name)
        return LiveSignature(
            step, tuple(targets), tuple(read.widths), threshold.numpy(), torch.stack(weights).float().numpy()
        )

    def scores(self, model: nn.Module, signature: LiveSignature, rows: TokenRows) -> tuple[np.ndarray, np.ndarray]:
        """(scores float64 [n, targets], NaN where activations are not finite; tokens int64 [n]) of ``rows``."""
        scan, scale = signature.scan
        layout = signature.layout
        scores = torch.zeros(len(rows.positions), len(signature.names), dtype=torch.float64)
        lengths = np.zeros(len(rows.positions), dtype=np.int64)
        coder = NeuronCoder(layout, "mean", torch.from_numpy(signature.threshold), self.accelerator.device)
        with self._reading(model) as read:
            for places, means in self._batches(read, rows, lengths):
                if tuple(read.widths) != signature.widths:
                    raise Mismatch("the signature is of another model", where=f"step {signature.step}")
                codes = np.zeros((len(places), layout.row_bytes), dtype=np.uint8)
                for ordinal, values in enumerate(means):
                    codes[:, layout.bytes(ordinal)] = coder.encode(ordinal, values)[0].cpu().numpy()
                finite = torch.stack([values.isfinite().all(dim=1) for values in means]).all(dim=0).cpu().numpy()
                scores[places] = torch.from_numpy(np.where(finite[:, None], scan(codes) * scale, np.nan))
        return self._total(scores).numpy(), lengths

    def identity(self, model: nn.Module) -> list[Any]:
        """What tells a model from another one, whatever it has learned."""
        inner = self.accelerator.unwrap_model(model)
        name = getattr(getattr(inner, "config", None), "_name_or_path", "")
        return [type(text_decoder(inner)).__name__, name, sum(p.numel() for p in inner.parameters())]

    @contextmanager
    def _reading(self, model: nn.Module) -> Iterator["_Reader"]:
        """What reads rows inside the block; the model is as it was after it."""
        inner = self.accelerator.unwrap_model(model)
        refuse_partial(inner)
        body, device = text_decoder(inner), self.accelerator.device
        modes = [(module, module.training) for module in inner.modules()]
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), torch.no_grad():
            inner.eval()
            try:
                with capture(body, ("mean",), layers=self.layers, first_token=self.first_token) as captured:
                    yield _Reader(body, captured, self.accelerator)
            finally:
                for module, mode in modes:
                    module.training = mode

    def _batches(
        self, read: "_Reader", rows: TokenRows, lengths: np.ndarray
    ) -> Iterator[tuple[list[int], list[torch.Tensor]]]:
        """(places among ``rows``, mean fp32 [B, J] of each layer) of this process's batches. ``lengths`` int64 [n] gets
        the tokens of all rows."""
        turn = 0
        for start, ids in rows.chunks():
            lengths[start : start + len(ids)] = [len(one) for one in ids]
            for batch in padded_batches([len(one) for one in ids], self.batch_tokens):
                if turn % self.accelerator.num_processes == self.accelerator.process_index:
                    yield [start + place for place in batch], read([ids[place] for place in batch])
                turn += 1
            if not read.widths:  # fewer batches than processes: what is summed up needs its size
                read(ids[:1])

    def _values(self, read: "_Reader", rows: TokenRows) -> torch.Tensor:
        """fp32 [n, N] on the host, of this process's share of ``rows``, but for those that are not finite."""
        lengths = np.zeros(len(rows.positions), dtype=np.int64)
        kept = [torch.cat(means, dim=1).cpu() for _, means in self._batches(read, rows, lengths)]
        values = torch.cat([*kept, torch.zeros(0, sum(read.widths))])
        return values[values.isfinite().all(dim=1)]

    def _mean(self, values: torch.Tensor, rows: TokenRows) -> torch.Tensor:
        """fp64 [N] over the ``values`` [n, N] of all processes, which are of ``rows``. Raises NaitError."""
        count = torch.tensor([len(values)], dtype=torch.float64)
        total = self._total(torch.cat([values.sum(dim=0, dtype=torch.float64), count]))
        if total[-1] < 2:
            raise BadInput(
                f"{int(total[-1])} of {len(rows.positions)} rows have finite activations, and at least 2 are needed",
                where=rows.name,
            )
        return total[:-1] / total[-1]

    def _total(self, values: torch.Tensor) -> torch.Tensor:
        """The sum over all processes of fp64 ``values``, on the host."""
        if self.accelerator.num_processes == 1:
            return values
        return self.accelerator.reduce(values.to(self.accelerator.device), reduction="sum").cpu()


class _Reader:
    """Runs rows through ``body`` and gives the mean fp32 [B, J] of each layer; ``widths``: J of each, once some ran."""

    def __init__(self, body: nn.Module, captured: Captured, accelerator: Any):
        self._body, self._captured, self._accelerator = body, captured, accelerator
        self.widths: list[int] = []

    def __call__(self, ids: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        lengths = torch.tensor([len(one) for one in ids])
        padded = torch.nn.utils.rnn.pad_sequence(list(ids), batch_first=True)  # on the right, where nothing sees it
        mask = (torch.arange(padded.shape[1]) < lengths[:, None]).long()
        device = self._accelerator.device
        with self._accelerator.autocast():
            self._body(input_ids=padded.to(device), attention_mask=mask.to(device), use_cache=False)
        means = self._captured["mean"]
        self.widths = [values.shape[1] for values in means]
        return means


def padded_batches(lengths: Sequence[int], tokens: int) -> Iterator[list[int]]:
    """Places of similarly long rows, of at most ``tokens`` with the padding (or one row), longest first."""
    batch: list[int] = []
    for place in sorted(range(len(lengths)), key=lambda place: (-lengths[place], place)):
        if batch and (len(batch) + 1) * lengths[batch[0]] > tokens:
            yield batch
            batch = []
        batch.append(place)
    if batch:
        yield batch


def refuse_sharded(accelerator: Any) -> None:
    """Raise NaitError where training is set up so that no process holds all of the weights."""
    deepspeed = getattr(getattr(accelerator, "state", None), "deepspeed_plugin", None)
    if accelerator.distributed_type in ("FSDP", "MEGATRON_LM") or getattr(deepspeed, "zero_stage", 0) == 3:
        raise _in_parts("this training")


def refuse_partial(model: nn.Module) -> None:
    """Raise NaitError where this process holds a part of the weights, or rows run through more than the decoder."""
    where = f"model {type(model).__name__}"
    if any((hasattr(p, "ds_id") and not p.numel()) or hasattr(p, "device_mesh") for p in model.parameters()):
        raise _in_parts(where)
    adapter: Any = getattr(model, "active_peft_config", None)
    if getattr(adapter, "is_prompt_learning", False):
        raise BadInput(
            f"its adapter ({adapter.peft_type.value}) puts tokens of its own before each row",
            where=where,
            remedy="train LoRA or all weights",
        )


def _in_parts(where: str) -> BadInput:
    return BadInput(
        "each process holds a part of the weights (FSDP, ZeRO-3 or tensor parallelism)",
        where=where,
        remedy="train with DDP, ZeRO-1 or ZeRO-2, or select before training",
    )


def taken_in_turns(scores: np.ndarray, count: int) -> list[int]:
    """``count`` rows of ``scores`` [n, targets]: each target in turn takes the best that is left, of equal ones the
    first; those that are NaN come last."""
    orders = [iter(np.argsort(-column, kind="stable").tolist()) for column in scores.T]
    taken: dict[int, None] = {}
    while len(taken) < count:
        order = orders[len(taken) % len(orders)]
        taken[next(row for row in order if row not in taken)] = None
    return list(taken)
