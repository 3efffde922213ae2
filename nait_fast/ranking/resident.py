"""An index kept in a device's memory: for many rankings of one pool, without reading it again."""

from collections.abc import Callable, Sequence

import numpy as np
import torch

from nait_fast.env import pick_device
from nait_fast.errors import BadInput
from nait_fast.index.reader import Index
from nait_fast.kernels.popcount.topk import DeviceTopK
from nait_fast.methods.signature import Signature
from nait_fast.ranking.sanity import check_spread
from nait_fast.ranking.sources import check_index, code_counter
from nait_fast.ranking.streaming_topk import check_k

TILE_ROWS = 1 << 17  # rows scanned at once: bounds what a scan needs besides the codes


class ResidentIndex:
    """The codes of an index in a device's memory, for bit signatures: exact scores lie in the index as numbers.

    ``rows`` int64 [n] are rows of the pool, in the order of ``scores``.

    Args:
        index: The index; it takes row_bytes a row, 5.8 GB for 1M rows of 46,080 neurons.
        device: auto, cpu, cuda, cuda:1.

    Raises:
        BadInput: The codes do not fit the device; `search` streams them instead.

    Examples:
        >>> resident = nait_fast.ResidentIndex(nait_fast.Index("index"), device="cpu")
        >>> resident.scores([nait_fast.load_signature("signatures/sums.safetensors")]).shape
        (40, 1)
    """

    def __init__(self, index: Index, device: str = "auto"):
        self.index, self.device = index, pick_device(device)
        width = index.manifest["row_bytes"]
        needed = index.rows * width
        if self.device.type == "cuda" and needed > (free := torch.cuda.mem_get_info(self.device)[0]):
            raise BadInput(
                f"{needed / 1e9:.1f} GB of codes, {free / 1e9:.1f} GB are free on {self.device}",
                where=f"index {index.name}",
                remedy="use search(), which streams them",
            )
        self.codes = torch.empty(index.rows, width, dtype=torch.uint8, device=self.device)
        self.rows = np.empty(index.rows, dtype=np.int64)
        start = 0
        for shard in index.shards():
            part = slice(start, start + len(shard.row))
            self.codes[part] = torch.from_numpy(np.array(shard.codes)).to(self.device)
            self.rows[part] = shard.row
            start = part.stop

    def _scan(self, signatures: Sequence[Signature]) -> Callable[[torch.Tensor], torch.Tensor]:
        """Codes of a tile -> integer scores [n, C], both on the device."""
        check_index(self.index, signatures)
        if others := [s for s in signatures if not s.is_bits]:
            what = f"signature '{others[0].name}' ({others[0].method}) is not scored by bits"
            raise BadInput(what, remedy="use rank", join=": ")
        counter = code_counter(signatures, str(self.device))
        if counter.on_device:
            return counter.device_scan()
        return lambda codes: torch.from_numpy(counter(codes.cpu().numpy())).to(self.device)

    def scores(self, signatures: Sequence[Signature]) -> np.ndarray:
        """Scores float64 [n, C], as ``scan`` gives them. Raises NaitError for signatures that do not fit, and where all
        rows have one score."""
        scan = self._scan(signatures)
        scores = np.concatenate([scan(codes).cpu().numpy() for codes in self.codes.split(TILE_ROWS)])
        if len(scores):
            check_spread(self.index, signatures, scores.min(axis=0), scores.max(axis=0))
        return scores * np.array([s.meta["scale"] for s in signatures])

    def search(self, signature: Signature, k: int) -> tuple[np.ndarray, np.ndarray]:
        """The ``k`` best rows and their scores, best first, as ``search`` gives them; only they leave the device."""
        check_k(k)
        scan, best = self._scan([signature]), DeviceTopK(k, self.device)
        for rows, codes in zip(torch.from_numpy(self.rows).split(TILE_ROWS), self.codes.split(TILE_ROWS), strict=True):
            best.push(rows.to(self.device), scan(codes)[:, 0])
        chosen, scores = best.result()
        check_spread(self.index, [signature], np.array([best.lowest()]), scores[:1])
        return chosen, scores * signature.meta["scale"]
