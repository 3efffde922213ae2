"""Readings of a pool and of targets, captured once into a folder and mapped from there.

For measurements that ask many questions of the same activations: fidelity of codes, and what it costs to keep fewer.
"""

import argparse
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.pools import described, pool_parser, stratified
from nait_fast.codecs.layout import CodeLayout
from nait_fast.config import DataOptions, ModelOptions
from nait_fast.data.pool import Pool
from nait_fast.data.prefixes import shared_prefixes
from nait_fast.extract.session import Session, encode_all, open_session
from nait_fast.extract.sinks import Sink
from nait_fast.progress import Progress

READINGS = ("mean", "drift")


@dataclass(frozen=True)
class Readings:
    """``pool[reading]`` fp32 [n, N], ``targets[name]`` fp32 [m, N] (drifts), mapped; ``lengths`` int64 [n]: tokens."""

    layout: CodeLayout
    pool: Mapping[str, np.ndarray]
    targets: Mapping[str, np.ndarray]
    lengths: np.ndarray


class _Keep(Sink):
    """Writes the readings of each batch into mapped files."""

    def __init__(self, files: Mapping[str, np.ndarray], layout: CodeLayout):
        self._files, self._layout = files, layout

    def layer(self, items, ordinal, readings, codes) -> None:
        for name, file in self._files.items():
            file[items, self._layout.neurons(ordinal)] = readings[name].float().cpu().numpy()

    def finish(self, items, finite: torch.Tensor) -> None:
        if not bool(finite.all()):
            raise RuntimeError("activations are not finite")


def captured(
    model: str, pool: Path, targets: Mapping[str, Path], max_length: int, work: Path, experts: str = "neurons"
) -> Readings:
    """Readings of ``pool`` (mean, drift) and of ``targets`` (drift); what ``work`` holds already is not run again.

    ``experts``: what is read of them, as ``--experts`` names it.
    """
    of_experts = "" if experts == "neurons" else f" {experts}"
    about = f"{Path(model).name} {max_length}{of_experts}"
    key = hashlib.sha256(about.encode() + pool.read_bytes()).hexdigest()[:12]
    folder = work / f"readings-{key}"
    folder.mkdir(parents=True, exist_ok=True)
    wanted = {"pool": (pool, READINGS), **{name: (path, ("drift",)) for name, path in targets.items()}}
    session: Session | None = None
    for name, (path, readings) in wanted.items():
        if not (folder / f"{name}_len.npy").exists():
            options = ModelOptions(model=model, experts=experts)
            session = session or open_session(options, DataOptions(max_length=max_length))
            _capture(session, path, readings, folder / name)
    widths = np.load(folder / "widths.npy")

    def mapped(name: str) -> np.ndarray:
        return np.load(folder / f"{name}.npy", mmap_mode="r")

    return Readings(
        CodeLayout.of(widths.tolist()),
        {r: mapped(f"pool_{r}") for r in READINGS},
        {name: mapped(f"{name}_drift") for name in targets},
        np.load(folder / "pool_len.npy"),
    )


def work_parser(about: str | None) -> argparse.ArgumentParser:
    """Options of a measurement on captured readings."""
    parser = pool_parser(about)
    parser.add_argument("--work", type=Path, required=True, help="folder for the captured readings")
    return parser


def captured_by(arguments: argparse.Namespace) -> tuple[Readings, np.ndarray, dict[str, Any]]:
    """(readings, source of each pool row, what every result row tells) for the options of ``work_parser``."""
    arguments.work.mkdir(parents=True, exist_ok=True)
    pool = arguments.work / "pool.jsonl"
    pool.write_bytes(b"".join(stratified(arguments.dataset, arguments.rows, arguments.seed)))
    targets = {name: Path(path) for name, _, path in (text.partition("=") for text in arguments.target)}
    readings = captured(arguments.model, pool, targets, arguments.max_length, arguments.work)
    sources = np.array([json.loads(line)["source"] for line in pool.read_bytes().splitlines()])
    return (readings, sources, described(arguments, "max_length", "seed"))


def _capture(session: Session, path: Path, readings: tuple[str, ...], stem: Path) -> None:
    _, encoded = encode_all(session.encoder, Pool(str(path)))
    shape = (len(encoded), session.layout.n_neurons)
    files = {r: np.lib.format.open_memmap(f"{stem}_{r}.npy", "w+", np.float32, shape) for r in readings}
    progress = Progress(len(encoded), f"capture {path.name}", session.quiet)
    session.run(encoded, _Keep(files, session.layout), readings, shared_prefixes(encoded), progress.add)
    progress.close()
    for file in files.values():
        file.flush()
    np.save(stem.parent / "widths.npy", np.array(session.model.widths))
    np.save(f"{stem}_len.npy", np.array([len(e.ids) for e in encoded]))  # the last: all is there
