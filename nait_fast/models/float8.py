"""Products in FP8 (``--dtype float8``): the linear layers of a bfloat16 model with e4m3 weights and inputs.

A weight is quantised once, when the model is loaded, with a scale for each output (row-wise); what goes in is quantised
at each call, with a scale for each token, so that its numbers depend on no other token. ``torch._scaled_mm`` multiplies
the two (on a GPU: cuBLASLt). Embeddings, norms, attention, experts, routers and the language-model head stay in
bfloat16.

What FP8 makes of a model is for the model to show: every layer that is quantised is held against its own bfloat16
product, and every MLP's neurons against its own, on the activations of some tokens.
"""

import threading
import weakref
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from nait_fast.errors import BadInput, first_line, is_out_of_memory
from nait_fast.kernels import quantise_rows
from nait_fast.models.experts import RoutedSpec
from nait_fast.models.find import decoder_layers
from nait_fast.models.probe import activation_dtype
from nait_fast.models.quantised import quantisation, quantiser
from nait_fast.models.spec import MlpSpec, Spec
from nait_fast.notices import warn

NAME = "float8"  # of --dtype
BESIDE = torch.bfloat16  # of all that is not multiplied in FP8; row-wise products come out in nothing else
MULTIPLE = 16  # of both widths of a weight: cuBLASLt takes no other
CAPABILITY = (8, 9)  # of the first NVIDIA GPUs that multiply e4m3
# Relative error that a layer's product, or an MLP's neurons, may have (root mean square over TOKENS tokens): with 3
# bits of mantissa a number is up to 6% off, and what a sum of products loses is of that order.
BOUND = 0.1
TOKENS = 48
_REMEDY = "use --dtype bfloat16"


class Float8Linear(nn.Module):
    """A linear layer with an e4m3 ``weight`` [N, K] and fp32 ``scale`` [1, N], of x [..., K] and result [..., N] in
    bfloat16. Raises TypeError for another dtype of x."""

    scale: torch.Tensor

    def __init__(self, plain: nn.Linear):
        super().__init__()
        self.in_features, self.out_features = plain.in_features, plain.out_features
        weight, scale = quantise_rows(plain.weight.detach())
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.register_buffer("scale", scale.T.contiguous())
        self.bias = None if plain.bias is None else nn.Parameter(plain.bias.detach(), requires_grad=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.dtype != BESIDE:
            raise TypeError(f"a layer in {NAME} takes {BESIDE}, not {x.dtype}")
        if not x.numel():
            return x.new_empty(*x.shape[:-1], self.out_features)
        rows, scale = _rows_of(x)
        out = torch._scaled_mm(
            rows,
            self.weight.T,
            scale_a=scale,
            scale_b=self.scale,
            bias=self.bias,
            out_dtype=BESIDE,
            use_fast_accum=False,
        )
        return out.view(*x.shape[:-1], self.out_features)

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"


class _Last(threading.local):
    """What a thread has quantised last, for as long as the tensor lives that it was made of."""

    known: tuple[weakref.ref, int, tuple[torch.Tensor, torch.Tensor]] | None = None


_last = _Last()


def _rows_of(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """``quantise_rows(x)``, once for all layers that take the same ``x`` in turn: query, key and value, gate and up.

    A change of ``x`` in between is seen but in inference mode, which counts none; there the proof at load would see it.
    """
    version = 0 if x.is_inference() else x._version
    known = _last.known
    if known is not None and known[0]() is x and known[1] == version:
        return known[2]

    def forget(of: weakref.ref) -> None:
        if _last.known is not None and _last.known[0] is of:
            _last.known = None

    _last.known = weakref.ref(x, forget), version, quantise_rows(x)
    return _last.known[2]


def refuse_device(device: torch.device) -> None:
    """Raise BadInput for a device that does not multiply e4m3."""
    if device.type == "cpu":
        return
    where = f"--dtype {NAME}"
    if device.type != "cuda" or torch.version.hip is not None:
        raise BadInput(f"needs an NVIDIA GPU or a CPU, not {device.type}", where=where, remedy=_REMEDY)
    if torch.cuda.get_device_capability(device) < CAPABILITY:
        name = torch.cuda.get_device_name(device)
        raise BadInput(f"{name} does not multiply FP8 (Ada, Hopper and later do)", where=where, remedy=_REMEDY)


def refuse_config(config: Any, name: str) -> None:
    """Raise BadInput for weights that are quantised already, and not unpacked as a GGUF file's always are."""
    if quantisation(config) is not None and quantiser(config) != "gguf":
        raise BadInput(
            f"its weights are quantised already ({quantiser(config)}), which --dtype {NAME} does not quantise again",
            where=f"model {name}",
            remedy=_REMEDY,
        )


def layers_to_quantise(body: Any, specs: Sequence[Spec]) -> tuple[list[tuple[str, nn.Linear]], list[str]]:
    """(names in ``body`` and plain linear layers of the decoder's layers up to the last of ``specs`` whose products can
    be in FP8, names of those whose widths are not multiples of ``MULTIPLE``)."""
    names, own = {module: name for name, module in body.named_modules()}, activation_dtype(body)
    routed = {spec.layer: spec.n_experts for spec in specs if isinstance(spec, RoutedSpec)}
    taken, odd = [], []
    for number, layer in enumerate(decoder_layers(body)[: specs[-1].layer + 1]):
        for module in layer.modules():
            if type(module) is not nn.Linear or type(module.weight) is not nn.Parameter:
                continue
            if module.weight.dtype != own or "forward" in module.__dict__:  # kept in fp32, or somebody's hooks
                continue
            if module.out_features == routed.get(number):  # a router, which decides and hardly computes
                continue
            if module.in_features % MULTIPLE or module.out_features % MULTIPLE:
                odd.append(names[module])
            else:
                taken.append((names[module], module))
    return taken, odd


class _Proof:
    """Quantises each linear layer of a body where a forward has run it, and compares.

    ``errors``: by a layer's name, or an MLP's, the relative error of what comes out of it, or of its neurons.
    """

    def __init__(self, body: Any, specs: Sequence[Spec]):
        self.body = body
        self.errors: dict[str, float] = {}
        self._neurons: torch.Tensor | None = None
        taken, self.odd = layers_to_quantise(body, specs)
        self.taken = [name for name, _ in taken]  # not the layers themselves, whose weights shall go
        names = {module: name for name, module in body.named_modules()}
        self._handles = [module.register_forward_hook(self._quantise(name)) for name, module in taken]
        layers = set(decoder_layers(body))
        for spec in specs:
            if isinstance(spec, MlpSpec) and spec.module not in layers:  # a layer's own is behind its attention (OPT)
                self._handles.append(self._watch(spec))
                hook = self._compare(spec, names[spec.module])
                self._handles.append(spec.module.register_forward_hook(hook, with_kwargs=True))

    def _quantise(self, name: str) -> Any:
        def hook(module: nn.Linear, args: tuple, output: torch.Tensor) -> None:
            quantised = Float8Linear(module)
            self.errors[name] = _error(quantised(args[0]), output)
            parent, _, attribute = name.rpartition(".")
            setattr(self.body.get_submodule(parent), attribute, quantised)

        return hook

    def _watch(self, spec: MlpSpec) -> Any:
        def hook(module: Any, args: tuple) -> None:
            self._neurons = args[0]

        return spec.part(spec.family.down).register_forward_pre_hook(hook)

    def _compare(self, spec: MlpSpec, name: str) -> Any:
        def hook(module: Any, args: tuple, kwargs: dict[str, Any], output: Any) -> None:
            expected = self._neurons
            handle = self._watch(spec)  # of the quantised one
            try:
                type(module).forward(module, *args, **kwargs)
            finally:
                handle.remove()
            assert expected is not None and self._neurons is not None
            self.errors[f"{name} (neurons)"] = _error(self._neurons, expected)

        return hook

    @property
    def unrun(self) -> list[str]:
        """Layers that the forward did not reach."""
        return [name for name in self.taken if name not in self.errors]

    def remove(self) -> None:
        for handle in self._handles:
            handle.remove()


def _error(got: torch.Tensor, expected: torch.Tensor) -> float:
    """Of rows [..., N]: the root of the mean square of each row's relative error."""
    got, expected = got.float(), expected.float()
    size = expected.norm(dim=-1).clamp(min=torch.finfo(torch.float32).tiny)
    return float(((got - expected).norm(dim=-1) / size).square().mean().sqrt())


def to_float8(body: Any, specs: Sequence[Spec], name: str) -> dict[str, float]:
    """Put the products of ``body``'s layers up to the last of ``specs`` into FP8; what is left in bfloat16 is said.

    Returns the relative errors of the layers and of MLPs' neurons, by their names. A weight is let go where its layer
    has run. Raises BadInput naming what is further off than ``BOUND``, and where there is nothing to quantise.
    """
    where = f"model {name}"
    proof = _Proof(body, specs)
    try:
        if not proof.taken:
            raise BadInput(
                f"none of its layers is a plain linear one with widths that are multiples of {MULTIPLE}, so nothing "
                f"can run in {NAME}",
                where=where,
                remedy=_REMEDY,
            )
        weight = body.get_input_embeddings().weight
        generator = torch.Generator().manual_seed(0)
        ids = torch.randint(weight.shape[0], (1, TOKENS), generator=generator).to(weight.device)
        with torch.no_grad():
            body(input_ids=ids, use_cache=False)
    except BadInput:
        raise
    except Exception as error:  # transformers', or torch's own words for sizes that it does not multiply
        if is_out_of_memory(error):
            raise
        raise BadInput(f"a forward in {NAME} fails ({first_line(error)})", where=where, remedy=_REMEDY) from None
    finally:
        proof.remove()
    for of, off in proof.errors.items():
        if not off <= BOUND:  # NaN, too
            raise BadInput(
                f"{of} is {off:.1%} off in {NAME}, where at most {BOUND:.0%} are allowed", where=where, remedy=_REMEDY
            )
    if any(isinstance(spec, RoutedSpec) for spec in specs):
        warn(f"{where}: the products of its experts stay in bfloat16")
    if proof.unrun:
        warn(
            f"{where}: {len(proof.unrun)} linear layers stay in bfloat16, as no text runs them, first {proof.unrun[0]}"
        )
    if proof.odd:
        warn(
            f"{where}: {len(proof.odd)} linear layers stay in bfloat16, as their widths are no multiples of {MULTIPLE}"
            f", first {proof.odd[0]}"
        )
    return proof.errors
