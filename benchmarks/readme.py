"""Writes README's measured section from the newest rows under ``benchmarks/results/``; ``--check`` only compares.

python -m benchmarks.readme [--check]
"""

import json
import sys
from pathlib import Path
from typing import Any

from benchmarks.gpu_rows import gpu_table
from benchmarks.record import RESULTS, table
from benchmarks.scale_rows import index_lines, loader_lines, rank_lines

README = Path(__file__).resolve().parent.parent / "README.md"
BEGIN, END = "<!-- measured:begin -->\n", "<!-- measured:end -->"


def newest(path: Path, **wanted: Any) -> list[dict[str, Any]]:
    """The rows of the last run in ``path`` whose fields equal ``wanted``."""
    if not path.exists():
        return []
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rows = [row for row in rows if all(row.get(k) == v for k, v in wanted.items())]
    return [row for row in rows if row["time"] == rows[-1]["time"]]


def _source(rows: list[dict[str, Any]]) -> str:
    env = rows[0]["environment"]
    place = env["gpus"][0] if env["gpus"] else f"{env['cpu']}, {env['cores']} cores"
    versions = ", ".join(f"{p} {env[p]}" for p in ("torch", "transformers", "numba") if env.get(p))
    commit = env["commit"] or "not recorded"
    return f"{place}; Python {env['python']}, {versions}; commit {commit}; `{rows[0]['command']}`"


def _index(rows: list[dict[str, Any]]) -> str:
    shown = [
        {
            "tool": row["tool"],
            "real tokens/s": f"{row['tokens_per_s']:,.0f}",
            "nait_fast is": "" if row["tool"] == "nait-fast index" else f"{row['nait_fast_is']:.1f}× as fast",
            "peak memory": f"{row['peak_rss_mb']:,.0f} MB",
            "whole process": f"{row['process_seconds']:.0f} s",
        }
        for row in rows
    ]
    first = rows[0]
    return (
        f"**Indexing** {first['rows']} real samples with {first['model']} (fp32, max_length {first['max_length']}, "
        f"median of {first['rounds']} rounds in turn; loading is in the whole process only). "
        f"{first['checked_bits']:,} bits checked against the hooks' features first: "
        f"{first['differing_bits']} differ.\n\n"
        f"{table(shown, list(shown[0]))}\n\n{_source(rows)}\n"
    )


def _scan(rows: list[dict[str, Any]]) -> str:
    shown = [
        {
            "tool": row["tool"],
            "GB of codes/s": f"{row['gb_per_s']:.1f}",
            "of plain read": f"{100 * row['of_read']:.0f}%",
            "time": f"{1000 * row['median_s']:.0f} ms",
        }
        for row in rows
    ]
    first = rows[0]
    return (
        f"**Scanning** {first['rows']:,} random codes of {first['row_bytes']:,} bytes "
        f"(median of {first['rounds']} rounds in turn; FAISS {first['faiss']}).\n\n"
        f"{table(shown, list(shown[0]))}\n\n{_source(rows)}\n"
    )


def _retrieval(rows: list[dict[str, Any]]) -> str:
    targets = list(dict.fromkeys(row["target"] for row in rows))
    shown = []
    for method in dict.fromkeys(row["method"] for row in rows):
        own = {row["target"]: row for row in rows if row["method"] == method}
        cells = {t: f"{own[t]['r_precision']:.3f} ({own[t]['spearman_with_length']:+.2f})" for t in targets}
        shown.append({"method": method, **cells})
    chance = {t: f"{next(r['relevant'] for r in rows if r['target'] == t) / rows[0]['rows']:.3f}" for t in targets}
    shown.append({"method": "by chance", **chance})
    return (
        f"**Retrieval**: R-precision of a target's own source among {rows[0]['rows']:,} samples of five sources, "
        f"{rows[0]['model']}, max_length {rows[0]['max_length']}; in brackets the score's Spearman correlation with "
        f"length.\n\n{table(shown, ['method', *targets])}\n\n{_source(rows)}\n"
    )


def _exactness(rows: list[dict[str, Any]]) -> str:
    row = rows[-1]
    errors = ", ".join(f"{name} {row[f'relative_error_{name}']:.1e}" for name in ("mean", "drift", "up_abs"))
    same = all(row[f"nait_{name}_same_order"] for name in ("drift", "mean"))
    scores = ", ".join(
        f"{name} {row[f'nait_fp64_engine_{name}_own']:.1e} (the independent fp32 run itself "
        f"{row[f'nait_fp64_independent_{name}_own']:.1e})"
        for name in ("drift", "mean")
    )
    return (
        f"**Exactness** against one sample at a time through plain forward hooks, {row['rows']} real samples, "
        f"{row['model']}, fp32: largest relative error of a layer's readings {errors} "
        f"({100 * row['share_above_1e-5_drift']:.2f}% of the drifts above 1e-5); largest error "
        f"of an exact NAIT score relative to itself, against the independent run in fp64: {scores}; "
        f"{'the same order' if same else 'another order'} as in fp32; "
        f"{row['bits_differing']} of {row['bits']:,} bits differ "
        f"(the farthest {row['bits_worst_distance_sigma']:.1e}·σ from its threshold); "
        f"other batches and order change {row['other_batches_and_order_bits_differing']} bits, "
        f"no shared prefix {row['without_prefix_bits_differing']}.\n\n{_source(rows)}\n"
    )


def sourced(text: str, rows: list[dict[str, Any]]) -> str:
    return f"{text}\n{_source(rows)}\n"


def _gpu(rows: list[dict[str, Any]]) -> str:
    return f"**GPU** (random weights, a real pool's lengths):\n\n{gpu_table(rows)}\n\n{_source(rows[-1:])}\n"


def _all(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def section() -> str:
    """The measured section: for each machine, whatever has been measured there."""
    parts = []
    for folder in sorted(p for p in RESULTS.iterdir() if p.is_dir()):
        compare = folder / "compare.jsonl"
        for rows, show in (
            (_all(folder / "gpu_suite.jsonl"), _gpu),
            (newest(compare, part="index"), _index),
            (newest(compare, part="scan"), _scan),
            (newest(folder / "retrieval.jsonl"), _retrieval),
            (newest(folder / "exactness.jsonl"), _exactness),
            (newest(folder / "scale_loader.jsonl"), lambda rows: sourced(loader_lines(rows[-1]), rows)),
            (newest(folder / "scale_index.jsonl"), lambda rows: sourced(index_lines(rows[-1]), rows)),
            (newest(folder / "scale_rank.jsonl"), lambda rows: sourced(rank_lines(rows), rows)),
        ):
            if rows:
                parts.append(show(rows))
    if not any(RESULTS.glob("*/gpu_suite.jsonl")):
        parts.append(f"**GPU** (`make gpu`; no GPU has run it yet):\n\n{gpu_table([])}\n")
    return "\n".join(parts)


def rewrite(page: Path, measured: str, check: bool) -> int:
    """Put ``measured`` between the markers of ``page``, or only compare (``check``); exit status 1: it differs."""
    text = page.read_text()
    head, _, rest = text.partition(BEGIN)
    _, _, tail = rest.partition(END)
    made = head + BEGIN + measured + END + tail
    if check and made != text:
        print(f"{page.name}: its measured section is not what benchmarks/results/ says: {sys.argv[0]}")
    if not check:
        page.write_text(made)
    return int(check and made != text)


def main() -> int:
    return rewrite(README, section(), "--check" in sys.argv)


if __name__ == "__main__":
    sys.exit(main())
