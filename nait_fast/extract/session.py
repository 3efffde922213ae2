"""A loaded model with its encoder: what every verb that runs a model starts from."""

import copy
import json
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeAlias

import numpy as np

from nait_fast.codecs.chosen import CHOSEN
from nait_fast.codecs.layout import CodeLayout
from nait_fast.config import DataOptions, Experts, ModelOptions
from nait_fast.data.encode import encode, parsed
from nait_fast.data.formats import RowError, parse_any
from nait_fast.data.pool import Pool, PoolInfo
from nait_fast.data.row_conventions import RowConventions, make_conventions
from nait_fast.data.template import Template
from nait_fast.data.tokenize import Encoded, Encoder, Refused
from nait_fast.data.unread import as_argument, counted, warn_unread
from nait_fast.errors import BadInput
from nait_fast.extract.body_end import OF_THE_END
from nait_fast.extract.engine import Engine
from nait_fast.extract.pooling import statistics_for
from nait_fast.extract.sinks import Sink
from nait_fast.models.experts import refuse_statistics
from nait_fast.models.known import KnownModel
from nait_fast.models.load import LoadedModel, apart, load_model, prepare
from nait_fast.notices import hushed, warn
from nait_fast.progress import say
from nait_fast.storage.files import sha256

NEURONS = Experts("neurons")
OnBatch = Callable[[int, int], None]  # (samples, tokens) of a batch that is done


@dataclass
class Terms:
    """What an index or a signature must agree with, as far as it is known before the weights are read.

    ``model`` and ``encoder`` fit each other. ``experts``: what has been asked for of theirs. ``embed_layer``: the layer
    whose hidden state the reading ``hidden`` is.
    """

    model: KnownModel
    encoder: Encoder
    first_token: str = "exclude"
    experts: Experts = field(default=NEURONS, kw_only=True)
    embed_layer: int | None = field(default=None, kw_only=True)

    @property
    def tokens(self) -> str:
        """Which tokens of a sample readings run over: of TOKENS."""
        return self.encoder.tokens

    @property
    def layout(self) -> CodeLayout:
        return CodeLayout.of(self.model.widths)

    @property
    def hidden_width(self) -> int:
        """Numbers in a hidden state."""
        return self.model.specs[0].hidden_width

    def identity(self, like: Mapping[str, Any] = MappingProxyType({})) -> dict[str, Any]:
        """What a signature, a codebook or an index must share with this session to fit it. What is not known yet is
        taken to be as ``like``, such an identity, says."""
        known = self.model.identity(like)
        return {
            "model": known["model"],
            "dtype": self.model.dtype_class,
            "template": self.encoder.template.hash,
            "max_length": self.encoder.max_length,
            "first_token": self.first_token,
            **({} if self.tokens == "all" else {"reading_tokens": self.tokens}),
            **({} if self.model.experts == "neurons" else {"experts": self.model.experts}),
            **({CHOSEN: known[CHOSEN]} if CHOSEN in known else {}),
            "layers": known["layers"],
            "widths": known["widths"],
        }

    @property
    def must_choose(self) -> bool:
        """Whether which neurons of experts are kept is still to be decided (by ``choose``)."""
        return self.model.must_choose

    def refuse_readings(self, readings: Iterable[str]) -> None:
        """Raise NaitError for ``readings`` that the model does not have."""
        readings = tuple(readings)
        refuse_statistics(self.model.specs, statistics_for(readings))
        if self.model.lacking_weights and (of_the_end := [name for name in OF_THE_END if name in readings]):
            raise BadInput(
                f"the checkpoint lacks {self.model.lacking_weights} weights behind the chosen layers, and "
                f"{of_the_end[0]} is what comes out of all layers",
                where=f"model {self.model.name}",
                remedy="fetch or save the checkpoint anew, whole",
            )

    def keep(self, kept: int) -> None:
        """Of each layer's experts so many neurons are to be kept (all of those that have fewer)."""
        self.model = self.model.keeping(kept)

    def choose(self, chosen: np.ndarray | None, widths: Sequence[int]) -> None:
        """Keep the experts' neurons ``chosen`` int32 [N] of layers of ``widths``, those of a codebook or signature.

        Where it has none, or another model's, nothing changes: that shows in ``identity``. Nor does it before the
        model is there, as its forward alone tells the order in which they are counted.
        """


@dataclass
class Session(Terms):
    """Terms of a model that is loaded. ``batch_tokens``: how many run at once, None for the device's default;
    ``quiet`` silences progress.

    ``run_tokens``: tokens that went through the model, ``padded_tokens``: with the padding between them.
    ``conventions``: what the user has said of rows in memory. ``lent``: the weights are the caller's, who may change
    them between two runs.
    """

    model: LoadedModel
    batch_tokens: int | None = None
    quiet: bool = False
    conventions: RowConventions = field(default_factory=RowConventions)
    run_tokens: int = 0
    padded_tokens: int = 0
    lent: bool = field(default=False, kw_only=True)
    _fitting: int | None = field(default=None, repr=False)  # tokens a batch that memory has room for
    _engine: Engine | None = field(default=None, init=False, repr=False)  # of the last run

    @property
    def padding(self) -> float:
        """Share of padding in what went through the model."""
        return 1 - self.run_tokens / self.padded_tokens if self.padded_tokens else 0.0

    @property
    def positions(self) -> int | None:
        """As the model's ``trained_positions``; None also where no sample can be longer."""
        most = self.model.trained_positions
        return most if most is not None and most < self.encoder.max_length else None

    def warn_of_positions(self, where: str, encoded: Sequence[Encoded]) -> bool:
        """Say how many of ``encoded`` are longer than what the model was made for; returns whether any is."""
        longer = 0 if self.positions is None else sum(len(e.ids) > self.positions for e in encoded)
        if self.positions is not None and longer:
            warn_longer(where, longer, self.positions)
        return longer > 0

    @property
    def chosen(self) -> np.ndarray | None:
        """int32 [N]: each neuron's number in its layer, where experts' neurons have been chosen."""
        return self.model.chosen

    def choose(self, chosen: np.ndarray | None, widths: Sequence[int]) -> None:
        if chosen is not None:
            self.model = self.model.choosing(chosen, widths) or self.model

    def of_all_neurons(self) -> "Session":
        """This session, but that all neurons of experts are read."""
        return replace(self, model=self.model.keeping(None))

    def run(
        self,
        encoded: Sequence[Encoded],
        sink: Sink,
        readings: Sequence[str],
        prefixes: Sequence[np.ndarray] = (),
        on_batch: OnBatch | None = None,
    ) -> None:
        """Capture ``readings`` of ``encoded`` into ``sink``, each of ``prefixes`` run once a session while it is given
        (``data/prefixes.py``), of weights that are ``lent`` once a run; ``on_batch(samples, tokens)`` after each
        batch."""
        engine = self._engine_for(readings)
        run, padded = engine.run_tokens, engine.padded_tokens
        engine.run(encoded, sink, prefixes=prefixes, on_batch=on_batch)
        self._fitting = engine.batch_tokens
        self.run_tokens += engine.run_tokens - run
        self.padded_tokens += engine.padded_tokens - padded

    def _engine_for(self, readings: Sequence[str]) -> Engine:
        """The engine of the last run, where it reads the same of the same weights; else a new one."""
        hidden_at = None if self.embed_layer is None else self.model.layers.index(self.embed_layer)
        known = self._engine
        if (
            known is None
            or self.lent
            or known.model is not self.model
            or (known.readings, known.hidden_at) != (tuple(readings), hidden_at)
        ):
            known = self._engine = Engine(
                self.model,
                readings,
                first_token=self.first_token,
                tokens=self.tokens,
                batch_tokens=self._fitting or self.batch_tokens,
                quiet=self.quiet,
                hidden_at=hidden_at,
                front=self.encoder.front if "ifd" in readings else (),
            )
        return known


def warn_longer(where: str, samples: int, positions: int) -> None:
    many = "1 sample is" if samples == 1 else f"{samples:,} samples are"
    warn(
        f"{where}: {many} longer than the {positions:,} positions the model was trained on (max_position_embeddings); "
        f"--max-length {positions}, of index and signatures alike, cuts what is beyond"
    )


Check: TypeAlias = Callable[[Terms], object]


def open_session(
    model: ModelOptions,
    data: DataOptions,
    first_token: str = "exclude",
    quiet: bool = False,
    check: Check = lambda terms: None,
    *,
    tokens: str = "all",
    nll: str = "none",
    complete: bool = True,
) -> Session:
    """Load the model and make its encoder. ``check`` raises NaitError, before a weight is read, where what is to be
    done cannot be done by what is known then; it may change the terms that it is given. ``tokens``, ``nll``: as of
    the Encoder; losses need the model's head. Not ``complete``: no reading is of the body's end, and the layers behind
    the chosen ones need not be loaded. Raises NaitError."""
    experts, template = model.chosen_experts, None

    def before(known: KnownModel) -> None:
        nonlocal template
        template = Template(data.template, known.tokenizer, data.template_date)
        encoder = Encoder(known.tokenizer, template, data.max_length, known.vocabulary, tokens=tokens, nll=nll)
        with hushed():  # said once the model is there
            check(Terms(known, encoder, first_token, experts=experts))

    here, started = Path(model.model).expanduser().exists(), time.perf_counter()
    say(f"loading {model.model}{'' if here else ', which is not here, from the Hugging Face Hub'}", quiet)
    loaded = load_model(
        model.model,
        tokenizer=model.tokenizer,
        dtype=model.dtype,
        device=model.device,
        layers=model.chosen_layers,
        experts=experts.reads,
        trust_remote_code=model.trust_remote_code,
        check=before,
        head=nll != "none",
        complete=complete,
        quiet=quiet,
    )
    say(f"ready after {time.perf_counter() - started:.1f} s", quiet)
    loaded.products.tell(loaded.precision, quiet)
    return _session(loaded, data, first_token, model, quiet, template, tokens=tokens, nll=nll)


def refuse_in_memory(model: Any, caller: str, **asked: Any) -> None:
    """Raises NaitError for what is ``asked`` of how a model is loaded, where it is in memory already."""
    if isinstance(model, (str, os.PathLike)):
        return
    if ignored := next((name for name, value in asked.items() if value not in ("auto", False)), None):
        raise BadInput(
            f"{ignored}={asked[ignored]!r}: a model in memory stays as it is", where=caller, remedy="leave it out"
        )


def session_around(
    model: Any,
    tokenizer: Any,
    data: DataOptions,
    first_token: str,
    options: ModelOptions,
    caller: str,
    check: Check = lambda terms: None,
    *,
    tokens: str = "all",
    complete: bool = True,
) -> Session:
    """A session for samples in memory. Raises NaitError.

    ``model``: a name, loaded as ``options`` and ``check`` say, or a transformers model: its weights are shared, its
    modules left alone; ``caller``: what messages call whoever asks; ``complete``: as of ``open_session``.
    """
    make_conventions(data.roles, data.ignore, data.columns)  # before the model is loaded
    if isinstance(model, (str, os.PathLike)):
        if not (tokenizer is None or isinstance(tokenizer, (str, os.PathLike))):
            raise BadInput(
                "a model that is named is loaded with a tokenizer that is named, too, or its own", where=caller
            )
        tokenizer = None if tokenizer is None else os.fspath(tokenizer)
        named = replace(options, model=os.fspath(model), tokenizer=tokenizer)
        return open_session(named, data, first_token, quiet=True, check=check, tokens=tokens, complete=complete)
    if tokenizer is None:
        raise BadInput(f"a model in memory needs its tokenizer: {caller}(model, …, tokenizer=…)", where=caller)
    reads = options.chosen_experts.reads
    loaded = prepare(apart(model), copy.deepcopy(tokenizer), layers=options.chosen_layers, experts=reads)
    session = _session(loaded, data, first_token, options, quiet=True, tokens=tokens)
    session.lent = True
    return session


def _session(
    loaded: LoadedModel,
    data: DataOptions,
    first_token: str,
    options: ModelOptions,
    quiet: bool,
    template: Template | None = None,
    *,
    tokens: str,
    nll: str = "none",
) -> Session:
    template = template or Template(data.template, loaded.tokenizer, data.template_date)
    encoder = Encoder(loaded.tokenizer, template, data.max_length, loaded.vocabulary, tokens=tokens, nll=nll)
    conventions = make_conventions(data.roles, data.ignore, data.columns)
    return Session(
        loaded,
        encoder,
        first_token,
        options.batch_tokens,
        quiet,
        experts=options.chosen_experts,
        conventions=conventions,
    )


def encode_rows(encoder: Encoder, rows: Sequence[Any], conventions: RowConventions) -> tuple[str, list[Encoded]]:
    """(SHA-256 of ``rows`` as JSON lines, each of them encoded). Raises NaitError for one that cannot be used."""

    def bad(number: int, _: Any, error: RowError) -> None:
        raise BadInput(str(error), where=f"sample {number}") from None

    def refuse(refused: Refused) -> None:
        raise BadInput(refused.reason, where=f"sample {refused.row}")

    samples = parsed(enumerate(rows), lambda row, number: parse_any(row, number, conventions), bad)
    encoded = list(encode(encoder, samples, refuse))
    for name, column in conventions.columns.items():
        if not any(column in row for row in rows):
            raise BadInput(f"no sample has the column '{column}'", where=f"columns: {name}={column}")
    lines = "".join(json.dumps(dict(row), ensure_ascii=False, default=str) + "\n" for row in rows)
    warn_unread("the samples", *_counts(encoded), conventions.ignore, as_argument)
    return sha256(lines.encode(errors="backslashreplace")), encoded


def encode_all(encoder: Encoder, pool: Pool) -> tuple[PoolInfo, list[Encoded]]:
    """Every sample of a small pool (a target), encoded. A sample that the template refuses is an error."""
    info = pool.scan()

    def refuse(refused: Refused) -> None:
        raise BadInput(refused.reason, where=f"{pool.path} row {refused.row}", remedy="fix the row or leave it out")

    encoded = list(encode(encoder, pool.samples(), refuse))
    for reason, rows in Counter(skipped.reason for skipped in info.skipped).items():
        warn(f"{pool.path}: {rows:,} rows are left out: {reason}")
    warn_unread(pool.path, *_counts(encoded), pool.conventions.ignore)
    return info, encoded


def _counts(encoded: Sequence[Encoded]) -> tuple[dict[str, int], dict[str, int]]:
    """(what was not read, what was not shown) of ``encoded``, by key."""
    return counted(e.unread for e in encoded), counted(e.unshown for e in encoded)
