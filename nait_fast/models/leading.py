"""Models of which the first layers alone are loaded: a forward that stops there reads nothing of the others.

transformers makes the model by its whole configuration, on the meta device, and the layers behind are taken out before
a weight is read. So each module that stays is what it is in the whole model, and its weights are those that the
checkpoint holds for it.
"""

from typing import Any, cast

from torch import nn


class LeadingLayers(nn.ModuleList):
    """A decoder's first layers; ``of``: how many the model has."""

    of: int = 0


def layers_in_all(layers: nn.ModuleList) -> int:
    """How many layers the decoder has whose ``layers`` are loaded."""
    return layers.of if isinstance(layers, LeadingLayers) else len(layers)


def loaded_layers(model: nn.Module) -> int | None:
    """How many of its first layers are loaded; None: all."""
    return next((len(module) for module in model.modules() if isinstance(module, LeadingLayers)), None)


def keep_leading(layers: nn.ModuleList, number: int) -> None:
    """Take all but the first ``number`` out of a decoder's ``layers``."""
    every = len(layers)
    del layers[number:]
    layers.__class__ = LeadingLayers
    cast(LeadingLayers, layers).of = every


def with_leading_layers(kind: Any, number: int, layers_of: Any) -> Any:
    """The class ``kind`` of transformers, but that a model of it is made with its first ``number`` layers alone;
    ``layers_of`` finds them in it."""

    def init(self: nn.Module, *args: Any, **named: Any) -> None:
        kind.__init__(self, *args, **named)
        keep_leading(layers_of(self), number)

    names = {"__qualname__": kind.__qualname__, "__module__": kind.__module__}
    return type(kind.__name__, (kind,), {**names, "__init__": init})
