"""What ``evaluate`` needs the model for: exact scores of some rows, and a target's readings."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from nait_fast.codecs.chosen import CHOSEN
from nait_fast.compatibility import OLD, difference, dtype_option, is_old, name_of, value_of
from nait_fast.config import DataOptions, EvaluateOptions, ModelOptions, RunOptions
from nait_fast.data.encode import encode
from nait_fast.data.formats import parse
from nait_fast.data.pool import Pool, decode
from nait_fast.data.prefixes import shared_prefixes
from nait_fast.data.row_conventions import conventions_of
from nait_fast.data.tokenize import Encoded
from nait_fast.errors import Mismatch, NaitError
from nait_fast.evaluation.rankings import IndexScores
from nait_fast.extract.projection import Project
from nait_fast.extract.session import Session, Terms, encode_all, open_session
from nait_fast.extract.sinks import Collect
from nait_fast.index.pool_rows import PoolRows, datasets_of
from nait_fast.index.reader import Index
from nait_fast.methods import method_of
from nait_fast.methods.rds import MODEL
from nait_fast.methods.signature import Signature
from nait_fast.progress import Progress
from nait_fast.storage.values import short


def open_for(index: Index, options: EvaluateOptions, quiet: bool) -> Session:
    """The model that ``index`` was made with, under its layers, template and length. Raises NaitError for another."""
    manifest = index.manifest
    if is_old(manifest):
        raise Mismatch(
            f"index {index.name} was made {OLD}: whether this is its model is not known",
            where=f"--model {options.model}",
            remedy="index the pool again, or leave --model out",
        )
    shared = {field.name: getattr(options, field.name) for field in dataclasses.fields(RunOptions)}
    if shared["dtype"] == "auto" and "dtype" in manifest:
        shared["dtype"] = dtype_option(manifest["dtype"])
    layers, experts = ",".join(map(str, manifest["layers"])), manifest.get("experts", "neurons")
    model = ModelOptions(model=options.model or "", layers=layers, experts=experts, **shared)
    data = DataOptions(
        template=manifest["template_kind"],
        template_date=manifest.get("template_date"),
        max_length=manifest["max_length"],
    )

    def agree(session: Terms) -> None:
        session.embed_layer = manifest.get("embed_layer")
        if CHOSEN in manifest:
            session.choose(index.codebook.chosen, manifest["widths"])
        here = session.identity(manifest)
        if key := difference(manifest, here):
            theirs, mine = short(value_of(manifest, key)), short(value_of(here, key))
            raise Mismatch(
                f"index {index.name} was made with another {name_of(key)} ({theirs}, here {mine})",
                where=f"--model {options.model}",
                remedy="name the model of the index",
            )

    tokens = value_of(manifest, "reading_tokens")
    has_states = manifest.get(MODEL) is not None
    session = open_session(model, data, manifest["first_token"], quiet, agree, tokens=tokens, complete=has_states)
    agree(session)
    if has_states and manifest[MODEL] != session.model.whole_fingerprint:
        raise Mismatch(
            f"the last hidden states of index {index.name} are another model's",
            where=f"--model {options.model}",
            remedy="name the model of the index",
        )
    return session


def layer_scores(
    session: Session,
    index: Index,
    pool: PoolRows,
    scores: IndexScores,
    places: np.ndarray,
    signatures: Sequence[Signature],
) -> list[np.ndarray]:
    """Exact parts of the NAIT score by layer, float64 [m, L], of the rows at ``places`` int64 [m], for each of the nait
    ``signatures``. Raises NaitError where a row is not what the index has of it."""
    rows = scores.row[places]
    lines = zip(pool.lines(rows), datasets_of(index, rows), strict=True)
    samples = (
        parse(decode(line), dataset["format"], i, conventions_of(dataset)) for i, (line, dataset) in enumerate(lines)
    )
    encoded = list(encode(session.encoder, samples, lambda refused: None))  # what is missing shows below
    lengths = np.array([len(e.ids) for e in encoded])
    if len(encoded) != len(places) or (lengths != scores.n_tokens[places]).any():
        raise Mismatch(
            "its tokenizer gives a row other tokens than the index has of it",
            where="--model",
            remedy="pass --tokenizer",
        )
    directions = {str(i): (s.meta["reading"], s.tensors["direction"]) for i, s in enumerate(signatures)}
    sink = Project(len(encoded), session.layout, directions)
    _run(session, encoded, sink, sorted({reading for reading, _ in directions.values()}), "exact scores")
    if not sink.finite.all():
        row = int(rows[~sink.finite][0])
        raise NaitError(f"row {row} of the pool: {session.model.overflow}")
    return list(sink.parts.values())


def target_readings(session: Session, name: str, pool: Pool, readings: Sequence[str]) -> dict[str, Any]:
    """Reading -> tensor [n, N] of a target's samples; ``hidden`` and ``rds`` [n, H]. Raises NaitError."""
    _, encoded = encode_all(session.encoder, pool)
    session.warn_of_positions(pool.path, encoded)
    collected = Collect(len(encoded), session.layout, readings)
    _run(session, encoded, collected, readings, f"target {name}")
    if not collected.finite.all():
        row = encoded[int(np.flatnonzero(~collected.finite)[0])].row
        raise NaitError(f"--target {name}: {pool.path} row {row}: {session.model.overflow}")
    return {**collected.readings, "hidden": collected.hidden, "rds": collected.rds}


def reading_of(signature: Signature) -> str:
    """The reading of its target's samples that a signature is made from."""
    return method_of(signature.method).target_reading(signature.meta["reading"])


def material_of(signature: Signature, readings: dict[str, Any]) -> np.ndarray:
    """What the signature's method fits on, of a target's samples [n, …]."""
    values, threshold = readings[reading_of(signature)].numpy(), signature.tensors.get("threshold")
    method = method_of(signature.method)
    return method.material(values, signature.layout, threshold, method.settings_of(signature))


def _run(session: Session, encoded: list[Encoded], sink: Any, readings: Sequence[str], label: str) -> None:
    progress = Progress(len(encoded), label, session.quiet, sum(len(e.ids) for e in encoded))
    session.run(encoded, sink, readings, shared_prefixes(encoded), progress.add)
    progress.close()
