"""``evaluate``: how good the rankings of an index are, by every measure that the options allow."""

from pathlib import Path
from typing import Any

import numpy as np

from nait_fast.config import EvaluateOptions
from nait_fast.data.pool import Pool
from nait_fast.data.row_conventions import make_conventions
from nait_fast.env import environment
from nait_fast.errors import BadInput, Mismatch, NaitError
from nait_fast.evaluation import (
    FILE,
    FORMAT_VERSION,
    KIND,
    agreement,
    between_rules,
    confounds,
    fidelity,
    retrieval,
    shared_rows,
    stability,
)
from nait_fast.evaluation.comparison import count_of
from nait_fast.evaluation.labels import kind_of
from nait_fast.evaluation.rankings import ExactScores, Rankings, fits
from nait_fast.evaluation.row_content import texts_of
from nait_fast.evaluation.writing import json_values, tables
from nait_fast.index.pool_rows import PoolRows, label_values, open_rows
from nait_fast.index.reader import Index
from nait_fast.index.sample import drawn_places
from nait_fast.methods.signature import load_signatures
from nait_fast.notices import recorded
from nait_fast.outputs.inputs import inputs_of
from nait_fast.outputs.output_folder import Output
from nait_fast.outputs.recognise import State, damaged, question
from nait_fast.progress import say
from nait_fast.ranking.sanity import check_spread, rows_of_targets
from nait_fast.ranking.scan import check_device
from nait_fast.remote.copies import local_folder, named
from nait_fast.storage.files import make_folder, read_json, read_sealed, write_atomic, write_sealed
from nait_fast.storage.names import MANIFEST, RUN

MARKDOWN = "evaluation.md"


def run(options: EvaluateOptions, quiet: bool = False) -> dict[str, Any]:
    """Evaluate; returns what ``evaluation.json`` holds, and ``text``, its tables. Raises NaitError."""
    sizes = _sizes(options)
    folder = folder_for(options.output)
    with (
        Output(
            folder, (FILE, MARKDOWN), recognise=recognise, inputs=inputs_of(options), overwrite=options.overwrite
        ) as output,
        recorded() as warnings,
    ):
        return _evaluate(options, output, sizes, warnings, quiet)


def folder_for(output: str) -> Path:
    """The folder ``output``, made if need be; never one that holds an index or a selection. Raises NaitError."""
    folder = make_folder(local_folder(output))
    if (folder / MANIFEST).exists() or (folder / RUN).exists():
        raise BadInput("holds an index or a selection", where=f"--output {output}", remedy="choose another folder")
    return folder


def recognise(path: Path) -> tuple[State, str | None]:
    """What a file in an evaluation's folder is, by the evaluation itself."""
    place = path.parent / FILE
    try:
        content = read_json(place)
        if content.get("kind") != KIND:
            return State.FOREIGN, None
        read_sealed(place)
        if path == place or path.read_text(encoding="utf-8") == tables(content):
            return State.WHOLE, None
    except (NaitError, OSError, KeyError, TypeError, ValueError, AttributeError):
        pass
    return (damaged(path, KIND) if path == place else State.FOREIGN), None


def _signatures_of(folder: Path) -> set[str]:
    """Hashes of the signatures that an evaluation in the folder tells of."""
    try:
        return {str(signature["hash"]) for signature in read_sealed(folder / FILE)["signatures"]}
    except (NaitError, KeyError, TypeError):
        return set()


def _evaluate(
    options: EvaluateOptions, output: Output, sizes: list[int], warnings: list[str], quiet: bool
) -> dict[str, Any]:
    """``warnings``: those so far; what is said on the way comes to them."""
    index = Index(options.index)
    k = count_of(index.rows, options.fraction)
    signatures = load_signatures(options.signature)
    rankings = Rankings(index, signatures, options.seed, options.device, options.rule, k)
    of = question([dataset["sha256"] for dataset in index.datasets])
    output.check_question(of, "of another index")
    if not options.overwrite and (lost := _signatures_of(output.folder) - {s.hash for s in rankings.signatures}):
        raise Mismatch(
            f"is of {len(lost)} signatures that are not given now",
            where=output.folder / FILE,
            remedy="choose another --output, or pass --overwrite to replace it",
        )
    shared_rows.check_core(rankings, options.core_targets)
    if options.model is None:
        check_device(options.device, index, rankings.ranked, rule=options.rule)
    names = {signature.name for signature in rankings.signatures}
    relevant = retrieval.read_relevant(options.relevant, names, options.label)
    targets = _targets(options, rankings)
    pool = _pool(rankings, options)
    say(f"scores of {index.rows:,} rows by {len(rankings.scored)} signatures", quiet)
    columns = rankings.scores.columns
    check_spread(index, rankings.ranked, columns.min(axis=1), columns.max(axis=1))
    rows_of_targets(index, rankings.ranked)
    labels = None if pool is None or options.label is None else _labels(rankings, pool, options.label)
    session = _session(rankings, options, quiet)
    chosen = np.stack([rankings.first(number, k) for number in rankings.scored])
    cores, uniques = shared_rows.sections(rankings, chosen, options.core_targets)
    rankings.to_ranks()
    rankings.exact = {} if session is None else _exact(rankings, session, pool, options)
    sections: dict[str, Any] = {
        "fidelity": fidelity.section(rankings),
        "retrieval": [] if labels is None else retrieval.section(rankings, *labels, relevant),
        "confounds": confounds.section(rankings),
        "rules": between_rules.section(rankings, labels, relevant, k),
        "agreement": agreement.agreement(rankings, chosen, options.fraction),
        "transfer": agreement.transfer(rankings, chosen),
        "stability": _stability(rankings, session, targets, sizes, options.repeats),
    }
    if options.label is None:
        rankings.miss("retrieval", "pass --label COLUMN, a key of the pool's rows")
    compared = (sections["agreement"], sections["agreement"].get("sampled", {"names": []}))
    if not any(part["names"] for part in compared):
        rankings.miss("agreement of methods", "no name has signatures of two methods")
    texts = _texts(rankings, pool, [*cores, *uniques.values()])
    nothing = {"at_least": options.core_targets or 2, "count": 0, "examples": []}
    evaluation = {
        "kind": KIND,
        "format_version": FORMAT_VERSION,
        "index": named(index.folder),
        "rows": index.rows,
        "fraction": options.fraction,
        "selected": k,
        "signatures": _described(rankings),
        "fidelity": sections["fidelity"],
        "retrieval": sections["retrieval"],
        "stability": sections["stability"],
        "confounds": sections["confounds"],
        "rules": sections["rules"],
        "agreement": sections["agreement"],
        "transfer": sections["transfer"],
        "core": texts[0] if cores else nothing,
        "cores": texts[: len(cores)],
        "unique": dict(zip(uniques, texts[len(cores) :], strict=True)),
        "missing": rankings.missing,
        "warnings": warnings,
        "environment": environment(),
        "options": options.to_record(),
    }
    evaluation = json_values(evaluation)
    text, folder = tables(evaluation), output.begin()
    write_sealed(folder / FILE, evaluation)
    write_atomic(folder / MARKDOWN, text.encode())
    output.done(of)
    return {"output": str(output.folder), **evaluation, "text": text}


def _sizes(options: EvaluateOptions) -> list[int]:
    if not 0 < options.fraction <= 1:
        raise BadInput("must be above 0 and at most 1", where=f"--fraction {options.fraction}")
    for text in options.sizes:
        if not text.isdecimal() or len(text) > 9 or int(text) < stability.LEAST_SAMPLES:
            raise BadInput(
                f"must be a whole number of samples, at least {stability.LEAST_SAMPLES}", where=f"--sizes {text[:80]}"
            )
    return sorted({int(text) for text in options.sizes})


def _targets(options: EvaluateOptions, rankings: Rankings) -> dict[str, Pool]:
    if options.target and not options.model:
        raise BadInput("its samples must be run again", where="--target", remedy="pass --model, too")
    nait = any(signature.is_direction for signature in rankings.signatures)
    if options.model and not options.target and not nait:
        raise BadInput(
            "there is nothing to run it for: no nait signature, no --target", where=f"--model {options.model}"
        )
    if options.rows != EvaluateOptions.rows and not nait:
        raise BadInput(
            "rows are scored exactly for nait signatures, here is none",
            where=f"--rows {options.rows}",
            remedy="leave it out",
        )
    if not options.target:
        return {}
    from nait_fast.verbs.signature import open_targets  # torch, which is not needed without a model

    targets = open_targets(options.target, "auto", make_conventions(options.roles, options.ignore, options.columns))
    for name in targets.keys() - {signature.name for signature in rankings.signatures}:
        raise BadInput("no signature has this name", where=f"--target {name}")
    for signature, label in zip(rankings.signatures, rankings.labels, strict=True):
        target, made_of = targets.get(signature.name), signature.meta.get("target") or {}
        if target is not None and "sha256" in made_of and made_of["sha256"] != target.scan().sha256:
            raise Mismatch(
                f"is not the data that signature '{label}' was made from (SHA-256 differs)",
                where=f"--target {signature.name}={target.path}",
            )
    return targets


def _pool(rankings: Rankings, options: EvaluateOptions) -> PoolRows | None:
    """The pool's rows; None, with a note, where they are not there and nothing but examples would be read of them."""
    try:
        return open_rows(rankings.index, options.dataset)
    except NaitError as error:
        if options.dataset or options.label or options.model:
            raise
        rankings.miss("texts of the examples", str(error))
        return None


def _session(rankings: Rankings, options: EvaluateOptions, quiet: bool) -> Any:
    if not options.model:
        return None
    from nait_fast.verbs.evaluate_model import open_for

    return open_for(rankings.index, options, quiet)


def _labels(rankings: Rankings, pool: PoolRows, column: str) -> tuple[np.ndarray, dict[str, int]]:
    numbers, values = label_values(pool.lines(rankings.scores.row), column)
    if not values:
        raise BadInput(f"no row of {', '.join(pool.paths)} has this key", where=f"--label {column}")
    if without := int((numbers < 0).sum()):
        rankings.miss(f"label of {without} rows", f"they have no key '{column}'; they count as not relevant")
    return numbers, values


def _exact(rankings: Rankings, session: Any, pool: PoolRows | None, options: EvaluateOptions) -> dict[int, ExactScores]:
    """Number of a nait signature that fits the index -> exact scores of a sample of rows."""
    from nait_fast.verbs.evaluate_model import layer_scores

    nait = [i for i, s in enumerate(rankings.signatures) if s.is_direction and fits(rankings.index, s)]
    if not nait or pool is None:
        return {}
    places = drawn_places(rankings.index.rows, options.rows, rankings.seed)
    parts = layer_scores(session, rankings.index, pool, rankings.scores, places, [rankings.signatures[i] for i in nait])
    return {i: ExactScores(places, scores) for i, scores in zip(nait, parts, strict=True)}


def _stability(
    rankings: Rankings, session: Any, targets: dict[str, Pool], sizes: list[int], repeats: int
) -> list[dict[str, Any]]:
    out: dict[int, dict[str, Any] | None] = {}
    for name, target in targets.items():
        from nait_fast.verbs.evaluate_model import material_of, reading_of, target_readings

        numbers = [i for i, s in enumerate(rankings.signatures) if s.name == name]
        wanted = sorted({reading_of(rankings.signatures[i]) for i in numbers})
        readings = target_readings(session, name, target, wanted)
        for number in numbers:
            material = material_of(rankings.signatures[number], readings)
            out[number] = stability.section(rankings, number, material, sizes, repeats)
    for number, signature in enumerate(rankings.signatures):
        if signature.name not in targets:
            out[number] = stability.section(rankings, number, None, sizes, repeats)
    return [entry for _, entry in sorted(out.items()) if entry is not None]


def _texts(rankings: Rankings, pool: PoolRows | None, groups: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The groups with each example's row and text in the place of its place."""
    places = np.array([e["place"] for group in groups for e in group["examples"]], dtype=np.int64)
    texts = {} if pool is None else texts_of(rankings.index, pool, rankings.scores.row[places])

    def shown(example: dict[str, Any]) -> dict[str, Any]:
        row = int(rankings.scores.row[example.pop("place")])
        return {"row": row, **example, "text": texts.get(row)}

    return [{**group, "examples": [shown(example) for example in group["examples"]]} for group in groups]


def _described(rankings: Rankings) -> list[dict[str, Any]]:
    return [
        {
            "name": s.name,
            "method": s.method,
            "reading": s.meta["reading"],
            "hash": s.hash,
            "samples": s.meta["samples"],
            "label": label,
            "kind": ", ".join(kind_of(s)),
            "rule": rankings.rules[i],
            "scored": i in rankings.scored,
        }
        for i, (s, label) in enumerate(zip(rankings.signatures, rankings.labels, strict=True))
    ]
