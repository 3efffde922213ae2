"""``capture``: readings of every MLP neuron from a model that someone else loaded and runs."""

import inspect
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn

from nait_fast.env import check_variables
from nait_fast.errors import BadInput
from nait_fast.extract.pooling import FIRST_TOKEN, READINGS, combine, statistics_for
from nait_fast.kernels.capture.types import Segments, Stats
from nait_fast.models.find import find_specs
from nait_fast.models.guard import refuse_absent, refuse_spread
from nait_fast.models.patch import Capture, CapturedForward, patched, uncaptured
from nait_fast.models.probe import activation_dtype, probe
from nait_fast.models.spec import Spec, refuse_encoder, text_decoder
from nait_fast.notices import warn


class Captured:
    """Readings of the latest forward: ``captured[reading]`` is a list of [B, J], fp32 (drift fp64), one a layer.

    The latest one of the calling thread, or, where it has run none, of any. ``layers``: the decoder layers they are
    of; one that did not run in it (cross-attention, on text alone) is not among them.
    """

    def __init__(self, layers: list[int]):
        self.layers = layers
        self._latest: dict[str, list[torch.Tensor]] = {}
        self._of_thread = threading.local()

    def _keep(self, layers: list[int], readings: dict[str, list[torch.Tensor]]) -> None:
        self.layers = layers
        self._of_thread.latest = self._latest = readings

    def __getitem__(self, reading: str) -> list[torch.Tensor]:
        readings = getattr(self._of_thread, "latest", self._latest)
        if reading not in readings:
            raise KeyError(
                f"{reading}: not captured (was it asked for, and has a forward finished in the thread of the block?)"
            )
        return readings[reading]

    def stacked(self, reading: str) -> torch.Tensor:
        """A reading of all layers, which must be of one width.

        Args:
            reading: One that was asked for.

        Returns:
            fp32 (drift fp64) [B, L, J].

        Raises:
            KeyError: It was not asked for, or no forward has finished.
        """
        return torch.stack(self[reading], dim=1)


def content_segments(mask: torch.Tensor, skip_first: bool) -> Segments:
    """Segments of a padded batch: ``mask`` [B, T], 1 at each sample's tokens (one run, on either side of padding)."""
    mask = mask.bool().cpu()
    width = mask.shape[1]
    lengths = mask.sum(dim=1)
    first = mask.int().argmax(dim=1)
    if not (lengths > 0).all() or not all(
        bool(m[a : a + n].all()) for m, a, n in zip(mask, first, lengths, strict=True)
    ):
        raise BadInput("each row of attention_mask must be one run of ones", where="capture")
    starts = torch.arange(len(mask)) * width + first
    return Segments(starts, starts + lengths, torch.full((len(mask),), skip_first))


class _Forward(CapturedForward):
    """Keeps the ``readings`` of each layer as they come, by ordinal, and sees to it that its MLP runs once, over as
    many rows as there are ``tokens``."""

    def __init__(self, segments: Segments, specs: Sequence[Spec], tokens: int, first_token: str, names: Sequence[str]):
        super().__init__(segments)
        self._specs, self._tokens, self._first_token, self._names = specs, tokens, first_token, names
        self._entered: set[int] = set()
        self.readings: dict[int, dict[str, torch.Tensor]] = {}

    def enter(self, ordinal: int, x: torch.Tensor) -> None:
        called, rows = self._specs[ordinal].called, x.numel() // x.shape[-1]
        if rows != self._tokens:
            raise BadInput(
                f"{called} runs over {rows} rows for {self._tokens} tokens; a reading needs one row a token",
                where="capture",
            )
        if ordinal in self._entered:
            raise BadInput(f"{called} runs more than once a forward; it is not supported", where="capture")
        self._entered.add(ordinal)

    def take(self, ordinal: int, stats: Stats) -> None:
        lengths = self.segments.ends - self.segments.starts
        values = combine(stats, lengths, None, self._first_token, self._names)
        self.readings[ordinal] = {name: value.detach() for name, value in values.items()}


_shifted: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()  # what ``moves_with_padding`` has found


def moves_with_padding(model: Any) -> bool:
    """Whether padding on the left changes what ``model`` gives for a sample (its positions count the padding).

    A forward of a few tokens with and without tells, once for a model.
    """
    if model not in _shifted:
        embeddings = model.get_input_embeddings().weight
        ids = torch.randint(len(embeddings), (1, 6), generator=torch.Generator().manual_seed(0)).to(embeddings.device)
        mask = torch.tensor([[0] * 3 + [1] * 6]).to(embeddings.device)
        try:
            with uncaptured(), torch.no_grad():
                alone = model(input_ids=ids, use_cache=False)[0][0].float()
                behind = model(input_ids=torch.cat([ids[:, :3], ids], dim=1), attention_mask=mask, use_cache=False)
            error = (behind[0][0, 3:].float() - alone).norm() / alone.norm()
            same = error <= (1e-3 if embeddings.dtype == torch.float32 else 0.1)  # which NaN is not
            _shifted[model] = not bool(same)
        except (RuntimeError, TypeError, ValueError, AttributeError, IndexError):  # a model that wants other inputs
            _shifted[model] = False
    return _shifted[model]


@contextmanager
def capture(
    model: nn.Module, readings: Sequence[str] = ("mean",), *, layers: str = "all", first_token: str = "exclude"
) -> Iterator[Captured]:
    """Inside the block each forward of ``model`` (whole sequences, no key-value cache) also yields readings.

    The model's outputs do not change, and it is untouched after the block. Padding is told by ``attention_mask``, on
    either side. Threads (or asyncio tasks) may each have a block of their own on one model: a block sees the forwards
    of the thread that opened it. Blocks within one another each have readings of their own.

    Args:
        model: A transformers decoder in evaluation mode, with or without LM head.
        readings: Any of drift, mean, up_abs, over all tokens (which of them are a response is not known here).
        layers: Which decoder layers, as the command's option `--layers` says it.
        first_token: Whether the mean counts a sample's first token: `exclude` or `include`.

    Yields:
        The readings of the latest forward.

    Raises:
        BadInput: The model is not supported or in training mode, or a forward is not of whole sequences.

    Examples:
        >>> batch = hf_tokenizer(["add seven and ten", "write a poem"], return_tensors="pt", padding=True)
        >>> with nait_fast.capture(hf_model, readings=("mean", "drift"), layers="0-1") as captured:
        ...     output = hf_model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
        >>> captured.layers, captured["mean"][0].shape  # of each layer [samples, neurons]
        ([0, 1], torch.Size([2, 72]))
    """
    unknown = [r for r in readings if r not in READINGS] + ([] if first_token in FIRST_TOKEN else [first_token])
    if unknown:
        raise BadInput(f"'{unknown[0]}' is none of {', '.join((*READINGS, *FIRST_TOKEN))}", where="capture")
    check_variables()
    if not readings:
        raise BadInput("no reading is asked for", where="capture", remedy=f"choose among {', '.join(READINGS)}")
    if first_token != "exclude" and "mean" not in readings:
        raise BadInput(f"first_token='{first_token}' is for the reading mean, which is not asked for", where="capture")
    if model.training:
        raise BadInput("the model is in training mode", where="capture", remedy="call model.eval() first")
    refuse_encoder(model)
    refuse_absent(model, type(model).__name__)
    refuse_spread(text_decoder(model), type(model).__name__)
    specs = find_specs(model, layers)
    with uncaptured():  # a block around this one reads the caller's forwards only
        probe(specs, activation_dtype(model))
    captured = Captured([spec.layer for spec in specs])
    idle: set[int] = set()  # layers said to run on no text
    hook = Capture(specs, statistics_for(readings), stop=False)

    def before(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        if module is not model or not hook.on:  # a copy's, another thread's
            return
        hook.forward = None  # nor does one that is refused below await anything
        given = {**kwargs, **inspect.signature(model.forward).bind_partial(*args, **kwargs).arguments}
        ids = given.get("input_ids", args[0] if args else None)
        if ids is None and given.get("inputs_embeds") is None:
            raise BadInput("the model was called without input_ids and inputs_embeds", where="capture")
        shape = ids.shape if ids is not None else given["inputs_embeds"].shape[:2]
        mask = given.get("attention_mask")
        mask = torch.ones(shape) if mask is None else mask
        if not isinstance(mask, torch.Tensor) or mask.ndim != 2:
            raise BadInput("attention_mask must be [B, T], 1 at each row's tokens", where="capture")
        if mask.shape != shape:
            raise BadInput(
                "attention_mask and input differ in shape",
                where="capture",
                remedy="run whole sequences, no cache",
                join=": ",
            )
        if given.get("position_ids") is None and not bool(mask[:, 0].all()) and moves_with_padding(model):
            warn(
                "capture: padding on the left changes this model's activations: give position_ids that begin with each "
                "row's first token, or pad on the right"
            )
        segments = content_segments(mask, first_token == "exclude")
        hook.forward = _Forward(segments, specs, mask.numel(), first_token, readings)

    def after(module: nn.Module, args: tuple, output: Any) -> None:
        if module is not model or not hook.on:
            return
        forward, hook.forward = hook.forward, None  # a forward of the body alone is not awaited
        if output is None:  # the forward has failed
            return
        assert isinstance(forward, _Forward)
        if not forward.readings:
            raise BadInput(
                f"none of the layers {[spec.layer for spec in specs]} has run in this forward", where="capture"
            )
        silent = [spec.layer for ordinal, spec in enumerate(specs) if ordinal not in forward.readings]
        if set(silent) - idle:
            idle.update(silent)
            warn(f"capture: layers {', '.join(map(str, silent))} did not run in this forward; they are left out")
        run = list(forward.readings)  # in the order in which they ran, which an index has too
        by_reading = {name: [forward.readings[ordinal][name] for ordinal in run] for name in forward.readings[run[0]]}
        captured._keep([specs[ordinal].layer for ordinal in run], by_reading)

    handles = [
        model.register_forward_pre_hook(before, with_kwargs=True),
        model.register_forward_hook(after, always_call=True),
    ]
    try:
        with patched(hook):
            yield captured
    finally:
        for handle in handles:
            handle.remove()
