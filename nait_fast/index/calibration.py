"""The calibration sample's own rows, which are not run twice."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from nait_fast.codecs.base import Columns
from nait_fast.codecs.layout import CodeLayout
from nait_fast.errors import Damaged, Mismatch
from nait_fast.storage.files import read_tensors


def load_calibration(path: Path, layout: CodeLayout, exact: Iterable[str], columns: Columns) -> dict[str, np.ndarray]:
    """What is known of the calibration sample's rows: ``codes`` uint8 [n, W], ``row`` int64 [n] ascending, ``finite``
    uint8 [n], the ``exact.NAME`` float64 [n] and the index's ``columns``. Raises NaitError."""
    tensors, _ = read_tensors(path, "calibration")
    n = len(tensors["row"]) if "row" in tensors and tensors["row"].ndim else 0
    expected: dict[str, tuple[str, tuple[int, ...]]] = {
        "codes": ("u1", (n, layout.row_bytes)),
        "row": ("<i8", (n,)),
        "finite": ("u1", (n,)),
        **{f"exact.{name}": ("<f8", (n,)) for name in exact},
        **{name: (dtype, (n, *shape)) for name, (dtype, shape) in columns.items()},
    }
    held = {name: (array.dtype, array.shape) for name, array in tensors.items()}
    if held != {name: (np.dtype(dtype), shape) for name, (dtype, shape) in expected.items()}:
        raise Mismatch("not the calibration of this index", where=path, remedy="rebuild the index")
    row = np.array(tensors["row"])
    if n and (row[0] < 0 or (row[1:] <= row[:-1]).any()):
        raise Damaged("its rows do not ascend", where=path, remedy="rebuild the index")
    return tensors
