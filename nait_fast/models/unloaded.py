"""A model without its weights: its modules on the meta device, out of its configuration. What is read of it is found
there, and what is not supported refused, before anything is loaded."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch

from nait_fast.errors import NaitError
from nait_fast.models.find import find_specs
from nait_fast.models.spec import Spec, refuse_encoder, text_decoder
from nait_fast.notices import hushed

Find: TypeAlias = Callable[[Any], list[Spec]]  # what is read of a text decoder


def unloaded(config: Any, kind: Any) -> Any:
    """A model of ``kind`` (transformers' class, or one of its Auto classes) on the meta device. Raises what
    transformers raises."""
    config = copy.deepcopy(config)
    if hasattr(config, "quantization_config"):  # how the weights are kept, which are not read here
        del config.quantization_config
    with torch.device("meta"):
        return kind.from_config(config) if hasattr(kind, "from_config") else kind(config)


@dataclass(frozen=True)
class Unloaded:
    """``model``, on the meta device; its text decoder; what has been found in that."""

    model: Any
    decoder: Any
    specs: list[Spec]


def find_unloaded(config: Any, kinds: Sequence[Any], find: Find = find_specs) -> Unloaded | None:
    """The first of ``kinds`` that is supported, with what ``find`` finds in it; None where it takes more than
    ``config`` to know. Raises NaitError where none of them is."""
    refusal = None
    for kind in kinds:
        try:
            model = unloaded(config, kind)
        except Exception:  # a class that is not for this, or wants more: loading tells what is wrong
            continue
        try:
            refuse_encoder(model)
            decoder = text_decoder(model)
            with hushed():  # said of the model that is loaded
                return Unloaded(model, decoder, find(decoder))
        except NaitError as error:
            refusal = refusal or error
    if refusal is not None:
        raise refusal
    return None
