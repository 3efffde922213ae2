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
    """The tensors of a shard that come with its codes, by what a manifest says: its codec's, and ``embedding`` [H],
    ``rds`` [H] and losses where they are kept."""
    columns = dict(codec_of(manifest["codec"]).columns(manifest))
    if manifest.get("embedding"):
        columns["embedding"] = ("i1", (manifest["embedding"],))
    if "rds" in manifest:
        columns |= rds_columns(manifest["rds"], manifest["rds_width"])
    return columns | dict(loss_columns(manifest.get("nll", "none")))


def loss_columns(nll: str) -> Columns:
    """The tensors that hold the losses that ``nll``, of NLL, asks for."""
    names: tuple[str, ...] = {"none": (), "loss": ("nll",), "ifd": ("nll", "ifd")}[nll]
    return {name: ("<f4", ()) for name in names}


def rds_columns(dtype: str, width: int) -> Columns:
    """The tensors that hold ``rds``, ``width`` numbers of ``dtype``, one of RDS_TYPES, a row."""
    scale: dict[str, tuple[str, tuple[int, ...]]] = {} if dtype == "float32" else {"rds_scale": ("<f4", ())}
    return {"rds": (np.dtype(dtype).str.replace("|", ""), (width,)), **scale}


def rds_vectors(columns: Mapping[str, np.ndarray]) -> np.ndarray:
    """e fp32 [n, H], not normalised, of the columns of rows."""
    e = columns["rds"].astype(np.float32)
    return e * columns["rds_scale"][:, None] if "rds_scale" in columns else e


def bytes_per_row(manifest: Mapping[str, Any]) -> int:
    """Bytes that a row's code (the manifest's ``row_bytes``) and what comes with it take."""
    columns = (np.dtype(dtype).itemsize * math.prod(shape) for dtype, shape in columns_of(manifest).values())
    return manifest["row_bytes"] + sum(columns)
