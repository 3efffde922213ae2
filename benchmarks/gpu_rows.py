"""README's GPU table, from the rows that ``gpu_suite`` leaves; what no GPU has measured says so."""

from collections.abc import Callable
from typing import Any

from benchmarks.record import table

Row = dict[str, Any]
SHAPE = "llama-2-7b"  # the shape that the targets speak of
MISSING = "not measured yet"


def _of(key: str, words: str) -> Callable[[Row], str]:
    return lambda row: words.format(row[key])


# (what, target, part, name of the row, its key, how it is shown)
WANTED: list[tuple[str, str, str, str, str, Callable[[Row], str]]] = [
    (
        "capture on against off, whole forward",
        "≤ 2%",
        "endtoend",
        "index pass",
        "overhead_percent",
        _of("overhead_percent", "{:+.1f}%"),
    ),
    (
        "index pass, of the measured bf16 matmul rate",
        "≥ 60%",
        "endtoend",
        "index pass",
        "of_matmul",
        _of("of_matmul", "{:.0%}"),
    ),
    ("index pass, real tokens/s", "", "endtoend", "index pass", "tokens_per_s", _of("tokens_per_s", "{:,.0f}")),
    (
        "index pass against hooks on padded batches of 8",
        "≥ 3×",
        "endtoend",
        "hooks, padded batches of 8",
        "engine_is",
        _of("engine_is", "{:.1f}×"),
    ),
    (
        "index pass against the same with transformers' own norms and rotary embedding",
        "",
        "endtoend",
        "index pass, plain norms and rotary",
        "engine_is",
        _of("engine_is", "{:.2f}×"),
    ),
    (
        "capture kernel, of the measured copy bandwidth",
        "≥ 85%",
        "kernels",
        "capture, first + last + sum",
        "of_copy",
        _of("of_copy", "{:.0%}"),
    ),
    (
        "the same with packed bits",
        "≥ 85%",
        "kernels",
        "capture, sum + packed bits",
        "of_copy",
        _of("of_copy", "{:.0%}"),
    ),
    ("RMSNorm in one kernel", "", "kernels", "rms_norm", "of_copy", _of("of_copy", "{:.0%}")),
    ("rotary embedding in one kernel", "", "kernels", "apply_rotary", "of_copy", _of("of_copy", "{:.0%}")),
    (
        "top-20 sets for `nag` (32 counts a row: latency, not bandwidth)",
        "",
        "kernels",
        "topk_bits, k 20",
        "of_copy",
        _of("of_copy", "{:.0%}"),
    ),
    (
        "bits that differ from the CPU engine's, SmolLM2 shape, fp32",
        "only next to a threshold",
        "pipeline",
        "smollm2-135m against the CPU's fp32, float32",
        "differing_share",
        _of("differing_share", "{:.1e}"),
    ),
    (
        "the same in bf16",
        "",
        "pipeline",
        "smollm2-135m against the CPU's fp32, bfloat16",
        "differing_share",
        _of("differing_share", "{:.1e}"),
    ),
    (
        "scan of 1M codes, 1 plane, of the measured read bandwidth",
        "≥ 85%",
        "scan",
        "count, 1 plane",
        "of_read",
        _of("of_read", "{:.0%}"),
    ),
    ("scan, 4 planes", "≥ 85%", "scan", "count, 4 planes", "of_read", _of("of_read", "{:.0%}")),
    ("scan of rotated codes, 4 planes", "", "scan", "scaled, 4 planes", "of_read", _of("of_read", "{:.0%}")),
    (
        "scan, 128 planes (32 capabilities) on tensor cores",
        "",
        "scan",
        "dot, 128 planes",
        "of_read",
        _of("of_read", "{:.0%}"),
    ),
]


def newest_rows(rows: list[Row]) -> dict[tuple[str, str], Row]:
    """(part, name) -> the last row of it, of ``SHAPE`` where a part has shapes."""
    return {(row["part"], row["name"]): row for row in rows if row.get("shape", SHAPE) == SHAPE}


def gpu_table(rows: list[Row]) -> str:
    """Each wanted figure beside its target: measured, missing, or what its check says."""
    found = newest_rows(rows)
    shown = []
    for what, target, part, name, key, show in WANTED:
        row = found.get((part, name), {})
        failed = str(row.get("check", "ok")) if not str(row.get("check", "ok")).startswith("ok") else ""
        value = failed or (show(row) if key in row else MISSING)
        shown.append({"LLaMA-2-7B shape, bf16": what, "target": target, "measured": value})
    return table(shown, list(shown[0]))
