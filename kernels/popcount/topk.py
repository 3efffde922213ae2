"""Streaming top-k on a device: the k best of all scores seen, in memory that does not grow with their number."""

import numpy as np
import torch


class DeviceTopK:
    """The ``k`` best (row, score) pairs, equal scores: the lower row, whatever the order of the tiles; and the lowest
    score of all."""

    def __init__(self, k: int, device: torch.device):
        self.k = k
        self._rows = torch.zeros(0, dtype=torch.int64, device=device)
        self._scores = torch.zeros(0, dtype=torch.int64, device=device)
        self._low = torch.full((1,), torch.iinfo(torch.int64).max, device=device)

    def push(self, rows: torch.Tensor, scores: torch.Tensor) -> None:
        """``rows``, ``scores`` int64 [n] on the device. Queues work only: the host does not wait."""
        self._low = torch.cat([self._low, scores]).amin(dim=0, keepdim=True)
        rows, scores = torch.cat([self._rows, rows]), torch.cat([self._scores, scores])
        rows, by_row = torch.sort(rows)
        scores, by_score = torch.sort(scores[by_row], descending=True, stable=True)
        self._rows, self._scores = rows[by_score][: self.k], scores[: self.k]

    def lowest(self) -> int:
        """The lowest score of all that were pushed, of which there is one at least."""
        return int(self._low)

    def result(self) -> tuple[np.ndarray, np.ndarray]:
        """(rows, scores) int64, best first."""
        return self._rows.cpu().numpy(), self._scores.cpu().numpy()
