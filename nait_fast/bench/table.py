"""Result rows as text: a table a part, or several runs side by side."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]


def state_of(row: Row) -> str:
    """ok, failed or skipped: the first word of a row's check, which has no other place in the file; "" without one."""
    return str(row.get("check", "")).partition(":")[0]


def figures(value: float) -> str:
    """``value`` to three figures, never in powers of ten: 0.0123, 1.23, 12.3, 1,234."""
    decimals = 0 if value == 0 else max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:,.{decimals}f}"


def _number(key: str, form: str = "", factor: float = 1.0) -> Callable[[Row], str]:
    def cell(row: Row) -> str:
        value = row.get(key)
        if not isinstance(value, (int, float)):
            return ""
        return form.format(value * factor) if form else figures(value * factor)

    return cell


def _spread(row: Row) -> str:
    """Median and the quantiles around it."""
    if "ms" not in row:
        return ""
    return f"{figures(row['ms'])} ({figures(row['ms_p20'])}–{figures(row['ms_p80'])})"


def _overhead(row: Row) -> str:
    if "overhead_percent" not in row:
        return ""
    low, high = row["overhead_percent_p20"], row["overhead_percent_p80"]
    return f"{row['overhead_percent']:+.1f}% ({low:+.1f} – {high:+.1f})"


def _percent(key: str) -> Callable[[Row], str]:
    return _number(key, "{:.0f}%", 100.0)


_TIME = ("ms (p20–p80)", _spread)
_REPEATS = ("runs", _number("repeats", "{:.0f}"))
_NAME = ("", lambda row: str(row.get("name", "")))
_CHECK = ("check", lambda row: str(row.get("check", "")))

# part -> (heading, cell of a row)
COLUMNS: dict[str, list[tuple[str, Callable[[Row], str]]]] = {
    "tests": [_NAME, ("seconds", _number("seconds", "{:,.0f}")), _CHECK],
    "ceilings": [_NAME, ("GB/s", _number("gb_per_s")), ("TFLOP/s", _number("tflop_per_s")), _TIME, _REPEATS],
    "pipeline": [_NAME, ("samples", _number("samples", "{:,.0f}")), _CHECK],
    "kernels": [
        _NAME,
        _TIME,
        ("GB/s", _number("gb_per_s")),
        ("of copy", _percent("of_copy")),
        ("reference ms", _number("reference_ms")),
        ("faster", _number("times_reference", "{:.1f}×")),
        _REPEATS,
        ("backend", lambda row: str(row.get("backend", ""))),
        _CHECK,
    ],
    "scan": [
        _NAME,
        _TIME,
        ("GB/s", _number("gb_per_s")),
        ("of read", _percent("of_read")),
        _REPEATS,
        ("auto", lambda row: str(row.get("auto", ""))),
        _CHECK,
    ],
    "endtoend": [
        _NAME,
        ("tokens/s", _number("tokens_per_s", "{:,.0f}")),
        ("of matmul", _percent("of_matmul")),
        ("capture costs", _overhead),
        ("engine is", _number("engine_is", "{:.1f}×")),
        ("peak MB", _number("peak_mb", "{:,.0f}")),
        ("samples", _number("samples", "{:,.0f}")),
        _REPEATS,
        _CHECK,
    ],
}

# part -> what is set side by side: (words, cell of a row)
SIDE_BY_SIDE: dict[str, list[tuple[str, Callable[[Row], str]]]] = {
    "ceilings": [("GB/s", _number("gb_per_s")), ("TFLOP/s", _number("tflop_per_s"))],
    "kernels": [
        ("GB/s", _number("gb_per_s")),
        ("of copy", _percent("of_copy")),
        ("times the reference's speed", _number("times_reference", "{:.1f}×")),
    ],
    "scan": [("GB/s", _number("gb_per_s")), ("of read", _percent("of_read"))],
    "endtoend": [
        ("tokens/s", _number("tokens_per_s", "{:,.0f}")),
        ("of matmul", _percent("of_matmul")),
        ("capture costs", _overhead),
        ("engine is", _number("engine_is", "{:.1f}×")),
        ("peak MB", _number("peak_mb", "{:,.0f}")),
    ],
}


def aligned(heading: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Columns of text, numbers to the right, empty columns left out."""
    kept = [i for i in range(len(heading)) if i == 0 or any(line[i] for line in lines)]
    rows = [[line[i] for i in kept] for line in (heading, *lines)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    left = [i == 0 or heading[k] in ("check", "backend", "auto") for i, k in enumerate(kept)]
    return "\n".join(
        "  ".join(c.ljust(w) if l else c.rjust(w) for c, w, l in zip(row, widths, left, strict=True)).rstrip()
        for row in rows
    )


def _groups(rows: Sequence[Row], *keys: str) -> dict[tuple[Any, ...], list[Row]]:
    found: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        found.setdefault(tuple(row.get(key) for key in keys), []).append(row)
    return found


def _title(row: Row) -> str:
    facts = {"neurons": "{:,} neurons", "tokens": "{:,} tokens", "rows": "{:,} rows", "row_bytes": "{:,} bytes a row"}
    known = {"kernels": ("neurons", "tokens"), "scan": ("rows", "row_bytes"), "endtoend": ("tokens",)}
    told = [facts[key].format(row[key]) for key in known.get(row["part"], ()) if key in row]
    subject = [row["shape"]] if row.get("shape") else []
    kind = [row["dtype"]] if row.get("dtype") else []
    words = ", ".join([*subject, *kind, *told])
    return f"{row['part']}{': ' if words else ''}{words} on {row['hardware']}"


def tables(rows: Sequence[Row]) -> str:
    """A table a part, model and device."""
    blocks = []
    for group in _groups(rows, "part", "shape", "hardware", "device").values():
        columns = COLUMNS[group[0]["part"]]
        lines = [[cell(row) for _, cell in columns] for row in group]
        blocks.append(_title(group[0]) + "\n" + aligned([name for name, _ in columns], lines))
    return "\n\n".join(blocks)


def side_by_side(sources: Mapping[str, Sequence[Row]]) -> str:
    """One table a part and model, a column a source; of rows with the same name a source's last one counts."""
    blocks = []
    everything = [row for rows in sources.values() for row in rows if row.get("part") in SIDE_BY_SIDE]
    for (part, shape), group in _groups(everything, "part", "shape").items():
        names = dict.fromkeys(str(row.get("name", "")) for row in group)
        lines = []
        for name in names:
            own = {
                source: next(
                    (
                        r
                        for r in reversed(rows)
                        if (r.get("part"), r.get("shape"), r.get("name")) == (part, shape, name)
                    ),
                    {},
                )
                for source, rows in sources.items()
            }
            for words, cell in SIDE_BY_SIDE[part]:
                cells = [cell(row) for row in own.values()]
                if any(cells):
                    lines.append([f"{name}, {words}", *cells])
            failed = [state_of(row) for row in own.values()]
            if any(word in ("failed", "skipped") for word in failed):
                lines.append([f"{name}, check", *failed])
        if lines:
            heading = ["", *sources]
            blocks.append(", ".join(filter(None, (part, shape))) + "\n" + aligned(heading, lines))
    return "\n\n".join(blocks)
