"""What becomes of the readings: kept (small sets: targets, calibration) or turned into codes and scores (the pool)."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from nait_fast.extract.pooling import dtype_of
from nait_fast.index.format import CodeLayout
from nait_fast.kernels import pack_bits, topk_bits
from nait_fast.transfer import Outbox


class Collect:
    """Keeps the readings of ``n`` samples: ``readings[name]`` [n, N], fp32 (drift fp64), N = all neurons in order."""

    def __init__(self, n: int, layout: CodeLayout, names: Sequence[str]):
        self.layout = layout
        self.readings = {name: torch.zeros(n, layout.n_neurons, dtype=dtype_of(name)) for name in names}
        self.finite = np.zeros(n, dtype=bool)
        self._outbox = Outbox(depth=8)

    def threshold_of(self, position: int) -> torch.Tensor | None:
        return None

    def layer(
        self, items: Sequence[int], position: int, readings: dict[str, torch.Tensor], codes: torch.Tensor | None
    ) -> None:
        neurons = self.layout.neurons(position)

        def receive(arrays: list[np.ndarray]) -> None:
            for kept, values in zip(self.readings.values(), arrays, strict=True):
                kept[items, neurons] = torch.from_numpy(values)

        self._outbox.send([readings[name] for name in self.readings], receive)

    def finish(self, items: Sequence[int], finite: torch.Tensor) -> None:
        def receive(arrays: list[np.ndarray]) -> None:
            self.finite[items] = arrays[0]

        self._outbox.send([finite], receive)

    def flush(self) -> None:
        self._outbox.flush()

    def replay(self, sink: "Encode", device: torch.device) -> None:
        """Hand the kept readings, layer by layer, to ``sink`` (of as many samples)."""
        everyone = range(len(self.finite))
        for position in range(len(self.layout.widths)):
            neurons = self.layout.neurons(position)
            sink.layer(everyone, position, {k: v[:, neurons].to(device) for k, v in self.readings.items()}, None)
        sink.finish(everyone, torch.from_numpy(self.finite))
        sink.flush()


class Placed:
    """Hands what comes for sample ``i`` on to place ``places[i]`` of another sink."""

    def __init__(self, sink: "Encode", places: Sequence[int]):
        self.sink, self.places = sink, places

    def threshold_of(self, position: int) -> torch.Tensor | None:
        return self.sink.threshold_of(position)

    def layer(
        self, items: Sequence[int], position: int, readings: dict[str, torch.Tensor], codes: torch.Tensor | None
    ) -> None:
        self.sink.layer([self.places[i] for i in items], position, readings, codes)

    def finish(self, items: Sequence[int], finite: torch.Tensor) -> None:
        self.sink.finish([self.places[i] for i in items], finite)

    def flush(self) -> None:
        self.sink.flush()


class Encode:
    """Thresholds and packs each layer, and projects it on the directions of exact scores, as it comes.

    ``codes`` uint8 [n, row_bytes]; ``exact[name]`` float64 [n] = Σ_l A_l · v_l (NAIT, with the reading of each
    direction). A batch is put together on its device and comes home in one piece, while the next one runs.
    """

    def __init__(
        self,
        n: int,
        layout: CodeLayout,
        *,
        bits: str | None,
        threshold: torch.Tensor | None = None,
        top_k: int = 0,
        directions: Mapping[str, tuple[str, torch.Tensor]] | None = None,
        device: torch.device | None = None,
    ):
        """``bits``: the reading behind the bits (None: no codes); ``threshold`` fp32 [N], or ``top_k`` neurons a layer;
        ``directions``: name -> (reading, direction fp32 [N])."""
        self.layout, self.bits, self.top_k = layout, bits, top_k
        self.threshold = None if threshold is None else threshold.to(device)
        self.codes = np.zeros((n, layout.row_bytes), dtype=np.uint8)
        self.directions = {name: (r, v.to(device, torch.float64)) for name, (r, v) in (directions or {}).items()}
        self.exact = {name: np.zeros(n) for name in self.directions}
        self.finite = np.zeros(n, dtype=bool)
        self._outbox = Outbox()
        self._codes = torch.empty(0)
        self._exact = torch.empty(0)

    def threshold_of(self, position: int) -> torch.Tensor | None:
        """fp32 [J] of a layer whose bits the capture op may pack itself; None where they come from another reading."""
        if self.bits != "mean" or self.threshold is None:
            return None
        return self.threshold[self.layout.neurons(position)]

    def layer(
        self, items: Sequence[int], position: int, readings: dict[str, torch.Tensor], codes: torch.Tensor | None
    ) -> None:
        """``codes`` uint8 [B, layer_bytes]: the layer's bits where the capture op has packed them."""
        device = next(iter(readings.values())).device
        if position == 0:
            width = 0 if self.bits is None else self.layout.row_bytes
            self._codes = torch.zeros(len(items), width, dtype=torch.uint8, device=device)
            self._exact = torch.zeros(len(self.directions), len(items), dtype=torch.float64, device=device)
        neurons = self.layout.neurons(position)
        if self.bits is not None:
            if codes is None:
                values = readings[self.bits].float()
                codes = topk_bits(values, self.top_k) if self.threshold is None else pack_bits(
                    values, self.threshold[neurons]
                )  # fmt: skip
            self._codes[:, self.layout.bytes(position)] = codes
        for scores, (reading, direction) in zip(self._exact, self.directions.values(), strict=True):
            # fp64: a score is a small difference of large terms, and one matrix-vector product costs nothing
            scores += readings[reading].double() @ direction[neurons]

    def finish(self, items: Sequence[int], finite: torch.Tensor) -> None:
        def receive(arrays: list[np.ndarray]) -> None:
            codes, exact, self.finite[items] = arrays
            if self.bits is not None:
                self.codes[items] = codes
            for kept, scores in zip(self.exact.values(), exact, strict=True):
                kept[items] = scores

        self._outbox.send([self._codes, self._exact, finite], receive)

    def flush(self) -> None:
        self._outbox.flush()
