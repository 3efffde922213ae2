"""bf16 and quantised weights: what the engine reads, and what plain hooks in the same format read, against fp32.

    python -m benchmarks.precision --work DIR [--seeds 5]
    python -m benchmarks.precision --work DIR --model FOLDER --dataset POOL.jsonl.gz [--rows 24] [--max-length 96]

Real weights (``--model``: a folder of plain safetensors) in bf16 and in each format of ``benchmarks.quantised`` whose
package is installed, with fp32 and with bf16 activations; or, without, tiny random mixtures of experts in bf16 and in
the formats that hold experts, of which a row has the medians over ``--seeds``. Hooks run a sample at a time on the
model as it was loaded, its own forwards and attention.

bf16 is compared with the fp32 weights; a quantised format with an fp32 model of the very numbers that its weights
stand for, which is what the format leaves to be read; how far those are from the original ones is told beside it. Bits
are mean readings above the reference's mean over the samples. The check of a row: bits that differ and the error are at
most 1.1 times those of the hooks, but for two bits and a few roundings of fp32; or the engine is further off than hooks
in no more samples than chance makes of two that are equally right (three standard deviations of a fair coin): where a
token is routed otherwise for a last bit, one of two attentions is off by half as much again as the other, now this one,
now that. Exit status 1: a check fails.
"""

import argparse
import importlib.util
import json
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks import models_page
from benchmarks.model_truth import Place, truth
from benchmarks.models import Case, engine_readings, make, places_read
from benchmarks.pools import stratified
from benchmarks.quantised import FORMATS
from benchmarks.record import record, table
from nait_fast.config import DataOptions, ModelOptions
from nait_fast.data.formats import detect, parse
from nait_fast.data.tokenize import Encoded
from nait_fast.errors import NaitError, first_line
from nait_fast.extract.session import open_session
from nait_fast.models.load import LoadedModel, load_model

NOISE = 1.1
BITS = 2  # that may differ without meaning anything
ROUNDINGS = 2e-6  # of fp32, relative: the engine multiplies in blocks of its own
DTYPES = ("float32", "bfloat16")
DENSE = ("plain", *(name for name in FORMATS if name not in ("mxfp4", "gemma", "bitnet")))
# Model type, class, what is different from the tiny configuration, the formats that its experts are kept in
MIXTURES: list[tuple[str, str, dict[str, Any], tuple[str, ...]]] = [
    ("mixtral", "MixtralForCausalLM", {"intermediate_size": 64}, ()),
    ("qwen3_moe", "Qwen3MoeForCausalLM", {"moe_intermediate_size": 64}, ("fp8", "mxfp8")),
    ("gpt_oss", "GptOssForCausalLM", {"intermediate_size": 64}, ("mxfp4",)),
    ("deepseek_v3", "DeepseekV3ForCausalLM", {"moe_intermediate_size": 64}, ("fp8",)),
]
SAMPLES = 16  # of random tokens
Row = dict[str, Any]


@dataclass(frozen=True)
class Source:
    """Plain weights: their folder, samples, the names of what is read of them, in order, and fp32 readings by hooks."""

    folder: Path
    ids: list[np.ndarray]
    body: nn.Module
    places: dict[str, Place]
    readings: np.ndarray

    @classmethod
    def of(cls, folder: Path, ids: list[np.ndarray]) -> "Source":
        loaded = load_model(str(folder))
        places, misread = places_read(loaded, loaded.body)
        if misread:
            raise RuntimeError(misread)
        return cls(folder, ids, loaded.body, places, by_hooks(loaded.body, places, ids))


def by_hooks(body: Any, places: dict[str, Place], ids: list[np.ndarray]) -> np.ndarray:
    """Mean readings fp64 [n, N] of ``body`` at the modules of the names of ``places``."""
    there = {name: replace(place, module=body.get_submodule(name)) for name, place in places.items()}
    return np.stack([np.concatenate(row) for row in truth(body, there, ids)["mean"]])


def by_engine(loaded: LoadedModel, ids: list[np.ndarray]) -> np.ndarray:
    """The engine's, in one batch and without a prefix."""
    return np.stack([np.concatenate(row) for row in engine_readings(loaded, ids, None, 8192)["mean"]])


@torch.no_grad()
def dequantised(body: nn.Module, plain: nn.Module) -> nn.Module:
    """``plain`` with the numbers that the weights of ``body``, in fp32, stand for: a linear layer gives them where the
    unit vectors go in."""
    twin = load_like(plain)
    theirs, held = dict(body.named_modules()), dict(body.named_parameters())
    for name, module in twin.named_modules():
        if type(module) is nn.Linear:
            unit = torch.eye(module.in_features)
            nothing = torch.zeros(1, module.in_features)
            module.weight.copy_((theirs[name](unit) - theirs[name](nothing)).T)
    linear = {f"{name}.weight" for name, module in twin.named_modules() if type(module) is nn.Linear}
    for name, parameter in twin.named_parameters():
        if name not in linear:
            parameter.copy_(held[name])
    return twin


def load_like(plain: Any) -> Any:
    """A copy of a model whose weights may be written over."""
    twin = type(plain)(plain.config).eval()
    twin.load_state_dict(plain.state_dict())
    return twin


def errors_of(got: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """The relative error of each sample [n]."""
    return np.linalg.norm(got - expected, axis=1) / np.linalg.norm(expected, axis=1)


def far(got: np.ndarray, expected: np.ndarray) -> tuple[float, float]:
    """(share of bits that differ, median over the samples of the relative error)."""
    thresholds = expected.mean(axis=0)
    different = (got > thresholds) != (expected > thresholds)
    return float(different.mean()), float(np.median(errors_of(got, expected)))


def of_format(source: Source, name: str, folder: Path) -> list[Row]:
    """The rows, with fp32 and with bf16 activations, of ``folder``, which holds ``source`` in format ``name``; of plain
    weights that with bf16."""
    if name == "plain":
        return [_measured(source, load_model(str(folder), dtype="bfloat16"), source.readings, _head(name, "bfloat16"))]
    rows = []
    expected, known = np.zeros(0), Row()
    for dtype in DTYPES:
        row = _head(name, dtype)
        try:
            loaded = load_model(str(folder), dtype=dtype)
        except NaitError as error:
            rows.append(row | {"refused": str(error.replace(where=""))})
            continue
        if not known:
            expected = by_hooks(dequantised(loaded.body, source.body), source.places, source.ids)
            known = dict(zip(("quantised_bits", "quantised_error"), far(expected, source.readings), strict=True))
        rows.append(_measured(source, loaded, expected, row | {"against": "its own numbers in fp32", **known}))
    return rows


def _head(name: str, dtype: str) -> Row:
    row: Row = {"format": name, "activations": dtype, "against": "the fp32 weights"}
    if name != "plain":
        of = metadata.packages_distributions()
        row["packages"] = {p: metadata.version(of[p][0]) for p in FORMATS[name].packages}
    return row


def _measured(source: Source, loaded: LoadedModel, expected: np.ndarray, row: Row) -> Row:
    engine, hooks = by_engine(loaded, source.ids), by_hooks(loaded.body, source.places, source.ids)
    thresholds = expected.mean(axis=0)
    row |= dict(zip(("engine_bits", "engine_error"), far(engine, expected), strict=True))
    row |= dict(zip(("hooks_bits", "hooks_error"), far(hooks, expected), strict=True))
    mine, theirs = errors_of(engine, expected), errors_of(hooks, expected)
    row |= {"worse": float((mine > theirs).mean() + (mine == theirs).mean() / 2)}  # share of samples; ties are halves
    row |= {"apart_bits": float(((engine > thresholds) != (hooks > thresholds)).mean()), "bits": int(engine.size)}
    runs = "packed" if loaded.packs else "padded"
    return row | {"tokens": sum(map(len, source.ids)), "samples": len(source.ids), "runs": runs}


def checked(row: Row) -> Row:
    """With its ``check``."""
    if "refused" in row:
        return row
    bits = row["engine_bits"] <= NOISE * row["hooks_bits"] + BITS / row["bits"]
    error = row["engine_error"] <= NOISE * row["hooks_error"] + ROUNDINGS
    by_chance = row["worse"] <= 0.5 + 1.5 / row["samples"] ** 0.5
    said = f"{row['engine_bits']:.2%} of bits, where hooks have {row['hooks_bits']:.2%}"
    return row | {"check": f"{'ok' if (bits and error) or by_chance else 'failed'}: {said}"}


def _made(names: tuple[str, ...], source: Path, work: Path) -> Iterator[tuple[str, Path]]:
    """(name, folder) of the plain weights and of each format that can be made here; its folder goes again."""
    for name in names:
        if name == "plain":
            yield name, source
            continue
        if any(importlib.util.find_spec(package) is None for package in FORMATS[name].packages):
            print(f"{name}: without {', '.join(FORMATS[name].packages)} it is left out", flush=True)
            continue
        folder = work / "".join(c if c.isalnum() else "-" for c in name)
        shutil.rmtree(folder, ignore_errors=True)
        try:
            FORMATS[name].make(source, folder)
        except Exception as error:  # a package's own, of another shape or version
            print(f"{name}: not made ({first_line(error)})", flush=True)
            continue
        yield name, folder
        shutil.rmtree(folder)


def of_real(folder: Path, dataset: Path, rows: int, max_length: int, work: Path, formats: tuple[str, ...]) -> list[Row]:
    session = open_session(ModelOptions(model=str(folder)), DataOptions(max_length=max_length), quiet=True)
    lines = [json.loads(line) for line in stratified(dataset, rows, 0)]
    samples = [parse(line, detect(line) or "alpaca", i) for i, line in enumerate(lines)]
    ids = [np.asarray(e.ids) for e in session.encoder.encode(samples) if isinstance(e, Encoded)]
    source = Source.of(folder, ids)
    out = []
    for name, place in _made(formats, folder, work):
        for row in of_format(source, name, place):
            out.append({"model": folder.name, **checked(row)})
            print(folder.name, name, row["activations"], out[-1].get("check", row.get("refused")), flush=True)
    return out


def of_mixture(case: Case, formats: tuple[str, ...], seeds: int, work: Path) -> list[Row]:
    """Rows of medians over ``seeds`` models with random weights, each with samples of its own."""
    every: dict[tuple[str, str], list[Row]] = {}
    for seed in range(seeds):
        folder = work / f"{case.type}-plain"
        shutil.rmtree(folder, ignore_errors=True)
        make(case, folder, seed)
        generator = np.random.default_rng(seed)
        lengths = generator.integers(5, 60, SAMPLES)
        source = Source.of(folder, [generator.integers(10, 250, n).astype(np.int32) for n in lengths])
        for name, place in _made(("plain", *formats), folder, work):
            for row in of_format(source, name, place):
                every.setdefault((name, row["activations"]), []).append(row)
    out = []
    for (name, dtype), rows in every.items():
        row = {
            key: median(each[key] for each in rows) if isinstance(value, float) else value
            for key, value in rows[0].items()
        }
        total = {key: sum(each[key] for each in rows) for key in ("bits", "tokens", "samples")}
        total["worse"] = sum(each["worse"] for each in rows) / len(rows)
        row = {"model": f"{case.type}, tiny and random", "seeds": seeds, **checked(row | total)}
        print(row["model"], name, dtype, row["check"], flush=True)
        out.append(row)
    return out


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for the checkpoints")
    parser.add_argument("--dataset", type=Path)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--formats", nargs="+", default=DENSE, choices=DENSE, metavar="NAME", help="of --model")
    parser.add_argument("--rows", type=int, default=24)
    parser.add_argument("--max-length", type=int, default=96)
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args()
    if (options.model is None) != (options.dataset is None):
        parser.error("--model and --dataset go together")
    options.work.mkdir(parents=True, exist_ok=True)
    rows = []
    if options.model is not None:
        sizes = options.rows, options.max_length
        rows = of_real(options.model, options.dataset, *sizes, options.work, tuple(options.formats))
    for type_, name, extra, formats in MIXTURES if options.model is None else ():
        case = Case("causal", type_, name, extra={"hidden_size": 64, **extra})
        rows += of_mixture(case, formats, options.seeds, options.work)
    rows = [{"set": "mixtures" if options.model is None else options.model.name, **row} for row in rows]
    print(table(rows, ["model", "format", "activations", "engine_bits", "hooks_bits", "check"]))
    record("precision", rows)
    models_page.write()
    return int(any(row.get("check", "").startswith("failed") for row in rows))


if __name__ == "__main__":
    sys.exit(main())
