"""Functions by name, for other processes."""

from collections.abc import Callable
from importlib import import_module
from typing import Any


def name_of(call: Callable[..., Any]) -> str:
    """``module:function`` of a function at the top of its module."""
    return f"{call.__module__}:{call.__qualname__}"


def named(name: str) -> Callable[..., Any]:
    """The function that ``name_of`` has named."""
    module, _, function = name.partition(":")
    return getattr(import_module(module), function)
