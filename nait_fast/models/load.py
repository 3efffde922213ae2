"""Loads a model's body and tokenizer from a local folder, a GGUF file or a Hub id."""

import copy
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from typing_extensions import Self

from nait_fast.codecs.chosen import CHOSEN, digest_of
from nait_fast.env import pick_device
from nait_fast.errors import BadInput, NaitError, first_line
from nait_fast.kernels.common.dispatch import current
from nait_fast.models.adapters import adapter_of, holds_tokenizer
from nait_fast.models.checkpoint import WRONG_TOKENS, Loading, heard, read_model, tell
from nait_fast.models.find import find_specs
from nait_fast.models.float8 import BESIDE, refuse_config, refuse_device, to_float8
from nait_fast.models.float8 import NAME as FLOAT8
from nait_fast.models.fused import Forward, fused_forwards
from nait_fast.models.gguf_file import parsed_once
from nait_fast.models.gguf_tokenizer import mend_tokenizer
from nait_fast.models.guard import exercised, refuse_spread
from nait_fast.models.head import LMHead, head_of
from nait_fast.models.known import KnownModel, every_neuron, has_neurons
from nait_fast.models.locate import locate
from nait_fast.models.model_identity import decisive, identity_of, weights_hash
from nait_fast.models.packing_checks import packed_attention_for, pads_exactly
from nait_fast.models.probe import activation_dtype, probe
from nait_fast.models.product_trial import Products, products_of
from nait_fast.models.quantised import refuse_batch_dependent
from nait_fast.models.rows import row_mixers
from nait_fast.models.spec import Layers, Spec, refuse_encoder, text_config, text_decoder
from nait_fast.models.weight_cache import CacheEntry
from nait_fast.notices import warn
from nait_fast.progress import say
from nait_fast.stages import stage

_POSITION = re.compile(r"(^|\.)(wpe|positions_embed|position_embeddings?|embed_positions)$")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass
class LoadedModel(KnownModel):
    """A decoder body ready to capture from, and its language-model head where that was asked for.

    ``specs`` are the chosen layers; ``attention``: the name of the packed attention that is exact here (None: it runs
    padded); ``fingerprint`` identifies weights, configuration and chosen layers (``models/model_identity.py``);
    ``max_tokens``: a longer sample would change the others of its batch (RoPE that depends on the longest), None
    without such a limit; ``complete``: all layers are loaded, not only those up to the last chosen one;
    ``products``: how its fp32 products are made;
    ``fused``: modules and the faster forwards proved equal to theirs; ``entry``: where the hash of its weights is kept;
    ``whole``: the whole fingerprint, where weights have been quantised since.
    """

    attention: str | None
    fingerprint: str
    max_tokens: int | None = None
    complete: bool = True
    fused: dict[nn.Module, Forward] = field(default_factory=dict, repr=False)
    entry: CacheEntry | None = field(default=None, repr=False)
    head: LMHead | None = field(default=None, repr=False)
    whole: str | None = field(default=None, repr=False)
    products: Products = field(default_factory=Products, repr=False)

    @property
    def packs(self) -> bool:
        """Whether the padding-free forward is used."""
        return self.attention is not None

    @property
    def forward(self) -> str:
        """How it runs: packed, packed with its mixers in rows, or padded."""
        if not self.packs:
            return "padded"
        return "packed, mixers in rows" if row_mixers(self.body) else "packed"

    @property
    def end_width(self) -> int:
        """Numbers in the body's last hidden state; a forward of two tokens tells, for a body may project it (OPT)."""
        ids = torch.zeros(1, 2, dtype=torch.long, device=self.device)
        with torch.inference_mode(), current(self.device):
            return int(self.body(input_ids=ids, use_cache=False).last_hidden_state.shape[-1])

    @cached_property
    def whole_fingerprint(self) -> str:
        """As ``fingerprint``, of all layers whichever are chosen: of a model that is ``complete``."""
        assert self.complete, "the layers behind the chosen ones are not loaded"
        return self.whole or identity_of(decisive(self.body, (), self.entry), ())

    @property
    def head_fingerprint(self) -> str | None:
        """As ``whole_fingerprint``, with the language-model head; None without one."""
        head = self.head
        if head is None:
            return None
        tensors = {"weight": head.weight} | ({} if head.bias is None else {"bias": head.bias})
        formula = {"scale": head.scale, "softcap": head.softcap, "weights": weights_hash(tensors)}
        return identity_of({"body": self.whole_fingerprint, "head": formula}, ())

    @property
    def positions(self) -> int | None:
        """Tokens that a sample may have where positions are embeddings of their own; None where they are computed."""
        return _positions(self.body)

    @property
    def trained_positions(self) -> int | None:
        """Tokens of the longest text that the model was made for, by its configuration, where a longer one runs all the
        same (RoPE); None where it tells of none."""
        return None if self.positions is not None else trained_positions(text_config(self.body))

    @property
    def not_finite(self) -> str:
        """What is wrong with a sample whose readings overflow."""
        return f"activations are not finite in {self.precision}"

    @property
    def finite_remedy(self) -> str | None:
        """What could make it finite; None: nothing."""
        return "try --dtype float32" if self.dtype_class in ("half", FLOAT8) else None

    @property
    def overflow(self) -> str:
        """What is wrong with a sample whose readings overflow, and what to do about it."""
        return f"{self.not_finite}; {self.finite_remedy or 'leave the row out: the model has no numbers for it'}"

    @property
    def chosen(self) -> np.ndarray | None:
        """int32 [N]: each neuron's number in its layer, where experts' neurons have been chosen; a layer's experts and
        its shared one are counted on."""
        numbers = [getattr(spec, "chosen", None) for spec in self.specs]
        if all(number is None for number in numbers):
            return None
        every = (torch.arange(n) if c is None else c.cpu() for n, c in zip(self.widths, numbers, strict=True))
        counted = [first + number for (first, _), number in zip(self.places(), every, strict=True)]
        return torch.cat(counted).to(torch.int32).numpy()

    def places(self) -> list[tuple[int, int]]:
        """(number of its first neuron in its layer, all neurons that it has) of each spec."""
        counts, places = dict[int, int](), []
        for spec in self.specs:
            first, every = counts.get(spec.layer, 0), every_neuron(spec)
            places.append((first, every))
            counts[spec.layer] = first + every
        return places

    def choosing(self, chosen: np.ndarray, widths: Sequence[int]) -> Self | None:
        """The same model, of whose experts the neurons ``chosen`` int32 [N] are read, of layers of ``widths``; None
        where it has not such layers."""
        parts = np.split(chosen, np.cumsum(widths)[:-1])
        if len(parts) != len(self.specs):
            return None
        specs: list[Spec] = []
        for spec, part, (first, every) in zip(self.specs, parts, self.places(), strict=True):
            fits = first <= int(part[0]) and int(part[-1]) < first + every
            if not fits or (len(part) < every and not has_neurons(spec)):
                return None
            if has_neurons(spec):
                some = len(part) < every
                number = torch.from_numpy(part).long().to(self.device) - first
                spec = spec.keeping(len(part) if some else None, number if some else None)
            specs.append(spec)
        return replace(self, specs=specs)

    def identity(self, like: Mapping[str, Any]) -> dict[str, Any]:
        """All of it, whatever ``like`` says."""
        chosen = {} if self.chosen is None else {CHOSEN: digest_of(self.chosen)}
        return {"model": self.fingerprint, **chosen, "layers": self.layers, "widths": self.widths}


def _positions(body: Any) -> int | None:
    """How many positions ``body`` has embeddings (MPT: biases) for; None where they are computed."""
    if getattr(body.config, "model_type", "") == "mpt":
        return body.config.max_seq_len
    count = getattr(body.config, "max_position_embeddings", None)
    tokens = body.get_input_embeddings()
    tables = (
        m for n, m in body.named_modules() if isinstance(m, nn.Embedding) and m is not tokens and _POSITION.search(n)
    )
    sizes = (table.num_embeddings - getattr(table, "offset", 0) for table in tables)  # OPT's first two are of no token
    return next((size for size in sizes if size == count), None)


def pick_dtype(dtype: str, device: torch.device) -> torch.dtype:
    """What weights are loaded in for --dtype ``dtype``. Raises BadInput where the device or nobody has that."""
    if dtype == FLOAT8:
        refuse_device(device)
        return BESIDE
    if dtype == "auto":
        return torch.float32 if device.type == "cpu" else torch.bfloat16
    if dtype not in DTYPES:
        raise BadInput(f"choose auto, {', '.join([*DTYPES, FLOAT8])}", where=f"--dtype {dtype}")
    return DTYPES[dtype]


def _rope_limit(config: Any) -> int | None:
    # transformers chooses long or short factors for a whole batch, by its longest sample.
    limits = [
        kind.get("original_max_position_embeddings") or config.max_position_embeddings
        for kind in _ropes(config)
        if kind.get("rope_type") in ("longrope", "dynamic")
    ]
    return min(limits, default=None)


def trained_positions(config: Any) -> int | None:
    """Tokens of the longest text that ``config`` says a model was made for; None where it says nothing."""
    most = getattr(config, "max_position_embeddings", None)
    if not isinstance(most, int) or most < 1:
        return None
    for kind in _ropes(config):
        if kind.get("rope_type") in ("linear", "yarn"):  # stretched, which the number may tell of or not
            stretched = (kind.get("original_max_position_embeddings") or most) * (kind.get("factor") or 1)
            most = max(most, int(stretched))
    return most


def _ropes(config: Any) -> list[dict[str, Any]]:
    """The parameters of RoPE: one for all layers, or one for each kind of layer."""
    rope = getattr(config, "rope_parameters", None) or {}
    return [rope, *(value for value in rope.values() if isinstance(value, dict))]


@contextmanager
def without_bars() -> Iterator[None]:
    # transformers' loading bars would bury the one line that a user should read.
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def load_tokenizer(model: str, tokenizer: str | None = None, trust_remote_code: bool = False):
    """The tokenizer of ``model``, or the one at ``tokenizer``. Raises NaitError."""
    from transformers import AutoTokenizer

    named = tokenizer or model
    alone = holds_tokenizer(named) and not (Path(named).expanduser() / "config.json").is_file()
    source, extra = (str(Path(named).expanduser()), {}) if alone else locate(named)
    try:
        with heard() as records, parsed_once(bool(extra)):
            loaded = AutoTokenizer.from_pretrained(source, trust_remote_code=trust_remote_code, **extra)
            if extra:
                mend_tokenizer(named, loaded, str(Path(source, extra["gguf_file"])))
    except Exception as error:  # transformers raises anything from OSError to KeyError here
        raise BadInput(
            f"cannot load a tokenizer from {tokenizer or model} ({first_line(error)})", remedy="pass --tokenizer"
        ) from None
    tell(f"--tokenizer {tokenizer or model}", records, WRONG_TOKENS)
    return loaded


def load_model(
    model: str,
    *,
    tokenizer: str | None = None,
    dtype: str = "auto",
    device: str = "auto",
    layers: Layers = "all",
    experts: str = "neurons",
    trust_remote_code: bool = False,
    check: Callable[[KnownModel], None] = lambda known: None,
    head: bool = False,
    complete: bool = True,
    quiet: bool = True,
) -> LoadedModel:
    """Load ``model`` (folder, .gguf file or Hub id) in evaluation mode on ``device``, with its language-model ``head``
    where that is asked for.

    A LoRA folder is its base model with the adapter beside the weights. ``check`` sees what is known of it before a
    weight is read; of a GGUF file and of remote code nothing is. Not ``complete``: nothing of the body's end is asked
    for, and the layers behind the last chosen one are not read, where they need not be (plain weights of transformers'
    own classes, without an adapter). Not ``quiet``: what takes seconds is said to the person watching. Raises NaitError
    for anything that is missing, unreadable or not a decoder with a known MLP family, and what ``check`` raises.
    """
    target = pick_device(device)
    kind = pick_dtype(dtype, target)
    adapter = adapter_of(model)
    float8 = dtype == FLOAT8
    if float8 and adapter is not None:
        raise BadInput(
            f"an adapter of {adapter.base} beside its weights, which {FLOAT8} does not take",
            where=f"--model {model}",
            remedy="merge the two first, or use --dtype bfloat16",
        )
    source, extra = locate(model if adapter is None else adapter.base)
    entry = CacheEntry.of(model if extra else source, *([] if adapter is None else [adapter.source]))
    if adapter is not None and tokenizer is None:
        tokenizer = adapter.tokenizer
    tokenizer_of = cache(partial(load_tokenizer, model, tokenizer, trust_remote_code))

    def before(decoder: Any, specs: list[Spec]) -> None:
        if float8:
            refuse_config(decoder.config, model)
        check(KnownModel(model, decoder.to(kind), tokenizer_of(), specs, float8=float8))

    find = partial(find_specs, layers=layers, experts=experts)

    def load(leading: bool, why: str = "") -> LoadedModel:
        started = time.perf_counter()
        read, loading = read_model(
            model, source, extra, kind, target, trust_remote_code, find, adapter, before, head, leading
        )
        asked: dict[str, Any] = {"layers": layers, "experts": experts, "head": head, "float8": float8}
        made = tokenizer_of()
        say(f"preparing weights, read in {time.perf_counter() - started:.1f} s", quiet)
        try:
            loaded = prepare(read, made, name=model, loading=loading, entry=entry, **asked)
            if why := why or loading.not_alone:
                warn(f"model {model}: its first layers are not loaded alone ({why}), but all of them")
            return loaded
        except NaitError as error:
            if loading.complete:
                raise
            why = first_line(error, kind=False)
        del read
        # A class whose forward asks for all of its layers, or what is wrong with any.
        return load(leading=False, why=why)

    with without_bars(), parsed_once(bool(extra)):
        return load(leading=not complete and layers != "all")


def apart(model: Any) -> Any:
    """A copy of a model in memory with modules and configuration of its own around the same weights.

    What is patched in the one is not in the other, so each may run in a thread of its own. Raises NaitError for a model
    that cannot be copied, and where weights are not all in memory, on one device.
    """
    refuse_encoder(model)
    refuse_spread(text_decoder(model), type(model).__name__)  # hooks that offload hold weights, which would be copied
    weights = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    try:
        return copy.deepcopy(model, weights)
    except Exception as error:  # whatever somebody hung into a module
        raise BadInput(
            f"its modules cannot be copied ({first_line(error)})", where=f"model {type(model).__name__}"
        ) from None


@stage("proof")
def prepare(
    model: Any,
    tokenizer: Any,
    *,
    layers: Layers = "all",
    experts: str = "neurons",
    name: str = "",
    loading: Loading | None = None,
    entry: CacheEntry | None = None,
    head: bool = False,
    float8: bool = False,
) -> LoadedModel:
    """A ``LoadedModel`` around a transformers model in memory (causal LM or body); it is not changed, unless
    ``float8`` puts the products of a bfloat16 one into FP8.

    The model must be in evaluation mode. ``loading``: how its checkpoint agreed with it; ``entry``: where the hash of
    the checkpoint's weights is kept; ``head``: its language-model head is wanted, too. Raises NaitError for unknown
    families, experts and heads, weights that were not loaded and layers that do not run once a token.
    """
    refuse_encoder(model)
    body = text_decoder(model)
    called = name or type(model).__name__
    refuse_batch_dependent(model.config, f"model {called}")
    if body.training:
        raise BadInput(f"model {called} is in training mode", remedy="call model.eval() first", join=": ")
    specs = find_specs(body, layers, experts)
    if loading is not None:
        loading.check(called, body, specs[-1].layer)
        if head:
            loading.check_head(called)
    refuse_spread(body, called)
    with current(next(body.parameters()).device):  # what a model brings of Triton runs on that
        # Before a forward: a quantiser may pack its weights anew.
        decides, last = decisive(body, specs, entry), specs[-1]
        probe(specs, activation_dtype(body))
        specs, hidden = exercised(body, specs, called)
        if specs[-1] is not last:  # layers that do not run on text are none of the chosen ones, named or not
            decides = decisive(body, specs, entry)
        attention = packed_attention_for(body, hidden)
        if attention is None and not pads_exactly(body, hidden):
            raise BadInput(
                "a sample's activations change with the padding or the other samples of its batch (as in 8-bit layers "
                "that scale a batch at once); it is not supported",
                where=f"model {called}",
            )
        identity, whole, fused = identity_of(decides, specs), None, fused_forwards(body)
        language_head = head_of(model, body, called) if head else None
        if float8:
            refuse_config(model.config, called)
            if loading is None or loading.complete:  # of the weights before they are quantised
                whole = identity_of(decisive(body, (), entry), ())
            to_float8(body, specs, called)
            exercised(body, specs, called)
        return LoadedModel(
            name or getattr(model.config, "_name_or_path", "") or type(model).__name__,
            body,
            tokenizer,
            specs,
            attention,
            identity,
            _rope_limit(body.config),
            loading is None or loading.complete,
            fused,
            entry,
            language_head,
            whole,
            products_of(body),
            lacking_weights=0 if loading is None else len(loading.missing),
            float8=float8,
        )
