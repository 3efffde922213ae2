"""Everything that a report shows of a selection, as numbers and texts; how it looks is decided elsewhere."""

import os
import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nait_fast.config import LISTED_ROWS, SHOWN_ROWS, ReportOptions
from nait_fast.evaluation import FILE
from nait_fast.evaluation.comparison import best as best_rows
from nait_fast.evaluation.comparison import correlations, count_of, overlaps
from nait_fast.index.sample import places_of_rows
from nait_fast.methods import METHODS, method_of
from nait_fast.methods.foreign import METHOD as FOREIGN
from nait_fast.methods.signature import LENGTHS
from nait_fast.outputs.fetched import local_copy
from nait_fast.ranking.selection_files import SCORES
from nait_fast.ranking.spearman import centred_ranks
from nait_fast.reporting.evaluation_file import Evaluation, Matrix, load_evaluation
from nait_fast.reporting.explained import Explained, TargetSamples
from nait_fast.reporting.formatting import listed
from nait_fast.reporting.layers import Deciders, LayerParts, layer_parts, sample_rows, spread, tells_layers
from nait_fast.reporting.samples import Excerpt, Labels, PoolContent, Text, WantedRows, read_rows
from nait_fast.reporting.score_summary import RankedRow, ScoreFile, ScoreSummary, rescan, summarise
from nait_fast.reporting.selection_folder import SelectionFolder, open_selection
from nait_fast.reporting.target_samples import NearSample, check_named
from nait_fast.reporting.validation_file import Validation, load_validation
from nait_fast.reporting.variety import Variety, variety
from nait_fast.storage.files import sha256
from nait_fast.validation import FILE as VALIDATION_FILE

TOP = 0.1  # the share whose overlap between targets is told
SELECTED_PART = 5  # of the rows that layers are looked at in, one in so many is a selected one


@dataclass(frozen=True)
class ShownSample:
    """One of the samples that are shown. ``decided``: what made its score for ``target``, the one that its score stands
    out most in; None where nothing tells. ``near``: that target's samples that are most like it, if they were kept.
    ``text``: None where the pool cannot be read."""

    ranked: RankedRow
    text: Text | None
    target: str
    decided: Deciders | None
    near: list[NearSample]


@dataclass(frozen=True)
class ListedRow:
    """A selected row in the list. ``excerpt``: None where the pool cannot be read; ``target``: the number of the one
    that its score stands out most in, by ``deviations`` float64 [C] from the pool's means; None where only the
    selected rows' scores are known."""

    ranked: RankedRow
    excerpt: Excerpt | None
    target: int | None
    deviations: np.ndarray


@dataclass(frozen=True)
class Report:
    """``scores``: None where they are nowhere to be found; ``variety``: None without them or the index. ``inside``,
    ``outside``: the rows next to the cut that are not among the ``best`` and ``worst``. ``of_targets``: of those whose
    samples were kept. ``agreement``: title -> matrix
    over the targets, from the scores; empty for a single target. ``notes``: what is missing and how to have it."""

    chosen: SelectionFolder
    scores: ScoreSummary | None
    labels: Labels | None
    layers: list[LayerParts]
    variety: Variety | None
    best: list[ShownSample]
    worst: list[ShownSample]
    inside: list[ShownSample]
    outside: list[ShownSample]
    listed: list[ListedRow]
    of_targets: dict[str, TargetSamples]
    agreement: dict[str, Matrix]
    evaluation: Evaluation | None
    validation: Validation | None
    notes: list[str]


def _prefix(output: Path) -> str:
    """How the names of folders begin that hold what is needed for the page ``output`` meanwhile."""
    return f".nait-fast-report-{sha256(os.fsencode(output.name))[:8]}-"


def sweep_scratch(output: Path) -> None:
    """Remove what killed commands have left beside the page ``output``: for who has that page alone."""
    for entry in list(os.scandir(output.parent)):
        if not re.fullmatch(re.escape(_prefix(output)) + "[a-z0-9_]{8}", entry.name):
            continue
        if entry.is_dir(follow_symlinks=False):
            with suppress(OSError):  # what else lies there keeps the folder
                for inner in list(os.scandir(entry.path)):
                    if re.fullmatch(re.escape(SCORES) + r"(\.\d+-[0-9a-f]{8}\.tmp)?", inner.name):
                        os.unlink(inner.path)
                os.rmdir(entry.path)


def gather(options: ReportOptions, output: Path) -> Report:
    """Read a selection for the page ``output``, beside which lies what is needed meanwhile. Raises NaitError for bad
    input."""
    chosen = open_selection(options.selection)
    evaluation = _evaluation(options, chosen)
    notes = list(chosen.notes)
    labels = {} if evaluation is None else evaluation.labels
    if labels and not set(chosen.manifest["signatures"].values()) & labels.keys():
        notes.append("The evaluation is of other signatures than those of this selection.")
    elif evaluation is not None and labels and (others := _other_rules(chosen, evaluation)):
        notes.append(f"The evaluation scores by {others}, all lengths alike: not as this selection does.")
    validation = _validation(options, chosen, notes)
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=_prefix(output)) as folder:
        file, whole = _scores(chosen, Path(folder), notes)
        scores, rows = None, None
        if file is not None:
            scores = _summary(options, chosen, file, whole)
            rows = _row_numbers(file) if whole else None
        seen = read_rows(chosen, _wanted(chosen, scores), rows, options.label, options.dataset)
    notes += seen.notes
    pool = np.empty(0, dtype=np.int64)
    if chosen.index is not None:
        wanted = sample_rows(chosen.index, len(chosen.targets))
        pool = spread(chosen.index.rows, wanted - wanted // SELECTED_PART)
    layers = _layers(chosen, scores, pool, notes)
    various = None
    if chosen.index is not None and scores is not None:
        various = variety(chosen.index, places_of_rows(chosen.index, scores.chosen), chosen.reordered)
    best, worst, inside, outside = list[list[ShownSample]]([[], [], [], []])
    of_targets: dict[str, TargetSamples] = {}
    check_named(chosen, options.target)
    if scores is not None:
        explained = Explained(chosen, layers, pool)
        best, worst, inside, outside = _shown(chosen, scores, seen, explained)
        shown = [*best, *worst, *inside, *outside]
        of_targets = explained.of_targets([(s.target, s.near) for s in shown], options.target)
    return Report(
        chosen=chosen,
        scores=scores,
        labels=seen.labels,
        layers=layers,
        variety=various,
        best=best,
        worst=worst,
        inside=inside,
        outside=outside,
        listed=_listed(scores, seen),
        of_targets=of_targets,
        agreement={} if scores is None else agreement(scores.sample, chosen.targets),
        evaluation=evaluation,
        validation=validation,
        notes=notes,
    )


def _summary(options: ReportOptions, chosen: SelectionFolder, file: ScoreFile, whole: bool) -> ScoreSummary:
    layer_rows = 0 if chosen.index is None else max(1, sample_rows(chosen.index, len(chosen.targets)) // SELECTED_PART)
    every, selected = options.samples == "all", chosen.manifest["rows_selected"]
    pick, combine = str(chosen.config.get("pick", "top")), chosen.config.get("combine")
    by_z = combine in ("mean", "max") and chosen.rule != "roundrobin" and "quality" not in chosen.manifest
    return summarise(
        file,
        whole,
        selected,
        SHOWN_ROWS if options.samples == "all" else options.samples,
        layer_rows,
        list(target_lengths(chosen).values()),
        listed=selected if every else LISTED_ROWS,
        pick=pick,
        combine=combine if by_z else None,
    )


def _wanted(chosen: SelectionFolder, scores: ScoreSummary | None) -> WantedRows:
    """The rows whose texts are shown, and those that are listed."""
    if scores is None:
        return WantedRows(frozenset(), frozenset(), np.empty(0, dtype=np.int64))
    cut = [] if scores.cut is None else [*scores.cut.inside, *scores.cut.outside]
    shown, listed = ([r.row for r in some] for some in ([*scores.best, *scores.worst, *cut], scores.listed))
    return WantedRows(frozenset(shown), frozenset(listed), scores.chosen[: 0 if chosen.reordered else None])


def _listed(scores: ScoreSummary | None, seen: PoolContent) -> list[ListedRow]:
    rows = []
    for ranked in [] if scores is None else scores.listed:
        assert scores is not None
        z = scores.z(ranked.scores)
        target = int(np.argmax(z)) if scores.whole else None
        rows.append(ListedRow(ranked, seen.excerpts.get(ranked.row), target, z))
    return rows


def target_lengths(chosen: SelectionFolder) -> dict[str, np.ndarray]:
    """Target -> tokens of its samples, int32 [s], of those whose signatures keep them."""
    return {s.name: s.tensors[LENGTHS] for s in chosen.signatures if LENGTHS in s.tensors}


def _found(given: str | None, chosen: SelectionFolder, inner: str, file: str) -> Path | None:
    """The ``file`` that was named, or one in the selection's folder or in its folder ``inner``."""
    if given:
        path = local_copy(given)
        return path / file if path.is_dir() else path
    return next((path for path in (chosen.folder / file, chosen.folder / inner / file) if path.exists()), None)


def _evaluation(options: ReportOptions, chosen: SelectionFolder) -> Evaluation | None:
    path = _found(options.evaluation, chosen, "evaluation", FILE)
    return None if path is None else load_evaluation(path)


def _validation(options: ReportOptions, chosen: SelectionFolder, notes: list[str]) -> Validation | None:
    """None where it is of another selection: what that one is good for says nothing of this one."""
    path = _found(options.validation, chosen, "validation", VALIDATION_FILE)
    validation = None if path is None else load_validation(path)
    if validation is not None and validation.checksum != chosen.manifest["checksum"]:
        notes.append("The validation is of another selection than this one, and is not shown: validate this one.")
        return None
    return validation


def _other_rules(chosen: SelectionFolder, evaluation: Evaluation) -> str:
    """What the evaluation ranks by, in words, where that is not what the selection does; else nothing."""
    hashes, own = chosen.manifest["signatures"], [method_of(s.method).rules[0] for s in chosen.signatures]
    rules = [evaluation.ranked_by.get(hashes[s.name], o) for s, o in zip(chosen.signatures, own, strict=True)]
    if not chosen.matched and set(rules) <= {chosen.rule}:
        return ""
    return "each method's own rule" if rules == own else f"rule {listed(sorted(set(rules)))}"


WITHOUT_INDEX = "without index and signatures they cannot be made again"


def _scores(chosen: SelectionFolder, folder: Path, notes: list[str]) -> tuple[ScoreFile | None, bool]:
    """(the scores, whether they are those of all rows)."""
    option = chosen.manifest["scores"]
    if option == "all":
        return ScoreFile(chosen.file(SCORES), chosen.targets, chosen.rows, chosen.more_columns), True
    own = len(chosen.signatures) == len(chosen.targets)
    if chosen.index is not None and own and not chosen.more_columns:  # those would read the pool again
        notes.append(f"The selection was made with --scores {option}: all rows were scored again from the index.")
        return rescan(chosen, folder), True
    if option == "selected":
        notes.append(
            "Only the selected rows' scores were kept (--scores selected): the pool's are not shown, and the worst "
            "samples are the worst of those selected."
        )
        rows = chosen.manifest["rows_selected"]
        return ScoreFile(chosen.file(SCORES), chosen.targets, rows, chosen.more_columns), False
    without = "a selection by more than scores is not made again" if chosen.more_columns else WITHOUT_INDEX
    if FOREIGN.name in chosen.methods:
        without = "another tool's are not made again"
    notes.append(f"The scores were not kept (--scores none); {without}.")
    return None, False


def _row_numbers(file: ScoreFile) -> Iterator[np.ndarray]:
    for batch in file.batches():
        yield batch.row


def _layers(
    chosen: SelectionFolder, scores: ScoreSummary | None, pool: np.ndarray, notes: list[str]
) -> list[LayerParts]:
    """Of the targets whose scores the index's codes can take apart."""
    if chosen.index is None or scores is None:
        return []
    layered = [s for s in chosen.signatures if chosen.rule == "centroid" and tells_layers(chosen.index, s)]
    for method in METHODS:
        names = [s.name for s in chosen.signatures if s.method == method and s not in layered]
        if names and (why := method_of(method).layers_untold):
            notes.append(f"Which layers and neurons made the scores of {', '.join(names)} is not told: {why}")
        elif names and chosen.rule != "centroid":
            notes.append(
                f"What layers make of the scores of {', '.join(names)} over the whole pool is not told: rule "
                f"{chosen.rule} compares rows with single target samples. Beside rows it is told of each."
            )
    if not layered:
        return []
    selected = places_of_rows(chosen.index, scores.some_chosen)
    return [layer_parts(chosen.index, signature, pool, selected) for signature in layered]


def _shown(
    chosen: SelectionFolder, scores: ScoreSummary, seen: PoolContent, explained: Explained
) -> list[list[ShownSample]]:
    """(the best samples, best first; the worst, worst first; inside the cut and outside, the nearest first)."""
    ends = {r.place for r in [*scores.best, *scores.worst]}
    cut = ([], []) if scores.cut is None else (scores.cut.inside, scores.cut.outside)
    at_cut = [[r for r in some if r.place not in ends] for some in cut]
    groups: list[list[ShownSample]] = []
    upper = chosen.config.get("pick") != "bottom"
    for rows, up in ((scores.best, True), (scores.worst[::-1], False), (at_cut[0], upper), (at_cut[1], upper)):
        z = [scores.z(r.scores) for r in rows]
        targets = [chosen.targets[int(np.argmax(deviations if up else -deviations))] for deviations in z]
        near, deciders = explained.of(rows, targets, scores.whole)
        each = zip(rows, targets, deciders, near, strict=True)
        groups.append([ShownSample(r, seen.texts.get(r.row), t, d, n) for r, t, d, n in each])
    return groups


def agreement(sample: np.ndarray, targets: Sequence[str]) -> dict[str, Matrix]:
    """Of scores float64 [C, m] of several targets: Spearman's correlation, and the overlap of the best ``TOP``."""
    if len(targets) < 2:
        return {}
    k = count_of(sample.shape[1], TOP)
    with np.errstate(invalid="ignore"):
        matrices = {
            "spearman": correlations(np.stack([centred_ranks(scores) for scores in sample])),
            "overlap": overlaps(np.stack([best_rows(scores, k) for scores in sample])),
        }
    return {
        name: Matrix(list(targets), [[float(v) if np.isfinite(v) else None for v in row] for row in cells])
        for name, cells in matrices.items()
    }
