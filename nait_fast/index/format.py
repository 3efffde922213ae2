"""What a shard holds beside its rows' numbers; docs/format.md is the specification."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from nait_fast.codecs import codec_of
from nait_fast.codecs.base import Columns

FORMAT_VERSION = 3
READ_VERSIONS = (2, FORMAT_VERSION)  # 2: without checksums, which Index says


def columns_of(manifest: Mapping[str, Any]) -> Columns:
    """The tensors of a shard that come with its codes, by what a manifest says: its codec's, and ``embedding`` [H]
    where one is kept."""
    columns = dict(codec_of(manifest["codec"]).columns(manifest))
    if manifest.get("embedding"):
        columns["embedding"] = ("i1", (manifest["embedding"],))
    return columns


def bytes_per_row(manifest: Mapping[str, Any]) -> int:
    """Bytes that a row's code (the manifest's ``row_bytes``) and what comes with it take."""
    columns = (np.dtype(dtype).itemsize * math.prod(shape) for dtype, shape in columns_of(manifest).values())
    return manifest["row_bytes"] + sum(columns)
