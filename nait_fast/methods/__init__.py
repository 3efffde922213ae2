"""Methods: how target samples become a signature, and how a signature scores rows.

A method is a module here that ends in ``METHOD``, an instance of its own ``Method``, and a name in ``METHODS``.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nait_fast.methods.base import Method

METHODS = ("contrast", "nait", "nag", "embed", "rds", "crds")  # the first is the default


def method_of(name: str) -> Method:
    """The method of a name in ``METHODS``, imported when it is asked for: help must load nothing."""
    return import_module(f"nait_fast.methods.{name}").METHOD
