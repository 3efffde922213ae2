"""How much each neuron varies over a calibration sample, in memory that does not grow with the sample."""

from collections.abc import Sequence

import numpy as np
import torch

from nait_fast.codecs.layout import CodeLayout
from nait_fast.extract.sinks import Sink


class Moments(Sink):
    """Count, sum and sum of squares of ``reading``, for the neurons of ``layout``, over the samples whose reading of
    the layer is finite."""

    def __init__(self, layout: CodeLayout, reading: str):
        self.layout, self.reading = layout, reading
        self._counts = [0] * len(layout.widths)
        self._sums: dict[int, torch.Tensor] = {}  # by ordinal: fp64 [2, J], on the readings' device
        self._of_batch: dict[int, tuple[int, torch.Tensor]] = {}  # the same of the batch under way, which may break off

    def layer(
        self, items: Sequence[int], ordinal: int, readings: dict[str, torch.Tensor], codes: torch.Tensor | None
    ) -> None:
        values = readings[self.reading].double()
        values = values[torch.isfinite(values).all(dim=1)]
        self._of_batch[ordinal] = len(values), torch.stack([values.sum(dim=0), (values * values).sum(dim=0)])

    def finish(self, items: Sequence[int], finite: torch.Tensor) -> None:
        for ordinal, (count, sums) in self._of_batch.items():
            self._counts[ordinal] += count
            self._sums[ordinal] = sums + self._sums.get(ordinal, 0)
        self._of_batch = {}

    def variance(self, ordinal: int) -> np.ndarray:
        """float64 [J] of a layer."""
        mean, square = (self._sums[ordinal] / max(1, self._counts[ordinal])).cpu().numpy()
        return square - mean * mean

    def most_varied(self, ordinal: int, count: int) -> np.ndarray:
        """int64 [count]: the neurons of a layer, ascending, that vary most; of equal ones the first."""
        return np.sort(np.argsort(-self.variance(ordinal), kind="stable")[:count])
