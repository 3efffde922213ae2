"""What a selection was made from and with, as tables of names and values, and as the command that made it."""

import dataclasses
import shlex
from collections.abc import Iterator
from typing import Any

from nait_fast.config import Options, RankOptions, SelectOptions
from nait_fast.reporting.formatting import count, number
from nait_fast.reporting.selection_folder import SelectionFolder


def tables(chosen: SelectionFolder) -> list[tuple[str, list[tuple[str, str]]]]:
    """(caption, rows of name and value)."""
    told = chosen.manifest
    model = [
        ("model", told["model_name"]),
        ("fingerprint", told["model"]),
        ("template", f"{told['template_kind']}, {told['template']}"),
        ("codebook", told.get("codebook") or "none (codec nag)"),
        ("layers", spans(told.get("layers"))),
        ("longest sample", f"{told.get('max_length')} tokens"),
    ]
    found = [
        ("Rows", list(_rows(told))),
        ("Model", model),
        ("Pool", list(_pools(told))),
        ("Signatures", _signatures(chosen)),
        ("Software and machine", list(_environment(told))),
        ("Files", [(name, str(digest)) for name, digest in told["files"].items()]),
    ]
    return [(caption, [(name, str(value)) for name, value in rows]) for caption, rows in found if rows]


def spans(layers: Any) -> str:
    """Ascending whole numbers in short: ``0–29``, ``0, 4–6``."""
    if not isinstance(layers, list) or not layers:
        return "–"
    runs: list[list[int]] = []
    for layer in layers:
        if runs and layer == runs[-1][-1] + 1:
            runs[-1].append(layer)
        else:
            runs.append([layer])
    return ", ".join(f"{run[0]}–{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)


def _rows(told: dict[str, Any]) -> Iterator[tuple[str, str]]:
    skipped = told["rows_skipped"]
    yield "read", f"{told['rows_read']:,}"
    yield "skipped", f"{skipped['rows']:,}"
    for reason, rows in sorted(skipped["reasons"].items(), key=lambda item: (-item[1], item[0])):
        yield f"skipped: {reason}", f"{rows:,}"
    yield "scored", f"{told['rows_scored']:,}"
    yield "cut to the longest sample", number(_plain(told.get("rows_truncated")))
    yield "selected", f"{told['rows_selected']:,}"
    yield "tokens selected", f"{told['tokens_selected']:,}"


def _pools(told: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for dataset in told["datasets"]:
        kind = ", ".join(str(dataset[key]) for key in ("kind", "format") if key in dataset)
        yield dataset["path"], f"{count(dataset['rows'], 'row')}; {kind}; SHA-256 {dataset.get('sha256') or 'unknown'}"


def _signatures(chosen: SelectionFolder) -> list[tuple[str, str]]:
    readings = chosen.manifest.get("reading")
    readings = readings if isinstance(readings, list) and len(readings) == len(chosen.targets) else [None] * 99
    found = []
    for name, method, reading in zip(chosen.targets, chosen.methods, readings, strict=False):
        said = f"{method}, reading {reading}; {chosen.manifest['signatures'][name]}"
        own = next((s for s in chosen.signatures if s.name == name), None)
        if own is not None:
            said += f"; from {count(own.meta['samples'], 'sample')}"
        found.append((name, said))
    return found


def _environment(told: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for key, value in told["environment"].items():
        if value is not None and value != []:
            yield key, ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    passed = told.get("extraction")
    rate = _plain(passed.get("tokens_per_s")) if isinstance(passed, dict) else None
    if rate:
        yield "index pass", f"{number(rate)} tokens/s"
    if scan := _plain(told.get("scan_seconds")):
        yield "scan", f"{number(scan, 2)} s"


def _plain(value: Any) -> float | None:
    return value if type(value) in (int, float) else None


def command(chosen: SelectionFolder) -> str:
    """The command line that gives this selection again, with the options that are not as they are by default."""
    verb = chosen.manifest["verb"]
    kind: type[Options] = SelectOptions if verb == "select" else RankOptions
    words = ["nait-fast", verb]
    for field in sorted(dataclasses.fields(kind), key=lambda f: not f.metadata.get("required", False)):
        value = chosen.config.get(field.name)
        value = tuple(value) if isinstance(value, list) else value
        if value is None or value == field.default:
            continue
        flag = "--" + field.name.replace("_", "-")
        if isinstance(value, bool):
            words.append(flag if value else flag.replace("--", "--no-", 1))
        elif isinstance(value, tuple):
            words += [flag, *(shlex.quote(str(item)) for item in value)]
        elif str(value).startswith("-"):
            words.append(f"{flag}={shlex.quote(str(value))}")
        else:
            words += [flag, shlex.quote(str(value))]
    return " ".join(words)
