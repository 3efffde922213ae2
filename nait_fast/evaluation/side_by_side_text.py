"""A comparison as text for a terminal: tables of at most 80 columns, and under each how to read it."""

import math
import textwrap
from collections.abc import Iterable, Sequence
from typing import Any

from nait_fast.evaluation.side_by_side import RANDOM
from nait_fast.terminal import WIDTH, cut, printable, text_table

MOST_VALUES = 10  # of a label in the table; the others together


def text_of_comparison(comparison: dict[str, Any]) -> str:
    """The tables of what ``compare.json`` holds."""
    sections = [
        _compared(comparison),
        _shared(comparison),
        _orders(comparison),
        _retrieval(comparison),
        _lengths(comparison),
        _composition(comparison["composition"], comparison["compared"]),
        _only_here(comparison),
        _missing(comparison["missing"]),
    ]
    return "\n\n".join(section for section in sections if section)


def _section(title: str, table: str, reading: str) -> str:
    return "\n".join([printable(title), "", table, "", reading]) if table else ""


def _number(value: float | None, digits: int = 2) -> str:
    return "–" if value is None or not math.isfinite(value) else f"{value:.{digits}f}"


def _percent(value: float) -> str:
    return f"{value:.1%}"


def _columns(comparison: dict[str, Any]) -> list[str]:
    return [one["column"] for one in comparison["compared"]]


def _compared(comparison: dict[str, Any]) -> str:
    rows = [
        [one["column"], "" if one["column"] == RANDOM else one["label"], one["rule"], *_size(one)]
        for one in comparison["compared"]
    ]
    rows.append(["pool", "", "", *_size(comparison["pool"])])
    table = text_table(["", "target (method, …)", "rule", "rows", "tokens"], rows, (0, 1, 2))
    reading = "Letters name the columns below; random: rows of the pool, drawn by --seed."
    return _section("What is compared", table, reading)


def _size(one: dict[str, Any]) -> list[str]:
    return [f"{one['rows']:,}", f"{one['tokens']:,}"]


def _shared(comparison: dict[str, Any]) -> str:
    names, shared, jaccard = _columns(comparison), comparison["shared"], comparison["jaccard"]

    def cell(i: int, j: int) -> str:
        return "" if i == j else f"{shared[i][j]:,}" if j > i else _number(jaccard[i][j])

    table = text_table(["", *names], _matrix(names, cell))
    reading = "Above: rows that both select. Below: Jaccard, these of all in either (1: same)."
    return _section("Overlap of the selections", table, reading)


def _matrix(names: Sequence[str], cell: Any) -> list[list[str]]:
    return [[name, *(cell(i, j) for j in range(len(names)))] for i, name in enumerate(names)]


def _orders(comparison: dict[str, Any]) -> str:
    names, spearman = _columns(comparison)[:-1], comparison["spearman"]
    if len(names) < 2:
        return ""
    table = text_table(["", *names], _matrix(names, lambda i, j: "" if i == j else _number(spearman[i][j])))
    some, every = comparison["spearman_rows"], comparison["pool"]["rows"]
    over = "all" if some == every else f"{some:,}"
    reading = f"Order of {over} rows by score: 1 the same, 0 nothing in common, -1 reversed."
    return _section("Spearman of the scores", table, reading)


def _retrieval(comparison: dict[str, Any]) -> str:
    rows = [
        [
            one["column"],
            ", ".join(one["label"]),
            f"{one['relevant']:,}",
            _number(one["r_precision"], 3),
            _percent(one["share"]),
            _percent(one["chance"]),
        ]
        for one in comparison["retrieval"]
    ]
    table = text_table(["", "finds", "rows", "R-precision", "selection", "pool"], rows, (0, 1))
    reading = "R-precision: their share in as many best rows as there are of them."
    if any(one["r_precision"] is None for one in comparison["retrieval"] if one["column"] != RANDOM):
        reading += "\n–: not known, or the order is of several targets."
    return _section("Retrieval of a label", table, reading)


def _lengths(comparison: dict[str, Any]) -> str:
    rows = [
        [
            one["column"],
            _number(one["mean_tokens"], 0),
            _number(one["median_tokens"], 0),
            _number(one["target_tokens"], 0),
            _number(one["spearman_with_length"]),
        ]
        for one in comparison["compared"]
    ]
    pool = comparison["pool"]
    rows.append(["pool", _number(pool["mean_tokens"], 0), _number(pool["median_tokens"], 0), "", ""])
    header = ["", "mean tokens", "median", "the target's mean", "Spearman with length"]
    reading = "Far from the target's or from Spearman 0: it goes by length (–: not known)."
    return _section("Lengths", text_table(header, rows), reading)


def _composition(composition: dict[str, Any] | None, compared: Sequence[dict[str, Any]]) -> str:
    if composition is None:
        return ""
    sizes = {name: sum(rows) + composition["without"][name] for name, rows in composition["rows"].items()}
    names = list(sizes)
    values, rows = composition["values"], composition["rows"]
    lines = [[value, *(_percent(rows[name][i] / sizes[name]) for name in names)] for i, value in enumerate(values)]
    if len(values) > MOST_VALUES:
        rest = [_percent(sum(rows[name][MOST_VALUES:]) / sizes[name]) for name in names]
        lines = [*lines[:MOST_VALUES], [f"{len(values) - MOST_VALUES} others", *rest]]
    if any(composition["without"].values()):
        lines.append(["(none)", *(_percent(composition["without"][name] / sizes[name]) for name in names)])
    reading = "Share of the rows; far above the pool's is what a column leans to."
    return _section(f"Composition by {composition['label']}", text_table(["", *names], lines), reading)


def _only_here(comparison: dict[str, Any]) -> str:
    entries = [one for one in comparison["compared"] if "only_here" in one]
    if len(entries) < 2:
        return ""
    lines = []
    for one in entries:
        alone = one["only_here"]
        share = _percent(alone["count"] / one["rows"])
        lines.append(f"{one['column']}  {alone['count']:,} of its {one['rows']:,} rows ({share})")
        for example in alone["examples"]:
            text = " ".join((example["text"] or "").split())
            lines.append("   " + cut(printable(f"row {example['row']}: {text}"), WIDTH - 3))
    reading = "Rows that no other column selects, random's aside, and the best two of them."
    return _section("Selected by one alone", "\n".join(lines), reading)


def _missing(missing: Iterable[dict[str, str]]) -> str:
    lines = [
        line
        for one in missing
        for line in textwrap.wrap(
            printable(f"- {one['what']}: {one['why']}"), WIDTH, subsequent_indent="  ", break_on_hyphens=False
        )
    ]
    return "\n".join(["Not compared", "", *lines]) if lines else ""
