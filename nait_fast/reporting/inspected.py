"""What ``inspect`` says to a person of a pool, index, signature, evaluation or validation: a heading, lines, what is
next."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from nait_fast.codecs import codec_of
from nait_fast.compatibility import dtype_option, shown_dtype
from nait_fast.config import DataOptions
from nait_fast.methods import METHODS, method_of
from nait_fast.reporting import trained_arms
from nait_fast.reporting.answer import next_line, wrapped
from nait_fast.reporting.formatting import count, listed, percent, short
from nait_fast.reporting.validation_file import Validation
from nait_fast.terminal import text_table

_LABEL = 12


def _page(heading: str, lines: Iterator[tuple[str, str]], following: Sequence[str] | None) -> str:
    indent = "  " + " " * _LABEL
    parts = wrapped(heading)
    for label, text in lines:
        parts += wrapped(text, f"  {label:<{_LABEL}}", indent)
    return "\n".join([*parts, *(["", next_line(following)] if following else [])])


def of_pool(summary: Mapping[str, Any]) -> str:
    def lines() -> Iterator[tuple[str, str]]:
        yield "format", f"{summary['format']}, {summary['kind'].removeprefix('pool (').rstrip(')')}"
        if summary["skipped"]:
            yield "left out", count(summary["rows"] - summary["usable"], "row")
            yield from (("", line) for line in summary["skipped"][:5])
        if summary["unread"]:
            yield "not read", ", ".join(f"{key} ({count(rows, 'row')})" for key, rows in summary["unread"].items())
        for number, turn in enumerate(summary["first_sample"]):
            yield "" if number else "first row", short(turn, 80 - _LABEL)

    heading = f"{summary['path']}: a pool of {count(summary['rows'], 'row')}, {summary['usable']:,} of them usable"
    following = ["nait-fast", "select", "--model", "MODEL", "--dataset", summary["path"], "--target", "NAME=FILE"]
    for name in ("columns", "roles"):
        if pairs := summary.get(name):
            following += [f"--{name}", ",".join(f"{key}={value}" for key, value in pairs.items())]
    following += ["--skip-bad-rows"] * (summary["usable"] < summary["rows"])
    return _page(heading, lines(), [*following, "--output", "chosen"])


def of_index(summary: Mapping[str, Any], work: str = "") -> str:
    """``work``: what was done to make it."""
    rows, tokens = summary["rows"], summary["tokens"]

    def lines() -> Iterator[tuple[str, str]]:
        model, dtype = Path(summary["model_name"]).name, shown_dtype(summary["dtype"])
        yield "model", f"{model}, {dtype}; {count(summary['layers'], 'layer')}"
        for dataset in summary["datasets"]:
            yield "pool", f"{dataset['path']} ({count(dataset['rows'], 'row')}, {dataset['format']})"
        yield "template", str(summary["template_kind"])
        if left := summary["skipped"]["rows"]:
            why = ", ".join(f"{reason}: {number:,}" for reason, number in summary["skipped"]["reasons"].items())
            yield "left out", f"{count(left, 'row')} ({short(why, 300)})"
        if cut := summary["truncated"]:
            yield "cut", f"{count(cut, 'row')} ({percent(cut / max(1, rows))}) at {summary['max_length']:,} tokens"
        if twice := summary.get("duplicate_ids"):
            yield "ids", f"{count(twice, 'row')} have the id of another"
        yield "keeps", ", ".join(_kept(summary))
        if work:
            yield "done", work
        shards = count(summary["shards"], "shard")
        yield "size", f"{shards}, {summary['bytes'] / 1e6:,.1f} MB; {summary['row_bytes']:,} bytes of codes a row"

    heading = f"{summary['path']}: an index of {count(rows, 'row')}, {tokens:,} tokens"
    heading += f" ({tokens / rows:,.0f} a row)" if rows else ""
    following = ["nait-fast", "signature", "--model", str(summary["model_name"]), *_as_indexed(summary)]
    return _page(heading, lines(), [*following, "--target", "NAME=FILE", "--output", "signatures"])


def _as_indexed(summary: Mapping[str, Any]) -> Iterator[str]:
    """The flags of ``signature`` that give what an index can rank."""
    name = codec_of(summary["codec"]).ranked_by
    if name != METHODS[0]:
        yield from ("--method", f"{name}:top_k={summary['top_k']}" if "top_k" in summary else name)
    if method_of(name).of_codebook:  # what the codebook was made with goes for its signatures
        yield from ("--codebook", summary["path"])
        return
    if summary["max_length"] != DataOptions.max_length:
        yield from ("--max-length", str(summary["max_length"]))
    if summary["dtype"] != "float32":
        yield from ("--dtype", dtype_option(summary["dtype"]))
    if "reading_tokens" in summary:
        yield from ("--tokens", summary["reading_tokens"])


def _kept(summary: Mapping[str, Any]) -> Iterator[str]:
    tokens = f" of the {summary['reading_tokens']}" if "reading_tokens" in summary else ""
    yield f"codec {summary['codec']} of {summary['neurons']:,} neurons ({summary['reading']}{tokens})"
    if "embedding" in summary:
        yield f"embedding of layer {summary['embed_layer']}"
    if "rds" in summary:
        yield f"rds ({summary['rds']})"
    if "nll" in summary:
        yield f"losses ({summary['nll']})"
    if summary.get("exact"):
        yield f"exact scores of {listed(list(summary['exact']))}"


def of_signatures(summaries: Sequence[Mapping[str, Any]], place: str, index: str | None = None) -> str:
    """Those that ``place``, a file or their folder, leads to; ``index``: which they are to rank, if that is known."""
    following = ["nait-fast", "rank", "--index", index or "INDEX", "--signature", place, "--output", "ranked"]
    return "\n\n".join([*map(_of_signature, summaries), next_line(following)])


def _of_signature(summary: Mapping[str, Any]) -> str:

    def lines() -> Iterator[tuple[str, str]]:
        target = summary.get("target") or {}
        yield "method", f"{summary['method']}, reading {summary['reading']}, {count(summary['layers'], 'layer')}"
        if samples := summary.get("samples"):
            tokens = f", {target['tokens'] / samples:,.0f} tokens each on average" if target.get("tokens") else ""
            yield "made from", f"{count(samples, 'sample')}{tokens}"
        if target.get("truncated"):
            yield "cut", f"{count(target['truncated'], 'sample')} at {summary['max_length']:,} tokens"
        if "samples_kept" in summary:
            kept = "keeps them, for --rule max and roundrobin" if summary["samples_kept"] else "keeps none of them"
            yield "samples", kept if summary["samples_kept"] else f"{kept} (signature --keep-samples does)"
        if summary.get("uncertain_signs"):
            yield "signs", f"uncertain in {count(summary['uncertain_signs'], 'layer')} (docs: Methods)"
        yield "hash", str(summary["hash"])

    return _page(f"{summary['path']}: the signature of '{summary['name']}'", lines(), None)


def of_evaluation(summary: Mapping[str, Any]) -> str:
    def lines() -> Iterator[tuple[str, str]]:
        yield "index", f"{summary['index']} ({count(summary['rows'], 'row')})"
        for signature in summary["signatures"]:
            yield "signature", f"{signature['label']}: {signature['method']}, {signature['reading']}"
        for what in summary.get("missing", ()):
            yield "missing", f"{what['what']}: {what['why']}"
        yield "tables", str(Path(summary["path"]) / "evaluation.md")

    return _page(f"{summary['path']}: an evaluation", lines(), None)


def of_validation(validation: Validation, path: str) -> str:
    """The verdicts, what was trained, and a table of the arms for each held-out set."""
    said = [f"{verdict.target}: {verdict.text}" for verdict in validation.verdicts]
    said += [f"elsewhere, on {name}: {found}" for name, found in trained_arms.elsewhere(validation)]
    said += [f"{name}: {found}" for name, found in trained_arms.right_told(validation)]
    verdicts = [line for text in said for line in wrapped(text)]
    told = [*wrapped(trained_arms.trained_told(validation)), *filter(None, [trained_arms.untold(validation)])]
    minded = [line for warning in validation.warnings for line in wrapped(warning, "  - ", "    ")]
    rows = [*trained_arms.arms_in_words(validation, tenths=False), *trained_arms.arms_in_words(validation, tenths=True)]
    size = [[row["name"], row["seeds"], row["rows"], row["tokens"]] for row in rows]
    parts = [
        "\n".join([*wrapped(f"{path}: whether a selection trains better"), *verdicts]),
        "\n".join(told),
        "\n".join(["to mind", *minded] if minded else []),
        text_table(["trained on", "seeds", "rows", "tokens of a response"], size),
    ]
    for i, has_accuracy in enumerate(trained_arms.sets_with_accuracy(validation)):
        header = [f"loss on {short(validation.sets[i].name, 40)}", "loss", "against random", ""]
        lines = [[row["name"], *(row["sets"][i][key] for key in ("loss", "difference", "word"))] for row in rows]
        if has_accuracy:
            header.append("accuracy")
            lines = [[*line, row["sets"][i]["accuracy"]] for line, row in zip(lines, rows, strict=True)]
        parts.append(text_table(header, lines, (0, 3)))
    return "\n\n".join(filter(None, parts))
