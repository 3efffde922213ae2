"""Codecs: how an index keeps a reading of its samples, and what comes of that.

A codec is a module or folder here that ends in ``CODEC``, an instance of its own ``Codec``, and a name in ``CODECS``.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nait_fast.codecs.base import Codec

CODECS = ("neuron", "components", "rotated", "nag")  # the first is the default


def codec_of(name: str) -> Codec:
    """The codec of a name in ``CODECS``, imported when it is asked for: help must load nothing."""
    return import_module(f"nait_fast.codecs.{name}").CODEC
