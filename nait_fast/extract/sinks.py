"""What becomes of the readings: kept (small sets: targets, calibration) or turned into codes and scores (the pool)."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

import numpy as np
import torch

from nait_fast.codecs.base import Coder
from nait_fast.codecs.layout import CodeLayout
from nait_fast.device_copies import Outbox, to_device
from nait_fast.extract.body_end import LOSSES, OF_THE_END
from nait_fast.extract.pooling import dtype_of
from nait_fast.index.format import loss_columns, rds_columns

HOST = torch.device("cpu")


ROUNDING = 1e-6  # of a hidden state's largest number: what its place in a batch may change in fp32


class Sink(ABC):
    """Takes the readings of a run, batch by batch: ``layer`` once a layer in order, then ``finish``."""

    def threshold_of(self, ordinal: int) -> torch.Tensor | None:
        """fp32 [J] if the capture op shall pack bits of the mean of layer ``ordinal`` (passed as ``codes``)."""
        return None

    @abstractmethod
    def layer(
        self, items: Sequence[int], ordinal: int, readings: dict[str, torch.Tensor], codes: torch.Tensor | None
    ) -> None:
        """Readings fp32 (drift fp64) [B, J] of captured layer ``ordinal`` for the samples ``items`` of the window;
        ``codes`` uint8 [B, layer_bytes]: the layer's bits where the capture op has packed them."""

    def of_body(self, items: Sequence[int], readings: dict[str, torch.Tensor]) -> None:
        """Readings fp32 [B, H] (losses [B]) of the body's end for the samples ``items``, where any were asked for:
        after the last layer's."""
        return

    @abstractmethod
    def finish(self, items: Sequence[int], finite: torch.Tensor) -> None:
        """The batch is done; ``finite`` bool [B]: no reading of the sample was NaN or infinite."""

    def flush(self) -> None:
        """The run is done: whatever is still on its way must arrive."""
        return


class Collect(Sink):
    """Keeps the readings of ``n`` samples: ``readings[name]`` [n, N], fp32 (drift fp64), N = all neurons in order;
    ``hidden`` fp32 [n, H], of the one layer that has it, at ordinal ``hidden_at``; ``rds`` fp32 [n, H];
    ``losses[name]`` fp32 [n]. They lie on ``device``; ``finite`` bool [n] on the host."""

    def __init__(self, n: int, layout: CodeLayout, names: Sequence[str], device: torch.device = HOST):
        self.hidden, self.hidden_at = torch.empty(n, 0, device=device), -1
        self.layout, self.device = layout, self.hidden.device  # of cuda: which one
        self.rds = torch.empty(n, 0, device=device)
        self.losses = {name: torch.zeros(n, device=device) for name in names if name in LOSSES}
        ours = [name for name in names if name not in ("hidden", *OF_THE_END)]
        self.readings = {name: torch.zeros(n, layout.n_neurons, dtype=dtype_of(name), device=device) for name in ours}
        self.finite = np.zeros(n, dtype=bool)
        self._outbox = Outbox(depth=8)
        self._places: tuple[Sequence[int], torch.Tensor] = ((), torch.empty(0))  # items of a batch, and as an index

    def layer(
        self, items: Sequence[int], ordinal: int, readings: dict[str, torch.Tensor], codes: torch.Tensor | None
    ) -> None:
        neurons = self.layout.neurons(ordinal)
        kept = [(reading[:, neurons], readings[name]) for name, reading in self.readings.items()]
        if "hidden" in readings:
            if self.hidden_at != ordinal:
                self.hidden, self.hidden_at = self._room(readings["hidden"]), ordinal
            kept.append((self.hidden, readings["hidden"]))
        self._keep(items, kept)

    def of_body(self, items: Sequence[int], readings: dict[str, torch.Tensor]) -> None:
        if "rds" in readings and self.rds.shape[1] != readings["rds"].shape[1]:
            self.rds = self._room(readings["rds"])
        self._keep(items, [(self.rds if name == "rds" else self.losses[name], readings[name]) for name in readings])

    def _room(self, like: torch.Tensor) -> torch.Tensor:
        return torch.zeros(len(self.finite), like.shape[1], device=self.device)

    def _keep(self, items: Sequence[int], kept: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> None:
        """Each ``room[items] = values`` of ``kept``: on the values' device, or when they have come home from there."""
        if items is not self._places[0]:
            self._places = items, to_device(torch.tensor(items, dtype=torch.int64), self.device)
        places = self._places[1]
        if all(values.device == self.device for _, values in kept):
            for room, values in kept:
                room.index_copy_(0, places, values)
            return

        def receive(arrays: list[np.ndarray]) -> None:
            for (room, _), values in zip(kept, arrays, strict=True):
                room.index_copy_(0, places, torch.from_numpy(values).to(self.device))

        self._outbox.send([values for _, values in kept], receive)

    def finish(self, items: Sequence[int], finite: torch.Tensor) -> None:
        def receive(arrays: list[np.ndarray]) -> None:
            self.finite[items] = arrays[0]

        self._outbox.send([finite], receive)

    def flush(self) -> None:
        self._outbox.flush()

    def replay(self, sink: "Encode", device: torch.device) -> None:
        """Hand the kept readings, layer by layer, to ``sink`` (of as many samples)."""
        everyone = range(len(self.finite))
        for ordinal in range(len(self.layout.widths)):
            neurons = self.layout.neurons(ordinal)
            readings = {k: v[:, neurons].to(device) for k, v in self.readings.items()}
            if ordinal == self.hidden_at:
                readings["hidden"] = self.hidden.to(device)
            sink.layer(everyone, ordinal, readings, None)
        of_body = self.losses | ({"rds": self.rds} if self.rds.shape[1] else {})
        if of_body:
            sink.of_body(everyone, {name: values.to(device) for name, values in of_body.items()})
        sink.finish(everyone, torch.from_numpy(self.finite))
        sink.flush()


class Placed(Sink):
    """Hands what comes for sample ``i`` on to place ``places[i]`` of another sink, which its owner flushes: at the end
    of the run nobody waits for the device."""

    def __init__(self, sink: Sink, places: Sequence[int]):
        self.sink, self.places = sink, places

    def threshold_of(self, ordinal: int) -> torch.Tensor | None:
        return self.sink.threshold_of(ordinal)

    def layer(
        self, items: Sequence[int], ordinal: int, readings: dict[str, torch.Tensor], codes: torch.Tensor | None
    ) -> None:
        self.sink.layer([self.places[i] for i in items], ordinal, readings, codes)

    def of_body(self, items: Sequence[int], readings: dict[str, torch.Tensor]) -> None:
        self.sink.of_body([self.places[i] for i in items], readings)

    def finish(self, items: Sequence[int], finite: torch.Tensor) -> None:
        self.sink.finish([self.places[i] for i in items], finite)


class Tee(Sink):
    """Hands each layer to several sinks, which pack their bits themselves."""

    def __init__(self, sinks: Sequence[Sink]):
        self.sinks = sinks

    def layer(
        self, items: Sequence[int], ordinal: int, readings: dict[str, torch.Tensor], codes: torch.Tensor | None
    ) -> None:
        for sink in self.sinks:
            sink.layer(items, ordinal, readings, None)

    def of_body(self, items: Sequence[int], readings: dict[str, torch.Tensor]) -> None:
        for sink in self.sinks:
            sink.of_body(items, readings)

    def finish(self, items: Sequence[int], finite: torch.Tensor) -> None:
        for sink in self.sinks:
            sink.finish(items, finite)

    def flush(self) -> None:
        for sink in self.sinks:
            sink.flush()


class Encode(Sink):
    """Codes each layer, and projects it on the directions of exact scores, as it comes.

    ``codes`` uint8 [n, row_bytes]; ``columns``: what comes with them, ``embedding`` int8 [n, H], ``rds``, losses;
    ``exact[name]`` float64 [n] = Σ_l A_l · v_l (NAIT, with the reading of each direction). A batch is put together on
    its device and comes home in one piece, while the next one runs.
    """

    def __init__(
        self,
        n: int,
        layout: CodeLayout,
        coder: Coder | None,
        *,
        directions: Mapping[str, tuple[str, torch.Tensor]] | None = None,
        hidden_mean: torch.Tensor | None = None,
        rds: tuple[str, int] | None = None,
        nll: str = "none",
        device: torch.device | None = None,
    ):
        """``layout``: of the neurons; ``coder``: None for no codes; ``directions``: name -> (reading, direction fp32
        [N]); ``hidden_mean`` fp32 [H]: keep embeddings, less this; ``rds``: keep it, as which of RDS_TYPES and of how
        many numbers; ``nll``: keep losses, of NLL."""
        self.layout, self.coder = layout, coder
        self.codes = np.zeros((n, coder.layout.row_bytes if coder else 0), dtype=np.uint8)
        columns = dict(coder.columns) if coder else {}
        self._hidden_mean = None if hidden_mean is None else hidden_mean.to(device)
        if hidden_mean is not None:
            columns["embedding"] = ("i1", tuple(hidden_mean.shape))
        self._rds = rds
        if rds is not None:
            columns |= rds_columns(*rds)
        self._losses = loss_columns(nll)
        columns |= self._losses
        self.columns = {name: np.zeros((n, *shape), dtype) for name, (dtype, shape) in columns.items()}
        self.directions = {name: (r, v.to(device, torch.float64)) for name, (r, v) in (directions or {}).items()}
        self.exact = {name: np.zeros(n) for name in self.directions}
        self.finite = np.zeros(n, dtype=bool)
        self._outbox, self._device = Outbox(), device or torch.device("cpu")
        self._codes, self._exact, self._columns = torch.empty(0), torch.empty(0), dict[str, torch.Tensor]()

    def threshold_of(self, ordinal: int) -> torch.Tensor | None:
        return self.coder.threshold_of(ordinal) if self.coder else None

    def layer(
        self, items: Sequence[int], ordinal: int, readings: dict[str, torch.Tensor], codes: torch.Tensor | None
    ) -> None:
        if ordinal == 0:
            self._begin(len(items))
        neurons = self.layout.neurons(ordinal)
        if self.coder is not None:
            if codes is None:
                codes, parts = self.coder.encode(ordinal, readings[self.coder.reading])
                for name, (place, part) in parts.items():
                    self._columns[name][:, place] = part
            if codes is not None:
                self._codes[:, self.coder.layout.bytes(ordinal)] = codes
        if self._hidden_mean is not None and "hidden" in readings:
            self._columns["embedding"][:] = embedding_levels(readings["hidden"], self._hidden_mean)
        for scores, (reading, direction) in zip(self._exact, self.directions.values(), strict=True):
            # fp64: a score is a small difference of large terms, and one matrix-vector product costs nothing
            scores += readings[reading].double() @ direction[neurons]

    def of_body(self, items: Sequence[int], readings: dict[str, torch.Tensor]) -> None:
        if self._rds is not None:
            for name, values in rds_parts(readings["rds"], self._rds[0]).items():
                self._columns[name][:] = values
        for name in self._losses:
            self._columns[name][:] = readings[name]

    def _begin(self, n: int) -> None:
        device = self._device
        self._codes = torch.zeros(n, self.codes.shape[1], dtype=torch.uint8, device=device)
        self._exact = torch.zeros(len(self.directions), n, dtype=torch.float64, device=device)
        self._columns = {
            name: torch.zeros(n, *column.shape[1:], dtype=torch.from_numpy(column[:0]).dtype, device=device)
            for name, column in self.columns.items()
        }

    def finish(self, items: Sequence[int], finite: torch.Tensor) -> None:
        def receive(arrays: list[np.ndarray]) -> None:
            codes, exact, self.finite[items], *columns = arrays
            self.codes[items] = codes
            for scores, values in zip(self.exact.values(), exact, strict=True):
                scores[items] = values
            for column, values in zip(self.columns.values(), columns, strict=True):
                column[items] = values

        self._outbox.send([self._codes, self._exact, finite, *self._columns.values()], receive)

    def flush(self) -> None:
        self._outbox.flush()


def embedding_levels(hidden: torch.Tensor, mean: torch.Tensor) -> torch.Tensor:
    """int8 [B, H] of ``hidden`` fp32 [B, H] less ``mean`` fp32 [H]: each row scaled to ±127. A cosine needs no more: it
    knows no scale. A row that is the mean but for rounding has no direction: zeros."""
    centred = hidden - mean
    largest = centred.abs().amax(dim=1, keepdim=True)
    levels = (centred * (127 / largest.clamp(min=torch.finfo(torch.float32).tiny))).round().to(torch.int8)
    return levels * (largest > ROUNDING * hidden.abs().amax(dim=1, keepdim=True))


def rds_parts(e: torch.Tensor, dtype: str) -> dict[str, torch.Tensor]:
    """``e`` fp32 [B, H] as ``rds`` [B, H] of ``dtype``, of RDS_TYPES, and its ``rds_scale`` fp32 [B]: e ≈ rds · scale.

    int8: the largest number of a row is ±127. float16: the scale is a power of two, which rounds nothing, by which the
    largest is 2¹⁴ to 2¹⁵: below overflow, and as far as can be from numbers too small for 11 bits. A row that is not
    finite, which no shard keeps, becomes zeros.
    """
    e = torch.where(torch.isfinite(e).all(dim=1, keepdim=True), e, 0)
    if dtype == "float32":
        return {"rds": e}
    largest = e.abs().amax(dim=1)
    if dtype == "int8":
        scale = (largest / 127).clamp(min=torch.finfo(torch.float32).tiny)
        return {"rds": (e / scale[:, None]).round().clamp(-127, 127).to(torch.int8), "rds_scale": scale}
    exponent = (torch.frexp(largest).exponent - 15).clamp(min=-100)
    scale = torch.ldexp(torch.ones_like(largest), exponent)
    return {"rds": (e / scale[:, None]).to(torch.float16), "rds_scale": scale}
