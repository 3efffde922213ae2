"""Reads evaluation.json, which ``evaluate`` writes: each part checked, so that a page can show it as it is."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nait_fast.config import RULES
from nait_fast.errors import BadInput, Damaged
from nait_fast.evaluation import FORMAT_VERSION, KIND
from nait_fast.evaluation.row_content import TEXT_CHARACTERS
from nait_fast.storage import values
from nait_fast.storage.files import read_json, read_sealed

MOST_NAMES = 64  # of a matrix that is shown


@dataclass(frozen=True)
class Matrix:
    """``cells`` [C][C], None where there is no number; ``names`` [C]."""

    names: list[str]
    cells: list[list[float | None]]


@dataclass(frozen=True)
class Evaluation:
    """What the file tells, part by part; empty where it does not. ``labels``: hash of a signature -> what it is called
    in the others; ``ranked_by``: hash -> the rule, where the file tells; ``layer_share``: label -> (layers, shares);
    ``between_rules``: how far the rules agree; ``cores``: of each method."""

    rows: int
    labels: dict[str, str] = field(default_factory=dict)
    ranked_by: dict[str, str] = field(default_factory=dict)
    fidelity: list[dict[str, Any]] = field(default_factory=list)
    retrieval: list[dict[str, Any]] = field(default_factory=list)
    stability: list[dict[str, Any]] = field(default_factory=list)
    layer_share: dict[str, tuple[list[int], list[float]]] = field(default_factory=dict)
    between_rules: list[dict[str, Any]] = field(default_factory=list)
    agreement: dict[str, Matrix] = field(default_factory=dict)
    transfer: dict[str, Matrix] = field(default_factory=dict)
    cores: list[dict[str, Any]] = field(default_factory=list)
    unique: dict[str, dict[str, Any]] = field(default_factory=dict)
    missing: list[tuple[str, str]] = field(default_factory=list)


def load_evaluation(path: Path) -> Evaluation:
    """Raises NaitError for a file that is missing, damaged or something else."""
    content = read_json(path)
    if content.get("kind") != KIND:
        raise BadInput("not an evaluation", where=path, remedy="give the file that nait-fast evaluate wrote")
    if content.get("format_version") != FORMAT_VERSION:
        version = values.short(content.get("format_version"))
        raise BadInput(
            f"format version {version}, this nait_fast reads {FORMAT_VERSION}", where=path, remedy="evaluate again"
        )
    content, part = read_sealed(path), "rows"
    try:
        rows = values.count(content["rows"], "rows")
        part = "signatures"
        read: dict[str, Any] = {"ranked_by": _ranked_by(content.get(part) or [])}
        for part, (name, reader) in _PARTS.items():
            if content.get(part):
                read[name] = reader(content[part])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise Damaged(f"not a valid evaluation ({part}: {error})", where=path, remedy="evaluate again") from None
    return Evaluation(rows, **read)


def _number(value: Any) -> float | None:
    """A finite number, None for null and for NaN. Raises ValueError for anything else."""
    if value is None:
        return None
    if type(value) not in (int, float):
        raise ValueError(values.short(value))
    return float(value) if math.isfinite(value) else None


def _fidelity(entries: Any) -> list[dict[str, Any]]:
    return [
        {
            "signature": values.text(x["signature"], "signature"),
            "against": values.text(x["against"], "against"),
            "rows": values.count(x["rows"], "rows"),
            "by": values.text(x.get("by") or "", "by"),
            **{k: _number(x[k]) for k in ("spearman", "top10", "top1")},
        }
        for x in values.entries(entries, "fidelity")
    ]


def _retrieval(entries: Any) -> list[dict[str, Any]]:
    return [
        {
            "signature": values.text(x["signature"], "signature"),
            "relevant": values.count(x["relevant"], "relevant"),
            "rows": values.count(x["rows"], "rows"),
            **{k: _number(x[k]) for k in ("r_precision", "auc", "chance")},
            "p_at": {values.text(k, "p_at"): _number(v) for k, v in values.mapping(x["p_at"], "p_at").items()},
        }
        for x in values.entries(entries, "retrieval")
    ]


def _stability(entries: Any) -> list[dict[str, Any]]:
    rows = []
    for x in values.entries(entries, "stability"):
        halves = values.mapping(x["halves"], "halves") if x.get("halves") else {}
        sizes = [
            {key: _number(b.get(key)) for key in ("size", "spearman", "low", "high", "top10")}
            for b in values.entries(x.get("bootstrap") or [], "bootstrap")
        ]
        uncertain = x.get("uncertain_layers")
        rows.append(
            {
                "signature": values.text(x["signature"], "signature"),
                "bootstrap": sizes,
                **{k: _number(halves.get(k)) for k in ("spearman", "top10", "repeats")},
                "uncertain": len(uncertain) if isinstance(uncertain, list) else _number(uncertain),
            }
        )
    return rows


def _layer_share(entries: Any) -> dict[str, tuple[list[int], list[float]]]:
    shares_of = {}
    for x in values.entries(entries, "confounds"):
        if not x.get("layer_share"):
            continue
        shares = [values.number(v, "layer_share") for v in values.entries(x["layer_share"], "layer_share")]
        layers = [values.count(v, "layers") for v in values.entries(x["layers"], "layers")]
        if len(shares) != len(layers):
            raise ValueError("layer_share: not one for each layer")
        shares_of[values.text(x["signature"], "signature")] = (layers, shares)
    return shares_of


def _matrices(content: Any) -> dict[str, Matrix]:
    """Every matrix beside ``names``; those that are null are left out."""
    entry = values.mapping(content, "matrix")
    names = [values.text(name, "names") for name in values.entries(entry["names"], "names")]
    matrices = {}
    for key, matrix in entry.items():
        if key == "names" or not matrix:
            continue
        cells = [
            [_number(v) for v in values.entries(row or [None] * len(names), key)] for row in values.entries(matrix, key)
        ]
        if len(cells) != len(names) or any(len(row) != len(names) for row in cells):
            raise ValueError(f"{key}: not {len(names)} × {len(names)}")
        matrices[key] = Matrix(names[:MOST_NAMES], [row[:MOST_NAMES] for row in cells[:MOST_NAMES]])
    return matrices


def _labels(entries: Any) -> dict[str, str]:
    signatures = [x for x in values.entries(entries, "signatures") if isinstance(x, dict)]
    return {
        x["hash"]: x["label"] for x in signatures if isinstance(x.get("hash"), str) and isinstance(x.get("label"), str)
    }


def _ranked_by(entries: Any) -> dict[str, str]:
    signatures = [x for x in values.entries(entries, "signatures") if isinstance(x, dict)]
    return {x["hash"]: x["rule"] for x in signatures if isinstance(x.get("hash"), str) and x.get("rule") in RULES}


def _rules(entries: Any) -> list[dict[str, Any]]:
    """An entry a signature; ``by``: one a rule, ``shared``: another rule -> the share that they have in common."""
    read = []
    for x in values.entries(entries, "rules"):
        names = [values.text(name, "rules") for name in values.entries(x["rules"], "rules")]
        if not set(names) <= set(RULES) or len(set(names)) != len(names):
            raise ValueError(f"rules: {values.short(names)}")
        cells = _matrices({"names": names, "overlap": x["overlap"]})["overlap"].cells
        tokens, precision = values.entries(x["tokens"], "tokens"), x.get("r_precision")
        precision = [None] * len(names) if precision is None else values.entries(precision, "r_precision")
        if not len(tokens) == len(precision) == len(names):
            raise ValueError("tokens, r_precision: not one for each rule")
        shared = [dict(zip(names, row, strict=True)) for row in cells]
        each = zip(names, map(_number, tokens), map(_number, precision), shared, strict=True)
        keys = ("rule", "tokens", "r_precision", "shared")
        read.append(
            {
                "signature": values.text(x["signature"], "signature"),
                "rows": values.count(x["rows"], "rows"),
                "target_tokens": _number(x["target_tokens"]),
                "by": [dict(zip(keys, of_rule, strict=True)) for of_rule in each],
            }
        )
    return read


def _core(entry: Any) -> list[dict[str, Any]]:
    return _cores([entry])


def _cores(entries: Any) -> list[dict[str, Any]]:
    return [
        {
            "at_least": values.count(x["at_least"], "at_least"),
            "count": values.count(x["count"], "count"),
            "by_chance": _number(x.get("by_chance")),
            "method": values.text(x.get("method") or "", "method"),
            "examples": _examples(x["examples"]),
        }
        for x in values.entries(entries, "core")
    ]


def _unique(content: Any) -> dict[str, dict[str, Any]]:
    return {
        name: {"count": values.count(x["count"], "count"), "examples": _examples(x["examples"])}
        for name, x in values.mapping(content, "unique").items()
    }


def _examples(entries: Any) -> list[dict[str, Any]]:
    return [
        {
            "row": values.count(x["row"], "row"),
            "score": _number(x.get("score")),
            "text": _cut(values.text(x.get("text") or "", "text")),
        }
        for x in values.entries(entries, "examples")
    ]


def _cut(text: str) -> str:
    return text if len(text) < TEXT_CHARACTERS else f"{text} …"  # evaluate kept no more


def _missing(entries: Any) -> list[tuple[str, str]]:
    return [(values.text(x["what"], "what"), values.text(x["why"], "why")) for x in values.entries(entries, "missing")]


# Part of the file -> (field of Evaluation, what reads it); of two for one field the later counts.
_PARTS: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "signatures": ("labels", _labels),
    "fidelity": ("fidelity", _fidelity),
    "retrieval": ("retrieval", _retrieval),
    "stability": ("stability", _stability),
    "confounds": ("layer_share", _layer_share),
    "rules": ("between_rules", _rules),
    "agreement": ("agreement", _matrices),
    "transfer": ("transfer", _matrices),
    "core": ("cores", _core),
    "cores": ("cores", _cores),
    "unique": ("unique", _unique),
    "missing": ("missing", _missing),
}
