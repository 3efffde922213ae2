"""What the sign of NAIT's components decides: retrieval of a target's own source by both rules of ``sign``.

    python -m benchmarks.signs --model FOLDER --dataset POOL.jsonl --target NAME=FILE … --work DIR

On captured readings, as benchmarks.fidelity; the pool's mean drift is that of 512 of its samples, as an index has it.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from benchmarks.fidelity import Calibrated, exact_scores
from benchmarks.readings import READINGS, Readings, captured_by, work_parser
from benchmarks.record import record, table
from nait_fast.evaluation.retrieval import r_precision
from nait_fast.methods.nait import nait_signature
from nait_fast.ranking.spearman import spearman

SIGNS = ("mean", "contrast")


def measured(readings: Readings, sources: np.ndarray, seed: int) -> Iterator[dict[str, Any]]:
    """A row for each target, reading and rule. ``turned``: the share of layers whose sign is not the paper's."""
    widths = list(readings.layout.widths)
    meta = {"widths": widths, "layers": list(range(len(widths)))}
    pool_drift = Calibrated(readings.pool["drift"], readings.layout, "drift", seed).centre
    for name, drifts in readings.targets.items():
        made = [nait_signature(name, np.array(drifts), meta, sign=sign, pool_drift=pool_drift) for sign in SIGNS]
        paper, other = (s.tensors["direction"] for s in made)
        turned = np.mean([(paper[at] != other[at]).any() for at in map(readings.layout.neurons, range(len(widths)))])
        for reading in READINGS:
            scores = exact_scores(readings.pool[reading], made)
            for sign, mine in zip(SIGNS, scores.T, strict=True):
                yield {
                    "reading": reading,
                    "sign": sign,
                    "target": name,
                    "rows": len(mine),
                    "r_precision": r_precision(mine, sources == name),
                    "spearman_with_length": round(spearman(mine, readings.lengths), 3),
                    "turned": float(turned) if sign == "contrast" else 0.0,
                }


def lines(rows: list[dict[str, Any]]) -> str:
    """Markdown: a row each for reading and rule, the targets as columns."""
    shown = []
    for reading, sign in dict.fromkeys((row["reading"], row["sign"]) for row in rows):
        mine = [row for row in rows if (row["reading"], row["sign"]) == (reading, sign)]
        cells = {row["target"]: f"{row['r_precision']:.3f} ({row['turned']:.0%})" for row in mine}
        shown.append({"reading": reading, "sign": sign, **dict(sorted(cells.items()))})
    return (
        f"**Signs**: R-precision of `nait` among {rows[0]['rows']:,} samples, {rows[0]['model']}, by both rules of "
        f"`sign`; in brackets the share of layers whose direction is turned round.\n\n"
        f"{table(shown, list(shown[0]))}\n"
    )


def main() -> None:
    arguments = work_parser(__doc__).parse_args()
    readings, sources, about = captured_by(arguments)
    rows = [{**row, **about} for row in measured(readings, sources, arguments.seed)]
    path = record("signs", rows)
    print(lines(rows))
    print(f"rows appended to {path.name}")


if __name__ == "__main__":
    main()
