"""What several targets get of one selection, by each combination: the share of their own sources, of pairs of targets.

    python -m benchmarks.several_targets --index INDEX --signature FILES [--label source] [--fraction 0.1]

A signature's own source is the value of the label that has its name. The model does not run.
"""

import argparse
import itertools
import json
from collections import Counter
from typing import Any

import numpy as np

import nait_fast
from benchmarks.record import record, table
from nait_fast.config import COMBINES
from nait_fast.index.pool_rows import label_values, open_rows


def measured(index: nait_fast.Index, files: list[str], label: str, fraction: float) -> list[dict[str, Any]]:
    """A row for each pair of signatures and combination."""
    signatures = [nait_fast.load_signature(file) for file in files]
    every = np.arange(index.pool_rows)
    numbers, values = label_values(open_rows(index).lines(every), label)
    names = {number: value for value, number in values.items()}
    rows = []
    for pair, combine in itertools.product(itertools.combinations(signatures, 2), COMBINES):
        chosen = nait_fast.selection_of(index, list(pair), combine=combine, fraction=fraction)
        counts = Counter(names.get(number) for number in numbers[np.asarray(chosen.rows)].tolist())
        total = sum(counts.values())
        rows.append(
            {
                "targets": [signature.name for signature in pair],
                "combine": combine,
                "fraction": fraction,
                "rows": index.rows,
                "selected": total,
                "own": {signature.name: counts[signature.name] / total for signature in pair},
                "pool": {s.name: float((numbers == values.get(s.name)).mean()) for s in pair},
                "model": index.manifest["model_name"].split("/")[-1],
                "method": pair[0].method,
            }
        )
    return rows


def lines(rows: list[dict[str, Any]]) -> str:
    """The table of the docs."""
    shown: dict[str, dict[str, str]] = {}
    for row in rows:
        first, second = row["targets"]
        cells = shown.setdefault(
            f"{first} + {second}",
            {
                "targets": f"{first} + {second}",
                "pool": " / ".join(f"{row['pool'][name]:.0%}" for name in row["targets"]),
            },
        )
        cells[f"`{row['combine']}`"] = " / ".join(f"{row['own'][name]:.0%}" for name in row["targets"])
    columns = ["targets", "pool", *(f"`{combine}`" for combine in COMBINES)]
    what = f"the best {rows[0]['fraction']:.0%} of {rows[0]['rows']:,} samples, {rows[0]['model']}, {rows[0]['method']}"
    return f"**Two targets**: share of each one's own source among {what}.\n\n{table(list(shown.values()), columns)}\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--index", required=True)
    parser.add_argument("--signature", required=True, nargs="+")
    parser.add_argument("--label", default="source")
    parser.add_argument("--fraction", type=float, default=0.1)
    arguments = parser.parse_args()
    rows = measured(nait_fast.Index(arguments.index), arguments.signature, arguments.label, arguments.fraction)
    path = record("several_targets", rows)
    print(lines(rows), json.dumps({"rows": len(rows), "file": path.name}), sep="\n")


if __name__ == "__main__":
    main()
