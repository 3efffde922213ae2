"""``validate``: does training on a selection help its target more than training on random rows of the pool?"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from nait_fast.config import ValidateOptions, split_target
from nait_fast.data.pool import Pool
from nait_fast.data.row_conventions import make_conventions
from nait_fast.data.template import Template
from nait_fast.data.tokenize import Encoder
from nait_fast.env import environment
from nait_fast.errors import BadInput, Damaged, NaitError
from nait_fast.evaluation.writing import json_values
from nait_fast.index import token_hashes
from nait_fast.index.pool_rows import open_rows
from nait_fast.notices import recorded, warn
from nait_fast.outputs.inputs import inputs_of
from nait_fast.outputs.output_folder import Output
from nait_fast.outputs.recognise import State, damaged, question
from nait_fast.progress import say
from nait_fast.ranking.selection_files import DROPPED_BY, SCORES
from nait_fast.remote.copies import named, refuse_url
from nait_fast.reporting.selection_folder import SelectionFolder, open_selection
from nait_fast.storage.files import read_json, read_sealed, write_sealed
from nait_fast.validation import FILE, FORMAT_VERSION, KIND, RUNS
from nait_fast.validation.answers import ANSWERS
from nait_fast.validation.arms import BASE, BOTTOM, RANDOM, RANDOM_LENGTH, TOP, WORDS, Run, plan
from nait_fast.validation.gathering import Material, Ranked, gather
from nait_fast.validation.material import HeldOut, Known, held_out_of
from nait_fast.validation.runs import digest
from nait_fast.validation.summary import summary_of, text_of
from nait_fast.validation.training_samples import training_encoder
from nait_fast.verbs.evaluate import folder_for

ROUNDS, ENOUGH = 4, 5120  # a selection of few tokens is gone through so often, up to so many
CPU_TOKENS, GPU_TOKENS = 10_240, 1 << 20  # response tokens of a run at most, unless told
CPU_LAYERS = 6
STEPS = 32
CHECKPOINTED = 1e9  # parameters from which on a GPU keeps no layer's insides
GENERAL = "general"
LENGTHS_OFF = 0.1  # of the mean response of rows that shall have the selection's lengths
_TRAINS = ("nait_fast", "torch", "transformers")  # whose versions a run's result may hang on


def run(options: ValidateOptions, quiet: bool = False) -> dict[str, Any]:
    """Validate; returns what ``validation.json`` holds, and ``text``, what a person reads. Raises NaitError."""
    refuse_url(options.output)
    if not 0 < options.lr <= 1:
        raise BadInput("must be above 0 and at most 1", where=f"--lr {options.lr:g}")
    if options.dtype == "float8":
        raise BadInput("its products have no gradient", where="--dtype float8", remedy="use bfloat16")
    chosen = open_selection(options.selection)
    ranked = read_ranking(chosen)
    model = options.model or str(chosen.manifest["model_name"])
    targets, general = _sets(options, chosen)
    folder = folder_for(options.output)
    with (
        Output(
            folder, (FILE,), recognise=_recognise, inputs=_inputs(options, model), overwrite=options.overwrite
        ) as output,
        recorded() as warnings,
    ):
        sums = {name: pool.scan().sha256 for name, pool in targets.items()}
        of = question([chosen.manifest["checksum"], sums])
        output.check_question(of, "of another selection, or on other samples")
        result = _validate(options, chosen, ranked, model, targets, general, folder, warnings, quiet)
        stage = output.begin()
        write_sealed(stage / FILE, result)
        output.done(of)
        return {"output": str(folder), **result, "text": text_of(result, folder)}


def _inputs(options: ValidateOptions, model: str) -> list[tuple[str, str]]:
    return [*inputs_of(options), ("--model", model)]


def _recognise(path: Path) -> tuple[State, str | None]:
    """What a validation is that no claim tells of."""
    try:
        if read_json(path).get("kind") != KIND:
            return State.FOREIGN, None
        read_sealed(path)
        return State.WHOLE, None
    except (NaitError, OSError, ValueError, AttributeError):
        return damaged(path, KIND), None


def read_ranking(chosen: SelectionFolder) -> Ranked:
    """The ranking behind a selection. Raises NaitError where only a part of it was kept."""
    from pyarrow import parquet

    if chosen.manifest["scores"] != "all":
        raise BadInput(
            f"keeps not all rows' ranks (--scores {chosen.manifest['scores']})",
            where=named(chosen.folder),
            remedy="select or rank again with --scores all",
        )
    table = parquet.read_table(chosen.file(SCORES))
    try:
        rows, rank, selected = (table.column(name).to_numpy() for name in ("row", "rank", "selected"))
    except KeyError as error:
        raise Damaged(f"has no column {error}", where=chosen.folder / SCORES, remedy="select or rank again") from None
    order = np.argsort(rank, kind="stable")
    kept = np.ones(len(rows), dtype=bool)
    if DROPPED_BY in table.column_names:
        kept = ~table.column(DROPPED_BY).is_valid().to_numpy()
    ranking, selection = rows[order][kept[order]], rows[order][selected[order]]
    return Ranked(ranking.astype(np.int64), selection.astype(np.int64), f"selection {named(chosen.folder)}")


def _sets(options: ValidateOptions, chosen: SelectionFolder) -> tuple[dict[str, Pool], Pool | None]:
    """(target -> its held-out samples, the general set or None). Raises NaitError."""
    from nait_fast.verbs.signature import open_targets  # torch

    conventions = make_conventions(options.roles, options.ignore, options.columns)
    files = []
    for text in options.held_out:
        name, path = split_target(text)
        if "=" not in text and len(chosen.targets) == 1:
            name = chosen.targets[0]
        if name not in chosen.targets:
            raise BadInput(
                f"the selection has no target '{name}'",
                where=f"--held-out {text}",
                remedy=f"write NAME=FILE, NAME one of {', '.join(chosen.targets)}",
            )
        files.append(f"{name}={path}")
    general = [] if options.general is None else [f"{_general(chosen.targets)}={options.general}"]
    opened = open_targets((*files, *general), "auto", conventions, flag="--held-out")
    return opened, opened.pop(_general(chosen.targets), None)


def _general(targets: Sequence[str]) -> str:
    """What the set of other kinds is called: no target's name."""
    return next(
        name for name in (GENERAL, "elsewhere", "others", *map(str, range(len(targets)))) if name not in targets
    )


def _validate(
    options: ValidateOptions,
    chosen: SelectionFolder,
    ranked: Ranked,
    model: str,
    targets: Mapping[str, Pool],
    general: Pool | None,
    folder: Path,
    warnings: list[str],
    quiet: bool,
) -> dict[str, Any]:
    # torch
    from nait_fast.models.load import load_model
    from nait_fast.validation.learner import Learner, check_peft
    from nait_fast.validation.runner import Runner

    check_peft()
    if chosen.index is None:
        raise BadInput(" ".join(chosen.notes[:1]) or "its index is gone", where=f"selection {named(chosen.folder)}")
    pool = open_rows(chosen.index, options.dataset)
    say(f"loading {model}", quiet)
    loaded = load_model(
        model,
        tokenizer=options.tokenizer,
        dtype=options.dtype,
        device=options.device,
        trust_remote_code=options.trust_remote_code,
        head=True,
        quiet=quiet,
    )
    say("reading rows and held-out samples", quiet)
    index, manifest = chosen.index, chosen.manifest
    template = Template(
        manifest["template_kind"] if options.template is None else options.template,
        loaded.tokenizer,
        index.manifest.get("template_date") if options.template is None else None,
    )
    max_length = options.max_length or int(manifest["max_length"])
    encoder = training_encoder(loaded.tokenizer, template, max_length, loaded.vocabulary)
    # The signatures' samples are known as they were read then.
    signed = Encoder(loaded.tokenizer, template, int(manifest["max_length"]), loaded.vocabulary)
    held = _held_out(options, chosen, encoder, signed, targets, general)
    most = options.tokens or _most_tokens(loaded)
    material = gather(options, ranked, encoder, index, pool, held, _general(chosen.targets), most)
    recipe = _recipe(options, material, loaded)
    learner = Learner(loaded, material.samples, recipe)
    runs = plan(options.seeds, options.draws, options.deciles)
    distinct = _distinct(recipe, material)
    wanted = {run: material.candidates.rows_of(run, distinct) for run in runs if run.arm != BASE}
    _tell_scarce(recipe, material, distinct)
    _tell_lengths(wanted, material)
    learner.expect([*(row for rows in wanted.values() for row in rows.tolist()), *material.measured])
    setting = digest(
        [
            loaded.whole_fingerprint,
            loaded.head_fingerprint,
            str(loaded.precision),
            asdict(recipe) | {"product": learner.product, "attention": learner.attention},
            {name: [_hashes(material, rows) for rows in several] for name, several in material.measured_by_set.items()},
            options.answer,
            None if "answer_tokens" in options.idle() else options.answer_tokens,
            {package: environment()[package] for package in _TRAINS},
        ]
    )
    runner = Runner(options, learner, encoder, material, wanted, setting)
    done = runner.through(runs, folder / RUNS, quiet)
    sets = [
        {
            "name": one.name,
            "role": one.role,
            "samples": len(one.samples),
            "tokens": sum(sample.response - sample.ended for sample in one.samples),
        }
        for one in material.held
    ]
    made = summary_of(runs, done, sets)
    result = {
        "kind": KIND,
        "format_version": FORMAT_VERSION,
        "selection": {
            "folder": named(chosen.folder),
            "checksum": chosen.manifest["checksum"],
            "targets": chosen.targets,
        },
        "model": loaded.name,
        "recipe": asdict(recipe) | {"product": learner.product, "distinct_tokens": distinct},
        "sets": sets,
        **made,
        "answer": options.answer,
        "warnings": warnings,
        "environment": environment(),
        "options": options.to_record(),
    }
    return json_values(result)


def _held_out(
    options: ValidateOptions,
    chosen: SelectionFolder,
    encoder: Encoder,
    signed: Encoder,
    targets: Mapping[str, Pool],
    general: Pool | None,
) -> list[HeldOut]:
    """The held-out samples of each target, without those that its signature was made of, as ``signed`` gives them, and
    the general set's."""
    held: list[HeldOut] = []
    same = encoder.template.hash == chosen.manifest["template"]
    for name, pool in targets.items():
        known = _known(chosen, name, signed) if same else None
        likelihood = options.answer == "likelihood"
        held.append(held_out_of(encoder, name, "target", pool, options.samples, known, likelihood))
        if options.answer is not None:
            _refuse_cut(pool, held[-1], encoder.max_length)
        if options.answer in ANSWERS:
            for text in held[-1].texts:
                if not ANSWERS[options.answer](text.messages[-1].content):
                    raise BadInput(
                        f"its response holds no answer ({options.answer}), so that none could be right",
                        where=f"{pool.path} row {text.row}",
                        remedy="leave the row or --answer out",
                    )
    if not same:
        warn(
            "another template or tokenizer than the selection's: whether held-out samples are among those that its "
            "signatures were made of is not checked"
        )
    if general is not None:
        held.append(held_out_of(encoder, _general(chosen.targets), "general", general, options.samples, None, False))
    return held


def _refuse_cut(pool: Pool, held: HeldOut, most: int) -> None:
    """Raises BadInput where the last thing said is not there whole: what is right could not be told from it."""
    several = held.choices or [[sample] for sample in held.samples]
    for text, samples in zip(held.texts, several, strict=True):
        if not all(sample.ended for sample in samples):
            raise BadInput(
                f"its response, or a choice, does not end within {most} tokens, so that none could be right",
                where=f"{pool.path} row {text.row}",
                remedy="raise --max-length, or leave the row or --answer out",
            )


def _known(chosen: SelectionFolder, name: str, signed: Encoder) -> Known | None:
    """The samples that the signature of ``name`` was made of; None where nothing tells."""
    for signature in chosen.signatures:
        text = (signature.meta.get("target") or {}).get(token_hashes.NAME)
        if signature.name == name and isinstance(text, str):
            try:
                hashes = token_hashes.from_text(text)
            except ValueError:
                break
            if len(hashes) >= token_hashes.MOST:
                warn(f"target '{name}': of its signature's samples only {len(hashes):,} are known")
            return Known(signed, hashes)
    warn(f"target '{name}': whether held-out samples are among those of its signature is not known")
    return None


def _distinct(recipe: Any, material: Material) -> int:
    """Response tokens of the rows that a run draws: no more than each arm has, but for tenths, of which one may be of
    fewer (so that what others are does not hang on whether there are tenths)."""
    return min(recipe.tokens, _each_has(material))


def _each_has(material: Material) -> int:
    """Response tokens that none of the arms has fewer of."""
    return min(material.candidates.tokens_of(arm) for arm in (TOP, RANDOM, BOTTOM))


def _tell_scarce(recipe: Any, material: Material, distinct: int) -> None:
    """Warn where an arm has so few rows that the selection is not trained on as it could be."""
    own = material.candidates.tokens_of(TOP)
    if distinct < min(own, recipe.tokens):
        scarce = min((RANDOM, BOTTOM), key=material.candidates.tokens_of)
        warn(
            f"{distinct:,} response tokens are all that '{WORDS[scarce]}' hold, of the selection's {own:,}: each run "
            f"draws rows of so many, to be like the others, and goes through them {recipe.tokens / distinct:.1f} times"
        )


def _tell_lengths(wanted: Mapping[Run, np.ndarray], material: Material) -> None:
    """Warn where random rows of the selection's lengths were not to be had."""
    response = material.candidates.response
    like, matched = (
        np.mean([response[rows].mean() for run, rows in wanted.items() if run.arm == arm])
        for arm in (TOP, RANDOM_LENGTH)
    )
    off = matched / like - 1
    if abs(off) > LENGTHS_OFF:
        warn(
            f"the responses of '{WORDS[RANDOM_LENGTH]}' are {abs(off):.0%} {'longer' if off > 0 else 'shorter'} than "
            "the selection's: there are too few of such lengths, and length is held equal only so far"
        )


def _hashes(material: Material, rows: Sequence[int]) -> list[int]:
    hashes: list[int] = token_hashes.hashes_of(material.samples[row].ids for row in rows).tolist()
    return hashes


def _most_tokens(loaded: Any) -> int:
    """Response tokens of a run at most, unless told."""
    return CPU_TOKENS if loaded.device.type == "cpu" else GPU_TOKENS


def _recipe(options: ValidateOptions, material: Material, loaded: Any) -> Any:
    from nait_fast.models.find import decoder_layers
    from nait_fast.validation.learner import Recipe

    gpu, layers = loaded.device.type != "cpu", len(decoder_layers(loaded.body))
    each = _each_has(material)
    tokens = options.tokens or min(max(each, min(ROUNDS * each, ENOUGH)), _most_tokens(loaded))
    rows = np.unique(np.concatenate([material.candidates.groups[arm] for arm in (TOP, RANDOM, BOTTOM)]))
    longest = int(material.candidates.response[rows].max())
    steps = options.steps or max(1, min(STEPS, tokens // longest))
    if tokens // steps < longest:
        raise BadInput(
            f"{tokens:,} response tokens in {steps} steps: a step would be shorter than the longest response "
            f"({longest:,} tokens)",
            where="--steps" if options.steps else "--tokens",
            remedy="raise --tokens, or lower --max-length or --steps",
        )
    adapted = options.layers if options.layers is not None else "all" if gpu or layers <= CPU_LAYERS else CPU_LAYERS
    parameters = sum(p.numel() for p in loaded.body.parameters())
    return Recipe(
        tokens=tokens,
        steps=steps,
        rank=options.rank,
        alpha=2 * options.rank,
        layers=0 if adapted == "all" else int(adapted),
        lr=options.lr,
        pack_tokens=options.batch_tokens or (16384 if gpu else 2048),
        checkpoint=gpu and parameters >= CHECKPOINTED,
    )
