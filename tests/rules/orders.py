"""Orders that come in chunks of any size."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Chunked:
    """``places`` int64 [n], best first, in chunks of ``sizes``, again and again."""

    places: np.ndarray
    sizes: tuple[int, ...] = (3, 0, 1, 7)

    def chunks(self) -> Iterator[np.ndarray]:
        at, turn = 0, 0
        while at < len(self.places):
            size = self.sizes[turn % len(self.sizes)]
            yield self.places[at : at + size]
            at, turn = at + size, turn + 1
