"""Forwards of a few tokens before any work: what is read must be each layer's own MLP, once a token.

Names say which modules look like the decoder's MLPs; only a forward shows that they run, and how.
"""

from collections.abc import Iterator, Sequence
from itertools import count
from typing import Any

import torch

from nait_fast.errors import BadInput, NaitError, first_line, is_out_of_memory
from nait_fast.models.packing_checks import separate_forwards
from nait_fast.models.probe import activation_dtype
from nait_fast.models.spec import Spec
from nait_fast.notices import warn


def refuse_absent(body: Any, name: str) -> None:
    """Raise NaitError where weights are not there: on the meta device, not loaded or offloaded by somebody's hooks."""
    absent = [n for n, t in (*body.named_parameters(), *body.named_buffers()) if t.device.type == "meta"]
    if absent:
        raise BadInput(
            f"{len(absent)} of its weights are not in memory (on the meta device), first {absent[0]}",
            where=f"model {name}",
            remedy="load it whole, without offloading",
        )


def refuse_spread(body: Any, name: str) -> None:
    """Raise NaitError where weights are not all in memory, on one device."""
    refuse_absent(body, name)
    devices = list(dict.fromkeys(str(parameter.device) for parameter in body.parameters()))
    if len(devices) > 1:
        raise BadInput(
            f"its weights lie on {len(devices)} devices ({', '.join(devices)}), which is not supported",
            where=f"model {name}",
            remedy="load it on one of them, not with device_map='auto'",
        )


class _Watch:
    """What the trial sees of one MLP, in the forward under way."""

    def __init__(self, module: Any, turns: Iterator[int]):
        self.calls, self.rows, self.turn, self.ever, self.finite = 0, 0, 0, False, True
        self._turns = turns
        before = module.register_forward_pre_hook(self._before, with_kwargs=True)
        self._handles = [before, module.register_forward_hook(self._after)]

    def _before(self, module: Any, args: tuple, kwargs: dict[str, Any]) -> None:
        self.calls += 1
        x = args[0] if args else next(iter(kwargs.values()))
        self.rows, self.turn, self.ever = x.numel() // x.shape[-1], next(self._turns), True

    def _after(self, module: Any, args: tuple, output: Any) -> None:
        first = output[0] if isinstance(output, tuple) else output
        self.finite &= bool(torch.isfinite(first).all())

    def remove(self) -> None:
        for handle in self._handles:
            handle.remove()


def exercised(body: Any, specs: Sequence[Spec], name: str) -> tuple[list[Spec], list[torch.Tensor] | None]:
    """(those of ``specs`` that run on text, the trial's hidden states: those of ``separate_forwards`` of ``body``).

    Each must run once a forward, in order, over as many rows as there are tokens. A layer that never runs
    (cross-attention to images) is left out and said. Raises NaitError for a forward that fails, for other uses of an
    MLP, and for activations that are not finite. No hidden states: eager attention does not run here.
    """
    turns = count(1)
    watches = [_Watch(spec.module, turns) for spec in specs]

    def check(tokens: int) -> None:
        for spec, watch in zip(specs, watches, strict=True):
            if watch.calls > 1:
                raise BadInput(
                    f"{spec.called} runs {watch.calls} times a forward, so a token has no one activation there; it "
                    "is not supported",
                    where=f"model {name}",
                )
            if watch.calls and watch.rows != tokens:
                raise BadInput(
                    f"{spec.called} runs over {watch.rows} rows for {tokens} tokens; it is not supported",
                    where=f"model {name}",
                )
            watch.calls = 0

    hidden = None
    try:
        with torch.no_grad():
            try:
                hidden = separate_forwards(body, "eager", check)
            except (TypeError, ValueError, AttributeError, AssertionError, RuntimeError) as error:
                if is_out_of_memory(error):
                    raise
                for watch in watches:  # of a forward that broke off
                    watch.calls, watch.ever = 0, False
                last = separate_forwards(body, None, check)[-1]
            else:
                last = torch.cat(hidden)
    except NaitError:
        raise
    except Exception as error:  # transformers', a kernel's, a quantiser's
        raise BadInput(f"a forward of a few tokens fails ({first_line(error)})", where=f"model {name}") from None
    finally:
        for watch in watches:
            watch.remove()
    run = [(spec, watch) for spec, watch in zip(specs, watches, strict=True) if watch.ever]
    idle = ", ".join(str(spec.layer) for spec, watch in zip(specs, watches, strict=True) if not watch.ever)
    if not run:
        raise BadInput(
            f"none of the chosen layers ({idle}) runs on text",
            where=f"model {name}",
            remedy="choose others with --layers",
        )
    run.sort(key=lambda each: each[1].turn)  # of a layer's experts and its shared one either may be first
    if [spec.layer for spec, _ in run] != sorted(spec.layer for spec, _ in run):
        raise BadInput("its layers do not run in their order; it is not supported", where=f"model {name}")
    dtype = activation_dtype(body)
    if bad := [spec.layer for spec, watch in run if not watch.finite]:
        _refuse_numbers(body, name, f"from layer {bad[0]}", dtype)
    if not torch.isfinite(last).all():
        _refuse_numbers(body, name, "behind its last layer", dtype)
    if idle:
        warn(f"model {name}: layers {idle} do not run on text (they look at images); they are left out")
    return [spec for spec, _ in run], hidden


def _refuse_numbers(body: Any, name: str, where: str, dtype: torch.dtype) -> None:
    anew, kind = "fetch the checkpoint anew", str(dtype).removeprefix("torch.")
    remedy = anew if dtype == torch.float32 else f"use --dtype float32{'' if kind == 'bfloat16' else ' or bfloat16'}"
    for key, parameter in body.named_parameters():
        if parameter.is_floating_point() and not torch.isfinite(parameter.float()).all():
            also = "" if remedy == anew else f"; if that does not help, {anew}"
            raise BadInput(
                f"its weight {key} is NaN or infinite in places ({kind})",
                where=f"model {name}",
                remedy=f"{remedy}{also}",
            )
    raise BadInput(f"its activations are NaN or infinite {where} on ({kind})", where=f"model {name}", remedy=remedy)
