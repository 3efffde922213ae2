"""Writes the measured sections of docs/benchmarks.md, and README's lines of figures, from the newest rows under
``benchmarks/results/``; ``--check`` only compares.

python -m benchmarks.figures_page [--check]
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.compare import HALF, OURS
from benchmarks.record import RESULTS, newest, rows_in, sourced, table
from nait_fast.bench.peaks import peak_of
from nait_fast.bench.results import state_of
from nait_fast.env import processor_of

README = Path(__file__).resolve().parent.parent / "README.md"
PAGE = README.parent / "docs" / "benchmarks.md"
BEGIN, END = "<!-- measured:begin -->\n", "<!-- measured:end -->"
Row = dict[str, Any]
SHAPE = "llama-2-7b"  # the shape that the GPU's targets speak of
MISSING = "not measured yet"
LINK = "docs/benchmarks.md"


# (what, target, part, name of the row, its key, how it is shown)
WANTED: list[tuple[str, str, str, str, str, str]] = [
    (
        "index pass against a forward without capture, activation in torch's two operations",
        "≤ 2%",
        "endtoend",
        "index pass",
        "overhead_percent",
        "{:+.1f}%",
    ),
    (
        "the same, activation in one kernel: what capture costs",
        "≤ 2%",
        "endtoend",
        "bare forward, fused activation",
        "overhead_percent",
        "{:+.1f}%",
    ),
    ("index pass, of the measured bf16 matmul rate", "≥ 60%", "endtoend", "index pass", "of_matmul", "{:.0%}"),
    ("index pass, of the data sheet's bf16 rate", "", "endtoend", "index pass", "of_peak", "{:.0%}"),
    ("index pass, tokens served a second", "", "endtoend", "index pass", "tokens_per_s", "{:,.0f}"),
    ("index pass, tokens run a second", "", "endtoend", "index pass", "run_tokens_per_s", "{:,.0f}"),
    (
        "index pass against hooks on padded batches of 8",
        "≥ 3×",
        "endtoend",
        "hooks, padded batches of 8",
        "engine_is",
        "{:.2f}×",
    ),
    (
        "index pass against hooks on sorted batches, body only",
        "",
        "endtoend",
        "hooks, sorted batches, body only",
        "engine_is",
        "{:.2f}×",
    ),
    (
        "index pass against the same with transformers' own norms and rotary embedding",
        "",
        "endtoend",
        "index pass, plain norms and rotary",
        "engine_is",
        "{:.2f}×",
    ),
    (
        "capture kernel, of the measured copy bandwidth",
        "≥ 85%",
        "kernels",
        "capture, first + last + sum",
        "of_copy",
        "{:.0%}",
    ),
    ("the same with packed bits", "≥ 85%", "kernels", "capture, sum + packed bits", "of_copy", "{:.0%}"),
    ("RMSNorm in one kernel", "", "kernels", "rms_norm", "of_copy", "{:.0%}"),
    ("rotary embedding in one kernel", "", "kernels", "apply_rotary", "of_copy", "{:.0%}"),
    (
        "top-20 sets for `nag` (32 counts a row: latency, not bandwidth)",
        "",
        "kernels",
        "topk_bits, k 20",
        "of_copy",
        "{:.0%}",
    ),
    (
        "bits that differ from the CPU engine's, SmolLM2 shape, fp32",
        "only next to a threshold",
        "pipeline",
        "smollm2-135m against the CPU's fp32, float32",
        "differing_share",
        "{:.1e}",
    ),
    ("the same in bf16", "", "pipeline", "smollm2-135m against the CPU's fp32, bfloat16", "differing_share", "{:.1e}"),
    (
        "scan of 1M codes, 1 plane, of the measured read bandwidth",
        "≥ 85%",
        "scan",
        "count, 1 plane",
        "of_read",
        "{:.0%}",
    ),
    ("scan, 4 planes", "≥ 85%", "scan", "count, 4 planes", "of_read", "{:.0%}"),
    ("scan of rotated codes, 4 planes", "", "scan", "scaled, 4 planes", "of_read", "{:.0%}"),
    ("scan of 44 KB codes, 4 planes", "≥ 85%", "scan", "count, 4 planes, 44 KB", "of_read", "{:.0%}"),
    ("scan, 128 planes (32 capabilities) on tensor cores", "", "scan", "dot, 128 planes", "of_read", "{:.0%}"),
    ("the same, of what its arithmetic allows", "", "scan", "dot, 128 planes", "of_floor", "{:.0%}"),
]


def _named(row: Row) -> str:
    return row["tool"] + (f" (commit {row['before']})" if "before" in row else "")


def _demo(rows: list[Row]) -> str:
    stages = [name for name in rows[0] if name.endswith("_s") and name not in ("process_cpu_s", "tokens_per_s")]
    shown = [
        {
            "command": _named(row),
            "whole process": f"{row['process_seconds']:.0f} s",
            "of all processors": f"{row['process_cpu_s']:.0f} s",
            **{stage.removesuffix("_s"): f"{row[stage]:.1f} s" for stage in stages},
        }
        for row in rows
    ]
    return sourced(f"`nait-fast demo` by stage:\n\n{table(shown, list(shown[0]))}\n", rows)


def _index(rows: list[Row]) -> str:
    half = next((row["tokens_per_s"] for row in rows if row["tool"] == HALF), None)
    shown = [
        {
            "tool": _named(row),
            "real tokens/s": f"{row['tokens_per_s']:,.0f}",
            "nait_fast in fp32 is": "" if row["tool"] in (OURS, HALF) else f"{row['nait_fast_is']:.2f}× as fast",
            **({"in bf16": "" if row["tool"] == HALF else f"{half / row['tokens_per_s']:.2f}×"} if half else {}),
            "peak memory": f"{row['peak_rss_mb']:,.0f} MB",
            "whole process": f"{row['process_seconds']:.0f} s",
        }
        for row in rows
    ]
    first = rows[0]
    template = f"{first['template']} template, " if "template" in first else ""
    run = ""
    if "tokens_run" in first:
        served, ran = first["tokens_served"], first["tokens_run"]
        run = f" Of {served:,} tokens the engine runs {ran:,}; the others stand in shared prefixes."
    return sourced(
        f"**Indexing** {first['rows']} real samples with {first['model']} ({template}fp32 unless said, max_length "
        f"{first['max_length']}, median of {first['rounds']} rounds in turn; loading is in the whole process only). "
        f"{first['checked_bits']:,} bits checked against the hooks' features first: "
        f"{first['differing_bits']} differ.{run}\n\n"
        f"{table(shown, list(shown[0]))}\n",
        rows,
    )


def _scan(rows: list[Row]) -> str:
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
    return sourced(
        f"**Scanning** {first['rows']:,} random codes of {first['row_bytes']:,} bytes "
        f"(median of {first['rounds']} rounds in turn; FAISS {first['faiss']}).\n\n"
        f"{table(shown, list(shown[0]))}\n",
        rows,
    )


def _retrieval(rows: list[Row]) -> str:
    targets = list(dict.fromkeys(row["target"] for row in rows))
    shown = []
    for method in dict.fromkeys(row["method"] for row in rows):
        of_method = {row["target"]: row for row in rows if row["method"] == method}
        cells = {t: f"{of_method[t]['r_precision']:.3f} ({of_method[t]['spearman_with_length']:+.2f})" for t in targets}
        shown.append({"method": method, **cells})
    chance = {t: f"{next(r['relevant'] for r in rows if r['target'] == t) / rows[0]['rows']:.3f}" for t in targets}
    shown.append({"method": "by chance", **chance})
    return sourced(
        f"R-precision of a target's own source among {rows[0]['rows']:,} samples of five sources, "
        f"{rows[0]['model']}, max_length {rows[0]['max_length']}; in brackets the score's Spearman correlation with "
        f"length.\n\n{table(shown, ['method', *targets])}\n",
        rows,
    )


def _exactness(rows: list[Row]) -> str:
    row = rows[-1]
    errors = ", ".join(f"{name} {row[f'relative_error_{name}']:.1e}" for name in ("mean", "drift", "up_abs"))
    same = all(row[f"nait_{name}_same_order"] for name in ("drift", "mean"))
    scores = ", ".join(
        f"{name} {row[f'nait_fp64_engine_{name}_own']:.1e} (the independent fp32 run itself "
        f"{row[f'nait_fp64_independent_{name}_own']:.1e})"
        for name in ("drift", "mean")
    )
    return sourced(
        f"Against one sample at a time through plain forward hooks, {row['rows']} real samples, "
        f"{row['model']}, fp32: largest relative error of a layer's readings {errors} "
        f"({100 * row['share_above_1e-5_drift']:.2f}% of the drifts above 1e-5); largest error "
        f"of an exact NAIT score relative to itself, against the independent run in fp64: {scores}; "
        f"{'the same order' if same else 'another order'} as in fp32; "
        f"{row['bits_differing']} of {row['bits']:,} bits differ "
        f"(the farthest {row['bits_worst_distance_sigma']:.1e}·σ from its threshold); "
        f"other batches and order change {row['other_batches_and_order_bits_differing']} bits, "
        f"no shared prefix {row['without_prefix_bits_differing']}.\n",
        rows,
    )


def _loading(rows: list[Row]) -> str:
    row = rows[-1]
    memory, padding = row["rss_mb"], row["padding_waste"]
    text = (
        f"**Loading** {row['rows']:,} rows ({row['pool_mb']:,} MB of JSONL, {row['tokens']:,} tokens) from file to "
        f"token arrays: {row['loader_rows_per_s']:,} rows/s, {row['ratio']:.0%} of the tokenizer's bare `encode_batch` "
        f"on the same texts, {row['rounds']} parts in turn ({row['ratio_min']:.0%} to {row['ratio_max']:.0%}); "
        f"numbering the rows took {row['plan_seconds']:.1f} s. Resident memory after each part: "
        f"{', '.join(f'{m:,.0f}' for m in memory)} MB. Padding, for a model that cannot run packed: "
        f"{padding['cpu']:.1%} at a CPU's token budget, {padding['cuda']:.1%} at a GPU's; packed models have none.\n"
    )
    return sourced(text, rows)


def _command(rows: list[Row]) -> str:
    command, loader = (next(row for row in rows if row["name"] == name) for name in ("index", "loader alone"))
    stages = ", ".join(f"{name} {seconds:.1f}" for name, seconds in command["stages"].items())
    text = (
        f"**From JSONL to shards**, the whole `index` command with a model that is no limit ({command['model']}): "
        f"{command['rows']:,} short rows in {command['seconds']:.0f} s, {command['rows_per_cpu_s']:,.0f} rows a "
        f"processor's second, at most {command['peak_rss_mb']:,.0f} MB; seconds by stage: {stages}. The loader alone "
        f"on the same rows: {loader['rows_per_cpu_s']:,.0f} rows a processor's second. (Others worked on this machine "
        f"meanwhile: processors' seconds are firmer than the clock's.)\n"
    )
    return sourced(text, rows)


def _index_time(rows: list[Row]) -> str:
    row = rows[-1]
    points = row["points"]
    tokens = [point["tokens"] for point in points]
    text = (
        f"**Index time** over tokens, the fastest of {points[-1]['round'] + 1} passes of each of {len(set(tokens))} "
        f"sizes ({min(tokens):,} to {max(tokens):,} tokens): "
        f"{row['intercept']:.1f} s + {row['slope'] * 1e3:.3f} ms a token, R² {row['r2']:.4f}, residuals up to "
        f"{row['max_relative_residual']:.1%}.\n"
    )
    return sourced(text, rows)


def _ranking(rows: list[Row]) -> str:
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
    text = (
        f"**Ranking** an index of {first['rows']:,} × {first['row_bytes']} B with {first['signatures']} signatures "
        f"({first['planes']} planes), each run beside a plain read of the same files in the same state (hot: in the "
        f"page cache; cold: evicted from it), {first['threads']} threads, median of {first['rounds']}; the outputs of "
        f"{first['checked_rows']:,} rows compared with an in-memory reference first. Over 1/4, 1/2 and all of the rows "
        f"the process takes {growth['intercept_s']:.1f} s + {growth['us_per_row']:.2f} µs a row (residuals up to "
        f"{growth['largest_residual_of_max']:.1%}), at most {max(growth['peaks_mb']):.0f} MB.\n\n"
        f"{table(shown, list(shown[0]))}\n"
    )
    return sourced(text, rows)


def newest_rows(rows: list[Row]) -> dict[tuple[str, str], Row]:
    """(part, name) -> the last row of it, of ``SHAPE`` where a part has shapes."""
    return {(row["part"], row["name"]): row for row in rows if row.get("shape", SHAPE) == SHAPE}


def completed(row: Row) -> Row:
    """``row`` with what an earlier one does not say: the tokens run, the share of the data sheet's rate, and
    ``engine_is`` against the faster of two runs, where a baseline was timed twice, the first time cold (of two numbers
    the quantiles give both)."""
    made = dict(row)
    if row.get("part") == "endtoend" and "ms" in row and "run_tokens_per_s" not in row:
        run = row["tokens"] - row.get("shared_prefix", 0) * row["samples"]
        made["run_tokens_per_s"] = run / row["ms"] * 1e3
        peak = peak_of(row["hardware"], getattr(torch, row["dtype"]))
        if peak and "tflop_per_s" in row:
            made["of_peak"] = 1e12 * row["tflop_per_s"] / peak
        if row["repeats"] == 2:
            fastest = row["ms"] - (row["ms_p80"] - row["ms_p20"]) / 1.2
            made["engine_is"] = row["engine_is"] * fastest / row["ms"]
    return made


def gpu_table(rows: list[Row]) -> str:
    """Each wanted figure beside its target: measured, missing, or what its check says."""
    by_name = newest_rows(rows)
    shown = []
    for what, target, part, name, key, words in WANTED:
        row = completed(by_name.get((part, name), {}))
        measured = words.format(row[key]) if key in row else MISSING
        if key == "engine_is" and row.get("repeats") == 2:
            measured += " (the faster of two runs)"
        value = measured if state_of(row) in ("", "ok") else row["check"]
        shown.append({"LLaMA-2-7B shape, bf16": what, "target": target, "measured": value})
    return table(shown, list(shown[0]))


def _gpu(rows: list[Row]) -> str:
    return sourced(f"Random weights, a real pool's lengths.\n\n{gpu_table(rows)}\n", rows[-1:])


def section() -> str:
    """The measured sections, a heading each: of each machine whatever has been measured there."""
    places = sorted(path for path in RESULTS.iterdir() if path.is_dir())

    def part(file: str, show: Callable[[list[Row]], str], **wanted: Any) -> list[str]:
        return [show(rows) for place in places if (rows := newest(place / file, **wanted))]

    def compared(name: str, show: Callable[[list[Row]], str], **wanted: Any) -> list[str]:
        return part("compare.jsonl", show, part=name, **wanted)

    gpus = [_gpu(rows) for place in places if (rows := rows_in(place / "gpu_suite.jsonl"))]
    by_topic = {
        "Indexing on a CPU": [
            *(text for template in (None, "chat", "alpaca") for text in compared("index", _index, template=template)),
            *part("scale_index.jsonl", _index_time),
        ],
        "GPU": gpus or [f"`make gpu`; no GPU has run it yet:\n\n{gpu_table([])}\n"],
        "Ranking": [*compared("scan", _scan), *part("scale_rank.jsonl", _ranking)],
        "Retrieval": part("retrieval.jsonl", _retrieval),
        "Exactness": part("exactness.jsonl", _exactness),
        "Loading": [*part("scale_loader.jsonl", _loading), *part("scale_command.jsonl", _command)],
        "The demo": compared("demo", _demo),
    }
    return "\n".join("\n".join([f"## {topic}\n", *texts]) for topic, texts in by_topic.items() if texts)


def _row(file: str, **wanted: Any) -> Row:
    """The row of ``file``, a path below the results, whose fields equal ``wanted``: the last of them."""
    return [row for row in rows_in(RESULTS / file) if all(row.get(key) == value for key, value in wanted.items())][-1]


def _from(row: Row) -> str:
    """Where a line's figures are from, in short; the page that it links to has versions and command."""
    env = row["environment"]
    place = env["gpus"][0] if env["gpus"] else processor_of(env)
    return f"{place}, torch {env['torch'].partition('+')[0]}, commit {env['commit'][:7]}"


def highlights() -> str:
    """README's three lines: the index pass on a GPU and on a CPU, and a ranking, each with its machine and a link."""
    gpu = completed(newest_rows(rows_in(RESULTS / "nvidia-h100-80gb-hbm3/gpu_suite.jsonl"))["endtoend", "index pass"])
    cpu = "cpu-intel-xeon-emerald-rapids-2c/compare.jsonl"
    index = {row["tool"]: row for row in newest(RESULTS / cpu, part="index", template="chat")}
    hooks = index["hooks, sorted batches, body only"]
    rank = _row("cpu-amd-epyc-2c/scale_rank.jsonl", part="rank", scores="all", state="hot")
    gigabytes = rank["rows"] * rank["row_bytes"] / 1e9
    return (
        f"- **Index, GPU**: {gpu['run_tokens_per_s']:,.0f} tokens/s through a LLaMA-2-7B in bf16, "
        f"{gpu['of_matmul']:.0%} of the rate measured for matrix products alone ([{_from(gpu)}]({LINK}#gpu)).\n"
        f"- **Index, CPU**: {index[HALF]['tokens_per_s']:,.0f} tokens/s through SmolLM2-135M in bf16, "
        f"{index[OURS]['tokens_per_s']:,.0f} in fp32, {hooks['nait_fast_is']:.2f}× what forward hooks on sorted "
        f"batches reach in fp32 ([{_from(index[OURS])}]({LINK}#indexing-on-a-cpu)).\n"
        f"- **Rank**: {rank['rows'] / 1e6:.0f} million samples ({gigabytes:.1f} GB of codes) against "
        f"{rank['signatures']} targets in {rank['process_s']:.1f} s, all scores written "
        f"([{_from(rank)}]({LINK}#ranking)).\n"
    )


def rewrite(page: Path, measured: str, check: bool, module: str) -> int:
    """Put ``measured`` between the markers of ``page``, or only compare (``check``); exit status 1: it differs.
    ``module``: what writes it, for the message."""
    text = page.read_text()
    head, _, rest = text.partition(BEGIN)
    _, _, tail = rest.partition(END)
    made = head + BEGIN + measured + END + tail
    if check and made != text:
        print(f"{page.name}: its generated part is not up to date: python -m {module}")
    if not check:
        page.write_text(made)
    return int(check and made != text)


def main() -> int:
    check = "--check" in sys.argv
    module = "benchmarks.figures_page"
    return max(rewrite(PAGE, section(), check, module), rewrite(README, highlights(), check, module))


if __name__ == "__main__":
    sys.exit(main())
