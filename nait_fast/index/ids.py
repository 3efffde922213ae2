"""The ids in a shard: one text, where each id ends in it, and which rows have none."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from nait_fast.errors import Damaged, NaitError

NAMES = ("ids", "id_ends", "id_absent")


def split(tensors: Mapping[str, np.ndarray], rows: int, path: Path) -> list[bytes | None]:
    """The id of each of ``rows`` samples, None where it has none. Raises NaitError, naming ``path``, for tensors that
    do not say that."""
    if not any(name in tensors for name in NAMES):
        return [None] * rows
    text, ends, absent = (tensors.get(name, np.zeros(0)) for name in NAMES)
    if (text.dtype, ends.dtype, absent.dtype) != (np.uint8, np.int64, np.bool_) or text.ndim != 1:
        raise _damaged(path)
    if ends.shape != (rows,) or absent.shape != (rows,) or (np.array(absent).view(np.uint8) > 1).any():
        raise _damaged(path)
    bounds = np.concatenate([np.zeros(1, dtype=np.int64), ends])
    lengths = bounds[1:] - bounds[:-1]
    # The last one first: once all lie between 0 and the text's end, no difference has wrapped round.
    if bounds[-1] != len(text) or bounds.min() < 0 or (lengths < 0).any() or lengths[np.array(absent)].any():
        raise _damaged(path)
    data, places = text.tobytes(), bounds.tolist()
    return [None if missing else data[places[i] : places[i + 1]] for i, missing in enumerate(np.array(absent).tolist())]


def decode(ids: list[bytes | None], path: Path) -> list[str | None]:
    try:
        return [None if value is None else value.decode() for value in ids]
    except UnicodeDecodeError:
        raise _damaged(path) from None


def _damaged(path: Path) -> NaitError:
    return Damaged("its ids are damaged", where=path, remedy="rebuild it with index --repair")
