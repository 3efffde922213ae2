"""Result rows: written as they come, read back, and shown as text, a table a part or several runs side by side."""

import json
import math
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from nait_fast.env import environment, processor_of
from nait_fast.errors import BadInput
from nait_fast.storage.lock import OutputLock

Row = Mapping[str, Any]


def state_of(row: Row) -> str:
    """ok, failed, skipped or unfinished: the first word of a row's check, which has no other place in the file; ""
    without one."""
    return str(row.get("check", "")).partition(":")[0]


class ResultFile:
    """JSON lines, one a row, each with what it was made with; appended to, and written as rows come: by one command at
    a time. A pipe or a terminal takes them, too. Raises NaitError."""

    def __init__(self, path: str | None):
        self._lock: OutputLock | None = None
        place = Path(os.path.realpath(path or ""))
        if path and (place.is_file() or (not os.path.exists(path) and place.parent.is_dir())):
            self._lock = OutputLock(place.with_name(f".{place.name}.lock"), f"--output {path}", keep=False)
            self._lock.acquire()
        try:
            if path and self._lock is not None:
                _check_appendable(path, place)
            self._file = open(path, "a", encoding="utf-8") if path else None  # noqa: SIM115 - open for the run
        except BaseException:
            if self._lock is not None:
                self._lock.release()
            raise
        # Paths of the machine say nothing to a reader: the command keeps file names only.
        self._command = " ".join(["nait-fast", *(Path(a).name or a for a in sys.argv[1:])])
        self._environment = environment()

    def add(self, row: Mapping[str, Any]) -> None:
        if self._file is not None:
            whole = {"benchmark": "bench", **row, "processor": processor_of(self._environment)}
            whole |= {"command": self._command, "environment": self._environment}
            self._file.write(json.dumps(whole, ensure_ascii=False) + "\n")
            self._file.flush()

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
        if self._lock is not None:
            self._lock.release()


def _is_row(value: Any) -> bool:
    """Whether a line's value is a row of a bench."""
    return isinstance(value, dict) and {"part", "hardware", "name"} <= set(value)


def _check_appendable(path: str, place: Path) -> None:
    """Raises NaitError where ``place``, which ``path`` leads to, is there and holds something else than rows of a
    bench."""
    if not place.exists():
        return
    try:
        lines = place.read_bytes().split(b"\n")
        rows = [json.loads(line) for line in lines[:-1] if line.strip()]
        ours = all(map(_is_row, rows))
        whole = not lines[-1]
    except (OSError, ValueError, RecursionError):
        ours = whole = False
    if not ours or not whole:
        raise BadInput(
            "is not a file of results that rows can be added to", where=f"--output {path}", remedy="choose another file"
        )


def read_results(paths: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
    """Rows by source: a file, or one device in it; named by hardware, and by file where that does not tell them apart.

    Raises NaitError naming a file that is no result.
    """
    runs: list[tuple[str, str, list[dict[str, Any]]]] = []
    for path in paths:
        by_device: dict[tuple[str, str], list[dict[str, Any]]] = {}
        try:
            for number, line in enumerate(Path(path).read_text(encoding="utf-8").splitlines(), 1):
                row = json.loads(line) if line.strip() else None
                if row is None:
                    continue
                if not _is_row(row):
                    raise BadInput(f"line {number} is no row of a bench", where=f"--compare {path}")
                by_device.setdefault((row["hardware"], row.get("device", "")), []).append(row)
        except (UnicodeDecodeError, json.JSONDecodeError) as error:
            raise BadInput(
                f"is not JSON lines ({' '.join(str(error).split())[:100]})", where=f"--compare {path}"
            ) from None
        if not by_device:
            raise BadInput("holds no row", where=f"--compare {path}")
        runs += [
            (f"{hardware} ({Path(path).name})" if len(paths) > 1 else hardware, device, rows)
            for (hardware, device), rows in by_device.items()
        ]
    sources: dict[str, list[dict[str, Any]]] = {}
    for label, device, rows in runs:
        several = sum(other == label for other, _, _ in runs) > 1
        unique = f"{label}, {device}" if several else label
        sources[unique if unique not in sources else f"{unique} #{len(sources) + 1}"] = rows
    return sources


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


def _stages(row: Row) -> str:
    return ", ".join(f"{name} {seconds:,.1f}" for name, seconds in row.get("stages", {}).items())


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
        ("rows", _number("rows", "{:,.0f}")),
        _TIME,
        ("GB/s", _number("gb_per_s")),
        ("of read", _percent("of_read")),
        ("of floor", _percent("of_floor")),
        _REPEATS,
        ("auto", lambda row: str(row.get("auto", ""))),
        _CHECK,
    ],
    "endtoend": [
        _NAME,
        ("tokens/s", _number("tokens_per_s", "{:,.0f}")),
        ("run/s", _number("run_tokens_per_s", "{:,.0f}")),
        ("of matmul", _percent("of_matmul")),
        ("of peak", _percent("of_peak")),
        ("capture costs", _overhead),
        ("engine is", _number("engine_is", "{:.2f}×")),
        ("at least", _number("engine_is_min", "{:.2f}×")),
        ("padding", _percent("padding")),
        ("peak MB", _number("peak_mb", "{:,.0f}")),
        ("samples", _number("samples", "{:,.0f}")),
        _REPEATS,
        _CHECK,
    ],
    "cli": [
        _NAME,
        ("seconds", _number("seconds", "{:,.1f}")),
        ("of CPUs", _number("cpu_seconds", "{:,.1f}")),
        ("rows/s", _number("rows_per_s", "{:,.0f}")),
        ("tokens/s", _number("tokens_per_s", "{:,.0f}")),
        ("peak MB", _number("peak_rss_mb", "{:,.0f}")),
        ("stages", _stages),
        ("check", lambda row: "" if state_of(row) == "ok" else str(row.get("check", ""))),
    ],
    "experts": [
        _NAME,
        ("ms with capture", _number("seconds", factor=1000.0)),
        ("without", _number("seconds_without", factor=1000.0)),
        ("over", _number("over", "{:+.1f}%", 100.0)),
        ("tokens", _number("tokens", "{:,.0f}")),
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
    "scan": [("GB/s", _number("gb_per_s")), ("of read", _percent("of_read")), ("of floor", _percent("of_floor"))],
    "endtoend": [
        ("tokens/s", _number("tokens_per_s", "{:,.0f}")),
        ("of matmul", _percent("of_matmul")),
        ("of peak", _percent("of_peak")),
        ("capture costs", _overhead),
        ("engine is", _number("engine_is", "{:.2f}×")),
        ("peak MB", _number("peak_mb", "{:,.0f}")),
    ],
}


def aligned(heading: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Columns of text, numbers to the right, empty columns left out."""
    filled = [i for i in range(len(heading)) if i == 0 or any(line[i] for line in lines)]
    rows = [[line[i] for i in filled] for line in (heading, *lines)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    left = [i == 0 or heading[k] in ("check", "backend", "auto", "stages") for i, k in enumerate(filled)]
    return "\n".join(
        "  ".join(c.ljust(w) if l else c.rjust(w) for c, w, l in zip(row, widths, left, strict=True)).rstrip()
        for row in rows
    )


def _groups(rows: Sequence[Row], *keys: str) -> dict[tuple[Any, ...], list[Row]]:
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row.get(key) for key in keys), []).append(row)
    return groups


def _title(row: Row) -> str:
    facts = {"neurons": "{:,} neurons", "tokens": "{:,} tokens"}
    shown = {"kernels": ("neurons", "tokens"), "endtoend": ("tokens",)}
    sizes = [facts[key].format(row[key]) for key in shown.get(row["part"], ()) if key in row]
    subject = [row["shape"]] if row.get("shape") else []
    kind = [row["dtype"]] if row.get("dtype") else []
    words = ", ".join([*subject, *kind, *sizes])
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
            of_source = {
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
                cells = [cell(row) for row in of_source.values()]
                if any(cells):
                    lines.append([f"{name}, {words}", *cells])
            failed = [state_of(row) for row in of_source.values()]
            if any(word in ("failed", "skipped") for word in failed):
                lines.append([f"{name}, check", *failed])
        if lines:
            heading = ["", *sources]
            blocks.append(", ".join(filter(None, (part, shape))) + "\n" + aligned(heading, lines))
    return "\n\n".join(blocks)
