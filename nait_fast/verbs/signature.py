"""``signature``: from a target's samples to a reusable signature file."""

import dataclasses
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from nait_fast import compatibility
from nait_fast.codecs.chosen import CHOSEN, CHOSEN_BY, RANDOM
from nait_fast.codecs.codebook import Codebook, check_codebook, load_codebook
from nait_fast.config import METHOD, SignatureBuildOptions, SignatureOptions, split_target
from nait_fast.data.pool import Pool
from nait_fast.data.prefixes import shared_prefixes
from nait_fast.data.row_conventions import RowConventions, make_conventions
from nait_fast.env import keep_freed_memory
from nait_fast.errors import BadInput, Mismatch, NaitError
from nait_fast.extract.body_end import OF_THE_END
from nait_fast.extract.representation import check_kept
from nait_fast.extract.session import (
    Session,
    Terms,
    encode_all,
    encode_rows,
    open_session,
    refuse_in_memory,
    session_around,
)
from nait_fast.extract.sinks import Collect
from nait_fast.index import token_hashes
from nait_fast.methods import method_of
from nait_fast.methods.nait import uncertain_layers
from nait_fast.methods.rds import MODEL
from nait_fast.methods.signature import LENGTHS, SAMPLES, Signature, load_signature
from nait_fast.notices import warn
from nait_fast.outputs.inputs import inputs_of
from nait_fast.outputs.output_folder import Output
from nait_fast.outputs.recognise import State, question
from nait_fast.progress import Progress
from nait_fast.remote.copies import local_folder, named
from nait_fast.reporting import inspected
from nait_fast.storage.files import make_folder
from nait_fast.verbs.inspection import signature_summary

KEPT_BYTES = 64 << 20  # of a target's samples that a signature keeps though no option asks for them


def open_targets(
    targets: tuple[str, ...], format: str, conventions: RowConventions, pool: Pool | None = None, flag: str = "--target"
) -> dict[str, Pool]:
    """Name -> samples; each is scanned, so that a bad file fails before any model is loaded. Raises NaitError.

    Columns are mapped as ``conventions`` say in those targets that have one of them; the others, which is said, are
    read by their own keys. ``pool``: what they are mapped in, too; ``flag``: what named them.
    """
    pools: dict[str, Pool] = {}
    nowhere = {} if pool else dict(conventions.columns)
    for text in targets:
        name, path = split_target(text)
        if name in pools:
            raise BadInput(f"the name '{name}' is there twice", where=f"{flag} {text}", remedy="write NAME=FILE")
        if (other := next((taken for taken in pools if taken.casefold() == name.casefold()), None)) is not None:
            raise BadInput(
                f"the names '{other}' and '{name}' differ in capitals only, which some file systems take for one file",
                where=f"{flag} {text}",
                remedy="write NAME=FILE with another",
            )
        pools[name] = Pool(path, format=format, conventions=conventions)
        absent = pools[name].columns_without_rows()
        nowhere = {key: column for key, column in nowhere.items() if key in absent}
        if absent == conventions.columns and absent:
            pools[name] = Pool(path, format=format, conventions=conventions.unmapped())
            warn(f"{path}: has none of the columns that --columns names, and is read by its own keys")
        elif absent:
            warn(f"{path}: no row has {_listed(absent)}, which --columns names")
        pools[name].warn_of_formats()
        if pools[name].scan().good < 2:
            raise BadInput(
                f"{path} has one sample",
                where=f"{flag} {text}",
                remedy="a target needs at least 2 (64 and more are better)",
            )
    if nowhere:
        raise BadInput(f"no target has {_listed(nowhere)}", where="--columns", remedy="name columns that are there")
    return pools


def _listed(columns: Mapping[str, str]) -> str:
    return ", ".join(f"'{column}'" for column in columns.values())


@dataclasses.dataclass(frozen=True)
class TargetReadings:
    """``values``: reading -> [n, N] fp32 (drift fp64), ``hidden`` and ``rds`` fp32 [n, H], of a target's samples;
    ``meta``: what its signatures say of them; ``lengths`` int32 [n]: their tokens; ``states_of``: the fingerprint of
    the whole model that ``rds`` is of, as it was before it ran."""

    values: dict[str, np.ndarray]
    meta: dict[str, Any]
    lengths: np.ndarray
    states_of: str | None = None


def read_target(session: Session, name: str, target: Pool | Sequence[Any], names: Sequence[str]) -> TargetReadings:
    """The readings ``names`` of the samples of a target (its pool, or its rows in memory), in one pass. Raises
    NaitError."""
    if isinstance(target, Pool):
        info, encoded = encode_all(session.encoder, target)
        digest, where = info.sha256, f"{target.path} row"
    else:
        (digest, encoded), where = encode_rows(session.encoder, target, session.conventions), "sample"
    session.warn_of_positions(target.path if isinstance(target, Pool) else "the samples", encoded)
    collected = Collect(len(encoded), session.layout, names)
    states_of = session.model.whole_fingerprint if "rds" in names else None  # of all layers, whichever are captured
    progress = Progress(len(encoded), f"target {name}", session.quiet, sum(len(e.ids) for e in encoded))
    session.run(encoded, collected, names, shared_prefixes(encoded), progress.add)
    progress.close()
    if not collected.finite.all():
        row = encoded[int(np.flatnonzero(~collected.finite)[0])].row
        raise NaitError(f"--target {name}: {where} {row}: {session.model.overflow}")
    tokens = [len(e.ids) for e in encoded]
    meta: dict[str, Any] = {"sha256": digest, "tokens": sum(tokens), "truncated": sum(e.truncated for e in encoded)}
    meta[token_hashes.NAME] = token_hashes.as_text(token_hashes.hashes_of(e.ids for e in encoded))
    if session.encoder.template.date is not None:
        meta["template_date"] = session.encoder.template.date
    kept = collected.readings | {name: getattr(collected, name) for name in ("hidden", "rds") if name in names}
    readings = {reading: values.numpy() for reading, values in kept.items()}
    return TargetReadings(readings, meta, np.array(tokens, dtype=np.int32), states_of)


def build_signatures(
    session: Session,
    targets: Mapping[str, Pool | Sequence[Any]],
    options: SignatureOptions,
    reading: str,
    codebook: Codebook | None,
    keep_samples: bool | None = False,
) -> list[Signature]:
    """One signature a target (its pool, or its rows in memory), which keeps its samples where that is asked for (None:
    where they take at most ``KEPT_BYTES``). Raises NaitError.

    ``codebook``: for contrast, embed, and for nait with ``sign=contrast``.
    """
    if reading == "hidden":
        assert codebook is not None
        session.embed_layer = codebook.meta["embed_layer"]
    wanted = (method_of(options.chosen_method.name).target_reading(reading),)
    read = {name: read_target(session, name, target, wanted) for name, target in targets.items()}
    return fit_signatures(session, read, options, reading, codebook, keep_samples)


def fit_signatures(
    session: Session,
    targets: Mapping[str, TargetReadings],
    options: SignatureOptions,
    reading: str,
    codebook: Codebook | None,
    keep_samples: bool | None = False,
) -> list[Signature]:
    """As ``build_signatures``, of targets that have been read. Raises NaitError."""
    chosen = options.chosen_method
    method = method_of(chosen.name)
    threshold = None if codebook is None else codebook.threshold
    made = []
    for name, target in targets.items():
        values = target.values[method.target_reading(reading)]
        meta = {**session.identity(), "target": target.meta, "reading": reading}
        if target.states_of is not None and reading == "rds":
            meta[MODEL] = target.states_of
        material = method.material(values, session.layout, threshold, chosen.settings)
        signature = method.fit(name, material, meta, codebook, chosen.settings)
        if keep_samples or SAMPLES in method.tensors or (keep_samples is None and method.sample is not None):
            samples = method.samples_of(material, session.layout, codebook)
            if keep_samples is not None or SAMPLES in method.tensors or samples.nbytes <= KEPT_BYTES:
                kept = {SAMPLES: samples, LENGTHS: target.lengths}
                signature = dataclasses.replace(signature, tensors={**signature.tensors, **kept})
        made.append(signature)
    if session.chosen is not None:
        if codebook is not None and codebook.meta.get(CHOSEN_BY) == RANDOM and any(s.is_direction for s in made):
            warn(
                f"method {chosen.name}: its sums are of a random sample of the experts' neurons, which the codebook is "
                "of, and may rank rows quite otherwise than those of all; an index of --codec components keeps those "
                "that vary most"
            )
        made = [dataclasses.replace(s, tensors={**s.tensors, CHOSEN: session.chosen}) for s in made]
    for signature in made:
        if why := method.says_nothing(signature):
            raise BadInput(
                f"weighs no neuron, for {why}", where=f"--target {signature.name}", remedy="give samples that differ"
            )
    return made


def _check_needed(codebook: Codebook | None, options: SignatureBuildOptions) -> None:
    chosen = options.chosen_method
    method = method_of(chosen.name)
    if why := method.codebook_missing(codebook, options.codebook, chosen.settings):
        raise BadInput(why)
    if options.keep_samples and method.sample is None:
        raise BadInput(
            f"method {chosen.name} compares no rows with samples", where="--keep-samples", remedy="leave it out"
        )
    if isinstance(kept := options.chosen_experts.kept, int):
        where = f"--experts neurons:{kept}"
        raise BadInput("which are kept stands in an index's codebook", where=where, remedy="give --codebook alone")


def check_method(session: Terms, options: SignatureOptions, reading: str) -> None:
    """Raises NaitError where the model does not have what the method needs."""
    chosen = options.chosen_method
    method = method_of(chosen.name)
    session.refuse_readings((method.target_reading(reading),))
    method.check_layout(session.layout, chosen.settings)


def _agree(session: Terms, codebook: Codebook | None, reading: str, options: SignatureBuildOptions) -> None:
    """Read of experts the neurons that ``codebook`` is of. Raises NaitError where it is of another session, or the
    model lacks what the method needs."""
    check_method(session, options, reading)
    check_kept(session, codebook)
    if codebook is not None:
        session.choose(codebook.chosen, codebook.meta["widths"])
        more = method_of(options.chosen_method.name).codebook_keys
        here = {**session.identity(codebook.meta), "reading": reading}
        check_codebook(codebook, here, f"--codebook {options.codebook}", "use the options of the index", more)


def _as_indexed(options: SignatureBuildOptions, codebook: Codebook | None) -> SignatureBuildOptions:
    """``options`` with what ``codebook`` was made with, where they ask for nothing else: another would be refused."""
    if codebook is None or compatibility.is_old(codebook.meta):
        return options
    made_with = compatibility.options_of(codebook.meta)
    if "depth" in options.given:
        made_with.pop("layers")
    return dataclasses.replace(options, **{k: v for k, v in made_with.items() if k not in options.given})


def _of_the_end(options: SignatureOptions, reading: str) -> bool:
    """Whether the method reads the body's last hidden states."""
    return method_of(options.chosen_method.name).target_reading(reading) in OF_THE_END


def from_memory(
    model: Any, samples: Sequence[Any], tokenizer: Any, name: str, options: SignatureBuildOptions
) -> Signature:
    """The signature of samples in memory, by a model that may be, too. Raises NaitError."""
    split_target(f"{name}=memory")  # the name must do for a file
    if len(samples) < 2:
        raise BadInput(f"{len(samples)} samples: a target needs at least 2 (64 and more are better)")
    if options.format != "auto":
        raise BadInput(
            "samples in memory show their own format", where=f"format={options.format}", remedy="leave it out"
        )
    settings = {"dtype": options.dtype, "device": options.device, "trust_remote_code": options.trust_remote_code}
    refuse_in_memory(model, "signature_of", **settings)
    reading = method_of(options.chosen_method.name).reading(options.reading)
    codebook = load_codebook(options.codebook) if options.codebook else None
    _check_needed(codebook, options)
    options = dataclasses.replace(_as_indexed(options, codebook), dtype=options.dtype)  # the model is there
    agree = partial(_agree, codebook=codebook, reading=reading, options=options)
    session = session_around(
        model,
        tokenizer,
        options,
        options.first_token,
        options,
        "signature_of",
        agree,
        tokens=options.tokens,
        complete=_of_the_end(options, reading),
    )
    agree(session)
    return build_signatures(session, {name: samples}, options, reading, codebook, options.keep_samples)[0]


def run(options: SignatureBuildOptions, quiet: bool = False) -> dict[str, Any]:
    """Build and save one signature a target; returns a summary."""
    reading = method_of(options.chosen_method.name).reading(options.reading)
    folder = make_folder(local_folder(options.output))
    targets = open_targets(
        options.target, options.format, make_conventions(options.roles, options.ignore, options.columns)
    )
    codebook = load_codebook(options.codebook) if options.codebook else None
    _check_needed(codebook, options)
    more = [
        options.dtype,
        *([] if codebook is None else [codebook.hash]),
        *["no samples"] * (options.keep_samples is False),
    ]
    with signature_output(folder, targets, options, reading, inputs_of(options), more) as output:
        asked, options = options, _as_indexed(options, codebook)  # its hash is part of the question
        agree = partial(_agree, codebook=codebook, reading=reading, options=options)
        complete = _of_the_end(options, reading)
        try:
            session = open_session(
                options, options, options.first_token, quiet, agree, tokens=options.tokens, complete=complete
            )
        except BadInput as error:
            if options.layers != asked.layers and error.where.startswith("--layers"):  # nobody has named any
                remedy = "give the model that it was made with"
                raise Mismatch(error.what, where=f"--codebook {options.codebook}", remedy=remedy) from None
            raise
        keep_freed_memory(session.model.device)
        agree(session)
        signatures = build_signatures(session, targets, options, reading, codebook, options.keep_samples)
        files = output.save(signatures)
    made = list(zip(signatures, files, strict=True))
    shown = [signature_summary(s, named(file)) for s, file in made]
    alone = shown[0]["path"] if len(shown) == 1 else options.output
    text = inspected.of_signatures(shown, alone, options.codebook)
    return {"signatures": [describe(s, f) for s, f in made], "text": text}


_ASKED = ("first_token", "template", "template_date", "max_length", "layers", "model", "tokenizer")


def questions(
    targets: Mapping[str, Pool], options: SignatureOptions, reading: str, more: Sequence[str] = ()
) -> dict[str, str]:
    """File of each target's signature -> what it answers; ``more``: what else decides its numbers."""
    asked = [str(getattr(options, name, None)) for name in _ASKED]
    if (depth := getattr(options, "depth", "all")) != "all":
        asked.append(f"depth={depth}")
    if (experts := getattr(options, "experts", "neurons")) != "neurons":
        asked.append(experts)
    if (tokens := getattr(options, "tokens", "all")) != "all":
        asked.append(f"tokens={tokens}")
    parts = [reading, options.chosen_method.name, *_settings_asked(options), *asked, *more]
    return {
        f"{name}.safetensors": question([*parts, pool.conventions.described(), pool.scan().sha256])
        for name, pool in targets.items()
    }


def _settings_asked(options: SignatureOptions) -> list[str]:
    """The settings of the method. Those that were options of their own come first, as the digests in older folders have
    them: of every method, at its default where the chosen one has no such setting."""
    settings = vars(options.chosen_method.settings)
    old = [f.metadata["setting"][1] for f in dataclasses.fields(SignatureOptions) if "setting" in f.metadata]
    values = [str(settings.get(name, METHOD.default_of(name))) for name in old]
    return values + [f"{name}={value}" for name, value in settings.items() if name not in old]


def signature_output(
    folder: Path,
    targets: Mapping[str, Pool],
    options: Any,
    reading: str,
    inputs: list[tuple[str, str]],
    more: Sequence[str] = (),
) -> "SignatureOutput":
    """The folder of signatures of ``targets``; with ``with``, checked for what is in their way."""
    asked, method = questions(targets, options, reading, more), options.chosen_method.name

    def recognise(path: Path) -> tuple[State, str | None]:
        """A signature that no claim tells of is taken for one of the same question by what it says of itself."""
        try:
            meta = load_signature(path).meta
        except NaitError:
            return State.FOREIGN, None
        made, target = meta.get("target") or {}, targets[path.name.removesuffix(".safetensors")]
        same = (meta["method"], meta["reading"], made.get("sha256")) == (method, reading, target.scan().sha256)
        return (State.WHOLE if same else State.OURS), None

    return SignatureOutput(folder, asked, recognise=recognise, inputs=inputs, overwrite=options.overwrite)


class SignatureOutput(Output):
    """An output folder of signatures: each has a question of its own."""

    def __init__(self, folder: Path, asked: Mapping[str, str], **how: Any):
        super().__init__(folder, asked, **how)
        self._asked = asked

    def __enter__(self) -> "SignatureOutput":
        super().__enter__()
        try:
            for name, of in self._asked.items():
                self.check_question(of, "another target's data or other options", [name])
        except BaseException:
            self._leave()
            raise
        return self

    def save(self, signatures: Sequence[Signature]) -> list[Path]:
        """Write the signatures' files."""
        stage = self.begin()
        names = [signature.save(stage).name for signature in signatures]
        self.done(self._asked)
        return [self.folder / name for name in names]


def describe(signature: Signature, file: str | Path) -> dict[str, Any]:
    """A signature in a few numbers."""
    out = {
        "name": signature.name,
        "file": named(Path(file)),
        "hash": signature.hash,
        "method": signature.method,
        "reading": signature.meta["reading"],
        "samples": signature.meta["samples"],
    }
    if "sign_margin" in signature.meta:
        out["explained"] = round(float(np.mean(signature.meta["explained"])), 4)
        out["layers_with_uncertain_sign"] = uncertain_layers(signature.meta["sign_margin"])
    return out
