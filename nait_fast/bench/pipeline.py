"""The whole pipeline on a device against the CPU engine: the same weights and samples, bits compared.

Thresholds are the CPU's means over the samples. In fp32 a bit may differ only next to its threshold
(``endtoend.GATE``). Half precision itself moves the forward, the more the deeper the model: there transformers' own
forward in that dtype, pooled by hooks, tells how far, and the engine may be at most twice as far away.
"""

import copy
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from nait_fast.bench.endtoend import GATE
from nait_fast.bench.hook_baselines import naive_means
from nait_fast.bench.lengths import random_ids, sample_lengths
from nait_fast.bench.shapes import SHAPES, build
from nait_fast.codecs.layout import CodeLayout
from nait_fast.codecs.neuron import NeuronCoder
from nait_fast.data.prefixes import shared_prefixes
from nait_fast.extract.engine import Engine
from nait_fast.extract.sinks import Collect, Encode
from nait_fast.models.load import prepare

SAMPLES, SEED = 32, 0


def _as_loaded(body: Any, device: torch.device, dtype: torch.dtype) -> Any:
    """A copy of ``body`` as transformers loads it: ``Module.to`` would round the buffers, RoPE's frequencies, too."""
    moved = copy.deepcopy(body).to(device)
    for parameter in moved.parameters():
        parameter.data = parameter.data.to(dtype)
    return moved


def measure_pipeline(shape: str, device: torch.device, dtypes: tuple[torch.dtype, ...]) -> Iterator[dict[str, Any]]:
    """A row for each of ``dtypes`` on ``device``: differing bits and how far their values lie from the threshold."""
    body = build(SHAPES[shape], torch.device("cpu"), torch.float32, SEED)
    model = prepare(copy.deepcopy(body), None, name=shape)
    encoded = random_ids(sample_lengths(SAMPLES, SEED, 384), model.vocabulary, SEED)
    prefixes, layout = shared_prefixes(encoded), CodeLayout.of(model.widths)
    collected = Collect(len(encoded), layout, ("mean",))
    Engine(model, ("mean",)).run(encoded, collected, prefixes=prefixes)
    values = collected.readings["mean"].numpy()
    threshold = values.mean(axis=0, dtype=np.float64).astype(np.float32)
    sigma = np.maximum(values.std(axis=0), 1e-30)

    def against(bits: np.ndarray) -> tuple[float, float]:
        """(share of bits that differ from the CPU's, how far the farthest one's value is from its threshold, in σ)."""
        differ = bits != (values > threshold)
        return float(differ.mean()), float((np.abs(values - threshold) / sigma)[differ].max(initial=0.0))

    for dtype in dtypes:
        on_device = prepare(_as_loaded(body, device, dtype), None, name=shape)
        coder = NeuronCoder(layout, "mean", torch.from_numpy(threshold), device)
        sink = Encode(len(encoded), layout, coder, device=device)
        Engine(on_device, ("mean",)).run(encoded, sink, prefixes=prefixes)
        share, worst = against(layout.unpack(sink.codes))
        farthest, most = GATE[dtype]
        hooks: dict[str, float] = {}
        if dtype != torch.float32:
            own_share, own_worst = against(naive_means(on_device.body, on_device.specs, encoded) > threshold)
            farthest, most = max(farthest, 2 * own_worst), max(most, 2 * own_share)
            hooks = {"hooks_differing_share": own_share, "hooks_worst_sigma": own_worst}
        differing = round(share * values.size)
        words = f"{differing:,} of {values.size:,} bits differ, by up to {worst:.1e} σ"
        right = bool(sink.finite.all()) and worst <= farthest and share <= most
        kind = str(dtype).removeprefix("torch.")
        yield {
            "name": f"{shape} against the CPU's fp32, {kind}",
            "dtype": kind,
            "samples": len(encoded),
            "tokens": sum(len(e.ids) for e in encoded),
            "attention": on_device.attention or "padded",
            "check": f"{'ok' if right else 'failed'}: {words}",
            "bits": values.size,
            "differing_bits": differing,
            "differing_share": share,
            "worst_sigma": worst,
            **hooks,
        }
