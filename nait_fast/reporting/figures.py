"""The figures of a report: which there are, in the order of its sections, and how each is drawn and told in words."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from nait_fast.methods import method_of
from nait_fast.reporting.contents import TOP, Report, target_lengths
from nait_fast.reporting.drawing import INK, LINE, MINUS, PICK, POOL, SOFT, Drawing, blank, finish, styled
from nait_fast.reporting.evaluation_file import Matrix
from nait_fast.reporting.formatting import correlation, count, fixed, number, percent, short, signed
from nait_fast.reporting.layers import by_layer
from nait_fast.reporting.samples import Labels
from nait_fast.reporting.score_summary import Histogram, Lengths, ScoreSummary
from nait_fast.reporting.trained_arms import with_half
from nait_fast.reporting.validation_file import TENTHS, Measured, TrainedArm
from nait_fast.reporting.variety import CoverageCurve

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_TARGETS = 12  # that get figures of their own
SECTIONS = ("scores", "training", "composition", "layers", "length", "variety", "agreement", "transfer")
_ACROSS = {
    "spearman": "Spearman's correlation of the scores over the pool",
    "overlap": "Share of one selection that another holds, too",
    "top": "Share of one selection that another holds, too",
    "cosine": "Cosine of the signatures",
}
MOST_LABELS, MOST_SQUARE = 12, 24
CELL_LEVELS = (0.14, 0.28, 0.42, 0.56, 0.70, 0.85)  # opacity of a cell from few rows to many
DARKEST = 0.5  # opacity of a heat map's cell of ±1: the number in it stays readable


def draw(report: Report, files: bool) -> dict[str, list[Drawing]]:
    """Section -> its figures; ``files``: with those for files of their own."""
    made = {
        "scores": _scores,
        "training": _training,
        "composition": _composition,
        "layers": _layers,
        "length": _lengths,
        "variety": _variety,
        "agreement": _agreement,
        "transfer": _transfer,
    }
    with styled():
        return {section: list(made[section](report, files)) for section in SECTIONS}


def _scores(report: Report, files: bool) -> Iterator[Drawing]:
    scores = report.scores
    if scores is None:
        return
    if len(report.chosen.targets) > 1 and scores.whole and scores.deviation.any():
        yield together(report, scores, files)
    cuts = target_cuts(report, scores)
    for c, target in enumerate(report.chosen.targets[:MOST_TARGETS]):
        means = float(scores.mean[c]), float(scores.selected_mean[c])
        alone = len(cuts) == 1
        yield distribution(scores.histograms[c], target, means, cuts[c], _unit(report, c), files, scores.whole, alone)


def _unit(report: Report, c: int) -> str:
    """Of the scores for target number ``c``."""
    return method_of(report.chosen.methods[c]).unit_by(report.chosen.rule)


def target_cuts(report: Report, scores: ScoreSummary) -> list[float | None]:
    """Of each target, the score at which the selection is cut, where it was that which decided: of one, the lowest that
    was selected; of several that take turns or have budgets of their own, the highest that was not."""
    targets, config = report.chosen.targets, report.chosen.config
    if not scores.whole or config.get("pick") != "top" or not report.chosen.by_score:
        return [None] * len(targets)
    if len(targets) == 1:
        return [float(scores.selected_low[0])]
    if scores.cut is None or config.get("combine") not in ("union", "roundrobin"):
        return [None] * len(targets)
    return [float(high) for high in scores.cut.above]


def _training(report: Report, files: bool) -> Iterator[Drawing]:
    """By tenths of each ranking that was trained on so; of a target's, on its own set and on general ones."""
    if report.validation is None:
        return
    for target in dict.fromkeys(arm.target for arm in report.validation.arms if arm.tenth is not None):
        own = (arm for arm in report.validation.arms if arm.target == target)
        arms = {arm.tenth: arm for arm in own if arm.tenth is not None}
        shown = [x for x in report.validation.sets if target in (None, x.name) or x.role != "target"]
        random = [arm for arm in report.validation.arms if arm.arm == "random" and arm.target in (None, target)]
        sets = [x.name for x in shown if sum(x.name in arm.losses for arm in arms.values()) > 1][:MOST_TARGETS]
        if sets:
            beside = max(random, key=lambda arm: arm.target is not None, default=None)
            yield by_tenth(arms, beside, target, sets, files)


def _composition(report: Report, files: bool) -> Iterator[Drawing]:
    if report.labels is not None:
        yield composition(report.labels, files)


def _layers(report: Report, files: bool) -> Iterator[Drawing]:
    parts = {part.target: part for part in report.layers}
    evaluation = report.evaluation
    for target in report.chosen.targets[:MOST_TARGETS]:
        if target in parts:
            part = parts[target]
            if np.isfinite(part.share).all():
                yield layer_bars(target, part.layers, part.share, part.difference, files)
        elif evaluation is not None and report.chosen.rule == "centroid" and not report.chosen.matched:
            label = evaluation.labels.get(report.chosen.manifest["signatures"][target], target)
            if label in evaluation.layer_share:
                layers, share = evaluation.layer_share[label]
                yield layer_bars(target, layers, np.array(share), np.empty(0), files)


def _lengths(report: Report, files: bool) -> Iterator[Drawing]:
    scores = report.scores
    if scores is None:
        return
    own = target_lengths(report.chosen)
    shown = [target for target in report.chosen.targets if target in own][:MOST_TARGETS]
    means = scores.tokens / scores.rows if scores.whole else None, scores.selected_tokens / scores.selected
    for name in shown:
        yield lengths_beside(scores.by_length, means, name, own[name], files)
    if not shown:
        yield lengths_beside(scores.by_length, means, None, None, files)
    if not scores.whole:
        return
    for c, target in enumerate(report.chosen.targets[:MOST_TARGETS]):
        spearman = report.chosen.manifest["spearman_with_length"][target]
        yield length(scores.lengths[c], target, spearman, _unit(report, c), files)


def _variety(report: Report, files: bool) -> Iterator[Drawing]:
    if report.variety is not None and report.variety.coverage is not None:
        yield coverage_lines(report.variety.coverage, files)


def _agreement(report: Report, files: bool) -> Iterator[Drawing]:
    """Between methods, as the evaluation tells."""
    for key, matrix in ({} if report.evaluation is None else report.evaluation.agreement).items():
        if matrix.names:
            title = _ACROSS.get(key, key)
            yield heat(matrix, f"agreement-{file_name(key)}", f"{title}, between methods", ends(matrix), files)


def _transfer(report: Report, files: bool) -> Iterator[Drawing]:
    """Between targets: as the evaluation tells, else from the scores."""
    if report.evaluation is not None and report.evaluation.transfer:
        for key, matrix in report.evaluation.transfer.items():
            title = _ACROSS.get(key, key)
            yield heat(matrix, f"transfer-{file_name(key)}", f"{title}, between targets", ends(matrix), files)
        return
    for key, matrix in report.agreement.items():
        best = f"Share of one target's best {TOP:.0%} that is among the other's"
        title = f"{_ACROSS['spearman']}, between targets" if key == "spearman" else best
        yield heat(matrix, f"transfer-{key}", title, ends(matrix), files)


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


def file_name(key: str) -> str:
    """``key`` as part of a file's name."""
    return "".join(c if c.isascii() and (c.isalnum() or c in "_-") else "-" for c in key)[:40]


def distribution(
    histogram: Histogram,
    target: str,
    means: tuple[float, float],
    cut: float | None,
    unit: str,
    files: bool,
    whole: bool = True,
    alone: bool = True,
) -> Drawing:
    """Share of the pool and of the selection in each bin of scores. ``means``: of both; ``cut``: as of ``target_cuts``;
    ``alone``: of one target. ``whole`` false: the pool's are not known; ``unit``: of the scores."""
    figure, (axes,) = blank(176)
    for counts, colour, label in ((histogram.pool, POOL, "pool"), (histogram.selected, PICK, "selected")):
        if colour == POOL and not whole:
            continue
        share = counts / max(1, counts.sum())
        axes.stairs(share, histogram.edges, fill=True, color=colour, alpha=0.55 if colour == POOL else 0.25)
        axes.stairs(share, histogram.edges, color=colour, linewidth=1.2 if colour == POOL else 1.8, label=label)
    if cut is not None:
        axes.axvline(cut, color=INK, linewidth=1, linestyle=(0, (3, 2)), label="cut")
    axes.set_xlabel(f"score for {short(target, 32)} ({unit})")
    axes.set_ylabel("share of rows")
    _percents(axes.yaxis)
    _grid(axes)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, 1.2), ncols=3, handlelength=1.2, borderaxespad=0.1)
    text = f"Selected rows score {number(means[1])} on average"
    text += f", the pool {number(means[0])}." if whole else "."
    if cut is not None:
        text += f" The lowest selected score is {number(cut)}." if alone else f" All above {number(cut)} were selected."
    return finish(figure, f"scores-{target}", f"Distribution of the scores for {target}", text, files)


def together(report: Report, scores: ScoreSummary, files: bool) -> Drawing:
    """Scores for all targets in deviations from the pool's means, below each other, and where each is cut; above them
    what the ranks are by, where that is the mean or the greatest of them."""
    targets, combine = report.chosen.targets, str(report.chosen.config.get("combine"))
    strips: list[tuple[str, Histogram, float | None]] = []
    line = None
    if scores.combined is not None:
        if scores.cut is not None:
            z = scores.z(scores.cut.inside[0].scores)
            line = float(z.mean() if combine == "mean" else z.max())
        strips.append((f"{'mean' if combine == 'mean' else 'greatest'} of all", scores.combined, line))
    cuts = target_cuts(report, scores)
    for c, target in enumerate(targets[:MOST_TARGETS]):
        own, histogram = cuts[c], scores.histograms[c]
        edges = scores.z(np.tile(histogram.edges, (len(targets), 1)))[c]
        at = None if own is None else (own - float(scores.mean[c])) / (float(scores.deviation[c]) or 1)
        at = line if combine == "max" else at
        if scores.deviation[c] > 0:
            strips.append((short(target, 30), Histogram(edges, histogram.pool, histogram.selected), at))
    figure, panels = blank(66 + 54 * len(strips), len(strips))
    for axes, (name, histogram, cut) in zip(panels, strips, strict=True):
        for counts, colour, label in ((histogram.pool, POOL, "pool"), (histogram.selected, PICK, "selected")):
            share, wide = _shares(counts), 1.2 if colour == POOL else 1.8
            axes.stairs(share, histogram.edges, fill=True, color=colour, alpha=0.55 if colour == POOL else 0.25)
            axes.stairs(share, histogram.edges, color=colour, linewidth=wide, label=label)
        if cut is not None:
            axes.axvline(cut, color=INK, linewidth=1, linestyle=(0, (3, 2)), label="cut")
        axes.set_ylim(bottom=0)
        axes.yaxis.set_major_locator(_none())
        axes.spines["left"].set_visible(False)
        axes.set_title(name, loc="left", fontsize=9.5, pad=2, color=INK)
        _grid(axes, "x")
    panels[-1].set_xlabel("score (standard deviations from the pool's mean)")
    figure.supylabel("share of rows", fontsize=10, color=SOFT)
    handles: dict[str, Any] = {}
    for axes in panels:
        handles |= {label: handle for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles, loc="outside upper center", ncols=3, handlelength=1.2, borderaxespad=0.1)
    title, text = "Scores for all targets, and the cut", cut_text(report, scores, line)
    return finish(figure, "targets", title, text, files)


def cut_text(report: Report, scores: ScoreSummary, line: float | None) -> str:
    """Where the scores for several targets are cut, in words."""
    combine, cuts = str(report.chosen.config.get("combine")), target_cuts(report, scores)
    if line is not None:
        by = f"Rows rank by the {'mean' if combine == 'mean' else 'greatest'} of their scores"
        return f"{by}, each in standard deviations; the last one selected has {number(line, 3)}."
    own = [
        f"{short(target, 30)} {number((cut - float(scores.mean[c])) / (float(scores.deviation[c]) or 1), 3)}"
        for c, (target, cut) in enumerate(zip(report.chosen.targets, cuts, strict=True))
        if cut is not None
    ]
    if own:
        return f"Rows that score higher for a target than its cut were all selected: {', '.join(own[:MOST_TARGETS])}."
    return "There is no one score at which the selection is cut."


def composition(labels: Labels, files: bool) -> Drawing:
    """Share of each label in the selection and in the pool, the most selected first."""
    names = list(labels.selected) + [name for name in labels.pool or {} if name not in labels.selected]
    shown = names[:MOST_LABELS]
    figure, (axes,) = blank(58 + 27 * len(shown))
    at = np.arange(len(shown))[::-1]
    groups: list[tuple[dict[str, int], int, str, str, float]] = []
    if labels.pool is not None:
        groups.append((labels.pool, labels.pool_rows, POOL, "pool", 0.19))
    groups.append((labels.selected, labels.selected_rows, PICK, "selected", -0.19 if groups else 0.0))
    for counts, rows, colour, label, shift in groups:
        shares = [counts.get(name, 0) / max(1, rows) for name in shown]
        bars = axes.barh(at + shift, shares, 0.36, color=colour, label=label)
        axes.bar_label(bars, [percent(share) for share in shares], padding=2, color=SOFT, fontsize=8.5)
    axes.set_yticks(at, [short(name, 18) for name in shown])
    axes.tick_params(axis="y", length=0, labelcolor=INK)
    axes.set_ylim(-0.6, len(shown) - 0.4)
    axes.margins(x=0.18)
    axes.set_xlabel("share of rows")
    _percents(axes.xaxis)
    _grid(axes, "x")
    axes.legend(loc="lower center", bbox_to_anchor=(0.4, 1.0), ncols=2, handlelength=1.2, borderaxespad=0.1)
    first = shown[0]
    text = f"{first} is {percent(labels.selected.get(first, 0) / max(1, labels.selected_rows))} of the selection"
    if labels.pool is not None:
        text += f" and {percent(labels.pool.get(first, 0) / max(1, labels.pool_rows))} of the pool"
    return finish(figure, "composition", f"Composition by {labels.column}", f"{text}. The table has all.", files)


def layer_bars(target: str, layers: list[int], share: np.ndarray, difference: np.ndarray, files: bool) -> Drawing:
    """``share`` float64 [L] of each layer in the variance of the scores and, where there is one, the ``difference``
    float64 [L] between selected and pool."""
    layers, (share, difference) = by_layer(layers, share, difference)
    figure, panels = blank(250 if len(difference) else 150, 2 if len(difference) else 1)
    bars = [(share, "share of variance"), (difference, "selected − pool\n(score)")]
    for axes, (values, label) in zip(panels, bars, strict=False):
        axes.bar(layers, values, 0.8, color=[PICK if v >= 0 else MINUS for v in values])
        axes.axhline(0, color=SOFT, linewidth=0.8)
        axes.set_ylabel(label)
        _grid(axes)
    _percents(panels[0].yaxis)
    panels[-1].set_xlabel("layer")
    panels[-1].xaxis.set_major_locator(_ticks(8, integer=True))
    order = np.argsort(-np.nan_to_num(share), kind="stable")[:3]
    most = [f"layer {layers[i]} ({percent(float(share[i]))})" for i in order]
    text = f"Largest shares of the scores' variance: {', '.join(most)}"
    if len(difference):
        first = int(np.argmax(np.abs(difference)))
        text += f". Selected rows differ from the pool most in layer {layers[first]}, by {signed(difference[first])}"
    return finish(figure, f"layers-{target}", f"Contribution of each layer for {target}", f"{text}.", files)


def length(lengths: Lengths, target: str, spearman: float | None, unit: str, files: bool) -> Drawing:
    """How many rows have which length and score, and the mean score at each length. ``unit``: of scores."""
    figure, (axes,) = blank(196)
    top = math.log1p(float(lengths.counts.max()))
    level = np.ceil(np.log1p(lengths.counts) / top * len(CELL_LEVELS)).astype(int) if top else lengths.counts * 0
    for number_, opacity in enumerate(CELL_LEVELS, 1):
        axes.add_patch(_cells(level == number_, lengths.tokens, lengths.edges, facecolor=POOL, alpha=opacity))
    middle = np.sqrt(lengths.tokens[:-1] * lengths.tokens[1:])
    axes.plot(
        middle, lengths.mean, color=PICK, linewidth=1.8, marker="o", markersize=2.6, label="mean score at a length"
    )
    _token_axis(axes, float(lengths.tokens[0]), float(lengths.tokens[-1]))
    axes.set_ylim(float(lengths.edges[0]), float(lengths.edges[-1]))
    axes.set_xlabel("tokens of a sample")
    axes.set_ylabel(f"score for {short(target, 20)}\n({unit})")
    _grid(axes, None)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, 1.16), handlelength=1.4, borderaxespad=0.1)
    text = f"Spearman's correlation of length and score is {correlation(spearman)}."
    return finish(figure, f"length-{target}", f"Length and score for {target}", text, files)


def _token_axis(axes: Axes, low: float, high: float) -> None:
    """The x axis as one of tokens, between ``low`` and ``high``."""
    if high > 8 * low:
        _log_axis(axes, low, high)
    axes.set_xlim(low, high)


def _log_axis(axes: Axes, low: float, high: float) -> None:
    axes.set_xscale("log")
    ticks = [d * 10**e for e in range(8) for d in (1, 2, 5) if low < d * 10**e < high]
    axes.set_xticks(ticks[-9:] if len(ticks) < 10 else ticks[:: 1 + len(ticks) // 8])
    axes.xaxis.set_minor_locator(_none())
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")


def lengths_beside(
    histogram: Histogram, means: tuple[float | None, float], target: str | None, lengths: np.ndarray | None, files: bool
) -> Drawing:
    """Share of the pool, of the selection and of a ``target`` in each bin of tokens. ``means``: tokens of the pool's
    rows, None where only the selected ones are known, and of the selected; ``lengths`` int32 [s]: the target's, None
    where they are not known."""
    figure, (axes,) = blank(176)
    groups: list[tuple[np.ndarray, str, str, dict[str, Any]]] = []
    if means[0] is not None:
        axes.stairs(_shares(histogram.pool), histogram.edges, fill=True, color=POOL, alpha=0.55)
        groups.append((histogram.pool, POOL, "pool", {"linewidth": 1.2}))
    groups.append((histogram.selected, PICK, "selected", {"linewidth": 1.8}))
    if lengths is not None:
        dashed = {"linewidth": 1.6, "linestyle": (0, (4, 2))}
        groups.append((np.histogram(lengths, histogram.edges)[0], MINUS, "target", dashed))
    for counts, colour, label, style in groups:
        axes.stairs(_shares(counts), histogram.edges, color=colour, label=label, **style)
    _token_axis(axes, float(histogram.edges[0]), float(histogram.edges[-1]))
    axes.set_ylim(bottom=0)
    axes.set_xlabel("tokens of a sample")
    axes.set_ylabel("share of rows")
    _percents(axes.yaxis)
    _grid(axes)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, 1.2), ncols=3, handlelength=1.8, borderaxespad=0.1)
    text = f"On average a selected sample has {number(means[1])} tokens"
    text += "" if means[0] is None else f", one of the pool {number(means[0])}"
    if lengths is not None:
        text += f", one of the target's {count(len(lengths), 'sample')} {number(float(lengths.mean()))}"
    title = "Tokens of the pool's and the selected samples" if means[0] is not None else "Tokens of selected samples"
    if target is not None:
        title = f"Tokens of the samples, beside those of {target}"
    return finish(figure, "tokens" if target is None else f"tokens-{target}", title, f"{text}.", files)


def by_tenth(
    arms: dict[int, TrainedArm], random: TrainedArm | None, target: str | None, sets: list[str], files: bool
) -> Drawing:
    """Loss on each of ``sets`` after training on each tenth of the ranking for ``target``, which ``arms`` go by, and on
    random rows. Bars are the intervals of the differences from these where all were measured: what the held-out
    samples bring to both drops out of them, and it makes most of the interval of a loss by itself."""
    figure, panels = blank(58 + 112 * len(sets), len(sets))
    told, bars = [], ""
    for axes, name in zip(panels, sets, strict=True):
        found = {k: arms[k].losses[name] for k in sorted(arms) if name in arms[k].losses}
        off = {k: arms[k].against_random[name] for k in found if name in arms[k].against_random}
        reference = None if random is None else random.losses.get(name)
        alone = reference is None or len(off) < len(found)
        if reference is not None:
            if alone and reference.half is not None:
                bounds = reference.mean - reference.half, reference.mean + reference.half
                axes.axhspan(*bounds, color=POOL, alpha=0.3, linewidth=0)
            axes.axhline(reference.mean, color=POOL, linewidth=1.6, linestyle=(0, (4, 2)), label="random rows")
        means, halves = [x.mean for x in found.values()], [x.half or 0.0 for x in (found if alone else off).values()]
        style: dict[str, Any] = {"color": PICK, "linewidth": 1.6, "marker": "o", "markersize": 3.6}
        axes.errorbar(list(found), means, halves, label="a tenth", elinewidth=1.2, capsize=2.5, **style)
        axes.set_xlim(0.5, TENTHS + 0.5)
        axes.set_xticks(range(1, TENTHS + 1))
        axes.yaxis.set_major_locator(_ticks(4))
        axes.set_title(f"loss on {short(name, 34)}", loc="left", fontsize=9.5, pad=4, color=INK)
        _grid(axes)
        told.append(tenths_told(name, found, {} if alone else off, reference))
        if alone:
            bars = "Bars and band are intervals of each loss by itself."
    panels[-1].set_xlabel("tenth of the ranking, the best rows first")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=2, handlelength=2.2, borderaxespad=0.1)
    title = "Loss after training on each tenth of the ranking"
    title += "" if target is None else f" for {short(target, 40)}"
    paired = (
        "Bars are intervals of the difference from random rows: a tenth whose bar does not reach their line is told"
    )
    told.append(bars or f"{paired} apart.")
    drawing = "training" if target is None else f"training-{file_name(target)}"
    return finish(figure, drawing, title, " ".join(told), files)


def tenths_told(name: str, found: dict[int, Measured], off: dict[int, Measured], random: Measured | None) -> str:
    """The tenths of the least and the greatest loss on the set ``name``; ``off``: what each differs from ``random``."""
    least, most = min(found, key=lambda k: found[k].mean), max(found, key=lambda k: found[k].mean)
    numbers = [
        f"{found[k].mean:.3f}; {with_half(off[k], sign=True)} against random rows" if off else with_half(found[k])
        for k in (least, most)
    ]
    text = f"On {short(name, 40)} the loss is lowest after tenth {least} ({numbers[0]}) and highest after tenth {most} "
    return (
        text + f"({numbers[1]})" + ("." if off or random is None else f"; after random rows it is {with_half(random)}.")
    )


def _shares(counts: np.ndarray) -> np.ndarray:
    return counts / max(1, counts.sum())


def coverage_lines(curve: CoverageCurve, files: bool) -> Drawing:
    """Share of the neurons that fire in one of the first rows at least, by how many rows these are."""
    figure, (axes,) = blank(176)
    for shares, colour, label, dashes in (
        (curve.random, POOL, "random rows", (0, (4, 2))),
        (curve.selected, PICK, "selected, by rank", "solid"),
    ):
        axes.plot(
            curve.rows, shares, color=colour, label=label, linestyle=dashes, linewidth=1.8, marker="o", markersize=2.8
        )
    last = int(curve.rows[-1])
    if last > 8:
        _log_axis(axes, 0.9, 1.1 * last)
        axes.set_xlim(0.9, 1.1 * last)
    else:
        axes.xaxis.set_major_locator(_ticks(8, integer=True))
    axes.set_xlabel("number of rows")
    axes.set_ylabel("share of neurons")
    _percents(axes.yaxis)
    _grid(axes)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, 1.2), ncols=2, handlelength=2.2, borderaxespad=0.1)
    points = []
    for i in dict.fromkeys([0, len(curve.rows) // 2, len(curve.rows) - 1]):
        selected, random = (_covered(float(shares[i]), curve.neurons) for shares in (curve.selected, curve.random))
        points.append(f"{count(int(curve.rows[i]), 'row')} {selected} ({random})")
    text = f"Of {curve.neurons:,} neurons, those that fire (whose bit is on) in at least one of the first rows: "
    text += f"{', '.join(points)}; in brackets, in one of as many rows drawn at random from the pool."
    text += " In order of rank: --coverage picked them in another." if curve.reordered else ""
    text += f" Only the first {last:,} selected rows are looked at." if curve.cut else ""
    return finish(figure, "coverage", "Neurons that the selection covers", text, files)


def _covered(share: float, neurons: int) -> str:
    """A share of the neurons in words; near all of them, how many are left."""
    left = round((1 - share) * neurons)
    return percent(share) if share < 0.99 else f"all but {left:,}" if left else "all"


def heat(matrix: Matrix, name: str, title: str, text: str, files: bool) -> Drawing:
    """A square of numbers: blue above 0, orange below, the stronger the farther from it."""
    names = [short(label, 30) for label in matrix.names[:MOST_SQUARE]]
    n = len(names)
    longest = max(map(len, names))
    figure, (axes,) = blank(44 + (36 if n <= 6 else 26) * n)
    figure.set_figwidth(max(figure.get_figwidth(), (20 + 5 * longest + 34 * n) / 72))
    from matplotlib.patches import Rectangle

    for i, row in enumerate(matrix.cells[:n]):
        for j, value in enumerate(row[:n]):
            colour = LINE if value is None else PICK if value >= 0 else MINUS
            strength = 0.35 if value is None else DARKEST * min(1.0, abs(value))
            box = Rectangle((j - 0.48, i - 0.46), 0.96, 0.92, facecolor=colour, alpha=strength, linewidth=0)
            axes.add_patch(box)
            axes.text(j, i, fixed(value), ha="center", va="center", fontsize=9.5)
    axes.set_xlim(-0.5, n - 0.5)
    axes.set_ylim(n - 0.5, -0.5)
    axes.set_xticks(
        range(n),
        names,
        rotation=40 if longest > 6 else 0,
        ha="right" if longest > 6 else "center",
        rotation_mode="anchor",
    )
    axes.set_yticks(range(n), names)
    axes.tick_params(length=0, labelcolor=INK)
    axes.spines[:].set_visible(False)
    left = f" These are the first {n} of {len(matrix.names)}." if len(matrix.names) > n else ""
    return finish(figure, name, title, text + left, files)


def _cells(where: np.ndarray, x: np.ndarray, y: np.ndarray, **style: Any) -> Any:
    """One patch of all cells bool [X, Y] of the grid ``x``, ``y``; cells above each other are one rectangle."""
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path

    points: list[tuple[float, float]] = []
    codes: list[Any] = []
    for i, column in enumerate(where):
        steps = np.flatnonzero(np.diff(np.concatenate([[False], column, [False]]).astype(int)))
        for start, stop in steps.reshape(-1, 2).tolist():
            corners = [(x[i], y[start]), (x[i + 1], y[start]), (x[i + 1], y[stop]), (x[i], y[stop])]
            points += [*corners, corners[0]]
            codes += [Path.MOVETO, Path.LINETO, Path.LINETO, Path.LINETO, Path.CLOSEPOLY]
    return PathPatch(Path(points or np.empty((0, 2)), codes or None), linewidth=0, **style)


def _none() -> Any:
    from matplotlib.ticker import NullLocator

    return NullLocator()


def _ticks(most: int, **how: Any) -> Any:
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(most, **how)


def _percents(axis: Any) -> None:
    axis.set_major_locator(_ticks(4))
    axis.set_major_formatter(
        lambda value, _: f"{value:.3%}".rstrip("%0").rstrip(".").replace("-", "\u2212") + "%" if value else "0%"
    )


def _grid(axes: Axes, grid: Literal["x", "y"] | None = "y") -> None:
    if grid is not None:
        axes.grid(axis=grid, color=LINE, linewidth=0.8)
        axes.set_axisbelow(True)
    axes.tick_params(length=3)
