"""``inspect`` and ``verify``: what a file or folder is, and whether it is whole."""

import itertools
import json
import re
from pathlib import Path
from typing import Any

from nait_fast import evaluation, validation
from nait_fast.codecs import codec_of
from nait_fast.config import DataOptions
from nait_fast.data.plan import REMEDY, load_plan
from nait_fast.data.pool import Pool
from nait_fast.data.row_conventions import make_conventions
from nait_fast.data.unread import counted
from nait_fast.errors import BadInput, Damaged, Mismatch, NaitError
from nait_fast.index import token_hashes
from nait_fast.index.reader import Index
from nait_fast.index.verify import problems_of
from nait_fast.methods import method_of
from nait_fast.methods.nait import uncertain_layers
from nait_fast.methods.signature import Signature, load_signature
from nait_fast.outputs.fetched import forget_shard, holds_results, local_copy
from nait_fast.outputs.recognise import CONFIG
from nait_fast.ranking.selection_files import KIND, SELECTED
from nait_fast.reporting import inspected
from nait_fast.reporting.answer import answer_of
from nait_fast.reporting.formatting import count
from nait_fast.reporting.validation_file import load_validation
from nait_fast.storage import values
from nait_fast.storage.files import read_json, read_sealed, sha256_file
from nait_fast.storage.names import CODEBOOK, MANIFEST, RUN, plan_name
from nait_fast.urls import all_without_secrets, is_url, joined
from nait_fast.verbs.selection_output import names_in

_OF_SELECTION = (
    "kind",
    "verb",
    "method",
    "rule",
    "length",
    "quality",
    "targets",
    "rows_read",
    "rows_scored",
    "rows_skipped",
    "rows_selected",
    "tokens_selected",
    "spearman_with_length",
    "datasets",
    "template_kind",
)
_OF_INDEX = (
    "kind",
    "codec",
    "reading",
    "reading_tokens",
    "rows",
    "tokens",
    "truncated",
    "duplicate_ids",
    "skipped",
    "row_bytes",
    "embedding",
    "embed_layer",
    "rds",
    "rds_width",
    "nll",
    "model",
    "model_name",
    "template_kind",
    "max_length",
    "dtype",
    "experts",
    "chosen",
    "codebook",
    "exact",
    "datasets",
)
_OF_VALIDATION = ("kind", "selection", "model", "recipe", "sets", "arms", "verdicts", "warnings")
_OF_EVALUATION = ("kind", "index", "rows", "fraction", "selected", "signatures", "missing")

_VERIFIED = {"files": ("file", ""), "rows": ("row", " of an index"), "rows_selected": ("row", " selected")}
_DATA = (".jsonl", ".json", ".parquet", ".csv", ".tsv", ".txt", ".gz", ".zst", ".safetensors", ".arrow")


def inspect(path: str, **reading: Any) -> dict[str, Any]:
    """Summary of an index, selection, evaluation, comparison, validation, signature, model or pool; its ``text`` is
    what a person reads. ``reading``: format, columns and roles of what is a pool then. Raises NaitError."""
    rows = DataOptions.from_mapping(reading, "inspect")
    summary = None if rows.given else _of_ours(path)
    return all_without_secrets(_of_pool(path, rows) if summary is None else summary)


def _of_ours(path: str) -> dict[str, Any] | None:
    """That of a result of nait_fast, or of a model; None for what can only be a pool."""
    if is_url(path) and not holds_results(path):
        return None
    place = local_copy(path)
    if place.is_dir() and (place / MANIFEST).exists():
        if read_json(place / MANIFEST).get("kind") == KIND:
            manifest = read_sealed(place / MANIFEST)
            out = {"path": path, **{k: manifest[k] for k in _OF_SELECTION if k in manifest}}
            if "constraints" in manifest:
                out["constraints"] = {line["constraint"]: line["dropped"] for line in manifest["constraints"]}
            try:
                return {**out, "text": answer_of(manifest, path)}
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                raise Damaged(f"not a valid manifest ({error})", where=place / MANIFEST) from None
        out = index_summary(Index(place), path)
        return {**out, "text": inspected.of_index(out)}
    if (place / evaluation.FILE).exists() and read_json(place / evaluation.FILE).get("kind") == evaluation.KIND:
        content = read_sealed(place / evaluation.FILE)
        out = {"path": path, **{k: content[k] for k in _OF_EVALUATION if k in content}}
        return {**out, "text": inspected.of_evaluation(out)}
    compared = place / evaluation.COMPARISON_FILE
    if compared.exists() and read_json(compared).get("kind") == evaluation.COMPARISON_KIND:
        from nait_fast.evaluation.side_by_side_text import text_of_comparison  # and rankings, which no other needs

        content = read_sealed(compared)
        return {"path": path, **content, "text": text_of_comparison(content)}
    validated = place / validation.FILE if place.is_dir() else place
    if _is_validation(validated):
        found, content = load_validation(validated), read_sealed(validated)
        out = {"path": path, **{k: content[k] for k in _OF_VALIDATION}}
        return {**out, "text": inspected.of_validation(found, path)}
    if place.suffix == ".safetensors" and place.name != CODEBOOK:
        out = signature_summary(load_signature(place), path)
        return {**out, "text": inspected.of_signatures([out], path)}
    if place.is_dir() and (files := _signatures_in(place)):
        shown = [signature_summary(load_signature(file), joined(path, file.name)) for file in files]
        return {"path": path, "kind": "signatures", "signatures": shown, "text": inspected.of_signatures(shown, path)}
    if place.is_dir() and ((place / RUN).exists() or (place / "index" / RUN).exists()):
        what = "is not finished: it was stopped, or somebody is at work there"
        raise BadInput(what, where=path, remedy="give its command again, which goes on where it stopped")
    if is_model(path):
        from nait_fast.verbs.model_inspection import inspect_model  # torch, which none of the others needs

        return inspect_model(path)
    return None


def _is_validation(file: Path) -> bool:
    """By how it begins: pools have files of that name, too, of any size and of any JSON."""
    if file.name != validation.FILE or not file.is_file():
        return False
    with open(file, "rb") as opened:
        return f'"kind": "{validation.KIND}"'.encode() in opened.read(256)


def _signatures_in(folder: Path) -> list[Path]:
    """The files of a folder that holds signatures, and nothing else that is seen."""
    files = sorted(file for file in folder.iterdir() if not file.name.startswith(".") and file.name != CONFIG)
    return files if all(file.suffix == ".safetensors" and file.name != CODEBOOK for file in files) else []


def _of_pool(path: str, rows: DataOptions) -> dict[str, Any]:
    conventions = make_conventions(rows.roles, rows.ignore, rows.columns)
    pool = Pool(path, format=rows.format, skip_bad_rows=True, conventions=conventions)
    pool.check_columns()
    info = pool.scan()
    pool.warn_of_formats()
    samples = pool.samples()
    first = next(samples)
    unread = counted(itertools.chain([first.unread], (sample.unread for sample in samples)))
    turns = [f"{role}: {text[:80]}" for role, text in first.turns]
    out = {
        "path": path,
        "kind": f"pool ({info.kind})",
        "format": info.format,
        "rows": info.rows,
        "usable": info.good,
        "skipped": [f"{s.where}: {s.reason}" for s in info.skipped[:20]],
        "unread": unread,
        "first_sample": turns,
        **conventions.described(),
    }
    return {**out, "text": inspected.of_pool(out)}


def index_summary(index: Index, path: str) -> dict[str, Any]:
    """What there is to say of an index, which ``path`` leads to."""
    shards = [s["bytes"] for s in index.manifest["shards"]]
    entries = codec_of(index.manifest["codec"]).entries
    return {
        "path": path,
        **{k: index.manifest[k] for k in (*_OF_INDEX, *entries) if k in index.manifest},
        "layers": len(index.layout.widths),
        "neurons": index.layout.n_neurons,
        "shards": len(shards),
        "bytes": sum(shards),
    }


def is_model(name: str) -> bool:
    """Whether ``name`` is a model's folder or GGUF file, an adapter's folder, or, where no such path exists, a model of
    the Hub: one that is here already, or named OWNER/NAME."""
    path = Path(name).expanduser()
    if path.is_file():
        return path.suffix == ".gguf"
    if path.is_dir():
        return (path / "adapter_config.json").is_file() or _names_a_model(path / "config.json")
    if path.exists() or not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name) or path.suffix in _DATA or name.startswith("."):
        return False
    from nait_fast.models.weight_cache import checkpoint_of

    if checkpoint_of(name) is not None:
        return True
    return "/" in name and any(_on_the_hub(name, file) for file in ("config.json", "adapter_config.json"))


def _names_a_model(file: Path) -> bool:
    try:
        content = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(content, dict) and ("model_type" in content or "architectures" in content)


def _on_the_hub(name: str, file: str) -> bool:
    from transformers.utils.hub import cached_file

    quiet = dict.fromkeys((f"_raise_exceptions_for_{what}" for what in ("gated_repo", "missing_entries")), False)
    try:
        return cached_file(name, file, _raise_exceptions_for_connection_errors=False, **quiet) is not None
    except Exception:  # whatever the Hub says of a name that is none of its own
        return False


def signature_summary(signature: Signature, path: str) -> dict[str, Any]:
    """What there is to say of a signature, which ``path`` leads to."""
    meta = {k: v for k, v in signature.meta.items() if k not in ("widths", "layers", "explained", "sign_margin")}
    if isinstance(meta.get("target"), dict):
        meta["target"] = {k: v for k, v in meta["target"].items() if k != token_hashes.NAME}
    out = {"path": path, "kind": "nait_fast signature", "name": signature.name, "hash": signature.hash, **meta}
    out["layers"] = len(signature.meta["layers"])
    if method_of(signature.method).sample is not None:
        out["samples_kept"] = signature.samples
    if "sign_margin" in signature.meta:
        out["uncertain_signs"] = uncertain_layers(signature.meta["sign_margin"])
    return out


def verify(path: str) -> dict[str, Any]:
    """Check every byte of an index or a selection (with its index and signatures). Raises NaitError on any problem.

    ``rows``: those of the index that was checked, where there is one; ``rows_selected``: of a selection.
    """
    place = local_copy(path)
    if not place.is_dir():
        what = "is a file: name the folder of an index or a selection" if place.exists() else "no such folder"
        raise BadInput(what, where=path)
    if not (place / MANIFEST).exists():
        raise BadInput(
            f"no {MANIFEST}: neither an index nor a selection, or one that is not finished (rerun its command)",
            where=path,
        )
    problems: list[NaitError] = []
    summary: dict[str, Any] = {"path": path, "ok": True, "files": 0}
    indexed = True
    if read_json(place / MANIFEST).get("kind") == KIND:
        expected, indexed, summary["rows_selected"] = _files_of(place)
        for file, digest in expected.items():
            if not file.is_file():
                problems.append(Damaged("is missing", where=file))
            elif not sha256_file(file).startswith(digest):
                problems.append(Damaged("its bytes have changed (SHA-256 differs)", where=file))
        summary["files"], place = len(expected), place / "index"
    if indexed:
        index = Index(place)
        for entry in index.entries:
            if entry.source is not None:
                forget_shard(entry.sha256)
        problems += [*problems_of(index), *_plan_problems(index)]
        summary |= {"files": summary["files"] + len(index.entries), "rows": index.rows}
    if problems:
        raise problems[0].replace(note=f"and {len(problems) - 1} more problems" if len(problems) > 1 else "")
    held = [count(summary[key], one) + more for key, (one, more) in _VERIFIED.items() if key in summary]
    return {**summary, "text": f"{path}: every byte is as it was written ({', '.join(held)})"}


def _files_of(folder: Path) -> tuple[dict[Path, str], bool, int]:
    """(the files of a selection with the digits of their SHA-256 that are known, whether it holds its index, too, its
    rows)."""
    manifest = read_sealed(folder / MANIFEST)
    try:
        files = values.mapping(manifest["files"], "files")
        if not {SELECTED} <= files.keys() <= {*names_in(manifest)}:
            raise ValueError(f"files: {values.short(sorted(files))}")
        expected = {folder / name: values.digest(digest, name) for name, digest in files.items()}
        if manifest["verb"] not in ("select", "rank"):
            raise ValueError(f"verb: {values.short(manifest['verb'])}")
        if holds_index := manifest["verb"] == "select":
            for name, digest in values.mapping(manifest["signatures"], "signatures").items():
                file = folder / "signatures" / f"{values.name(name, 'signatures')}.safetensors"
                expected[file] = values.digest(digest, "signatures", 16)
        rows = values.count(manifest["rows_selected"], "rows_selected")
    except (KeyError, TypeError, ValueError) as error:
        raise Damaged(f"not a valid manifest ({error})", where=folder / MANIFEST) from None
    return expected, holds_index, rows


def _plan_problems(index: Index) -> list[NaitError]:
    """Plans are aids: one that is gone is no problem, a damaged one is told."""
    problems: list[NaitError] = []
    for number, dataset in enumerate(index.datasets):
        file = index.folder / plan_name(number)
        try:
            if file.exists() and load_plan(file).sha256 != dataset["sha256"]:
                problems.append(Mismatch("is the plan of another pool", where=file, remedy=REMEDY))
        except NaitError as error:
            problems.append(error)
    return problems
