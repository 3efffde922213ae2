"""An evaluation as it is written: numbers as JSON has them, and tables of Markdown."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

DIGITS = 6
EXAMPLE_CHARACTERS = 100


def json_values(value: Any) -> Any:
    """``value`` with NumPy's numbers as Python's, floats rounded, and null for what is no finite number."""
    if isinstance(value, dict):
        return {key: json_values(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [json_values(item) for item in value]
    if isinstance(value, np.ndarray):
        return json_values(value.tolist())
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float):
        return round(value, DIGITS) if math.isfinite(value) else None
    return value


def tables(evaluation: dict[str, Any]) -> str:
    """The text of ``evaluation.md``."""
    sections = [
        _head(evaluation),
        _section("Fidelity: bits against the score that they stand for", _fidelity(evaluation["fidelity"])),
        _section("Retrieval of a label", _retrieval(evaluation["retrieval"])),
        _section("Stability", _stability(evaluation["stability"])),
        _section("Confounds", _confounds(evaluation["confounds"])),
        _section("Agreement of rules", _rules(evaluation.get("rules", []))),
        _section("Agreement of methods", _agreement(evaluation["agreement"], evaluation["signatures"])),
        *_transfer(evaluation["transfer"], evaluation["signatures"]),
        _section("Core", _core(evaluation)),
        _section("Selected by one signature only", _unique(evaluation)),
        _section("Not measured", "\n".join(f"- {m['what']}: {m['why']}" for m in evaluation["missing"])),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A table of Markdown; nothing without rows."""
    lines = ["| " + " | ".join(_cell(value) for value in row) + " |" for row in rows]
    if not lines:
        return ""
    return "\n".join(["| " + " | ".join(header) + " |", "|" + "---|" * len(header), *lines])


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3f}"
    return "" if value is None else " ".join(str(value).replace("|", "\\|").split())


def _section(title: str, body: str) -> str:
    return f"## {title}\n\n{body}" if body else ""


def _head(evaluation: dict[str, Any]) -> str:
    ruled = any("rule" in s for s in evaluation["signatures"])  # older files do not tell
    header = ("signature", "method", "reading", *(["rule"] if ruled else []), "samples", "ranks the index")
    rows = (
        (
            s["label"],
            s["method"],
            s["reading"],
            *([s.get("rule")] if ruled else []),
            s["samples"],
            "yes" if s["scored"] else "no",
        )
        for s in evaluation["signatures"]
    )
    counts = f"{evaluation['rows']:,} rows of {evaluation['index']}; a selection is {evaluation['selected']:,} of them"
    return f"# Evaluation\n\n{counts} ({evaluation['fraction']:.1%}).\n\n{table(header, rows)}"


def _fidelity(entries: list[dict[str, Any]]) -> str:
    header = ("signature", "bits", "against", "rows", "Spearman", "top 10%", "top 1%")
    keys = ("signature", "by", "against", "rows", "spearman", "top10", "top1")
    return table(header, ([entry[key] for key in keys] for entry in entries))


def _retrieval(entries: list[dict[str, Any]]) -> str:
    depths = list(dict.fromkeys(depth for entry in entries for depth in entry["p_at"]))
    header = (
        "signature",
        "finds",
        "relevant",
        "of rows",
        "R-precision",
        *(f"p@{depth}" for depth in depths),
        "AUC",
        "by chance",
    )
    rows = (
        [
            e["signature"],
            ", ".join(e["label"]),
            e["relevant"],
            e["rows"],
            e["r_precision"],
            *(e["p_at"].get(depth) for depth in depths),
            e["auc"],
            e["chance"],
        ]
        for e in entries
    )
    return table(header, rows)


def _stability(entries: list[dict[str, Any]]) -> str:
    sizes = sorted({measures["size"] for entry in entries for measures in entry["bootstrap"]})
    header = (
        "signature",
        "samples",
        "halves: Spearman",
        "halves: top 10%",
        *(f"{size} samples: Spearman (low, high)" for size in sizes),
        "halves: cosine of directions",
        "layers whose sign flips",
        "layers of uncertain sign",
    )
    rows = []
    for entry in entries:
        by_size = {measures["size"]: measures for measures in entry["bootstrap"]}
        directions = entry.get("directions", {})
        cosines, flips = directions.get("cosine", []), directions.get("sign_flips", [])
        rows.append(
            [
                entry["signature"],
                entry.get("samples"),
                entry["halves"]["spearman"],
                entry["halves"]["top10"],
                *(_with_range(by_size.get(size)) for size in sizes),
                sum(cosines) / len(cosines) if cosines else None,
                sum(flip > 0 for flip in flips) if flips else None,
                entry["uncertain_layers"],
            ]
        )
    return table(header, rows)


def _with_range(measures: dict[str, Any] | None) -> str:
    if measures is None or measures["spearman"] is None:
        return ""
    return f"{measures['spearman']:.3f} ({measures['low']:.3f}, {measures['high']:.3f})"


def _confounds(entries: list[dict[str, Any]]) -> str:
    header = ("signature", "rows", "Spearman with length", "last layer's share", "largest shares (layer)")
    rows = []
    for entry in entries:
        shares = entry["layer_share"] or []
        largest = sorted(zip(shares, entry["layers"], strict=False), key=lambda pair: -abs(pair[0]))[:3]
        rows.append(
            [
                entry["signature"],
                entry["rows"],
                entry["spearman_with_length"],
                shares[-1] if shares else None,
                ", ".join(f"{share:.2f} ({layer})" for share, layer in largest),
            ]
        )
    return table(header, rows)


def _rules(entries: list[dict[str, Any]]) -> str:
    """What the best rows by each rule are, and share with those by the others: a row each signature and rule."""
    rules = list(dict.fromkeys(rule for entry in entries for rule in entry["rules"]))
    shared = (f"shared with {rule}" for rule in rules)
    header = ("signature", "rule", "best rows", *shared, "mean tokens", "the target's", "R-precision")
    rows = []
    for entry in entries:
        for i, rule in enumerate(entry["rules"]):
            cells = dict(zip(entry["rules"], entry["overlap"][i], strict=True))
            precision = entry["r_precision"] and entry["r_precision"][i]
            tokens = (f"{number:.1f}" for number in (entry["tokens"][i], entry["target_tokens"]))
            others = (None if other == rule else cells.get(other) for other in rules)
            rows.append([entry["signature"], rule, entry["rows"], *others, *tokens, precision])
    return table(header, rows)


def _names(signatures: list[dict[str, Any]]) -> dict[str, str]:
    """Label -> name, which several labels may share."""
    return {s["label"]: s["name"] for s in signatures}


def _agreement(agreement: dict[str, Any], signatures: list[dict[str, Any]]) -> str:
    """The pairs of signatures of one capability, a row each."""
    names = _names(signatures)
    pairs: dict[tuple[str, str], tuple[Any, ...]] = {}
    parts = [(agreement, "all"), *([(agreement["sampled"], "sample")] if "sampled" in agreement else [])]
    for values, rows in parts:
        for j, second in enumerate(values["names"]):
            for i, first in enumerate(values["names"][:j]):
                if names[first] == names[second]:
                    pairs.setdefault((first, second), (rows, values["spearman"][i][j], values["top"][i][j]))
    header = ("signature", "and", "rows", "Spearman", "overlap of what they select")
    return table(header, ([*pair, *values] for pair, values in pairs.items()))


def _transfer(transfer: dict[str, Any], signatures: list[dict[str, Any]]) -> list[str]:
    """Three tables for each method that has several signatures."""
    kinds, names = {s["label"]: s["kind"] for s in signatures}, _names(signatures)
    titles = {"cosine": "cosine of signatures", "overlap": "overlap of what they select", "spearman": "Spearman"}
    sections = []
    for kind in dict.fromkeys(kinds[name] for name in transfer["names"]):
        columns = [i for i, name in enumerate(transfer["names"]) if kinds[name] == kind]
        heads = [names[transfer["names"][i]] for i in columns]
        if len(set(heads)) < len(heads):
            heads = [transfer["names"][i] for i in columns]
        for key, title in titles.items() if len(columns) > 1 else ():
            rows = ([name, *(transfer[key][i][j] for j in columns)] for i, name in zip(columns, heads, strict=True))
            sections.append(_section(f"Transfer, {kind}: {title}", table(("", *heads), rows)))
    return sections


def _core(evaluation: dict[str, Any]) -> str:
    parts = []
    for core in evaluation["cores"]:
        parts.append(
            f"{core['count']:,} rows are selected by at least {core['at_least']} of "
            f"{len(core['signatures'])} signatures ({core['kind']}); by chance it would "
            f"be {core['by_chance']:.1f}.\n\n{_examples(core['examples'])}"
        )
    return "\n\n".join(part.strip() for part in parts)


def _unique(evaluation: dict[str, Any]) -> str:
    kinds = {label: core for core in evaluation["cores"] for label in core["signatures"]}
    parts = [
        f"**{label}**: {entry['count']:,} rows that no other of the {len(kinds[label]['signatures'])} signatures of "
        f"{kinds[label]['kind']} selects.\n\n{_examples(entry['examples'])}"
        for label, entry in evaluation["unique"].items()
    ]
    return "\n\n".join(part.strip() for part in parts)


def _examples(examples: list[dict[str, Any]]) -> str:
    rows = ([example["row"], _short(example["text"])] for example in examples)
    return table(("row", "text"), rows)


def _short(text: str | None) -> str:
    words = " ".join((text or "").split())
    return words if len(words) <= EXAMPLE_CHARACTERS else words[: EXAMPLE_CHARACTERS - 1] + "…"
