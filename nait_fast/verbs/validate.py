"""``validate``: does training on a selection help its target more than training on random rows of the pool?"""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nait_fast.config import ValidateOptions, split_target
from nait_fast.data.pool import Pool
from nait_fast.data.row_conventions import make_conventions
from nait_fast.env import environment
from nait_fast.errors import BadInput, Damaged, NaitError
from nait_fast.evaluation.writing import json_values
from nait_fast.index import token_hashes
from nait_fast.index.pool_rows import PoolRows, open_rows
from nait_fast.notices import recorded, warn
from nait_fast.outputs.inputs import inputs_of
from nait_fast.outputs.output_folder import Output
from nait_fast.outputs.recognise import State, damaged, question
from nait_fast.progress import say
from nait_fast.ranking.selection_files import DROPPED_BY, SCORES
from nait_fast.remote.copies import named, refuse_url
from nait_fast.reporting.selection_folder import SelectionFolder, open_selection
from nait_fast.storage.files import read_json, read_sealed, write_sealed
from nait_fast.validation import FILE, FORMAT_VERSION, KIND, RUNS, RUNS_KIND
from nait_fast.validation.answers import ANSWERS
from nait_fast.validation.arms import BASE, BOTTOM, RANDOM, TENTHS, TOP, Candidates, Run, draw, plan, tenth, tenths
from nait_fast.validation.clock import Clock
from nait_fast.validation.runs import append_run, digest, read_runs
from nait_fast.validation.summary import summary_of, text_of
from nait_fast.verbs.evaluate import folder_for

# Of a large group an arm draws from so many rows, or as many as are enough where each has so few response tokens.
LEAST_ROWS, ROW_TOKENS = 4_000, 10
ROUNDS, ENOUGH = 4, 5120  # a selection of few tokens is gone through so often, up to so many
CPU_TOKENS, GPU_TOKENS = 10_240, 1 << 20  # response tokens of a run at most, unless told
CPU_LAYERS = 6
STEPS = 32
CHECKPOINTED = 1e9  # parameters from which on a GPU keeps no layer's insides
GENERAL = "general"


@dataclass(frozen=True)
class Ranked:
    """Rows of a selection's scores: ``rows`` int64 [n], best first, those that constraints took left out; ``selected``
    int64 [k], best first."""

    rows: np.ndarray
    selected: np.ndarray


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
    return Ranked(rows[order][kept[order]].astype(np.int64), rows[order][selected[order]].astype(np.int64))


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


@dataclass
class _Material:
    """``samples``: of rows, then of the held-out sets, by one numbering; ``sets``: name -> numbers."""

    samples: list[Any]
    candidates: Candidates
    sets: dict[str, list[int]]
    roles: dict[str, str]
    texts: dict[str, list[Any]]
    choices: dict[str, list[list[int]]]


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
    from nait_fast.models.load import load_model
    from nait_fast.validation.learner import Learner, check_peft

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
    material, encoder = _gather(options, chosen, ranked, loaded, targets, general, pool)
    recipe = _recipe(options, material, loaded)
    learner = Learner(loaded, material.samples, recipe)
    runs = plan(options.seeds, options.draws, options.deciles)
    wanted = {run: material.candidates.rows_of(run, _distinct(recipe, material)) for run in runs if run.arm != BASE}
    learner.expect([*(row for rows in wanted.values() for row in rows.tolist()), *_held(material), *_chosen(material)])
    setting = digest(
        [
            loaded.whole_fingerprint,
            loaded.head_fingerprint,
            str(loaded.precision),
            asdict(recipe) | {"product": learner.product, "attention": learner.attention},
            token_hashes.hashes_of(material.samples[row].ids for row in _held(material) + _chosen(material)).tolist(),
            {name: [len(rows), options.answer] for name, rows in material.sets.items()},
            None if "answer_tokens" in options.idle() else options.answer_tokens,
        ]
    )
    done = _work_through(options, learner, encoder, material, runs, wanted, setting, folder, quiet)
    sets = [
        {
            "name": name,
            "role": material.roles[name],
            "samples": len(rows),
            "tokens": sum(learner.samples[r].response - learner.samples[r].ended for r in rows),
        }
        for name, rows in material.sets.items()
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
        "recipe": asdict(recipe) | {"product": learner.product, "distinct_tokens": _distinct(recipe, material)},
        "sets": sets,
        **made,
        "answer": options.answer,
        "warnings": warnings,
        "environment": environment(),
        "options": options.to_record(),
    }
    return json_values(result)


def _held(material: _Material) -> list[int]:
    return [row for rows in material.sets.values() for row in rows]


def _chosen(material: _Material) -> list[int]:
    return [row for several in material.choices.values() for rows in several for row in rows]


def _gather(
    options: ValidateOptions,
    chosen: SelectionFolder,
    ranked: Ranked,
    loaded: Any,
    targets: Mapping[str, Pool],
    general: Pool | None,
    pool: PoolRows,
) -> tuple[_Material, Any]:
    from nait_fast.data.template import Template
    from nait_fast.validation.material import HeldOut, held_out_of, trained_rows
    from nait_fast.validation.training_samples import training_encoder

    index, manifest = chosen.index, chosen.manifest
    assert index is not None
    template = Template(
        manifest["template_kind"] if options.template is None else options.template,
        loaded.tokenizer,
        index.manifest.get("template_date") if options.template is None else None,
    )
    max_length = options.max_length or int(manifest["max_length"])
    encoder = training_encoder(loaded.tokenizer, template, max_length, loaded.vocabulary)
    held: list[HeldOut] = []
    same = template.hash == manifest["template"]
    for name, held_out in targets.items():
        known = _known(chosen, name) if same else None
        likelihood = options.answer == "likelihood"
        held.append(held_out_of(encoder, name, "target", held_out, options.samples, known, likelihood))
        if options.answer in ANSWERS:
            for text in held[-1].texts:
                if not ANSWERS[options.answer](text.messages[-1].content):
                    raise BadInput(
                        f"its response holds no answer ({options.answer}), so that none could be right",
                        where=f"{held_out.path} row {text.row}",
                        remedy="leave the row or --answer out",
                    )
    if not same:
        warn(
            "another template or tokenizer than the selection's: whether held-out samples are among those that its "
            "signatures were made of is not checked"
        )
    # Rows that no arm trains on, of all kinds: the price of a selection elsewhere.
    all_rows = draw(np.sort(ranked.rows), len(ranked.rows), [options.seed, 2])
    aside: np.ndarray = np.zeros(0, dtype=np.int64)
    own: dict[int, Any] = {}
    if general is not None:
        held.append(held_out_of(encoder, _general(chosen.targets), "general", general, options.samples, None, False))
    else:
        free = all_rows[~np.isin(all_rows, ranked.selected)]
        most = min(options.samples, len(free) // 4)  # of a small pool arms need the others
        own, _ = trained_rows(encoder, index, pool, free[: 2 * most])
        aside = np.array([row for row in free[: 2 * most] if row in own][:most], dtype=np.int64)
        if len(aside) < 2:
            raise BadInput(
                "leaves no rows to measure the general loss on",
                where=f"selection {named(chosen.folder)}",
                remedy="pass --general FILE",
            )
        held.append(HeldOut(_general(chosen.targets), "general", [own[row] for row in aside.tolist()], [], []))
    enough = max(LEAST_ROWS, (options.tokens or _most_tokens(loaded)) // ROW_TOKENS)
    groups = _groups(options, ranked, all_rows, aside, enough)
    wanted = np.unique(np.concatenate(list(groups.values())))
    samples, hashes = trained_rows(encoder, index, pool, wanted)
    measured = token_hashes.hashes_of(
        [sample.ids[: len(sample.ids) - sample.ended] for h in held for sample in h.samples]
    )
    leaked = {row for row, twin in zip(samples, np.isin(hashes, measured).tolist(), strict=True) if twin}
    if leaked:
        warn(f"{len(leaked):,} rows of the pool are held-out samples: no arm trains on them")
    without = len(wanted) - len(samples)
    if without:
        warn(f"{without:,} of {len(wanted):,} rows have no response within {max_length} tokens: no arm trains on them")
    rows = [row for row in samples if row not in leaked]
    place = {row: i for i, row in enumerate(rows)}
    numbered = {
        arm: np.array([place[row] for row in group.tolist() if row in place], dtype=np.int64)
        for arm, group in groups.items()
    }
    all_samples = [samples[row] for row in rows]
    sets: dict[str, list[int]] = {}
    for one in held:
        sets[one.name] = list(range(len(all_samples), len(all_samples) + len(one.samples)))
        all_samples += one.samples
    choices: dict[str, list[list[int]]] = {}
    for one in held:
        for several in one.choices:
            choices.setdefault(one.name, []).append(list(range(len(all_samples), len(all_samples) + len(several))))
            all_samples += several
    response = np.array([sample.response for sample in all_samples], dtype=np.int64)
    if empty := next((arm for arm, group in numbered.items() if not len(group)), None):
        raise BadInput(
            f"no row of arm '{empty}' can be trained on",
            where=f"selection {named(chosen.folder)}",
            remedy="raise --max-length, or select more rows",
        )
    numbered[BOTTOM] = numbered[BOTTOM][: _reach(response[numbered[BOTTOM]], int(response[numbered[TOP]].sum()))]
    roles = {one.name: one.role for one in held}
    texts = {one.name: one.texts for one in held}
    return _Material(all_samples, Candidates(numbered, response), sets, roles, texts, choices), encoder


def _reach(response: np.ndarray, tokens: int) -> int:
    """How many of the first rows hold ``tokens`` response tokens; all, where they do not."""
    return int(np.searchsorted(np.cumsum(response), tokens)) + 1


def _known(chosen: SelectionFolder, name: str) -> np.ndarray | None:
    """Hashes of the samples that the signature of ``name`` was made of; None where nothing tells."""
    for signature in chosen.signatures:
        text = (signature.meta.get("target") or {}).get(token_hashes.NAME)
        if signature.name == name and isinstance(text, str):
            try:
                return token_hashes.from_text(text)
            except ValueError:
                return None
    warn(f"target '{name}': whether held-out samples are among those of its signature is not known")
    return None


def _groups(
    options: ValidateOptions, ranked: Ranked, all_rows: np.ndarray, aside: np.ndarray, enough: int
) -> dict[str, np.ndarray]:
    """Arm -> rows of the pool that it draws from, at most ``enough``."""
    ranking = ranked.rows[~np.isin(ranked.rows, aside)]
    below = ranking[~np.isin(ranking, ranked.selected)]
    if not len(below):
        raise BadInput(
            "selects all rows: there is nothing to hold it against", where=f"--selection {options.selection}"
        )
    groups = {
        TOP: draw(ranked.selected, enough, [options.seed, 3]),
        RANDOM: all_rows[~np.isin(all_rows, aside)][:enough],
        BOTTOM: below[::-1][:enough],
    }
    if options.deciles:
        if len(ranking) < 2 * TENTHS:
            raise BadInput(f"{len(ranking)} rows make no tenths", where="--deciles", remedy="leave it out")
        for k, part in enumerate(tenths(ranking)):
            groups[tenth(k + 1)] = draw(part, enough, [options.seed, 4, k])
    return groups


def _distinct(recipe: Any, material: _Material) -> int:
    """Response tokens of the rows that a run draws: no more than each arm has, but for tenths, of which one may be of
    fewer (so that what others are does not hang on whether there are tenths)."""
    return min(recipe.tokens, *(material.candidates.tokens_of(arm) for arm in (TOP, RANDOM, BOTTOM)))


def _most_tokens(loaded: Any) -> int:
    """Response tokens of a run at most, unless told."""
    return CPU_TOKENS if loaded.device.type == "cpu" else GPU_TOKENS


def _recipe(options: ValidateOptions, material: _Material, loaded: Any) -> Any:
    from nait_fast.models.find import decoder_layers
    from nait_fast.validation.learner import Recipe

    gpu, layers = loaded.device.type != "cpu", len(decoder_layers(loaded.body))
    own = material.candidates.tokens_of(TOP)
    tokens = options.tokens or min(max(own, min(ROUNDS * own, ENOUGH)), _most_tokens(loaded))
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


def _work_through(
    options: ValidateOptions,
    learner: Any,
    encoder: Any,
    material: _Material,
    runs: Sequence[Run],
    wanted: Mapping[Run, np.ndarray],
    setting: str,
    folder: Path,
    quiet: bool,
) -> dict[Run, dict[str, Any]]:
    """Each run's row: those that ``runs.jsonl`` has, the others made now."""
    path = folder / RUNS
    rows = _own_runs(path)
    by_config = {row["config"]: row for row in rows if "config" in row}
    configs = {run: _config(setting, run, wanted.get(run), material) for run in runs}
    missing = [run for run in runs if configs[run] not in by_config]
    candidates = material.candidates
    clock = Clock(learner, candidates.groups[RANDOM], candidates.response, _held(material), runs, missing, quiet)
    if missing:
        asked = {row for run in missing for row in wanted.get(run, np.zeros(0, dtype=int)).tolist()}
        below = sorted(asked | {*_held(material), *_chosen(material)})
        clock.say_before(below)
        learner.states(below if learner.below else [])
    for run in missing:
        started = time.perf_counter()
        row = {"config": configs[run], **asdict(run), **_perform(options, learner, encoder, material, run, wanted)}
        if not all(math.isfinite(x) for one in row["evaluated"].values() for x in one["nll"]):
            raise BadInput(
                f"the training on {run.arm} diverged: a loss is not finite",
                where=f"--lr {options.lr:g}",
                remedy="lower it",
            )
        append_run(path, row)
        by_config[configs[run]] = row
        clock.add(run, row, time.perf_counter() - started)
    return {run: by_config[configs[run]] for run in runs}


def _config(setting: str, run: Run, rows: np.ndarray | None, material: _Material) -> str:
    """Hash of all that decides a run's result."""
    hashes = [] if rows is None else token_hashes.hashes_of(material.samples[r].ids for r in np.sort(rows)).tolist()
    return digest([setting, asdict(run), hashes])


def _own_runs(path: Path) -> list[dict[str, Any]]:
    """The runs of ``path``, which is begun if it is not there. Raises NaitError where it is somebody else's."""
    if not path.exists():
        append_run(path, {"kind": RUNS_KIND})
        return []
    rows = read_runs(path)
    if not rows or rows[0].get("kind") != RUNS_KIND:
        raise BadInput(
            "is in the way: nait_fast did not write it, and would add to it",
            where=path,
            remedy="move it, or choose another --output",
        )
    return rows


def _perform(
    options: ValidateOptions,
    learner: Any,
    encoder: Any,
    material: _Material,
    run: Run,
    wanted: Mapping[Run, np.ndarray],
) -> dict[str, Any]:
    """Train and evaluate; what the row says of them."""
    from nait_fast.validation.accuracy import correct_of, likeliest
    from nait_fast.validation.steps import make_steps

    out: dict[str, Any] = {}
    if run.arm == BASE:
        with learner.fresh(0):  # untrained adapters add nothing
            pass
    else:
        recipe = learner.recipe
        steps = make_steps(material.candidates.response, wanted[run], recipe.tokens, recipe.steps, 1000 + run.seed)
        out = learner.train(steps, run.seed)
    out["evaluated"] = {name: learner.evaluate(rows) for name, rows in material.sets.items()}
    for name, rows in material.choices.items():
        out["evaluated"][name]["correct"] = likeliest(learner, rows)
    if options.answer not in (None, "likelihood"):
        for name, texts in material.texts.items():
            if texts and material.roles[name] == "target":
                samples = [material.samples[row] for row in material.sets[name]]
                right = correct_of(options.answer, learner, encoder, texts, samples, options.answer_tokens)
                out["evaluated"][name]["correct"] = right
    return out
