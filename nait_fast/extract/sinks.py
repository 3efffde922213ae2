"""What becomes of the readings: kept (small sets: targets, calibration) or turned into codes and scores (the pool)."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from nait_fast.extract.pooling import dtype_of
from nait_fast.index.format import CodeLayout
from nait_fast.kernels import pack_bits, topk_bits


class Collect:
    """Keeps the readings of ``n`` samples: ``readings[name]`` [n, N], fp32 (drift fp64), N = all neurons in order."""

    def __init__(self, n: int, layout: CodeLayout, names: Sequence[str]):
        self.layout = layout
        self.readings = {name: torch.zeros(n, layout.n_neurons, dtype=dtype_of(name)) for name in names}
        self.finite = np.zeros(n, dtype=bool)

    def layer(self, items: Sequence[int], position: int, readings: dict[str, torch.Tensor]) -> None:
        for name, kept in self.readings.items():
            kept[items, self.layout.neurons(position)] = readings[name].cpu()

    def finish(self, items: Sequence[int], finite: np.ndarray) -> None:
        self.finite[items] = finite

    def replay(self, sink: "Encode", device: torch.device) -> None:
        """Hand the kept readings, layer by layer, to ``sink`` (of as many samples)."""
        everyone = range(len(self.finite))
        for position in range(len(self.layout.widths)):
            neurons = self.layout.neurons(position)
            sink.layer(everyone, position, {k: v[:, neurons].to(device) for k, v in self.readings.items()})
        sink.finish(everyone, self.finite)


class Placed:
    """Hands what comes for sample ``i`` on to place ``places[i]`` of another sink."""

    def __init__(self, sink: "Encode", places: Sequence[int]):
        self.sink, self.places = sink, places

    def layer(self, items: Sequence[int], position: int, readings: dict[str, torch.Tensor]) -> None:
        self.sink.layer([self.places[i] for i in items], position, readings)

    def finish(self, items: Sequence[int], finite: np.ndarray) -> None:
        self.sink.finish([self.places[i] for i in items], finite)


class Encode:
    """Thresholds and packs each layer, and projects it on the directions of exact scores, as it comes.

    ``codes`` uint8 [n, row_bytes]; ``exact[name]`` float64 [n] = Σ_l A_l · v_l (NAIT, with the reading of each
    direction).
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

    def layer(self, items: Sequence[int], position: int, readings: dict[str, torch.Tensor]) -> None:
        neurons = self.layout.neurons(position)
        if self.bits is not None:
            values = readings[self.bits].float()
            if self.threshold is None:
                codes = topk_bits(values, self.top_k)
            else:
                codes = pack_bits(values, self.threshold[neurons])
            self.codes[items, self.layout.bytes(position)] = codes.cpu().numpy()
        for name, (reading, direction) in self.directions.items():
            # fp64: a score is a small difference of large terms, and one matrix-vector product costs nothing
            self.exact[name][items] += (readings[reading].double() @ direction[neurons]).cpu().numpy()

    def finish(self, items: Sequence[int], finite: np.ndarray) -> None:
        self.finite[items] = finite
