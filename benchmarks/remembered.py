"""Readings that the model gives once: for measurements that index the same rows, and sign the same targets, many times.

Within ``remembering`` each sample goes through the model once, for all of READINGS, into mapped files; every other run
of this process or a later one that asks for some of them, of all layers or the first ones, is given what they hold.
Codes are packed from the readings then, not in the capture op, and drifts are kept in fp32.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch

from nait_fast import api
from nait_fast.data.prefixes import shared_prefixes
from nait_fast.data.tokenize import Encoded
from nait_fast.extract.session import OnBatch, Session
from nait_fast.extract.sinks import Sink
from nait_fast.methods.signature import load_signature
from nait_fast.models.patch import Capture
from nait_fast.progress import Progress
from nait_fast.storage.files import make_folder, write_atomic

OF_LAYERS = ("mean", "drift", "up_abs")
READINGS = (*OF_LAYERS, "hidden", "rds")  # hidden: of every layer
AT_ONCE = 256  # samples that are handed on together


class _Keep(Sink):
    """Writes the readings of a run's samples to rows ``first`` and following of ``files``."""

    def __init__(self, files: dict[str, np.ndarray], first: int, session: Session):
        self._files, self._first, self._layout = files, first, session.layout

    def layer(self, items, ordinal, readings, codes) -> None:
        rows = np.asarray(items) + self._first
        for name in OF_LAYERS:
            self._files[name][rows, self._layout.neurons(ordinal)] = readings[name].float().cpu().numpy()
        self._files["hidden"][rows, ordinal] = readings["hidden"].float().cpu().numpy()

    def of_body(self, items, readings) -> None:
        self._files["rds"][np.asarray(items) + self._first] = readings["rds"].cpu().numpy()

    def finish(self, items, finite: torch.Tensor) -> None:
        if not bool(finite.all()):
            raise RuntimeError("activations are not finite")


class _Every:
    """In the place of the one ``hidden_at`` of a capture: every layer."""

    def __get__(self, capture: Capture, kind: type) -> "_Every":
        return self

    def __set__(self, capture: Capture, value: int | None) -> None: ...

    def __eq__(self, ordinal: object) -> bool:
        return True


class Remembered:
    """The readings of up to ``most`` samples, in files of ``folder``."""

    def __init__(self, folder: Path, most: int):
        self._folder, self._most = folder, most
        self._places: dict[bytes, int] = {}
        self._files: dict[str, np.ndarray] = {}
        self._run = Session.run
        if self._names.exists():
            keys = json.loads(self._names.read_text(encoding="utf-8"))
            self._places = {bytes.fromhex(key): place for place, key in enumerate(keys)}
            self._files = {name: np.lib.format.open_memmap(folder / f"{name}.npy", "r+") for name in READINGS}

    @property
    def _names(self) -> Path:
        """The file of what is remembered: a key a sample, in order."""
        return self._folder / "samples.json"

    def run(
        self,
        session: Session,
        encoded: Sequence[Encoded],
        sink: Sink,
        readings: Sequence[str],
        prefixes: Sequence[np.ndarray] = (),
        on_batch: OnBatch | None = None,
    ) -> None:
        """As ``Session.run``."""
        if unknown := set(readings) - set(READINGS):
            raise ValueError(f"not remembered: {sorted(unknown)}")
        keys = [hashlib.sha256(e.ids.tobytes() + repr(e.reading_spans).encode()).digest() for e in encoded]
        fresh = {key: e for key, e in zip(keys, encoded, strict=True) if key not in self._places}
        if fresh:
            self._keep(replace(session, embed_layer=session.model.layers[-1]), list(fresh.values()))
            self._places |= {key: len(self._places) + n for n, key in enumerate(fresh)}
            write_atomic(self._names, json.dumps([key.hex() for key in self._places]).encode())
        for start in range(0, len(encoded), AT_ONCE):
            items = list(range(start, min(start + AT_ONCE, len(encoded))))
            self._hand_on(session, items, [self._places[keys[i]] for i in items], sink, readings)
            if on_batch is not None:
                on_batch(len(items), sum(len(encoded[i].ids) for i in items))
        sink.flush()

    def _keep(self, session: Session, encoded: list[Encoded]) -> None:
        if not session.model.complete:
            raise ValueError("new samples want a model that is loaded as a whole")
        layers = len(session.layout.widths)
        widths = {"hidden": (layers, session.hidden_width), "rds": (session.model.end_width,)}
        for name in READINGS if not self._files else ():
            shape = (self._most, *widths.get(name, (session.layout.n_neurons,)))
            self._files[name] = np.lib.format.open_memmap(self._folder / f"{name}.npy", "w+", np.float32, shape)
        if self._files["hidden"].shape[1] != layers:
            raise ValueError("new samples want all layers of the first run")
        progress = Progress(len(encoded), "readings", session.quiet)
        keep = _Keep(self._files, len(self._places), session)
        with patch.object(Capture, "hidden_at", _Every(), create=True):
            self._run(session, encoded, keep, READINGS, shared_prefixes(encoded), progress.add)
        progress.close()

    def _hand_on(
        self, session: Session, items: list[int], places: list[int], sink: Sink, readings: Sequence[str]
    ) -> None:
        embedded = None if session.embed_layer is None else session.model.layers.index(session.embed_layer)
        for ordinal in range(len(session.layout.widths)):
            some = {
                name: torch.from_numpy(self._files[name][places, session.layout.neurons(ordinal)])
                for name in OF_LAYERS
                if name in readings
            }
            if ordinal == embedded and "hidden" in readings:
                some["hidden"] = torch.from_numpy(self._files["hidden"][places, ordinal])
            if "drift" in some:
                some["drift"] = some["drift"].double()
            sink.layer(items, ordinal, some, None)
        if "rds" in readings:
            sink.of_body(items, {"rds": torch.from_numpy(self._files["rds"][places])})
        sink.finish(items, torch.ones(len(items), dtype=torch.bool))


@contextmanager
def remembering(folder: Path, most: int) -> Iterator[None]:
    """Within it, sessions of this process (not of its workers) run as ``Remembered`` says."""
    folder.mkdir(parents=True, exist_ok=True)
    remembered = Remembered(folder, most)

    def run(session: Session, *arguments, **named) -> None:
        remembered.run(session, *arguments, **named)

    with patch.object(Session, "run", run):
        yield


def sign_by_both_readings(signing: dict[str, Any], folder: Path) -> list[str]:
    """The files in ``folder``'s ``nait`` of the targets' signatures by drift and by mean, named so; ``signing``: what
    the verb is given besides."""
    for reading in ("drift", "mean"):
        output = folder / f"nait-{reading}"
        api.build_signature(**signing, method="nait", reading=reading, output=str(output))
        for file in sorted(output.glob("*.safetensors")):
            signature = load_signature(file)
            replace(signature, name=f"{signature.name}-{reading}").save(make_folder(str(folder / "nait")))
    return sorted(map(str, (folder / "nait").glob("*.safetensors")))
