"""README's lines on large pools, from the newest rows of ``scale_loader``, ``scale_index`` and ``scale_rank``."""

from typing import Any

from benchmarks.record import table

Rows = list[dict[str, Any]]


def loader_lines(row: dict[str, Any]) -> str:
    memory, padding = row["rss_mb"], row["padding_waste"]
    return (
        f"**Loading** {row['rows']:,} rows ({row['pool_mb']:,} MB of JSONL, {row['tokens']:,} tokens) from file to "
        f"token arrays: {row['loader_rows_per_s']:,} rows/s, {row['ratio']:.0%} of the tokenizer's bare `encode_batch` "
        f"on the same texts, {row['rounds']} parts in turn ({row['ratio_min']:.0%} to {row['ratio_max']:.0%}); "
        f"numbering the rows took {row['plan_seconds']:.1f} s. Resident memory after each part: "
        f"{', '.join(f'{m:,.0f}' for m in memory)} MB. Padding, for a model that cannot run packed: "
        f"{padding['cpu']:.1%} at a CPU's token budget, {padding['cuda']:.1%} at a GPU's; packed models have none.\n"
    )


def index_lines(row: dict[str, Any]) -> str:
    points = row["points"]
    tokens = [point["tokens"] for point in points]
    return (
        f"**Index time** over tokens, the fastest of {points[-1]['round'] + 1} passes of each of {len(set(tokens))} "
        f"sizes ({min(tokens):,} to {max(tokens):,} tokens): "
        f"{row['intercept']:.1f} s + {row['slope'] * 1e3:.3f} ms a token, R² {row['r2']:.4f}, residuals up to "
        f"{row['max_relative_residual']:.1%}.\n"
    )


def rank_lines(rows: Rows) -> str:
    shown = [
        {
            "rank": f"{row['rows']:,} rows, --scores {row['scores']}",
            "files": f"within {row['limit_mb']:,} MB ({row['limit']})" if "limit" in row else row["state"],
            "scan GB/s": f"{row['gb_per_s']:.1f}",
            "plain read GB/s": f"{row['read_gb_per_s']:.1f}",
            "of read": f"{row['of_read']:.0%}",
            "whole process": f"{row['process_s']:.1f} s",
            "peak memory": f"{row['peak_rss_mb']:.0f} MB",
        }
        for row in rows
        if row["part"] in ("rank", "limited")
    ]
    (growth,) = (row for row in rows if row["part"] == "growth")
    first = rows[0]
    return (
        f"**Ranking** an index of {first['rows']:,} × {first['row_bytes']} B with {first['signatures']} signatures "
        f"({first['planes']} planes), each run beside a plain read of the same files in the same state (hot: in the "
        f"page cache; cold: evicted from it), {first['threads']} threads, median of {first['rounds']}; the outputs of "
        f"{first['checked_rows']:,} rows compared with an in-memory reference first. Over 1/4, 1/2 and all of the rows "
        f"the process takes {growth['intercept_s']:.1f} s + {growth['us_per_row']:.2f} µs a row (residuals up to "
        f"{growth['largest_residual_of_max']:.1%}), at most {max(growth['peaks_mb']):.0f} MB.\n\n"
        f"{table(shown, list(shown[0]))}\n"
    )
