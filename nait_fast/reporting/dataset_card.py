"""The card of a selection on the Hub: how it was made, of what, and what to mind; names of files, not their places."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePath
from typing import Any

import yaml

from nait_fast.ranking.selection_files import SELECTED
from nait_fast.remote.hub_repository import MARK
from nait_fast.reporting.formatting import clean, correlation, count, listed, percent, short
from nait_fast.reporting.provenance import spans
from nait_fast.urls import is_url, path_of

_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
_LARGER = "n>1M"
# Options that decide which rows are chosen, as the card lists them.
_CHOOSING = (
    "fraction",
    "top_k",
    "token_budget",
    "pick",
    "combine",
    "length",
    "near_duplicates",
    "coverage",
    "quota",
    "quality",
    "quality_weight",
    "decontaminate",
    "decontaminate_codes",
)
MOST_SOURCES = 20


def card_of(manifest: Mapping[str, Any], name: str) -> str:
    """The README.md of the data set ``name`` (OWNER/NAME) that holds the selection that ``manifest`` tells of."""
    rows = manifest["rows_selected"]
    size = next((text for most, text in _SIZES if rows < most), _LARGER)
    head = {
        "configs": [{"config_name": "default", "data_files": [{"split": "train", "path": SELECTED}]}],
        "tags": ["data-selection", "nait-fast"],
        "size_categories": [size],
    }
    parts = [
        f"# {name.rpartition('/')[2]}",
        _first(manifest),
        _code("python", f'from datasets import load_dataset\n\nrows = load_dataset("{name}", split="train")'),
        "The rows are those of the pools below, as they are there, and so is their licence.",
        *_section("How they were chosen", _table(("", ""), _method(manifest))),
        *_section("What they are", _table(("", "selected", "pool"), _amounts(manifest))),
        *_section("What to mind", [f"- {_escaped(text)}" for text in _warnings(manifest)]),
        *_section("Where they are from", _table(("", ""), _provenance(manifest))),
        MARK,
    ]
    front = yaml.safe_dump(head, sort_keys=False)
    return f"---\n{front}---\n\n" + "\n\n".join(parts) + "\n"


def _first(manifest: Mapping[str, Any]) -> str:
    rows, scored, tokens = manifest["rows_selected"], manifest["rows_scored"], manifest["tokens_selected"]
    return (
        f"{count(rows, 'row')} of {scored:,} ({percent(rows / max(1, scored))}), {tokens:,} tokens, selected for "
        f"{_escaped(listed(manifest['targets']))} with nait_fast {manifest['environment'].get('nait_fast', '')}."
    )


def _method(manifest: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    config = manifest.get("config") or {}
    methods = dict.fromkeys([str(config["method"])] if config.get("method") else manifest["method"])
    yield "targets", listed(manifest["targets"])
    yield "method", listed(list(methods))
    yield "reading", listed(list(dict.fromkeys(manifest["reading"])))
    yield "rule", manifest.get("rule", "centroid")
    for key in _CHOOSING:
        value = config.get(key)
        if value not in (None, [], (), False, "free"):
            yield key.replace("_", " "), _named_value(value)
    for constraint in manifest.get("constraints", ()):
        yield f"{constraint['constraint']}: rows that lost their places", f"{constraint['dropped']:,}"
    for target, rho in manifest["spearman_with_length"].items():
        yield f"scores of {target} with length (Spearman)", correlation(rho)


def _amounts(manifest: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    rows, scored = manifest["rows_selected"], manifest["rows_scored"]
    yield "rows", f"{rows:,}", f"{scored:,}"
    if manifest.get("tokens_scored"):
        tokens, every = manifest["tokens_selected"], manifest["tokens_scored"]
        yield "tokens", f"{tokens:,}", f"{every:,}"
        yield "tokens a row", f"{tokens / max(1, rows):,.0f}", f"{every / max(1, scored):,.0f}"
    if (made := manifest.get("composition")) is None:
        return
    names = [*made["selected"], *(name for name in made["pool"] if name not in made["selected"])]
    for name in names[:MOST_SOURCES]:
        of_rows, of_pool = (
            percent(made[side].get(name, 0) / max(1, made[f"{side}_rows"])) for side in ("selected", "pool")
        )
        yield f"{made['key']}: {short(name, 60)}", of_rows, of_pool


def _warnings(manifest: Mapping[str, Any]) -> Iterator[str]:
    for warning in manifest.get("warnings", ()):
        yield _without_places(warning)
    if skipped := manifest["rows_skipped"]["rows"]:
        yield f"{count(skipped, 'row')} of the pool could not be used, and {'was' if skipped == 1 else 'were'} left out"
    if cut := manifest.get("rows_truncated"):
        yield f"{count(cut, 'row')} of the pool read to {manifest['max_length']:,} tokens only"


def _provenance(manifest: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for dataset in manifest["datasets"]:
        yield "pool", f"{_name(dataset['path'])}, {dataset['rows']:,} rows, SHA-256 {dataset['sha256']}"
    yield "model", f"{_name(manifest['model_name'])} ({manifest['dtype']}), fingerprint {manifest['model']}"
    yield "layers", spans(manifest.get("layers"))
    yield "template", f"{manifest['template_kind']}, {manifest['template']}"
    yield "longest sample", f"{manifest['max_length']:,} tokens"
    yield "index", manifest["index"]
    for target, digest in manifest["signatures"].items():
        yield f"signature of {target}", digest
    yield SELECTED, f"SHA-256 {manifest['files'][SELECTED]}"
    versions = manifest["environment"]
    named = [key for key in ("nait_fast", "torch", "transformers") if versions.get(key)]
    yield "versions", ", ".join(f"{key} {versions[key]}" for key in named)


def _name(place: str) -> str:
    """What a path, a URL or a Hub id ends in; a Hub id as a whole."""
    if is_url(place):
        return path_of(place).rstrip("/").rpartition("/")[2] or place
    path = PurePath(place)
    return path.name if path.is_absolute() or place.startswith(".") or os.path.exists(place) else place


def _named_value(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return listed([_named_value(item) for item in value])
    return _name(value) if isinstance(value, str) else str(value)


_PLACES = re.compile(r"(?<![\w/.:-])(?:[A-Za-z][A-Za-z0-9+.-]+:/)?(?:\.{0,2}/[^\s:;,'\"()]+)+")


def _without_places(text: str) -> str:
    """``text`` with only the names of the files in it."""
    return _PLACES.sub(lambda match: match[0].rstrip("/").rpartition("/")[2], text)


def _section(title: str, lines: Sequence[str]) -> list[str]:
    return [f"## {title}", "\n".join(lines)] if lines else []


def _table(head: Sequence[str], rows: Iterator[tuple[str, ...]]) -> list[str]:
    lines = [f"| {' | '.join(map(_escaped, row))} |" for row in rows]
    return [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}", *lines] if lines else []


def _code(language: str, text: str) -> str:
    return f"```{language}\n{text}\n```"


_MARKUP = re.compile(r"([\\`*_{}\[\]<>#|~])")


def _escaped(text: str) -> str:
    """``text`` on one line, whose characters are none of Markdown's."""
    return _MARKUP.sub(r"\\\1", " ".join(clean(str(text)).split()))
