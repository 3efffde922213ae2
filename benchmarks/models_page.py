"""Writes the measured section of docs/models.md from the newest rows of ``benchmarks.models``; ``--check`` only
compares.

python -m benchmarks.models_page [--check]
"""

import re
import sys
from pathlib import Path
from typing import Any

from benchmarks.figures_page import rewrite
from benchmarks.record import RESULTS, newest, rows_in, source_of, sourced
from nait_fast.evaluation.writing import table

PAGE = Path(__file__).resolve().parent.parent / "docs" / "models.md"
Row = dict[str, Any]
TITLES = {
    "causal": "Causal language models",
    "multimodal": "Models of images and text",
    "variants": "Variants of the above",
}


def _type(row: Row) -> str:
    return f"`{row['type']}`" + (f" ({row['variant']})" if row["variant"] else "")


def _counts(rows: list[Row]) -> str:
    of = {v: [row for row in rows if row["verdict"] == v] for v in ("yes", "refused", "n/a", "wrong", "crash")}
    read = of["yes"]
    early = sum(not row["weights_read"] for row in of["refused"])
    packed, experts = sum(row["path"] != "padded" for row in read), sum(row["experts"] for row in read)
    return (
        f"**{len(rows)} tried: {len(read)} read** ({packed} packed, {len(read) - packed} padded; {experts} with "
        f"experts), **{len(of['refused'])} refused** ({early} of them before a weight was read), {len(of['n/a'])} that "
        f"transformers could not make or run here, {len(of['wrong'])} read wrong, {len(of['crash'])} that crashed."
    )


def _read(rows: list[Row]) -> str:
    return table(
        ("type", "MLPs", "runs", "error"),
        (
            (_type(row), "experts" if row["experts"] else "dense", row["path"], _error(row))
            for row in rows
            if row["verdict"] == "yes"
        ),
    )


def _error(row: Row) -> str:
    if "fp64_error" not in row:
        return f"{row['error']:.1e}"
    exact, theirs = row["fp64_error"], row["fp64_error_of_transformers"]
    return f"{row['error']:.1e} ({exact:.1e} from fp64; transformers' own fp32: {theirs:.1e})"


def _others(rows: list[Row], verdict: str) -> str:
    """What was said of the rows of a verdict, and of which; what was said most often first."""
    types: dict[str, list[str]] = {}
    for row in rows:
        if row["verdict"] == verdict:
            line = re.sub(r"^(--)?model \S+: ", "", row["message"])
            line = re.sub(r"; nait_fast knows .*", "", line)  # the whole table of families
            types.setdefault(line.replace("<", "\\<"), []).append(_type(row))
    return table(
        ("why", "types"), ((line, ", ".join(of)) for line, of in sorted(types.items(), key=lambda item: -len(item[1])))
    )


def _part(title: str, rows: list[Row]) -> str:
    parts = [f"## {title}\n", _counts(rows), _read(rows)]
    for verdict, what in (
        ("wrong", "Read wrong"),
        ("crash", "Crashed"),
        ("refused", "Refused"),
        ("n/a", "Not made or not run by transformers here"),
    ):
        if others := _others(rows, verdict):
            parts.append(f"**{what}**\n\n{others}")
    return sourced("\n\n".join(part.strip() for part in parts) + "\n", rows)


PRECISION = """## bf16 and quantised weights

What the engine reads beside what plain forward hooks read, a sample at a time, of the same model in the same format:
share of neuron bits that differ from an fp32 model's, and the median relative error of a sample's mean reading. bf16
is held against the fp32 weights, a format against the numbers that its weights stand for, so that rounding in the
forward is all that shows; how far those numbers are from the original weights is in the last two columns. Rows of
tiny random mixtures of experts are medians over seeds; where a token is routed otherwise for a last bit, of two
attentions that are equally right either is the nearer one in half of the samples (gpt-oss, whose packed attention is
not that of the hooks).

"""


def _precision(rows: list[Row]) -> str:
    """The table of one run of ``benchmarks.precision``."""

    def share(value: float | None) -> str:
        return "" if value is None else f"{value:.2%}"

    def error(value: float | None) -> str:
        return "" if value is None else f"{value:.1e}"

    titles = (
        "model",
        "format",
        "activations",
        "bits: engine",
        "hooks",
        "error: engine",
        "hooks",
        "format: bits",
        "error",
    )
    read = [
        (
            row["model"],
            row["format"],
            {"float32": "fp32", "bfloat16": "bf16"}[row["activations"]],
            share(row["engine_bits"]),
            share(row["hooks_bits"]),
            error(row["engine_error"]),
            error(row["hooks_error"]),
            share(row.get("quantised_bits")),
            error(row.get("quantised_error")),
        )
        for row in rows
        if "refused" not in row
    ]
    refused = sorted({(row["format"], row["refused"]) for row in rows if "refused" in row})
    said = "".join(f"\nRefused: {name}: {why}.\n" for name, why in refused)
    runs = {row["time"]: row for row in rows}.values()
    return sourced(f"{table(titles, read)}\n{said}", rows[:1]) + "".join(
        f"\n{source_of([row])}\n" for row in [*runs][1:]
    )


def section() -> str:
    """The text between the markers."""
    parts = []
    for folder in sorted(path for path in RESULTS.iterdir() if path.is_dir()):
        for which, title in TITLES.items():
            if rows := newest(folder / "models.jsonl", set=which):
                parts.append(_part(title, rows))
        latest: dict[str, dict[tuple[str, ...], Row]] = {}
        for row in rows_in(folder / "precision.jsonl"):  # a run may be of some formats
            latest.setdefault(row["set"], {})[row["model"], row["format"], row["activations"]] = row
        runs = [_precision(list(rows.values())) for rows in latest.values()]
        parts += [PRECISION + runs[0], *runs[1:]] if runs else []
    return "\n".join(parts)


def write(check: bool = False) -> int:
    """Write the page, or only compare."""
    return rewrite(PAGE, section(), check, "benchmarks.models_page")


def main() -> int:
    return write("--check" in sys.argv)


if __name__ == "__main__":
    sys.exit(main())
