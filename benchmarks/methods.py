"""Writes the measured section of docs/methods.md from the newest rows under ``benchmarks/results/``; ``--check`` only
compares.

    python -m benchmarks.methods [--check] [--plot]

``--plot`` also draws docs/fidelity.svg: bytes a sample against Spearman with exact NAIT.
"""

import re
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

from benchmarks import ablation_stats, depth, fidelity_float8, selections, several_targets, signs, validate_report
from benchmarks.evaluations import lines
from benchmarks.fidelity import means
from benchmarks.figures_page import rewrite
from benchmarks.record import RESULTS, newest, rows_in, sourced, table

PAGE = Path(__file__).resolve().parent.parent / "docs" / "methods.md"
PLOT = PAGE.parent / "fidelity.svg"
MARKS = {"components": "o-", "rotated": "s--"}


def by_model(path: Path) -> dict[str, list[dict[str, Any]]]:
    """The last run of each model."""
    return {model: newest(path, model=model) for model in dict.fromkeys(row["model"] for row in rows_in(path))}


def _fidelity(model: str, rows: list[dict[str, Any]]) -> str:
    averages, shown = means(rows), []
    for codec in dict.fromkeys(row["codec"] for row in averages):
        of_codec = {row["reading"]: row for row in averages if row["codec"] == codec}
        cells = {
            f"A = {reading}": f"{row['spearman']:.4f} / {row['top10']:.3f} / {row['top1']:.2f}"
            for reading, row in sorted(of_codec.items())
        }
        shown.append({"codec": codec, "bytes a sample": f"{of_codec['mean']['bytes']:,}", **cells})
    means_over = f"the targets {', '.join(dict.fromkeys(row['target'] for row in rows))}"
    if draws := max(row.get("draw", 0) for row in rows):
        means_over += f"; of codec rotated, {draws + 1} draws of the rotation and the calibration sample as well"
    return sourced(
        f"**Fidelity** to exact NAIT of {rows[0]['rows']:,} samples, {model}: Spearman / share of the best 10% found / "
        f"of the best 1%, means over {means_over}.\n\n{table(shown, list(shown[0]))}\n",
        rows,
    )


def section() -> str:
    """The text between the markers."""
    parts = []
    for folder in sorted(path for path in RESULTS.iterdir() if path.is_dir()):
        parts += [_fidelity(model, rows) for model, rows in by_model(folder / "fidelity.jsonl").items()]
        precisions = by_model(folder / "fidelity_float8.jsonl").values()
        parts += [sourced(fidelity_float8.lines(rows), rows) for rows in precisions]
        if evaluated := newest(folder / "evaluations.jsonl"):
            parts.append(sourced(lines(evaluated), evaluated))
        if combined := newest(folder / "several_targets.jsonl"):
            parts.append(sourced(several_targets.lines(combined), combined))
        parts += [
            sourced(selections.lines(chosen), chosen) for chosen in by_model(folder / "selections.jsonl").values()
        ]
        parts += [sourced(depth.lines(some), some) for some in by_model(folder / "depth.jsonl").values()]
        parts += [sourced(signs.lines(turned), turned) for turned in by_model(folder / "signs.jsonl").values()]
        if rows := rows_in(folder / "validate_table.jsonl"):
            parts.append(validate_report.report(rows) + "\n")  # says the sources of its models itself
        if rows := rows_in(folder / "ablation.jsonl"):
            parts.append(sourced(ablation_stats.report(rows) + "\n", rows))
    return "\n".join(parts)


def plot(path: Path) -> None:
    """Draw bytes against Spearman: one colour a model and reading, one line a codec."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "nait_fast"
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4.2))
    colors: dict[tuple[str, str], str] = {}
    for folder in sorted(path for path in RESULTS.iterdir() if path.is_dir()):
        for model, rows in by_model(folder / "fidelity.jsonl").items():
            points = defaultdict(list)
            for row in means(rows):
                if plain := re.fullmatch(r"(components|rotated), [\d,]+ (B|outliers)", row["codec"]):
                    points[row["reading"], plain[1]].append((row["bytes"], 1 - row["spearman"]))
            for (reading, kind), codec_points in sorted(points.items()):
                color = colors.setdefault((model, reading), f"C{len(colors)}")
                label = f"{model.split('.')[0]}, {reading}: {kind}"
                axes.plot(*zip(*sorted(codec_points), strict=True), MARKS[kind], ms=4, color=color, label=label)
    axes.set(xscale="log", yscale="log", xlabel="bytes a sample", ylabel="1 − Spearman with exact NAIT")
    axes.grid(alpha=0.3, which="both")
    axes.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.15), ncols=2)
    figure.savefig(path, metadata={"Date": None}, bbox_inches="tight")


def main() -> int:
    if "--plot" in sys.argv:
        plot(PLOT)
    return rewrite(PAGE, section(), "--check" in sys.argv, "benchmarks.methods")


if __name__ == "__main__":
    sys.exit(main())
