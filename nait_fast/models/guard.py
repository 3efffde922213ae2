"""One forward of a few tokens before any work: what is read must be each layer's own MLP, once a token.

Names say which modules look like the decoder's MLPs; only a forward shows that they run, and how.
"""

from collections.abc import Sequence
from typing import Any

import torch

from nait_fast.errors import NaitError, first_line
from nait_fast.models.spec import MlpSpec
from nait_fast.notices import warn

TOKENS = 7  # of the trial


class _Seen:
    """What the trial saw of one MLP."""

    def __init__(self) -> None:
        self.calls, self.rows, self.finite, self.turn = 0, 0, True, 0


def exercised(body: Any, specs: Sequence[MlpSpec], name: str) -> list[MlpSpec]:
    """Those of ``specs`` that run on text: in order, each once a forward over as many rows as there are tokens.

    A layer that never runs (cross-attention to images) is left out and said. Raises NaitError for a forward that fails,
    for other uses of an MLP, and for activations that are not finite.
    """
    seen = [_Seen() for _ in specs]
    turns = iter(range(1, 1 << 30))

    def before(position: int) -> Any:
        def hook(module: Any, args: tuple) -> None:
            this = seen[position]
            this.calls += 1
            this.rows, this.turn = args[0].numel() // args[0].shape[-1], next(turns)

        return hook

    def after(position: int) -> Any:
        def hook(module: Any, args: tuple, output: torch.Tensor) -> None:
            seen[position].finite &= bool(torch.isfinite(output).all())

        return hook

    embeddings = body.get_input_embeddings().weight
    ids = torch.randint(embeddings.shape[0], (1, TOKENS), generator=torch.Generator().manual_seed(0))
    handles = [spec.module.register_forward_pre_hook(before(i)) for i, spec in enumerate(specs)]
    handles += [spec.module.register_forward_hook(after(i)) for i, spec in enumerate(specs)]
    try:
        with torch.no_grad():
            output = body(input_ids=ids.to(embeddings.device), use_cache=False)
    except Exception as error:  # transformers', a kernel's, a quantiser's
        raise NaitError(f"model {name}: a forward of {TOKENS} tokens fails ({first_line(error)})") from None
    finally:
        for handle in handles:
            handle.remove()
    hidden = getattr(output, "last_hidden_state", None)
    if hidden is None:
        raise NaitError(f"model {name}: {type(body).__name__} returns no last_hidden_state; it is not supported")
    for spec, this in zip(specs, seen, strict=True):
        if this.calls > 1:
            raise NaitError(
                f"model {name}: the MLP of layer {spec.layer} runs {this.calls} times a forward, so a token has no one "
                "activation there; it is not supported"
            )
        if this.calls and this.rows != TOKENS:
            raise NaitError(
                f"model {name}: the MLP of layer {spec.layer} runs over {this.rows} rows for {TOKENS} tokens; it is "
                "not supported"
            )
    run = [(spec, this) for spec, this in zip(specs, seen, strict=True) if this.calls]
    idle = ", ".join(str(spec.layer) for spec, this in zip(specs, seen, strict=True) if not this.calls)
    if not run:
        raise NaitError(f"model {name}: none of the chosen layers ({idle}) runs on text; choose others with --layers")
    if [this.turn for _, this in run] != sorted(this.turn for _, this in run):
        raise NaitError(f"model {name}: its layers do not run in their order; it is not supported")
    if bad := [spec.layer for spec, this in run if not this.finite]:
        _refuse_numbers(body, name, f"from layer {bad[0]}", embeddings.dtype)
    if not torch.isfinite(hidden).all():
        _refuse_numbers(body, name, "behind its last layer", embeddings.dtype)
    if idle:
        warn(f"model {name}: layers {idle} do not run on text (they look at images); they are left out")
    return [spec for spec, _ in run]


def _refuse_numbers(body: Any, name: str, where: str, dtype: torch.dtype) -> None:
    anew, kind = "fetch the checkpoint anew", str(dtype).removeprefix("torch.")
    remedy = anew if dtype == torch.float32 else f"use --dtype float32{'' if kind == 'bfloat16' else ' or bfloat16'}"
    for key, parameter in body.named_parameters():
        if parameter.is_floating_point() and not torch.isfinite(parameter.float()).all():
            also = "" if remedy == anew else f"; if that does not help, {anew}"
            raise NaitError(f"model {name}: its weight {key} is NaN or infinite in places ({kind}); {remedy}{also}")
    raise NaitError(f"model {name}: its activations are NaN or infinite {where} on ({kind}); {remedy}")
