"""What a selection was made from and with, as tables of names and values, and as the command that made it."""

import dataclasses
import shlex
from collections.abc import Iterator
from typing import Any

from nait_fast.config import RankOptions, SelectOptions
from nait_fast.options import Options, flag_of
from nait_fast.reporting.formatting import count, number
from nait_fast.reporting.selection_folder import SelectionFolder

RULE_SAYS = {
    "centroid": "a target's samples score a row as a whole",
    "max": "the target sample that is most like a row scores it",
    "roundrobin": "target samples take turns, each taking its best row; a score is that of the most like sample",
}

RANKED = ("signature", "foreign_scores")  # one of them must be given, and either comes first


def tables(chosen: SelectionFolder) -> list[tuple[str, list[tuple[str, str]]]]:
    """(caption, rows of name and value)."""
    manifest = chosen.manifest
    model = [
        ("model", manifest["model_name"]),
        ("fingerprint", manifest["model"]),
        ("template", f"{manifest['template_kind']}, {manifest['template']}"),
        ("codebook", manifest.get("codebook") or "none (codec nag)"),
        ("layers", spans(manifest.get("layers"))),
        ("longest sample", f"{manifest.get('max_length')} tokens"),
        *([("tokens read", manifest["reading_tokens"])] if "reading_tokens" in manifest else []),
    ]
    captioned = [
        ("Rows", list(_rows(manifest))),
        ("Model", model),
        ("Pool", list(_pools(manifest))),
        ("Signatures", _signatures(chosen)),
        ("Software and machine", list(_environment(manifest))),
        ("Files", [(name, str(digest)) for name, digest in manifest["files"].items()]),
    ]
    return [(caption, [(name, str(value)) for name, value in rows]) for caption, rows in captioned if rows]


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


def _rows(manifest: dict[str, Any]) -> Iterator[tuple[str, str]]:
    skipped = manifest["rows_skipped"]
    yield "read", f"{manifest['rows_read']:,}"
    yield "skipped", f"{skipped['rows']:,}"
    for reason, rows in sorted(skipped["reasons"].items(), key=lambda item: (-item[1], item[0])):
        yield f"skipped: {reason}", f"{rows:,}"
    yield "scored", f"{manifest['rows_scored']:,}"
    yield "cut to the longest sample", number(_plain(manifest.get("rows_truncated")))
    yield "selected", f"{manifest['rows_selected']:,}"
    yield "tokens selected", f"{manifest['tokens_selected']:,}"
    if "rule" in manifest:
        yield "rule", f"{manifest['rule']}: {RULE_SAYS[manifest['rule']]}"
    if "length" in manifest:
        yield "length", f"{manifest['length']}: targets against rows of the pool as long as their samples"
    for line in manifest.get("constraints", []):
        yield f"lost their places to {line['constraint']}", f"{line['dropped']:,}"
    if "quality" in manifest:
        said = manifest["quality"]
        yield "quality mixed in", f"{said['column']}, weight {said['weight']:g}, {said['scale']}"


def _pools(manifest: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for dataset in manifest["datasets"]:
        kind = ", ".join(str(dataset[key]) for key in ("kind", "format") if key in dataset)
        yield dataset["path"], f"{count(dataset['rows'], 'row')}; {kind}; SHA-256 {dataset.get('sha256') or 'unknown'}"


def _signatures(chosen: SelectionFolder) -> list[tuple[str, str]]:
    readings = chosen.manifest.get("reading")
    readings = readings if isinstance(readings, list) and len(readings) == len(chosen.targets) else [None] * 99
    rows = []
    for name, method, reading in zip(chosen.targets, chosen.methods, readings, strict=False):
        said = f"{method}, reading {reading}; {chosen.manifest['signatures'][name]}"
        signature = next((s for s in chosen.signatures if s.name == name), None)
        if signature is not None:
            said += f"; from {count(signature.meta['samples'], 'sample')}"
        rows.append((name, said))
    return rows


def _environment(manifest: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for key, value in manifest["environment"].items():
        if value is not None and value != []:
            yield key, ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    passed = manifest.get("extraction")
    rate = _plain(passed.get("tokens_per_s")) if isinstance(passed, dict) else None
    if rate:
        yield "index pass", f"{number(rate)} tokens/s"
    if scan := _plain(manifest.get("scan_seconds")):
        yield "scan", f"{number(scan, 2)} s"


def _plain(value: Any) -> float | None:
    return value if type(value) in (int, float) else None


def command(chosen: SelectionFolder) -> str:
    """The command line that gives this selection again, with the options that are not as they are by default, as they
    are spelled now."""
    verb = chosen.manifest["verb"]
    kind: type[Options] = SelectOptions if verb == "select" else RankOptions
    options, _ = kind.respelled(kind.beside_defaults(chosen.config), f"nait-fast {verb}")
    words = ["nait-fast", verb]
    for field in sorted(dataclasses.fields(kind), key=lambda f: not (f.metadata.get("required") or f.name in RANKED)):
        value, flag = options.get(field.name), flag_of(field.name)
        if value is None:
            continue
        if isinstance(value, bool):
            words.append(flag if value else flag.replace("--", "--no-", 1))
        elif isinstance(value, list):
            words += [flag, *(shlex.quote(str(item)) for item in value)]
        elif str(value).startswith("-"):
            words.append(f"{flag}={shlex.quote(str(value))}")
        else:
            words += [flag, shlex.quote(str(value))]
    return " ".join(words)
