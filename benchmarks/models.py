"""What nait_fast reads of every text decoder in transformers: a tiny random checkpoint of each against plain hooks.

    python -m benchmarks.models --work DIR [--set causal|multimodal|variants|all] [--only TYPE ...] [--write]

Each architecture runs in a process of its own (a crash or a hang is a result), in five steps:

1. make     a tiny checkpoint folder of random weights and a byte tokenizer, of the class that users' checkpoints have
2. truth    that class as transformers loads it (eager attention, fp32), a sample at a time, with hooks of our own on
            the MLPs and experts that are found by their names (``benchmarks.model_truth``)
3. folder   what the command line does: ``load_model``, then the engine over ragged samples, with a prefix that they
            share and without, in small and large batches
4. capture  ``nait_fast.capture`` around the class of step 2, padded right and left
5. bf16     step 3 in the default precision of a GPU

Verdict of a row: yes (step 3 agrees to 1e-5; or to 1e-4, and against fp64 it is off by at most twice what transformers'
own fp32 is), wrong (it runs and does not, reads another place, or not all of them), refused (a NaitError), crash
(anything else), n/a (transformers cannot make or run it here). ``--write`` records a row
for each and makes docs/models.md anew. Exit status 1: one is wrong or crashes.
"""

import argparse
import copy
import importlib
import multiprocessing
import os
import shutil
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
import transformers
from transformers.models.auto import modeling_auto

import nait_fast
from benchmarks import models_page
from benchmarks.model_truth import (
    READINGS,
    Fp32IsFp64,
    NotOneRowAToken,
    Place,
    Values,
    in_order_of,
    places_of,
    running_on_text,
    truth,
    worst,
)
from benchmarks.record import record
from benchmarks.tiny_configs import VARIANTS, tiny_config
from nait_fast.codecs.layout import CodeLayout
from nait_fast.data.tokenize import Encoded
from nait_fast.errors import NaitError
from nait_fast.extract.engine import Engine
from nait_fast.extract.sinks import Collect
from nait_fast.models.load import LoadedModel, load_model
from nait_fast.notices import NaitWarning

TOLERANCE = 1e-4
CLOSE = 1e-5  # what is further off is compared with fp64
LENGTHS = (1, 2, 9, 9, 33, 60)
TINY = 40_000_000  # parameters; what has more was not shrunk
SETS = ("causal", "multimodal", "variants")
Row = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """One architecture: a class of transformers, and what is special about its tiny configuration."""

    set: str
    type: str
    name: str  # of the class
    variant: str = ""
    extra: dict[str, Any] = field(default_factory=dict)


def cases(which: str) -> list[Case]:
    """The architectures of a set, or of 'all'."""
    causal = dict(modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
    multimodal = dict(modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES)
    every = [Case("causal", type_, name) for type_, name in causal.items()]
    every += [Case("multimodal", type_, name) for type_, name in multimodal.items() if causal.get(type_) != name]
    for variant, type_, mapping, extra in VARIANTS:
        names = causal if mapping == "causal" else multimodal
        every.append(Case("variants", type_, names[type_], variant, extra))
    return [case for case in every if which in ("all", case.set)]


def tokenizer() -> Any:
    """A tokenizer of bytes: 256 of them, and three special tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    tokens = ["<pad>", "<s>", "</s>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    made = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    special = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>"}
    return transformers.PreTrainedTokenizerFast(tokenizer_object=made, **special)


def randomise(model: torch.nn.Module, seed: int = 0) -> None:
    """Weights large enough that tokens differ and attention is not flat."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if not parameter.is_floating_point():
            continue
        noise = torch.randn(parameter.shape, generator=generator).to(parameter.dtype)
        if parameter.dim() < 2 or "A_log" in name or name.endswith(".D"):
            parameter.data = parameter.data + 0.1 * noise
        elif "embed" in name or "wte" in name:
            parameter.data = 0.7 * noise
        else:
            parameter.data = noise * 1.2 * parameter.shape[-1] ** -0.5
    model.tie_weights()


def make(case: Case, folder: Path, seed: int = 0) -> Any:
    """Save a tiny model of ``case``; returns its class."""
    torch.manual_seed(seed)
    config = tiny_config(case.type, **case.extra)
    cls = getattr(transformers, case.name, None)
    if cls is None:  # in an Auto class's list only
        module = type(config).__module__.replace("configuration_", "modeling_")
        cls = getattr(importlib.import_module(module), case.name)
    if not isinstance(config, cls.config_class):
        config = config.get_text_config(decoder=True)
    with torch.device("meta"):
        size = sum(parameter.numel() for parameter in cls(copy.deepcopy(config)).parameters())
    if size > TINY:
        raise RuntimeError(f"{size:,} parameters: not tiny")
    model = cls(config).eval()
    randomise(model, seed)
    model.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return cls


def samples() -> tuple[list[np.ndarray], np.ndarray]:
    """(ids int32 of ragged samples, some of which share a prefix; that prefix)."""
    rng = np.random.default_rng(0)
    prefix = rng.integers(10, 250, 12).astype(np.int32)
    plain = [rng.integers(10, 250, n).astype(np.int32) for n in LENGTHS]
    behind = [np.concatenate([prefix, rng.integers(10, 250, n).astype(np.int32)]) for n in (1, 3, 20)]
    return [*plain, *behind, prefix], prefix


def engine_readings(
    loaded: LoadedModel, ids: list[np.ndarray], prefix: np.ndarray | None, batch_tokens: int
) -> dict[str, Values]:
    """Reading -> sample -> what is read of a layer, as an index would be made of them."""
    sink = Collect(len(ids), CodeLayout.of(loaded.widths), READINGS)
    engine = Engine(loaded, READINGS, batch_tokens=batch_tokens)
    engine.run([Encoded(i, None, x) for i, x in enumerate(ids)], sink, prefixes=[] if prefix is None else [prefix])
    cuts = np.cumsum(loaded.widths)[:-1]
    return {reading: [np.split(row.double().numpy(), cuts) for row in sink.readings[reading]] for reading in READINGS}


def all_engine_readings(loaded: LoadedModel, ids: list[np.ndarray], prefix: np.ndarray) -> list[dict[str, Values]]:
    """The engine's readings in batches of few and of many tokens, with the samples' prefix run once and in each."""
    return [engine_readings(loaded, ids, before, tokens) for before in (None, prefix) for tokens in (40, 10_000)]


def captured_readings(model: Any, ids: list[np.ndarray], side: str) -> tuple[dict[str, Values], list[int]]:
    """(reading -> sample -> what is read of a layer, its layer), of one padded forward of a model in memory."""
    width = max(map(len, ids))
    batch, mask = torch.full((len(ids), width), 5), torch.zeros(len(ids), width, dtype=torch.long)
    for i, x in enumerate(ids):
        place = slice(0, len(x)) if side == "right" else slice(width - len(x), width)
        batch[i, place], mask[i, place] = torch.from_numpy(x).long(), 1
    with torch.no_grad(), nait_fast.capture(model, READINGS) as captured:
        model(input_ids=batch, attention_mask=mask, use_cache=False)
    layers = list(captured.layers)
    if len(captured["mean"]) != len(layers):
        raise NotOneRowAToken(f"{len(captured['mean'])} readings for the layers {layers}")
    rows = range(len(ids))
    return {r: [[layer[i].double().numpy() for layer in captured[r]] for i in rows] for r in READINGS}, layers


def attempt(step: Callable[..., Any], *arguments: Any) -> tuple[Any, str, str]:
    """(result, '', ''), or (None, 'refused' or 'crash', why in one line): a refusal of several lines is none."""
    try:
        return step(*arguments), "", ""
    except Exception as error:
        if isinstance(error, NaitError) and "\n" not in str(error):
            return None, "refused", str(error)
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "nait_fast" in frame.filename]
        place = f" (at {Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
        return None, "crash", line_of(error) + place


def line_of(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:200]


def load_noting(folder: str) -> tuple[LoadedModel | None, str, str, bool]:
    """``attempt(load_model, folder)``, and whether it came to read weights."""
    asked: list[Any] = []
    read = transformers.PreTrainedModel.from_pretrained.__func__

    def noting(cls: Any, *arguments: Any, **named: Any) -> Any:
        asked.append(cls)
        return read(cls, *arguments, **named)

    with mock.patch.object(transformers.PreTrainedModel, "from_pretrained", classmethod(noting)):
        return *attempt(load_model, folder), bool(asked)


def examine(case: Case, work: Path) -> Row:
    """The row of one architecture; its folder in ``work`` is removed again."""
    row: Row = {"set": case.set, "type": case.type, "class": case.name, "variant": case.variant, "notes": []}
    folder, start = work / f"{case.set}-{case.name}", time.monotonic()
    shutil.rmtree(folder, ignore_errors=True)
    try:
        cls = make(case, folder)
        model = cls.from_pretrained(folder, attn_implementation="eager", dtype=torch.float32).eval()
    except Exception as error:
        return _without(folder, row | {"verdict": "n/a", "message": line_of(error)})
    try:
        row |= _read_folder(row["notes"], model, cls, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return _without(folder, row | {"seconds": round(time.monotonic() - start, 1)})


def _without(folder: Path, value: Any) -> Any:
    """``value``, in whose texts FOLDER stands for ``folder``: paths of a machine say nothing to a reader."""
    if isinstance(value, dict):
        return {key: _without(folder, item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without(folder, item) for item in value]
    return value.replace(str(folder), "FOLDER") if isinstance(value, str) else value


def _read_folder(notes: list[str], model: Any, cls: Any, folder: Path) -> Row:
    """Steps 2 to 5."""
    ids, prefix = samples()
    unable = _unable(model, ids, notes)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        loaded, verdict, message, weights_read = load_noting(str(folder))
    notes += [f"said: {w.message}" for w in said if issubclass(w.category, NaitWarning)]
    found: Row = {"weights_read": weights_read}
    places: dict[str, Place] = {}
    expected = None
    if loaded is None:
        if verdict == "crash" and unable:
            verdict, message = "n/a", unable
    else:
        found |= {"path": loaded.forward, "neurons": loaded.widths}
        found |= {"experts": loaded.has_experts}
        places, misread = places_read(loaded, model)
        verdict, message = ("wrong", misread) if misread else ("", "")
    if loaded is not None and not verdict:
        expected, verdict, message = attempt(truth, model, places, ids)
        if message.startswith(NotOneRowAToken.__name__):
            verdict = "wrong"
        elif verdict:
            verdict = "n/a"
    if expected is not None:
        readings, verdict, message = attempt(all_engine_readings, loaded, ids, prefix)
        if readings is not None:
            errors = {r: max(worst(got[r], expected[r]) for got in readings) for r in READINGS}
            error = max(errors.values())
            if error > TOLERANCE:
                # Where transformers' own attentions differ, its default is what nait_fast runs.
                other = cls.from_pretrained(folder, dtype=torch.float32).eval()
                by_default = {name: place for name, place in places_of(other).items() if name in places}
                theirs, *_ = attempt(truth, other, {name: by_default[name] for name in places}, ids)
                if theirs is not None:
                    error = max(worst(got[r], theirs[r]) for got in readings for r in READINGS)
                    notes.append(f"{max(errors.values()):.1e} from eager attention, {error:.1e} from the default one")
            verdict, message = ("yes" if error <= TOLERANCE else "wrong"), f"{error:.1e}"
            if CLOSE < error <= TOLERANCE:
                mine, theirs = _against_fp64(model, places, ids, readings, expected)
                verdict = "yes" if mine <= max(CLOSE, 2 * theirs) else "wrong"
                found |= {"fp64_error": float(f"{mine:.1e}"), "fp64_error_of_transformers": float(f"{theirs:.1e}")}
                notes.append(f"{mine:.1e} from fp64, of which transformers' own fp32 is {theirs:.1e} off")
            found |= {"error": float(message), **{f"{r}_error": float(f"{errors[r]:.1e}") for r in READINGS}}
        found["bf16"] = _in_bf16(folder, ids, prefix, expected)
    found |= {"verdict": verdict, "message": message}
    for side in ("right", "left"):
        got, problem, why = attempt(captured_readings, model, ids, side)
        if problem:
            same = problem == verdict and why == message
            found[f"capture_{side}"] = problem if same else f"{problem}: {why[:200]}"
        elif expected is None:
            found[f"capture_{side}"] = "runs; there is nothing to compare with"
        else:
            found[f"capture_{side}"] = _captured_error(places, expected, *got)
    return found


def _unable(model: Any, ids: list[np.ndarray], notes: list[str]) -> str:
    """Why transformers itself cannot run the samples; empty where it can."""
    try:
        with torch.no_grad():
            outputs = [model(input_ids=torch.from_numpy(x).long()[None], use_cache=False)[0] for x in ids]
    except Exception as error:
        notes.append(f"transformers does not run it on text: {line_of(error)[:150]}")
        return notes[-1]
    if not all(bool(output.isfinite().all()) for output in outputs):
        notes.append("transformers' own outputs are not finite")
    return ""


def places_read(loaded: LoadedModel, model: Any) -> tuple[dict[str, Place], str]:
    """(the places in ``model`` of what was read, in its order; what is read elsewhere or not at all)."""
    every = places_of(model)
    names = {id(module): name for name, module in loaded.body.named_modules()}
    places: dict[str, Place] = {}
    for spec in loaded.specs:
        read = names[id(spec.part(spec.family.down) if hasattr(spec, "family") else spec.module)]
        of_layer = {name: place for name, place in every.items() if place.layer == spec.layer}
        same = [name for name in of_layer if name == read or name.endswith(f".{read}")]
        if len(same) != 1:
            return places, f"of layer {spec.layer} {read} is read, where there is {', '.join(of_layer) or 'nothing'}"
        places[same[0]] = every[same[0]]
    ran, *_ = attempt(running_on_text, model, every)
    missed = [name for name in every if name not in places and (ran is None or name in ran)]
    return places, f"not read: {', '.join(missed)}" if missed else ""


def _against_fp64(
    model: Any, places: dict[str, Place], ids: list[np.ndarray], readings: list[dict[str, Values]], expected: Any
) -> tuple[float, float]:
    """(error of the engine's ``readings``, of transformers' own in fp32, ``expected``), against fp64 throughout."""
    exact_model = copy.deepcopy(model).double()
    for module in exact_model.modules():
        if hasattr(module, "config"):
            module.config._experts_implementation = "eager"  # others multiply no fp64
    exact_places = places_of(exact_model)
    with Fp32IsFp64():
        exact = truth(exact_model, {name: exact_places[name] for name in places}, ids)
    mine = max(worst(got[r], exact[r]) for got in readings for r in READINGS)
    return mine, max(worst(expected[r], exact[r]) for r in READINGS)


def _in_bf16(folder: Path, ids: list[np.ndarray], prefix: np.ndarray, expected: dict[str, Values]) -> str:
    """How far bf16 is off, and by which path it runs."""

    def readings() -> tuple[str, dict[str, Values]]:
        half = load_model(str(folder), dtype="bfloat16")
        return half.forward, engine_readings(half, ids, prefix, 10_000)

    got, verdict, message = attempt(readings)
    return f"{verdict}: {message[:200]}" if got is None else f"{got[0]}, {worst(got[1]['mean'], expected['mean']):.1e}"


def _captured_error(
    places: dict[str, Place], expected: dict[str, Values], got: dict[str, Values], layers: list[int]
) -> str:
    fitted = {reading: in_order_of(places, expected[reading], got[reading], layers) for reading in READINGS}
    if None in fitted.values():
        return f"the layers {layers} do not fit"
    return f"{max(worst(fitted[reading], expected[reading]) for reading in READINGS):.1e}"


def isolated(case: Case, work: Path, seconds: float) -> Row:
    """``examine`` in a forked process, which may crash or hang."""
    context = multiprocessing.get_context("fork")
    receiving, sending = context.Pipe(duplex=False)
    child = context.Process(target=_send, args=(sending, case, work))
    child.start()
    sending.close()
    failed: Row = {"set": case.set, "type": case.type, "class": case.name, "variant": case.variant, "verdict": "crash"}
    try:
        if receiving.poll(seconds):
            return receiving.recv()
        return failed | {"message": f"it takes more than {seconds:g} s"}
    except EOFError:
        child.join()
        return failed | {"message": f"its process ends with status {child.exitcode}"}
    finally:
        child.kill()
        child.join()


def _send(sending: Connection, case: Case, work: Path) -> None:
    """Sends the row of ``case``; what libraries print is not shown."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    sending.send(examine(case, work))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for the tiny checkpoints")
    parser.add_argument("--set", default="all", choices=(*SETS, "all"))
    parser.add_argument("--only", nargs="+", metavar="TYPE", help="these model types only")
    parser.add_argument("--seconds", type=float, default=180, help="an architecture may take")
    parser.add_argument("--write", action="store_true", help="record the rows, and make docs/models.md of them")
    options = parser.parse_args()
    if options.write and options.only:
        parser.error("--write records whole sets: leave --only out")
    chosen = [case for case in cases(options.set) if not options.only or case.type in options.only]
    if not chosen:
        parser.error(f"--only {' '.join(options.only)}: no such model type in the set")
    torch.set_num_threads(1)  # and so no team of threads that a fork would lose
    options.work.mkdir(parents=True, exist_ok=True)
    rows = []
    for case in chosen:
        row = isolated(case, options.work, options.seconds)
        rows.append(row)
        shown = (case.type, case.variant, row["verdict"], row.get("path"), row["message"], *row.get("notes", ()))
        print(*(text for text in shown if text), sep=" | ", flush=True)
    if options.write:
        record("models", rows)
        models_page.write()
    return int(any(row["verdict"] in ("wrong", "crash") for row in rows))


if __name__ == "__main__":
    sys.exit(main())
