"""The language-model head: from a model's final states to the losses of tokens, proved to be the class's own.

What a class does around its head differs (soft caps, scales before or after it, a bias), and each configuration has
other names for it. None is read by name: chosen states are put in place of the body's, of sizes apart enough for a cap
to show, and what the class makes of them is measured. What does not fit the formula of ``LMHead`` is refused.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from nait_fast.errors import BadInput, first_line, is_out_of_memory
from nait_fast.kernels import token_losses
from nait_fast.models.spec import text_config

SIZES = (1.0, 10.0, 100.0)  # of the trial's logits (one standard deviation): a cap of 30 or 50 bends the last ones
ROWS = 4  # states of each size


@dataclass(frozen=True)
class LMHead:
    """Logits are ``scale`` · (state · ``weight`` [V, H] + ``bias`` [V]), then softcap · tanh(logits / ``softcap``)."""

    weight: torch.Tensor
    bias: torch.Tensor | None = None
    scale: float = 1.0
    softcap: float | None = None

    def losses(self, states: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Loss, fp32 [n], of ``labels`` int64 [n] after the final states [n, H] before them."""
        return token_losses(states, self.weight, labels, self.bias, self.scale, self.softcap)

    def logits(self, states: torch.Tensor) -> torch.Tensor:
        """fp64 [n, V]: for proofs on a handful of states."""
        logits = F.linear(states.double(), self.weight.double(), None if self.bias is None else self.bias.double())
        logits *= self.scale
        return logits if self.softcap is None else self.softcap * torch.tanh(logits / self.softcap)


def class_with_head(config: Any, named_class: Any) -> Any:
    """transformers' class of a model of ``config`` with its head: the one that wrote the checkpoint (``named_class``),
    unless that is a body alone."""
    import transformers

    if named_class is not None and named_class is not transformers.MODEL_MAPPING.get(type(config), None):
        return named_class
    with_heads = (transformers.MODEL_FOR_CAUSAL_LM_MAPPING, transformers.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING)
    kinds = (mapping.get(type(config), None) for mapping in with_heads)
    return next((kind for kind in kinds if kind is not None), transformers.AutoModelForCausalLM)


def head_module(whole: Any) -> nn.Module | None:
    """The module of ``whole`` that makes logits of states; None: it has none."""
    try:
        return whole.get_output_embeddings()
    except (AttributeError, NotImplementedError):
        return None


def head_weights(whole: Any) -> set[str]:
    """Names in ``whole`` of its head's parameters."""
    module = head_module(whole)
    own = set() if module is None else {id(tensor) for tensor in module.parameters()}
    return {name for name, tensor in whole.named_parameters(remove_duplicate=False) if id(tensor) in own}


def final_states(output: Any) -> torch.Tensor:
    """States [B, T, H] behind the final norm, in what a body's forward gives."""
    return output[0] if isinstance(output, tuple) else output.last_hidden_state


def head_of(whole: Any, body: Any, called: str) -> LMHead:
    """The head of ``whole`` around its text decoder ``body``. Raises NaitError where there is none, and where what the
    class makes of a body's states is not what ``LMHead`` gives."""
    where, unknown = f"model {called}", "an arithmetic that is not known; its tokens' losses cannot be computed"
    module = None if whole is body else head_module(whole)
    if module is None:
        raise BadInput(
            f"{type(whole).__name__} has no language-model head, and losses need one",
            where=where,
            remedy="use the checkpoint of the causal language model",
        )
    if any(tensor.device.type == "meta" for tensor in module.parameters()):
        raise BadInput("its language-model head is not in memory", where=where, remedy="load it whole")
    try:
        with torch.no_grad():
            ids, states, logits = _trial(whole, body, module)
            plain = _linear(module, states)
            head = _fitted(plain, states, logits, _numbers(whole))
            proved = head is not None and _agrees(head, states, logits, ids)
    except BadInput as error:
        raise BadInput(error.what, where=where, remedy=error.remedy) from None
    except Exception as error:  # transformers', a kernel's, a quantiser's
        if is_out_of_memory(error):
            raise
        raise BadInput(f"a forward with its language-model head fails ({first_line(error)})", where=where) from None
    if head is None or not proved:
        raise BadInput(
            f"what {type(whole).__name__} makes of its final states is no linear map, scaled or capped: {unknown}",
            where=where,
        )
    return head


def _trial(whole: Any, body: Any, module: nn.Module) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Random ids int64 [T], states [T, H] of ``SIZES``, and the class's logits fp64 [T, V] of these states, which stand
    in place of the body's."""
    embeddings = body.get_input_embeddings().weight
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(len(embeddings), (len(SIZES) * ROWS,), generator=generator).to(embeddings.device)
    put: list[torch.Tensor] = []

    def replace(_: nn.Module, args: tuple, output: Any) -> Any:
        own = final_states(output)
        if not put:
            random = torch.randn(own.shape[1:], generator=generator).to(own.device, own.dtype)
            size = module(random[None])[0].float().std(dim=1, keepdim=True)
            sizes = torch.tensor(SIZES, device=own.device).repeat_interleave(ROWS)[:, None]
            put.append((random.float() / size.clamp_min(1e-6) * sizes).to(own.dtype))
        if isinstance(output, tuple):
            return (put[0][None], *output[1:])
        output.last_hidden_state = put[0][None]
        return output

    handle = body.register_forward_hook(replace)
    try:
        logits = whole(input_ids=ids[None], use_cache=False).logits
    finally:
        handle.remove()
    if not put or logits.shape[:2] != (1, len(ids)):
        raise BadInput("its forward gives no logits of each token's final state", where="model")
    return ids, put[0], logits[0].double()


def _linear(module: nn.Module, states: torch.Tensor) -> LMHead:
    """The map that ``module`` is: its own weights where it is a plain linear layer, else what it makes of the unit
    vectors (a quantised layer, one with an adapter)."""
    weight, bias = getattr(module, "weight", None), getattr(module, "bias", None)
    if type(module) is nn.Linear and weight is not None and weight.dtype == states.dtype:
        return LMHead(weight.detach(), None if bias is None else bias.detach())
    units = torch.eye(states.shape[1], dtype=states.dtype, device=states.device)
    zero = module(torch.zeros_like(units[:1]))[0]
    bias = zero.to(states.dtype) if zero.any() else None
    return LMHead((module(units) - zero).T.to(states.dtype).contiguous(), bias)


def _tolerance(dtype: torch.dtype) -> float:
    """Error that logits may have, as a share of the largest of their token: three roundings and more of ``dtype``."""
    return max(4 * torch.finfo(dtype).eps, 1e-5)


def _fitted(plain: LMHead, states: torch.Tensor, logits: torch.Tensor, numbers: Mapping[str, float]) -> LMHead | None:
    """``plain`` with the scale and cap that make ``logits`` of ``states``; None where there are none.

    A cap is one of the configuration's ``numbers``. The scale is measured, by least squares, and is a number of the
    configuration, or one over it, where it comes to the same.
    """
    if logits.shape[1] != len(plain.weight):
        return None
    linear, tolerance = plain.logits(states), _tolerance(states.dtype)
    nearest = 1e-5 if states.dtype == torch.float32 else 1e-3
    known = [1.0, *numbers.values(), *(1 / number for number in numbers.values())]
    caps = [number for name, number in numbers.items() if "cap" in name.lower() and number > 0]
    for cap in (None, *dict.fromkeys(caps)):
        some, straight = linear, logits
        if cap is not None:
            within = logits.abs().amax(dim=1) < 0.9 * cap  # where the cap's inverse is exact enough
            some, straight = linear[within], cap * torch.atanh(logits[within] / cap)
        scales = (some * straight).sum(dim=1) / some.square().sum(dim=1)
        if not len(scales) or not scales.isfinite().all():
            continue
        scale = float(scales.median())
        number = min(known, key=lambda number: abs(scale - number))
        scale = number if abs(scale - number) <= nearest * abs(number) else scale
        head = LMHead(plain.weight, plain.bias, scale, cap)
        error = (head.logits(states) - logits).abs().amax(dim=1)
        if (error <= tolerance * logits.abs().amax(dim=1)).all():
            return head
    return None


def _agrees(head: LMHead, states: torch.Tensor, logits: torch.Tensor, ids: torch.Tensor) -> bool:
    """Whether the op's losses are those of the class's ``logits``, and depend on them."""
    labels = ids % len(head.weight)
    losses, expected = head.losses(states, labels).double(), F.cross_entropy(logits, labels, reduction="none")
    bound = 2 * _tolerance(states.dtype) * (1 + logits.abs().amax(dim=1))
    return bool(((losses - expected).abs() <= bound).all()) and bool(logits.std() > 0)


def _numbers(whole: Any) -> dict[str, float]:
    """Every number but 0 in the configuration, by its key; those of the text decoder last."""
    return dict(_walk(whole.config.to_dict())) | dict(_walk(text_config(whole).to_dict()))


def _walk(config: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    for key, value in config.items():
        if isinstance(value, Mapping):
            yield from _walk(value)
        elif isinstance(value, (int, float)) and not isinstance(value, bool) and value:
            yield str(key), float(value)
