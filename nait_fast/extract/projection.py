"""Exact NAIT scores of a few samples, layer by layer."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from nait_fast.codecs.layout import CodeLayout
from nait_fast.extract.sinks import Sink


class Project(Sink):
    """Projects each layer's readings on directions, and keeps the layers apart.

    ``parts[name]`` float64 [n, L], L the layers: A_l · v_l, which add up to the NAIT score of a sample. ``finite``
    bool [n].
    """

    def __init__(self, n: int, layout: CodeLayout, directions: Mapping[str, tuple[str, np.ndarray]]):
        """``directions``: name -> (reading, direction fp32 [N])."""
        self.layout = layout
        self.directions = {name: (reading, torch.from_numpy(v).double()) for name, (reading, v) in directions.items()}
        self.parts = {name: np.zeros((n, len(layout.widths))) for name in directions}
        self.finite = np.zeros(n, dtype=bool)

    def layer(
        self, items: Sequence[int], ordinal: int, readings: dict[str, torch.Tensor], codes: torch.Tensor | None
    ) -> None:
        neurons = self.layout.neurons(ordinal)
        for name, (reading, direction) in self.directions.items():
            values = readings[reading]
            scores = values.double() @ direction[neurons].to(values.device)
            self.parts[name][items, ordinal] = scores.cpu().numpy()

    def finish(self, items: Sequence[int], finite: torch.Tensor) -> None:
        self.finite[items] = finite.cpu().numpy()
