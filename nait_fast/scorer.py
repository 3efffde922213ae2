"""``Scorer``: signatures on samples in memory, for tools that embed the engine."""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from nait_fast.codecs.chosen import CHOSEN
from nait_fast.compatibility import OLD, difference, dtype_option, is_old, name_of, value_of
from nait_fast.config import DataOptions, ModelOptions
from nait_fast.data.encode import encode, parsed
from nait_fast.data.formats import RowError, parse_any
from nait_fast.data.prefixes import shared_prefixes
from nait_fast.data.tokenize import Encoded
from nait_fast.data.unread import as_argument, counted, warn_unread
from nait_fast.env import check_variables
from nait_fast.errors import BadInput, Mismatch, NaitError
from nait_fast.extract.session import Terms, refuse_in_memory, session_around
from nait_fast.extract.sinks import Tee
from nait_fast.methods import method_of
from nait_fast.methods.rds import MODEL
from nait_fast.methods.signature import Signature, check_fits, check_names, load_signatures
from nait_fast.models import fork_safety


class Scorer:
    """Scores samples with signatures; no I/O after construction, no global state.

    Threads may share a Scorer; they take turns, as one batch fills the device.

    Args:
        model: A folder, GGUF file or Hub id, or a transformers model in evaluation mode, whose weights are then shared
            and whose modules are left alone.
        signatures: One or several files or `Signature` objects, made with the same model, template and options.
        tokenizer: The model's own, for a model in memory.
        template: `auto`, `chat`, `alpaca` or `none`, as the command's option.
        template_date: The day for a chat template that asks; the signatures' unless told.
        max_length: Tokens a sample, the rest is cut off; the signatures' unless told.
        dtype: `auto` (the signatures'), `float32`, `bfloat16`, `float16` or `float8`; a model in memory stays as it is.
        device: `auto`, `cpu`, `cuda`, `cuda:1`; a model in memory stays where it is.
        layers: Layers to capture; the signatures' unless told.
        depth: The same as a share of them, instead of `layers`.
        batch_tokens: Tokens a batch.
        columns: As the command's option `--columns`; also a dict.
        roles: As the command's option `--roles`; also a dict.
        role: The old name of `roles`.
        ignore: As the command's option `--ignore`.

    Raises:
        BadInput: No signatures, an option that cannot be used, or a model that is not supported.
        Mismatch: The signatures differ among themselves, or from the model.

    Examples:
        >>> scorer = nait_fast.Scorer(MODEL, "signatures/sums.safetensors")
        >>> scorer.names
        ['sums']
        >>> scorer.score([{"instruction": "add seven and ten", "output": "seven plus ten"}]).shape
        (1, 1)
    """

    def __init__(
        self,
        model: Any,
        signatures: Sequence[Any],
        *,
        tokenizer: Any = None,
        template: str = "auto",
        template_date: str | None = None,
        max_length: int | None = None,
        dtype: str = "auto",
        device: str = "auto",
        layers: str | None = None,
        depth: str | None = None,
        batch_tokens: int | None = None,
        columns: Sequence[str] | Mapping[str, str] = (),
        roles: Sequence[str] | Mapping[str, str] = (),
        role: Sequence[str] = (),
        ignore: Sequence[str] = (),
    ):
        check_variables()
        several = [signatures] if isinstance(signatures, (Signature, str, os.PathLike)) else signatures
        self.signatures = load_signatures(several)
        if not self.signatures:
            raise BadInput("no signatures given", where="Scorer")
        refuse_in_memory(model, "Scorer", dtype=dtype, device=device)
        meta = self.signatures[0].meta
        for signature in self.signatures:
            if is_old(signature.meta):
                raise Mismatch(f"signature '{signature.name}' was made {OLD}: rebuild it", where="Scorer")
            if (key := difference(signature.meta, meta)) is not None:
                raise Mismatch(f"the signatures differ in {name_of(key)}", where="Scorer", remedy="use two Scorers")
        check_names(self.signatures, "Scorer")
        if dtype == "auto" and isinstance(model, (str, os.PathLike)):  # one in memory stays as it is
            dtype = dtype_option(meta["dtype"])
        date = template_date or meta.get("target", {}).get("template_date")
        limit = meta["max_length"] if max_length is None else max_length
        of_rows = {"columns": columns, "roles": roles, "role": role, "ignore": ignore}
        data = DataOptions.from_mapping(
            {"template": template, "max_length": limit, "template_date": date, **of_rows}, "Scorer"
        )
        if layers is None and depth is None:
            layers = ",".join(map(str, meta["layers"]))
        loading = {
            "model": "in memory",
            "dtype": dtype,
            "device": device,
            **{name: value for name, value in (("layers", layers), ("depth", depth)) if value is not None},
            "experts": meta.get("experts", "neurons"),
            "batch_tokens": batch_tokens,
        }
        self._readings = sorted({s.meta["reading"] for s in self.signatures})
        options = ModelOptions.from_mapping(loading, "Scorer")
        of_states = any(MODEL in signature.meta for signature in self.signatures)
        first_token, tokens = meta["first_token"], value_of(meta, "reading_tokens")
        self._session = session_around(
            model, tokenizer, data, first_token, options, "Scorer", self._agree, tokens=tokens, complete=of_states
        )
        self._agree(self._session)
        for signature in self.signatures:
            if MODEL in signature.meta and signature.meta[MODEL] != self._session.model.whole_fingerprint:
                raise Mismatch(f"signature '{signature.name}' was made with another model than this Scorer")
        embedded = {s.meta["embed_layer"] for s in self.signatures if s.meta["reading"] == "hidden"}
        if len(embedded) > 1:
            raise Mismatch("the signatures embed by different layers", where="Scorer", remedy="use two Scorers")
        self._session.embed_layer = next(iter(embedded), None)
        self._warned_keys: set[str] = {*data.ignore}
        self._warned_of_positions = False
        self._turn, self._process = fork_safety.ForkSafeLock(), os.getpid()

    def _agree(self, session: Terms) -> None:
        """Read of experts the neurons that the signatures are of. Raises NaitError where they do not fit."""
        first = self.signatures[0]
        session.choose(first.tensors.get(CHOSEN), first.meta["widths"])
        for signature in self.signatures:
            check_fits(signature, session.identity(signature.meta), None, "this Scorer")
        session.refuse_readings(self._readings)

    @property
    def names(self) -> list[str]:
        """Names of the columns of ``score``."""
        return [signature.name for signature in self.signatures]

    def score(self, samples: Sequence[Mapping[str, Any]]) -> np.ndarray:
        """Scores of samples.

        Args:
            samples: Rows of any pool format (messages, Alpaca, text, input_ids …).

        Returns:
            float64 [n, C]: a row for each sample, a column for each of `names`.

        Raises:
            BadInput: A sample cannot be scored; the message names the first.

        Examples:
            >>> samples = [{"instruction": "add seven", "output": "ten"}, {"text": "a poem about the sun"}]
            >>> scorer = nait_fast.Scorer(MODEL, "signatures/sums.safetensors")
            >>> scorer.score(samples).dtype
            dtype('float64')
        """
        with self._taken_turn():
            encoded, problems = self._encode(samples)
            _refuse(problems)
            scores, problems = self._run(len(samples), encoded)
        _refuse(problems)
        return scores

    def try_score(self, samples: Sequence[Mapping[str, Any]]) -> tuple[np.ndarray, dict[int, str]]:
        """Scores of those samples that can be scored.

        Args:
            samples: Rows of any pool format.

        Returns:
            (scores float64 [n, C], what is wrong with samples that cannot be scored, by number); their scores are NaN.

        Examples:
            >>> scorer = nait_fast.Scorer(MODEL, "signatures/sums.safetensors")
            >>> scores, problems = scorer.try_score([{"instruction": "no answer", "output": " "}])
            >>> problems
            {0: 'empty response'}
        """
        with self._taken_turn():
            encoded, problems = self._encode(samples)
            scores, more = self._run(len(samples), encoded)
        return scores, problems | more

    @contextmanager
    def _taken_turn(self) -> Iterator[None]:
        """Raises NaitError where the model cannot run in this process."""
        device = self._session.model.device
        if os.getpid() != self._process and device.type != "cpu":
            raise NaitError(
                f"this process was forked from the one that made it, and cannot use the model on {device}",
                where="Scorer",
                remedy="start processes with the method 'spawn', or make a Scorer in each",
            )
        with self._turn():
            yield

    def _encode(self, samples: Sequence[Mapping[str, Any]]) -> tuple[list[Encoded], dict[int, str]]:
        """(the samples that can be run, what is wrong with the others)."""
        problems: dict[int, str] = {}

        def bad(number: int, _: Any, error: RowError) -> None:
            problems[number] = str(error)

        conventions = self._session.conventions
        good = parsed(enumerate(samples), lambda row, number: parse_any(row, number, conventions), bad)
        encoded = list(encode(self._session.encoder, good, lambda r: problems.update({r.row: r.reason})))
        self._warn_once(counted(e.unread for e in encoded), counted(e.unshown for e in encoded))
        self._warned_of_positions = self._warned_of_positions or self._session.warn_of_positions("Scorer", encoded)
        return encoded, problems

    def _warn_once(self, *counts: Mapping[str, int]) -> None:
        """Say of each key once, whatever is scored after, that samples hold it to no effect."""
        unread, unshown = ({k: n for k, n in one.items() if k not in self._warned_keys} for one in counts)
        self._warned_keys |= unread.keys() | unshown.keys()
        warn_unread("Scorer", unread, unshown, (), as_argument)

    def _run(self, n: int, encoded: list[Encoded]) -> tuple[np.ndarray, dict[int, str]]:
        """(scores [n, C] of ``encoded`` out of ``n`` samples, NaN where there is none; what went wrong)."""
        device = self._session.model.device
        sinks = [method_of(signature.method).sink(signature, len(encoded), device) for signature in self.signatures]
        self._session.run(encoded, Tee(sinks), self._readings, shared_prefixes(encoded))
        out = np.full((n, len(sinks)), np.nan)
        rows = [e.row for e in encoded]
        for c, (signature, sink) in enumerate(zip(self.signatures, sinks, strict=True)):
            out[rows, c] = method_of(signature.method).scores(signature, sink)
        infinite = [row for i, row in enumerate(rows) if not all(sink.finite[i] for sink in sinks)]
        out[infinite] = np.nan
        return out, dict.fromkeys(infinite, self._session.model.not_finite)


def _refuse(problems: dict[int, str]) -> None:
    if problems:
        first = min(problems)
        raise BadInput(problems[first], where=f"sample {first}")
