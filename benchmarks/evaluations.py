"""Keeps what ``nait-fast evaluate`` found as result rows: one for each signature, without the pool's texts.

    python -m benchmarks.evaluations evaluation.json … [--note TEXT]

Recorded beside the environment that the evaluation names: retrieval, correlation with length, the largest share of a
layer, and how alike two halves of the target rank the pool.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.record import record, table


def rows_of(evaluation: dict[str, Any], note: str) -> Iterator[dict[str, Any]]:
    """One row a signature, of the measures that were taken."""
    by_label = {
        part: {row["signature"]: row for row in evaluation[part]} for part in ("retrieval", "confounds", "stability")
    }
    for signature in evaluation["signatures"]:
        label = signature["label"]
        retrieval, confounds, stability = (by_label[part].get(label) for part in by_label)
        row: dict[str, Any] = {key: signature.get(key) for key in ("name", "method", "reading", "kind", "samples")}
        row |= {"rows": evaluation["rows"], "measured_with": evaluation["environment"], "note": note}
        if retrieval:
            row |= {key: retrieval[key] for key in ("relevant", "r_precision", "auc", "chance")}
        if confounds:
            shares = confounds["layer_share"]
            row["spearman_with_length"] = confounds["spearman_with_length"]
            row["largest_layer_share"] = max(shares) if shares else None
        if stability and stability.get("halves"):
            row["halves"] = stability["halves"]
        if stability and stability.get("bootstrap"):
            row["bootstrap"] = stability["bootstrap"]
        if len(row) > 8:
            yield row


def lines(rows: list[dict[str, Any]]) -> str:
    """The tables of docs/methods.md: retrieval with correlation with length, and halves."""
    names = list(dict.fromkeys(row["name"] for row in rows))
    shown: dict[str, dict[str, dict[str, str]]] = {"retrieval": {}, "halves": {}}
    for row in rows:
        kind = "" if not row.get("kind") or row["kind"] == row["method"] else f", {row['kind'].split(', ')[-1]}"
        method = row["method"] + (f", {row['reading']}" if row["method"] == "nait" else kind)
        if "r_precision" in row:
            value = f"{row['r_precision']:.3f} ({row['spearman_with_length']:+.2f})"
            shown["retrieval"].setdefault(method, {"method": method})[row["name"]] = value
        if "halves" in row and row["halves"].get("spearman") is not None:
            value = f"{row['halves']['spearman']:.3f}"
            shown["halves"].setdefault(method, {"method": method})[row["name"]] = value
    titles = {
        "retrieval": f"**Retrieval** of a target's own source among {rows[0]['rows']:,} samples: R-precision, in "
        "brackets the score's Spearman correlation with length.",
        "halves": "**Stability**: Spearman between the rankings by two halves of a target (mean over splits; `nait` on "
        "codec rotated with 128 outliers).",
    }
    tables = {part: table(list(cells.values()), ["method", *names]) for part, cells in shown.items() if cells}
    out = [f"{titles[part]}\n\n{text}" for part, text in tables.items()]
    if sampled := [row for row in rows if row.get("bootstrap")]:
        out.append(_by_samples(sampled))
    return "\n\n".join([*out, *dict.fromkeys(row["note"] for row in rows if row["note"])]) + "\n"


def _by_samples(rows: list[dict[str, Any]]) -> str:
    """What a target of fewer samples chooses of what all of them do."""
    shown = []
    for row in rows:
        sizes = {str(measures["size"]): f"{measures['top10']:.2f}" for measures in row["bootstrap"]}
        shown.append({"target": f"{row['name']} ({row['samples']})", "method": row["method"], **sizes})
    columns = list(dict.fromkeys(key for cells in shown for key in cells))
    return (
        "**Samples of a target**: share of the best tenth that so many samples of it choose in common with all of them "
        "(in brackets), on average over draws.\n\n" + table(shown, columns)
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--note", default="", help="what a reader of the rows must know of how they were made")
    arguments = parser.parse_args()
    rows = [row for file in arguments.files for row in rows_of(json.loads(file.read_text()), arguments.note)]
    path = record("evaluations", rows)
    print(lines(rows))
    print(f"rows appended to {path.name}")


if __name__ == "__main__":
    main()
