"""Which figures a report has, in the order of its sections."""

from collections.abc import Iterator

import numpy as np

from nait_fast.reporting import plots
from nait_fast.reporting.drawing import Drawing, styled
from nait_fast.reporting.evaluation import Matrix
from nait_fast.reporting.gather import TOP, Report
from nait_fast.reporting.words import fixed

MOST_TARGETS = 12  # that get figures of their own
SECTIONS = ("scores", "composition", "layers", "length", "agreement", "transfer")
_ACROSS = {
    "spearman": "Spearman's correlation of the scores over the pool",
    "overlap": "Share of one selection that another holds, too",
    "top": "Share of one selection that another holds, too",
    "cosine": "Cosine of the signatures",
}


def draw(report: Report, files: bool) -> dict[str, list[Drawing]]:
    """Section -> its figures; ``files``: with those for files of their own."""
    made = {
        "scores": _scores,
        "composition": _composition,
        "layers": _layers,
        "length": _lengths,
        "agreement": _agreement,
        "transfer": _transfer,
    }
    with styled():
        return {section: list(made[section](report, files)) for section in SECTIONS}


def _scores(report: Report, files: bool) -> Iterator[Drawing]:
    scores, config = report.scores, report.chosen.config
    if scores is None:
        return
    single = len(report.chosen.targets) == 1 and config.get("pick") == "top"
    for c, target in enumerate(report.chosen.targets[:MOST_TARGETS]):
        cut = float(scores.selected_low[c]) if single and scores.whole else None
        means = float(scores.mean[c]), float(scores.selected_mean[c])
        yield plots.distribution(scores.histograms[c], target, means, cut, files, scores.whole)


def _composition(report: Report, files: bool) -> Iterator[Drawing]:
    if report.labels is not None:
        yield plots.composition(report.labels, files)


def _layers(report: Report, files: bool) -> Iterator[Drawing]:
    parts = {part.target: part for part in report.layers}
    evaluation = report.evaluation
    for target in report.chosen.targets[:MOST_TARGETS]:
        if target in parts:
            part = parts[target]
            if np.isfinite(part.share).all():
                yield plots.layer_bars(target, part.layers, part.share, part.difference, files)
        elif evaluation is not None:
            label = evaluation.labels.get(report.chosen.manifest["signatures"][target], target)
            if label in evaluation.layer_share:
                layers, share = evaluation.layer_share[label]
                yield plots.layer_bars(target, layers, np.array(share), np.empty(0), files)


def _lengths(report: Report, files: bool) -> Iterator[Drawing]:
    scores = report.scores
    if scores is None or not scores.whole:
        return
    for c, target in enumerate(report.chosen.targets[:MOST_TARGETS]):
        spearman = report.chosen.manifest["spearman_with_length"][target]
        yield plots.length(scores.lengths[c], target, spearman, files)


def _agreement(report: Report, files: bool) -> Iterator[Drawing]:
    """Between methods, as the evaluation tells."""
    for key, matrix in ({} if report.evaluation is None else report.evaluation.agreement).items():
        if matrix.names:
            title = _ACROSS.get(key, key)
            yield plots.heat(matrix, f"agreement-{plain(key)}", f"{title}, between methods", ends(matrix), files)


def _transfer(report: Report, files: bool) -> Iterator[Drawing]:
    """Between targets: as the evaluation tells, else from the scores."""
    if report.evaluation is not None and report.evaluation.transfer:
        for key, matrix in report.evaluation.transfer.items():
            title = _ACROSS.get(key, key)
            yield plots.heat(matrix, f"transfer-{plain(key)}", f"{title}, between targets", ends(matrix), files)
        return
    for key, matrix in report.agreement.items():
        best = f"Share of one target's best {TOP:.0%} that is among the other's"
        title = f"{_ACROSS['spearman']}, between targets" if key == "spearman" else best
        yield plots.heat(matrix, f"transfer-{key}", title, ends(matrix), files)


def ends(matrix: Matrix) -> str:
    """The nearest and the farthest two in words."""
    pairs = [
        (value, a, b)
        for i, a in enumerate(matrix.names)
        for j, b in enumerate(matrix.names)
        if j > i and (value := matrix.cells[i][j]) is not None
    ]
    if not pairs:
        return "There is nothing to compare."
    high, low = max(pairs, key=lambda pair: pair[0]), min(pairs, key=lambda pair: pair[0])
    if len(pairs) == 1:
        return f"{high[1]} and {high[2]}: {fixed(high[0])}."
    text = f"Nearest are {high[1]} and {high[2]} with {fixed(high[0])}"
    return f"{text}, farthest {low[1]} and {low[2]} with {fixed(low[0])}."


def plain(key: str) -> str:
    """``key`` as part of a file's name."""
    return "".join(c if c.isascii() and (c.isalnum() or c in "_-") else "-" for c in key)[:40]
