"""Every option of every verb does something, or is refused: none is read by nobody, none is ignored in silence.

``USES`` says of each option, beside which others, with a value that is not the default's, something else must come of a
run than without it: other files (``config.yaml`` and other copies of the options do not count), another summary, other
calls, or another message. An option that has no entry fails the test, so a new one needs a line here. ``REFUSED`` has
the places where an option would change nothing: there it costs one line.
"""

import argparse
import contextlib
import dataclasses
import hashlib
import io
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import nait_fast
from nait_fast.cli import PATHS, VERBS, build_parser, main
from nait_fast.errors import NaitError
from nait_fast.options import flag_of
from tests.conftest import CHAT_TEMPLATE, make_rows, make_tokenizer, write_jsonl

WITHOUT: Any = object()  # an option of the base that is left out

# What each verb is run with; {names} are paths of ``place``.
BASE: dict[str, dict[str, Any]] = {
    "select": {
        "model": "{MODEL}",
        "dataset": "{POOL}",
        "target": ["sums={SUMS}"],
        "output": "{OUT}",
        "calibration_size": 8,
    },
    "index": {"model": "{MODEL}", "dataset": "{POOL}", "output": "{OUT}", "calibration_size": 8},
    "merge": {"index": ["{INDEX}", "{MORE}"], "output": "{OUT}"},
    "signature": {"model": "{MODEL}", "target": ["sums={SUMS}"], "codebook": "{INDEX}", "output": "{OUT}"},
    "rank": {"index": "{INDEX}", "signature": ["{BITS}/sums.safetensors"], "output": "{OUT}"},
    "evaluate": {
        "index": "{INDEX}",
        "signature": ["{BITS}/sums.safetensors", "{BITS}/texts.safetensors"],
        "output": "{OUT}",
    },
    "compare": {"index": "{INDEX}", "signature": ["{BITS}/sums.safetensors"], "output": "{OUT}"},
    "validate": {
        "selection": "{SELECTION}",
        "held_out": ["{HELD}"],
        "output": "{OUT}",
        "seeds": 2,
        "draws": 2,
        "samples": 4,
        "tokens": 120,
        "steps": 2,
        "layers": 1,
        "rank": 1,
    },
    "report": {"selection": "{SELECTION}", "output": "{OUT}/report.html"},
    "bench": {"shape": "tiny", "part": "all"},
}

NAG = {"method": "nag", "calibration_size": WITHOUT}
NAIT = {"method": "nait"}
RDS = {"method": "rds", "codebook": WITHOUT}
TWO = {"target": ["sums={SUMS}", "texts={TEXTS}"]}
EXACT = {"index": "{SCORED}", "model": "{MODEL}", "signature": ["{NAIT}/sums.safetensors"], "rows": 8}
STABLE = {"model": "{MODEL}", "target": ["sums={SUMS}"], "repeats": 2, "sizes": ["8"]}
OTHER_POOL = {"dataset": "{OTHER}"}

# option -> (value, what is beside it)
_MODEL: dict[str, tuple[Any, dict[str, Any]]] = {
    "model": ("{MODEL2}", {}),
    "tokenizer": ("{TOKENIZER}", {}),
    "dtype": ("bfloat16", {}),
    "device": ("tpu7", {}),
    "batch_tokens": (64, {}),
    "trust_remote_code": (True, {"model": "{REMOTE}"}),
    "layers": ("0", {}),
    "depth": ("1/3", {}),
    "experts": ("router", {}),
    "format": ("text", {}),
    "template": ("alpaca", {}),
    "template_date": ("2025-01-02", {"model": "{DATED}"}),
    "columns": (["prompt=q,response=a"], {"dataset": "{COLUMNS}"}),
    "roles": (["robot=assistant"], {"dataset": "{ROBOTS}"}),
    "role": (["robot=assistant"], {"dataset": "{ROBOTS}"}),
    "ignore": (["rationale"], {"dataset": "{UNREAD}"}),
    "max_length": (6, {}),
    "reading": ("drift", {}),
    "first_token": ("include", {}),
    "tokens": ("response", {}),
}
_PASS = {
    "calibration_size": (6, {}),
    "seed": (1, {}),
    "too_long": ("skip", {"max_length": 20}),
    "workers": (2, {}),
    "skip_bad_rows": (True, {"dataset": "{BROKEN}"}),
    "dataset": ("{OTHER}", {}),
    "output": ("{OUT}/elsewhere", {}),
}
_SIGNATURE = {
    "method": ("nait", {}),
    "weights": ("logodds", {}),
    "planes": (2, {}),
    "top_m": (3, {}),
    "sign": ("contrast", NAIT),
    "nag_top_k": (3, NAG),
    "target": (["sums={TEXTS}"], {}),
}
_BUDGET = {
    "fraction": (0.5, {}),
    "top_k": (3, {}),
    "token_budget": (200, {}),
    "pick": ("bottom", {}),
    "scores": ("none", {}),
    "export": (["messages"], {}),
}
_CONSTRAINTS: dict[str, tuple[Any, dict[str, Any]]] = {
    "decontaminate": (["{POOL}"], {}),
    "decontaminate_codes": (["{KEPT}/sums.safetensors"], {}),
    "decontaminate_distance": (2.0, {"decontaminate_codes": ["{KEPT}/sums.safetensors"], "fraction": 0.5}),
    "decontaminate_ngram": (3, {"decontaminate": ["{SUMS}"], "fraction": 0.5}),
    "near_duplicates": (0.4, {"fraction": 0.5}),
    "coverage": (1.0, {"fraction": 0.2}),
    "quality": ("{NUMBERS}#number", {}),
    "quality_weight": (0.9, {"quality": "{NUMBERS}#number:asc"}),
    "quality_scale": ("rank", {"quality": "{NUMBERS}#number:asc"}),
    "quota": (["source=sums:0.2"], {"fraction": 0.5}),
    "length": ("quota", {"fraction": 0.5}),
}
_CLUSTER = {"engine": ("ray", {}), "address": ("localhost:1", {"engine": "ray"})}
_HUB = {"push_to_hub": ("somebody/rows", {}), "public": (True, {"push_to_hub": "somebody/rows"})}
USES: dict[str, dict[str, tuple[Any, dict[str, Any]]]] = {
    "select": {
        **_MODEL,
        **_PASS,
        **_SIGNATURE,
        **_BUDGET,
        **_CONSTRAINTS,
        "combine": ("mean", TWO),
        "rule": ("max", {}),
        "overwrite": (True, {"output": "{STALE}"}),
        **_CLUSTER,
        **_HUB,
    },
    "index": {
        **_MODEL,
        **_PASS,
        "codec": ("rotated", {}),
        "codebook": ("{INDEX}", {"calibration_size": WITHOUT}),
        "exact": (["{NAIT}/sums.safetensors"], {}),
        "score": (["{NAIT}/sums.safetensors"], {}),
        "nag_top_k": (3, {"codec": "nag", "calibration_size": WITHOUT}),
        "outliers": (5, {"codec": "rotated"}),
        "bytes_per_sample": (20, {"codec": "components", "calibration_size": 24}),
        "embed": ("last", {}),
        "nll": ("loss", {}),
        "shard_rows": (5, {}),
        **_CLUSTER,
        "append": (True, {**OTHER_POOL, "output": "{COPY}"}),
        "repair": (True, {"output": "{DAMAGED}"}),
    },
    "merge": {"index": (["{MORE}", "{INDEX}"], {}), "output": ("{OUT}/elsewhere", {})},
    "signature": {
        **_MODEL,
        **_SIGNATURE,
        "reading": ("mean", {**NAIT, "codebook": WITHOUT}),
        "tokenizer": ("{TOKENIZER}", {**NAIT, "codebook": WITHOUT}),
        "sign": ("contrast", {**NAIT, "codebook": "{DRIFT}"}),
        "nag_top_k": (3, {"method": "nag", "codebook": WITHOUT}),
        "codebook": ("{DRIFT}", {}),
        "template_date": ("2025-01-02", {**NAIT, "model": "{DATED}", "codebook": WITHOUT}),
        "columns": (["prompt=q,response=a"], {"target": ["columns={COLUMNS}"]}),
        "roles": (["robot=assistant"], {"target": ["robots={ROBOTS}"]}),
        "role": (["robot=assistant"], {"target": ["robots={ROBOTS}"]}),
        "ignore": (["rationale"], {"target": ["unread={UNREAD}"]}),
        "output": ("{OUT}/elsewhere", {}),
        "keep_samples": (False, {}),
        "overwrite": (True, {"output": "{STALESIGNATURES}", "weights": "logodds"}),
    },
    "rank": {
        **_BUDGET,
        **_CONSTRAINTS,
        **_CLUSTER,
        **_HUB,
        "workers": (2, {"engine": "ray"}),
        "index": ("{MORE}", {}),
        "signature": (["{BITS}/texts.safetensors"], {}),
        "output": ("{OUT}/elsewhere", {}),
        "dataset": (["{OTHER}"], {}),
        "device": ("tpu7", {}),
        "overwrite": (True, {"output": "{STALE}", "signature": ["{BITS}/texts.safetensors"]}),
        "seed": (1, {"pick": "random"}),
        "rule": ("max", {"signature": ["{KEPT}/sums.safetensors"]}),
        "foreign_scores": (["sums={SCORES}"], {"signature": WITHOUT}),
        "combine": ("mean", {"signature": ["{BITS}/sums.safetensors", "{BITS}/texts.safetensors"]}),
    },
    "evaluate": {
        "index": ("{MORE}", {}),
        "signature": (["{BITS}/sums.safetensors"], {}),
        "output": ("{OUT}/elsewhere", {}),
        "dataset": (["{OTHER}"], {}),
        "label": ("source", {}),
        "relevant": (["sums=texts"], {"label": "source"}),
        "rule": ("max", {"signature": ["{KEPT}/sums.safetensors"]}),
        "fraction": (0.5, {}),
        "core_targets": (3, {}),
        "model": ("{MODEL}", {**EXACT, "model": WITHOUT, "rows": WITHOUT}),
        "target": (["sums={SUMS}"], {"model": "{MODEL}", "repeats": 2, "sizes": ["8"]}),
        "rows": (5, EXACT),
        "sizes": (["6"], STABLE),
        "repeats": (3, STABLE),
        "seed": (1, STABLE),
        "device": ("tpu7", {}),
        "tokenizer": ("{TOKENIZER}", EXACT),
        "dtype": ("bfloat16", EXACT),
        "batch_tokens": (64, EXACT),
        "trust_remote_code": (True, {**EXACT, "model": "{REMOTE}"}),
        "columns": (["prompt=q,response=a"], {**STABLE, "target": ["sums={COLUMNS}"]}),
        "roles": (["robot=assistant"], {**STABLE, "target": ["sums={ROBOTS}"]}),
        "role": (["robot=assistant"], {**STABLE, "target": ["sums={ROBOTS}"]}),
        "ignore": (["label"], {**STABLE, "target": ["sums={LABELLED}"], "signature": ["{LABELS}/sums.safetensors"]}),
        "overwrite": (True, {"output": "{STALEEVALUATION}"}),
    },
    "compare": {
        "fraction": (0.5, {}),
        "top_k": (3, {}),
        "token_budget": (200, {}),
        "index": ("{MORE}", {}),
        "signature": (["{BITS}/texts.safetensors"], {}),
        "foreign_scores": (["other={SCORES}"], {}),
        "selection": (["{SELECTION}"], {}),
        "rule": (["max"], {"signature": ["{KEPT}/sums.safetensors"]}),
        "label": ("source", {}),
        "relevant": (["sums=texts"], {"label": "source"}),
        "dataset": (["{OTHER}"], {}),
        "device": ("tpu7", {}),
        "seed": (1, {}),
        "output": ("{OUT}/elsewhere", {}),
        "overwrite": (True, {"output": "{STALECOMPARISON}"}),
    },
    "validate": {
        "tokenizer": ("{TOKENIZER}", {}),
        "dtype": ("bfloat16", {}),
        "device": ("tpu7", {}),
        "batch_tokens": (64, {}),
        "trust_remote_code": (True, {"model": "{REMOTE}"}),
        "columns": (["prompt=q,response=a"], {"held_out": ["{COLUMNS}"]}),
        "roles": (["robot=assistant"], {"held_out": ["{ROBOTS}"]}),
        "role": (["robot=assistant"], {"held_out": ["{ROBOTS}"]}),
        "ignore": (["label"], {"held_out": ["{LABELLED}"]}),
        "selection": ("{SECOND}", {}),
        "held_out": (["{TEXTS}"], {}),
        "output": ("{OUT}/elsewhere", {}),
        "general": ("{OTHER}", {}),
        "model": ("{MODEL2}", {}),
        "dataset": (["{OTHER}"], {}),
        "template": ("alpaca", {}),
        "max_length": (16, {}),
        "deciles": (True, {}),
        "seeds": (4, {}),
        "draws": (3, {}),
        "samples": (3, {}),
        "tokens": (100, {}),
        "steps": (1, {}),
        "layers": (2, {}),
        "rank": (2, {}),
        "lr": (0.01, {}),
        "answer": ("exact", {}),
        "answer_tokens": (1, {"answer": "exact"}),
        "seed": (1, {}),
        "overwrite": (True, {"output": "{STALEVALIDATION}"}),
    },
    "report": {
        "selection": ("{MODEL}", {}),
        "output": ("{OUT}/other.html", {}),
        "label": ("id", {}),
        "evaluation": ("{MODEL}", {}),
        "validation": ("{MODEL}", {}),
        "samples": (2, {}),
        "plots": ("{OUT}/plots", {}),
        "dataset": (["{OTHER}"], {}),
        "target": (["sums={OTHER}"], {}),
        "overwrite": (True, {"selection": "{SECOND}", "output": "{STALEREPORT}/report.html"}),
    },
    "bench": {
        "shape": ("llama-2-7b", {}),
        "model": ("{MODEL}", {"shape": WITHOUT}),
        "part": ("scan", {}),
        "device": ("meta", {}),
        "dtype": ("float16", {}),
        "max_length": (9, {}),
        "seconds": (3.0, {}),
        "seed": (1, {}),
        "output": ("{OUT}/rows.jsonl", {}),
        "compare": (["{BENCH}"], {"shape": WITHOUT, "part": WITHOUT}),
    },
}

# (verb, option, value, beside, words of the refusal)
REFUSED: list[tuple[str, str, Any, dict[str, Any], str]] = [
    *(
        ("select", name, value, NAIT, "is for method contrast, not nait")
        for name, value in (("weights", "logodds"), ("planes", 2), ("top_m", 3))
    ),
    *(
        ("select", name, value, NAIT, "is for method contrast, not nait")  # the default's value, but given
        for name, value in (("weights", "difference"), ("planes", 4))
    ),
    *(
        ("signature", name, value, {**NAIT, "codebook": WITHOUT}, "is for method contrast, not nait")
        for name, value in (("weights", "logodds"), ("planes", 2), ("top_m", 3))
    ),
    ("select", "planes", 2, {"top_m": 3}, "top_m takes the place of bit planes"),
    ("signature", "planes", 2, {"top_m": 3}, "top_m takes the place of bit planes"),
    ("select", "sign", "contrast", {}, "is for method nait, not contrast"),
    ("signature", "sign", "contrast", {}, "is for method nait, not contrast"),
    ("select", "nag_top_k", 3, {}, "is for method nag, not contrast"),
    ("signature", "nag_top_k", 3, {}, "is for method nag, not contrast"),
    ("select", "reading", "mean", NAG, "method nag has a reading of its own"),
    ("select", "reading", "mean", {"method": "embed"}, "method embed has none"),
    ("signature", "reading", "mean", {"method": "nag", "codebook": WITHOUT}, "method nag has a reading of its own"),
    ("select", "first_token", "include", NAG, "method nag takes no mean"),
    ("select", "calibration_size", 8, {"method": "nag"}, "method nag calibrates nothing"),
    ("select", "seed", 1, NAG, "nothing is drawn"),
    ("select", "combine", "max", {}, "there is one target, nothing to combine"),
    ("rank", "combine", "max", {}, "there is one signature, nothing to combine"),
    ("rank", "rule", "max", {}, "does not keep its target's samples"),
    ("signature", "keep_samples", True, RDS, "method rds always does"),
    ("signature", "codebook", "{INDEX}", {"method": "rds"}, "method rds needs none"),
    ("signature", "reading", "mean", RDS, "method rds has none"),
    ("rank", "length", "matched", {}, "does not keep its target's samples"),
    ("select", "length", "matched", {"method": "embed"}, "method embed holds no target against the pool"),
    ("rank", "rule", "roundrobin", {"signature": ["{NAIT}/sums.safetensors"], "index": "{SCORED}"}, "method nait"),
    ("select", "rule", "max", {"method": "nait"}, "method nait does not compare rows with single samples"),
    ("signature", "keep_samples", True, {**NAIT, "codebook": WITHOUT}, "method nait compares no rows with samples"),
    ("rank", "seed", 1, {}, "nothing is drawn but by --pick random"),
    *((verb, "public", True, {}, "is for --push-to-hub, which is not given") for verb in ("select", "rank")),
    *(
        (verb, name, value, {}, "is for --quality, which is not given")
        for verb in ("select", "rank")
        for name, value in (("quality_weight", 0.1), ("quality_scale", "z"))
    ),
    *(
        (verb, "decontaminate_distance", 0.1, {}, "is for --decontaminate-codes, which names no file")
        for verb in ("select", "rank")
    ),
    *(
        (verb, "decontaminate_ngram", 8, {}, "is for --decontaminate, which names no file")
        for verb in ("select", "rank")
    ),
    ("rank", "device", "cuda", {"signature": ["{NAIT}/sums.safetensors"], "index": "{SCORED}"}, "scanned on a device"),
    ("rank", "top_k", 3, {"fraction": 0.1}, "give one budget only"),
    ("signature", "codebook", "{INDEX}", NAIT, "method nait:sign=mean needs none"),
    ("signature", "codebook", "{INDEX}", {"method": "nag"}, "method nag needs none"),
    ("signature", "skip_bad_rows", True, {}, "a signature is made of all of its samples"),
    ("index", "nag_top_k", 3, {}, "is for codec nag, not neuron"),
    ("index", "outliers", 0, {}, "is for codec rotated, not neuron"),
    ("index", "bytes_per_sample", 20, {}, "is for codec components, not neuron"),
    ("index", "outliers", 5, {"codec": "components"}, "is for codec rotated, not components"),
    *(
        ("index", name, value, {"codec": "nag", "calibration_size": WITHOUT}, "nothing to calibrate")
        for name, value in (("reading", "mean"), ("calibration_size", 8), ("seed", 1))
    ),
    ("index", "first_token", "include", {"codec": "nag", "calibration_size": WITHOUT}, "codec nag takes no mean"),
    ("index", "codebook", "{INDEX}", {"codec": "nag", "calibration_size": WITHOUT}, "codec nag has no codebook"),
    ("index", "embed", "last", {"codec": "nag", "calibration_size": WITHOUT}, "--embed: codec nag has no codebook"),
    ("index", "calibration_size", 8, {"codebook": "{INDEX}"}, "--codebook takes the place of calibrating"),
    ("index", "seed", 1, {"codebook": "{INDEX}", "calibration_size": WITHOUT}, "takes the place of calibrating"),
    ("index", "calibration_size", 7, {**OTHER_POOL, "output": "{COPY}", "append": True}, "--append adds under"),
    ("index", "seed", 1, {**OTHER_POOL, "output": "{COPY}", "append": True}, "--append adds under"),
    (
        "index",
        "codebook",
        "{INDEX}",
        {**OTHER_POOL, "output": "{COPY}", "append": True, "calibration_size": WITHOUT},
        "the index has its codebook already",
    ),
    ("index", "shard_rows", 7, {"output": "{COPY}"}, "holds an index made otherwise: shard_rows"),
    *((verb, "address", "localhost:1", {}, "is for --engine ray") for verb in ("index", "select", "rank")),
    ("rank", "workers", 2, {}, "is for --engine ray"),
    ("rank", "device", "cpu", {"engine": "ray"}, "on a cluster processors scan"),
    ("index", "repair", True, {}, "--repair: "),
    ("index", "append", True, {}, "--append: "),
    *(
        ("evaluate", name, value, {}, "is for what --model runs")
        for name, value in (
            ("tokenizer", "x"),
            ("dtype", "float32"),
            ("batch_tokens", 9),
            ("trust_remote_code", True),
            ("rows", 9),
        )
    ),
    ("evaluate", "rows", 9, {"model": "{MODEL}", "target": ["sums={SUMS}"]}, "rows are scored exactly for nait"),
    ("evaluate", "sizes", ["8"], {}, "stability is measured with --target"),
    ("evaluate", "repeats", 3, {}, "stability is measured with --target"),
    ("evaluate", "columns", ["prompt=q"], {}, "is for the samples of --target"),
    ("evaluate", "roles", ["robot=assistant"], {}, "is for the samples of --target"),
    ("evaluate", "ignore", ["source"], {}, "is for the samples of --target"),
    ("evaluate", "relevant", ["sums=a"], {}, "needs --label"),
    ("evaluate", "rule", "max", {}, "does not keep its target's samples"),
    ("evaluate", "model", "{MODEL}", {}, "there is nothing to run it for"),
    ("evaluate", "target", ["sums={SUMS}"], {}, "pass --model, too"),
    ("evaluate", "device", "cuda", {"signature": ["{NAIT}/sums.safetensors"], "index": "{SCORED}"}, "scanned on a"),
    ("compare", "relevant", ["sums=a"], {}, "needs --label"),
    ("compare", "rule", ["max"], {}, "does not keep its target's samples"),
    ("compare", "overwrite", True, {"output": WITHOUT}, "is for --output, which is not given"),
    ("compare", "device", "cuda", {"signature": ["{NAIT}/sums.safetensors"], "index": "{SCORED}"}, "scanned on a"),
    ("validate", "answer_tokens", 9, {}, "nothing is generated but by --answer number"),
    ("validate", "answer_tokens", 9, {"answer": "likelihood"}, "nothing is generated but by --answer number"),
    *(
        ("bench", name, value, {"shape": WITHOUT, "part": WITHOUT, "compare": ["{BENCH}"]}, "only reads result files")
        for name, value in (
            ("shape", "tiny"),
            ("model", "x"),
            ("part", "scan"),
            ("device", "cpu"),
            ("dtype", "float32"),
            ("max_length", 9),
            ("seconds", 3.0),
            ("seed", 1),
            ("output", "x"),
        )
    ),
    ("bench", "model", "{MODEL}", {}, "choose one of them"),
    ("bench", "max_length", 9, {"part": "scan"}, "is for parts endtoend and cli, not scan"),
    ("bench", "rows", 200, {"part": "scan"}, "is for part cli, not scan"),
    ("bench", "seconds", 5.0, {"part": "cli"}, "part cli runs each command once"),
    ("index", "layers", "0", {"depth": "1/3"}, "--depth 1/3 says which"),
    ("bench", "model", "x", {"part": "scan", "shape": WITHOUT}, "part scan runs no model"),
    ("bench", "shape", "llama-2-7b", {"part": "ceilings"}, "part ceilings runs no model"),
    ("bench", "seed", 1, {"part": "ceilings"}, "part ceilings draws nothing"),
]
COMMON = {"help", "json", "quiet", "debug", "config"}  # of all verbs; test_common_flags
OWN = {
    "inspect": {"path", "format", "columns", "roles"},
    "verify": {"path"},
    "demo": {"model", "output"},
}  # test_verbs_without_options, and tests/data/test_columns.py
VOLATILE = ("text", "seconds", "tokens_per_s", "scan_seconds", "environment", "options", "config", "output", "index")


@pytest.fixture(scope="module")
def quick() -> Iterator[None]:
    """Runs without what takes most of a small one's time: syncing, git, asking for versions."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("nait_fast.env.commit", lambda: None)
        patch.setattr("nait_fast.env.version", lambda package: "1")
        patch.setattr("nait_fast.storage.files.os.fsync", lambda descriptor: None)
        yield


@pytest.fixture(scope="module")
def place(quick, tmp_path_factory) -> dict[str, str]:
    """A tiny model, pools, targets, indexes, signatures and a selection, by name."""
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("options")
    tokenizer = make_tokenizer()
    paths: dict[str, Path] = {"OUT": folder / "out"}
    for seed, name in enumerate(("MODEL", "MODEL2")):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=len(tokenizer),
                hidden_size=16,
                intermediate_size=24,
                num_hidden_layers=2,
                num_attention_heads=2,
                max_position_embeddings=256,
            )
        )
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.data.normal_(0, 0.3)
        paths[name] = folder / name
        model.save_pretrained(paths[name])
        tokenizer.save_pretrained(paths[name])
    paths["TOKENIZER"] = folder / "tokenizer"
    make_tokenizer("{% for m in messages %}{{ m['content'] }}<|end|>{% endfor %}").save_pretrained(paths["TOKENIZER"])
    paths["REMOTE"] = Path(shutil.copytree(paths["MODEL"], folder / "remote"))
    config = json.loads((paths["REMOTE"] / "config.json").read_text())
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "own.OwnConfig", "AutoModel": "own.OwnModel"}}
    (paths["REMOTE"] / "config.json").write_text(json.dumps(config))
    (paths["REMOTE"] / "own.py").write_text("raise RuntimeError('own code ran')\n")
    rows = make_rows(24)
    paths["POOL"] = write_jsonl(folder / "pool.jsonl", rows)
    paths["OTHER"] = write_jsonl(folder / "other.jsonl", make_rows(10, seed=3))
    paths["BROKEN"] = write_jsonl(folder / "broken.jsonl", [*rows, {"instruction": "x"}])
    for kind in ("sums", "texts"):
        own = [row for row in make_rows(20, seed=1) if row["source"] == kind]
        paths[kind.upper()] = write_jsonl(folder / f"{kind}.jsonl", own)
    held_out = [row for row in make_rows(40, seed=2) if row["source"] == "sums"]
    paths["HELD"] = write_jsonl(folder / "held.jsonl", held_out)
    labelled = [{**row, "label": bool(number % 2)} for number, row in enumerate(held_out)]
    paths["LABELLED"] = write_jsonl(folder / "labelled.jsonl", labelled)
    model, target = str(paths["MODEL"]), [f"{kind}={paths[kind.upper()]}" for kind in ("sums", "texts")]
    made: dict[str, dict[str, Any]] = {
        "INDEX": {"calibration_size": 8, "shard_rows": 6},
        "DRIFT": {"calibration_size": 8, "reading": "drift"},
    }
    for name, options in made.items():
        paths[name] = folder / name
        nait_fast.build_index(model=model, dataset=paths["POOL"], output=paths[name], **options)
    paths["MORE"] = folder / "MORE"
    nait_fast.build_index(
        model=model, dataset=paths["OTHER"], codebook=paths["INDEX"], shard_rows=6, output=paths["MORE"]
    )
    paths["BITS"], paths["NAIT"], paths["KEPT"] = folder / "bits", folder / "nait", folder / "kept"
    bits = {"codebook": paths["INDEX"], "output": paths["BITS"], "keep_samples": False}
    nait_fast.build_signature(model=model, target=target, **bits)
    kept = {"codebook": paths["INDEX"], "output": paths["KEPT"], "keep_samples": True}
    nait_fast.build_signature(model=model, target=target, **kept)
    paths["LABELS"] = folder / "labels"
    labels = {"codebook": paths["INDEX"], "output": paths["LABELS"]}
    nait_fast.build_signature(model=model, target=[f"sums={paths['LABELLED']}"], **labels)
    nait_fast.build_signature(model=model, target=target, method="nait", output=paths["NAIT"])
    paths["SCORES"] = folder / "scores.npy"
    np.save(paths["SCORES"], np.arange(24.0))
    paths["SCORED"] = folder / "SCORED"
    nait_fast.build_index(
        model=model,
        dataset=paths["POOL"],
        output=paths["SCORED"],
        calibration_size=8,
        exact=[paths["NAIT"] / "sums.safetensors"],
    )
    paths["SELECTION"] = folder / "selection"
    nait_fast.rank(index=paths["INDEX"], signature=[paths["BITS"] / "sums.safetensors"], output=paths["SELECTION"])
    paths["SECOND"] = folder / "second"
    nait_fast.rank(index=paths["INDEX"], signature=[paths["BITS"] / "texts.safetensors"], output=paths["SECOND"])
    turns = [
        [{"role": "user", "content": row["instruction"]}, {"role": "robot", "content": row["output"]}] for row in rows
    ]
    paths["ROBOTS"] = write_jsonl(folder / "robots.jsonl", [{"messages": own} for own in turns])
    columns = [{"q": row["instruction"], "a": row["output"]} for row in rows]
    paths["COLUMNS"] = write_jsonl(folder / "columns.jsonl", columns)
    paths["UNREAD"] = write_jsonl(folder / "unread.jsonl", [{**row, "rationale": "seven plus two"} for row in rows])
    paths["DATED"] = Path(shutil.copytree(paths["MODEL"], folder / "dated"))
    make_tokenizer("{{ strftime_now('%d %b %Y') }}" + CHAT_TEMPLATE).save_pretrained(paths["DATED"])
    numbers = [{"row": number, "number": number * number % 11} for number in range(len(rows))]
    paths["NUMBERS"] = write_jsonl(folder / "numbers.jsonl", numbers)
    row = {"part": "scan", "hardware": "a machine", "device": "cpu", "name": "scan", "gb_per_s": 1.0}
    paths["BENCH"] = write_jsonl(folder / "bench.jsonl", [row])
    for name in KEPT:
        paths[name] = folder / name.lower()
    return {name: str(path) for name, path in paths.items()}


def _indexed(place: Mapping[str, str], output: str) -> None:
    nait_fast.build_index(model=place["MODEL"], dataset=place["POOL"], output=output, calibration_size=8)


def _damaged(place: Mapping[str, str], output: str) -> None:
    _indexed(place, output)
    shard = Path(output) / "shard-00000.safetensors"
    shard.write_bytes(shard.read_bytes()[:-1] + bytes([shard.read_bytes()[-1] ^ 1]))


def _evaluated(place: Mapping[str, str], output: str) -> None:
    nait_fast.evaluate(index=place["INDEX"], signature=[f"{place['BITS']}/sums.safetensors"], output=output)
    (Path(output) / "evaluation.md").write_text("changed")


def _validated(place: Mapping[str, str], output: str) -> None:
    asked = {name: filled(value, place) for name, value in BASE["validate"].items()}
    nait_fast.validate(**{**asked, "held_out": [place["OTHER"]], "output": output})


# Outputs that are there before a run, and anew before each: name -> what makes them.
KEPT: dict[str, Callable[[Mapping[str, str], str], Any]] = {
    "COPY": _indexed,
    "DAMAGED": _damaged,
    "STALE": lambda place, output: shutil.copytree(place["SELECTION"], output),
    "STALESIGNATURES": lambda place, output: shutil.copytree(place["BITS"], output),
    "STALEEVALUATION": _evaluated,
    "STALECOMPARISON": lambda place, output: nait_fast.compare(
        index=place["INDEX"], signature=[f"{place['BITS']}/texts.safetensors"], output=output
    ),
    "STALEVALIDATION": _validated,
    "STALEREPORT": lambda place, output: nait_fast.report(selection=place["SELECTION"], output=f"{output}/report.html"),
}


def fresh(place: Mapping[str, str], words: str) -> list[str]:
    """The outputs that the command ``words`` names, as they are before a run."""
    shutil.rmtree(place["OUT"], ignore_errors=True)
    used = [name for name in KEPT if place[name] in words.split("\0")]
    used += ["STALEREPORT"] if f"{place['STALEREPORT']}/" in words else []
    for name in used:
        whole = f"{place[name]}-whole"
        if not Path(whole).exists():
            KEPT[name](place, whole)
        shutil.rmtree(place[name], ignore_errors=True)
        shutil.copytree(whole, place[name])
    return [place["OUT"], *(place[name] for name in used)]


def filled(value: Any, place: Mapping[str, str]) -> Any:
    if isinstance(value, list):
        return [filled(item, place) for item in value]
    return value.format(**place) if isinstance(value, str) else value


def words_of(options: Mapping[str, Any], place: Mapping[str, str]) -> list[str]:
    """The command line that gives these options."""
    words: list[str] = []
    for name, value in options.items():
        value = filled(value, place)
        if value is True:
            words.append(flag_of(name))
        elif value is False:
            words.append(flag_of(f"no_{name}"))
        elif isinstance(value, list):
            words += [flag_of(name), *value]
        elif value is not WITHOUT:
            words.append(f"{flag_of(name)}={value}")
    return words


def stable(value: Any) -> Any:
    """A summary without what differs from run to run or only repeats the options."""
    if isinstance(value, dict):
        return {key: stable(item) for key, item in value.items() if key not in VOLATILE}
    return [stable(item) for item in value] if isinstance(value, list) else value


def files_of(folder: Path) -> dict[str, str]:
    """Name -> SHA-256 of what a run wrote, but for what holds its options or times."""
    evaluations = ("evaluation.json", "evaluation.md", "compare.json")
    validations = ("validation.json", "runs.jsonl")
    names = ("config.yaml", "run.json", "manifest.json", "report.html", ".nait-fast.json")  # the last: digests of them
    with_options = (*names, *evaluations, *validations)
    digests = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.name.startswith(("log", "events", "plan-")):
            data = b"" if path.name in with_options else path.read_bytes()
            digests[str(path.relative_to(folder))] = hashlib.sha256(data).hexdigest()
    return digests


@pytest.fixture(scope="module")
def seen(place: dict[str, str]) -> Iterator[Callable[..., tuple[Any, ...]]]:
    """``seen(verb, options)``: (status, message, summary, files, calls) of a run; what is slow is stood in for."""
    from nait_fast.bench.run import MeasuredDevice
    from nait_fast.extract import engine
    from nait_fast.models import load

    calls: list[Any] = []
    loaded: dict[Any, Any] = {}
    known: dict[Any, Any] = {}
    patch = pytest.MonkeyPatch()

    def load_once(model: str, *, check: Any, **options: Any) -> Any:
        key = (model, *sorted(options.items()))
        if key in loaded:
            check(loaded[key])
        else:
            loaded[key] = real_load(model, check=check, **options)
        return loaded[key]

    def make_engine(self: Any, *given: Any, **options: Any) -> None:
        calls.append(["engine", options["batch_tokens"]])
        real_engine(self, *given, **options)

    def others(*given: Any, **options: Any) -> Any:
        raise NaitError(f"others do it: {[x for x in given if isinstance(x, int)]} {options.get('address')}")

    def elsewhere(*given: Any) -> Any:
        raise NaitError(f"others do it: {[x for x in given if isinstance(x, (int, str))]}")

    class Timed:
        def __init__(self, *given: Any):
            self.given = given

        def rows(self, part: str, subject: Any, *given: Any) -> Iterator[dict[str, Any]]:
            given = (*self.given, part, subject.name, subject.dtype, subject.seed, *given)
            yield {
                "part": part,
                "hardware": "h",
                "device": str(subject.device),
                "name": "n",
                "given": list(map(str, given)),
            }

    def answers(kind: str, learner: Any, encoder: Any, texts: Any, samples: Any, most: int) -> list[float]:
        calls.append(["answers", kind, most])
        return [0.0] * len(samples)

    def sends(options: Any, *given: Any) -> Any:
        raise NaitError(f"others do it: {options.push_to_hub} {options.public}")

    real_load, real_engine = load.load_model, engine.Engine.__init__
    patch.setattr("nait_fast.extract.session.load_model", load_once)
    patch.setattr(engine.Engine, "__init__", make_engine)
    for name in ("verbs.index.run_workers", "verbs.select.run_workers", "workers.ray_engine.run_on_ray"):
        patch.setattr(f"nait_fast.{name}", others)
    patch.setattr("nait_fast.verbs.push.sender_of", sends)
    patch.setattr("nait_fast.validation.runner.correct_of", answers)
    patch.setattr("nait_fast.workers.ray_cluster.cluster", elsewhere)
    patch.setattr("nait_fast.workers.ray_scan.scans_on_ray", elsewhere)
    patch.setattr(MeasuredDevice, "open", classmethod(lambda cls, *given: Timed(*given)))
    patch.setattr("nait_fast.verbs.bench.Subject.load", lambda self: calls.append(["loads", self.path]))
    patch.setattr("nait_fast.verbs.bench.tables", lambda rows: json.dumps(rows))

    def run(verb: str, options: Mapping[str, Any]) -> tuple[Any, ...]:
        words = [verb, *words_of(options, place)]
        key = tuple(words)
        if key not in known:
            outputs = fresh(place, "\0".join(part for word in words for part in word.split("=", 1)))
            calls.clear()
            out, err = io.StringIO(), io.StringIO()
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                status = main([*words, "--json", "--quiet"])
            summary = stable(json.loads(out.getvalue().splitlines()[-1])) if out.getvalue() else {}
            files = [files_of(Path(output)) for output in outputs]
            known[key] = (status, err.getvalue(), summary, files, list(calls))
        return known[key]

    yield run
    patch.undo()


def beside(verb: str, others: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in (BASE[verb] | others).items() if value is not WITHOUT}


EVERY = [(verb, field.name) for verb, (kind, _, _) in VERBS.items() for field in dataclasses.fields(kind)]


def test_every_option_has_an_entry() -> None:
    refused = {(verb, option) for verb, option, *_ in REFUSED}
    for verb, option in EVERY:
        assert option in USES[verb] or (verb, option) in refused, f"tests/test_options.py: no entry for {verb} {option}"
    for verb, uses in USES.items():
        assert {(verb, option) for option in uses} <= set(EVERY), f"{verb}: entries for options that are gone"
    verbs = next(a for a in build_parser()._actions if isinstance(a, argparse._SubParsersAction)).choices
    assert set(verbs) == {*VERBS, *OWN} and set(PATHS) < set(OWN)
    for verb, parser in verbs.items():
        expected = {option for name, option in EVERY if name == verb} or OWN[verb]
        assert {action.dest for action in parser._actions} - COMMON == expected, verb


@pytest.mark.parametrize(("verb", "option"), [(v, o) for v, o in EVERY if o in USES[v]])
def test_an_option_acts(seen, verb: str, option: str) -> None:
    if verb == "report":
        pytest.importorskip("matplotlib")
    value, others = USES[verb][option]
    kind = VERBS[verb][0]
    default = next(f.default for f in dataclasses.fields(kind) if f.name == option)
    assert value != default and value != beside(verb, others).get(option), "the entry's value must be another"
    without = seen(verb, beside(verb, others))
    given = seen(verb, beside(verb, {**others, option: value}))
    assert given[0] in (0, 2) and "ault of nait-fast" not in given[1] + without[1]
    assert given != without, f"{verb} {flag_of(option)} {value} changes nothing"


@pytest.mark.parametrize(
    ("verb", "option", "value", "others"),
    [
        ("select", "method", "contrast:weights=logodds", {}),
        ("select", "method", "contrast:planes=2", {}),
        ("select", "method", "contrast:top_m=3", {}),
        ("select", "method", "nait:sign=contrast", NAIT),
        ("select", "method", "nag:top_k=3", NAG),
        ("index", "codec", "rotated:outliers=5", {"codec": "rotated"}),
        ("index", "codec", "components:bytes=20", {"codec": "components:bytes=16", "calibration_size": 24}),
        ("index", "codec", "nag:3", {"codec": "nag", "calibration_size": WITHOUT}),
    ],
)
def test_a_setting_acts_and_is_its_old_flag(seen, verb: str, option: str, value: str, others: dict[str, Any]) -> None:
    without = seen(verb, beside(verb, others))
    now = seen(verb, beside(verb, {**others, option: value}))
    assert without[0] == now[0] == 0, (without[1], now[1])
    assert without[2:4] != now[2:4]
    name, _, written = value.partition(":")
    key, _, number = written.rpartition("=")
    field = next(
        f.name
        for f in dataclasses.fields(VERBS[verb][0])
        if f.metadata.get("setting") == (option, key or "top_k") and (key or f.name == "nag_top_k")
    )
    old = seen(verb, beside(verb, {**others, option: name, field: number}))
    for run in (old, now):  # the warning is kept, and the claim has the digests of what keeps it
        run[2].pop("warnings", None)
        for files in run[3]:
            files.pop(".nait-fast.json", None)
    assert old[0] == 0 and old[2:4] == now[2:4]
    assert f"{flag_of(field)} {number} is written {flag_of(option)} {name}:{key or 'top_k'}={number} now" in old[1]


@pytest.mark.parametrize(
    ("verb", "option", "value", "others", "said"), REFUSED, ids=[f"{r[0]}-{r[1]}-{r[4]}" for r in REFUSED]
)
def test_an_option_that_does_not_apply_is_refused(seen, verb, option, value, others, said: str) -> None:
    status, message, _, files, _ = seen(verb, beside(verb, {**others, option: value}))
    assert status == 2 and message.count("\n") == 1 and message.startswith("nait-fast: error: "), message
    assert said in message and (flag_of(option) in message or option in message)
    assert not files[0].get("manifest.json") and not files[0].get("selected.jsonl")


def test_what_options_call_idle_is_refused_here() -> None:
    """Each option that a dataclass calls idle beside others is among the cases above."""
    tried = {(verb, option) for verb, option, *_ in REFUSED}
    for verb, (kind, _, _) in VERBS.items():
        needed = {
            f.name: ("x",) if f.default == () else "x" for f in dataclasses.fields(kind) if f.metadata.get("required")
        }
        choices = [(f.name, c) for f in dataclasses.fields(kind) for c in f.metadata.get("choices", ())]
        registries = [(f.name, f.metadata["registry"]) for f in dataclasses.fields(kind) if "registry" in f.metadata]
        choices += [(name, choice) for name, registry in registries for choice in registry.names]
        for name, choice in [("output", "x"), *choices]:
            value = (choice,) if name == "export" else choice
            for option in kind(**{**needed, name: value}).idle() if name in kind.__dataclass_fields__ else ():
                assert (verb, option) in tried, (verb, option)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def on_terminal(*words: str) -> tuple[int, str, str]:
    """(status, stdout, stderr) of a command on a terminal."""
    out, err = io.StringIO(), Terminal()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = main(list(words))
    return status, out.getvalue(), err.getvalue()


def test_common_flags(place: dict[str, str], tmp_path: Path) -> None:
    plain, as_json = on_terminal("inspect", place["POOL"]), on_terminal("inspect", place["POOL"], "--json")
    assert plain[1] != as_json[1] and json.loads(as_json[1])["rows"] == 24
    words = words_of({**BASE["index"], "output": str(tmp_path / "a")}, place)
    assert "calibrate" in on_terminal("index", *words)[2]
    words = words_of({**BASE["index"], "output": str(tmp_path / "b")}, place)
    assert on_terminal("index", *words, "--quiet")[2] == ""
    with pytest.raises(NaitError):
        on_terminal("inspect", "nowhere", "--debug")
    (tmp_path / "c.yaml").write_text("top_k: 2\n")
    words = words_of({**BASE["rank"], "output": str(tmp_path / "r")}, place)
    assert (
        json.loads(on_terminal("rank", *words, "--config", str(tmp_path / "c.yaml"), "--json")[1])["rows_selected"] == 2
    )


def test_verbs_without_options(place: dict[str, str], tmp_path: Path) -> None:
    for verb in PATHS:
        assert on_terminal(verb, place["SELECTION"])[1] != on_terminal(verb, place["INDEX"])[1] != ""
    assert (
        "--model ./nowhere: no model folder"
        in on_terminal("demo", "--model", "./nowhere", "--output", str(tmp_path))[2]
    )
    (tmp_path / "file").write_text("x")
    assert (
        f"--output {tmp_path / 'file'}: cannot be written to"
        in on_terminal("demo", "--output", str(tmp_path / "file"))[2]
    )


def test_from_python_the_same(place: dict[str, str]) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    for verb, function in (
        ("select", nait_fast.select),
        ("index", nait_fast.build_index),
        ("rank", nait_fast.rank),
        ("signature", nait_fast.build_signature),
        ("evaluate", nait_fast.evaluate),
    ):
        for name, option, value, others, said in REFUSED:
            given = {key: filled(one, place) for key, one in beside(verb, {**others, option: value}).items()}
            if name == verb and said.startswith(("is for method", "is for codec")):
                with pytest.raises(NaitError, match=said.split(",")[0]):
                    function(**given)
    model = AutoModelForCausalLM.from_pretrained(place["MODEL"]).eval()
    tokenizer = AutoTokenizer.from_pretrained(place["MODEL"])
    signature = f"{place['BITS']}/sums.safetensors"
    for ignored in ({"dtype": "bfloat16"}, {"device": "cpu"}):
        with pytest.raises(NaitError, match="a model in memory stays as it is; leave it out"):
            nait_fast.Scorer(model, [signature], tokenizer=tokenizer, **ignored)
        with pytest.raises(NaitError, match="a model in memory stays as it is; leave it out"):
            nait_fast.signature_of(model, make_rows(4), tokenizer=tokenizer, codebook=place["INDEX"], **ignored)
    with pytest.raises(NaitError, match="format=alpaca: samples in memory show their own format"):
        nait_fast.signature_of(model, make_rows(4), tokenizer=tokenizer, codebook=place["INDEX"], format="alpaca")
    with pytest.raises(NaitError, match="loaded with a tokenizer that is named, too"):
        nait_fast.Scorer(place["MODEL"], [signature], tokenizer=tokenizer)
    with pytest.raises(
        NaitError, match="search: device cuda: codes are scanned on a device, and vectors compared, but"
    ):
        exact = nait_fast.load_signature(f"{place['NAIT']}/sums.safetensors")
        nait_fast.search(nait_fast.Index(place["SCORED"]), exact, 3, device="cuda")
    for wrong in (
        {"batch_tokens": 0},
        {"max_length": 0},
        {"template": "x"},
        {"layers": 3},
        {"depth": 2},
        {"dtype": "int8"},
        {"roles": 3},
    ):
        (name,) = wrong
        with pytest.raises(NaitError, match=f"^Scorer: {flag_of(name)} "):
            nait_fast.Scorer(place["MODEL"], [signature], **wrong)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NAIT_FAST_BACKEND", "bogus")
        for act in (
            lambda: nait_fast.Scorer(place["MODEL"], [signature]),
            lambda: nait_fast.rank(index="x"),
            lambda: nait_fast.search(nait_fast.Index(place["INDEX"]), nait_fast.load_signature(signature), 3),
            lambda: nait_fast.capture(model).__enter__(),
        ):
            with pytest.raises(NaitError, match="NAIT_FAST_BACKEND=bogus: choose triton, cpu, reference"):
                act()
    for options, said in (
        ({"readings": ()}, "no reading is asked for"),
        ({"readings": ["drift"], "first_token": "include"}, "is for the reading mean"),
    ):
        with pytest.raises(NaitError, match=said), nait_fast.capture(model, **options):
            pass
