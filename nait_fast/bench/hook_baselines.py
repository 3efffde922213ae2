"""What one writes with transformers and forward hooks instead of an engine: as most do, and as well as one can.

Both pool, for every sample, what goes into each down projection: the mean over its tokens but the first, the engine's
reading ``mean``.

- Naive: right-padded batches of 8 in file order with their mask, logits at every position, as AutoModelForCausalLM
  computes them, and a copy home after every batch.
- Strong: the body alone, without a head; batches of similarly long samples under the engine's own budget of tokens;
  transformers' own attention without a mask, which right padding does not need before causal layers, so that its
  fastest kernel runs; means kept on the device until the end, where they become bits and come home in one copy.
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from nait_fast.data.tokenize import Encoded
from nait_fast.models.spec import Spec, dense, input_width

BATCH = 8  # samples of the naive one
NAIVE = f"hooks, padded batches of {BATCH}"
STRONG = "hooks, sorted batches, body only"
Means = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def _einsum_means(x: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    return torch.einsum("btj,bt->bj", x.float(), weights)


def _summed_means(x: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Sums in fp32 without a copy of ``x`` in fp32, where that is another dtype."""
    if x.dtype == torch.float32:
        return _einsum_means(x, weights)
    counted = weights > 0
    return (x * counted[..., None]).sum(dim=1, dtype=torch.float32) * weights.amax(dim=1, keepdim=True)


class _Hooked:
    """Means fp32 [B, N] of the batch that ``body`` has just run, by hooks on the down projections of ``specs``."""

    def __init__(self, body: Any, specs: Sequence[Spec], means: Means, stack: ExitStack):
        self.body, self._means = body, means
        self._weights = torch.empty(0)
        self._of_layers: list[torch.Tensor] = [torch.empty(0)] * len(specs)
        for ordinal, spec in enumerate(dense(specs)):
            handle = spec.part(spec.family.down).register_forward_pre_hook(self._hook_of(ordinal))
            stack.callback(handle.remove)

    def _hook_of(self, ordinal: int) -> Callable[[Any, tuple[torch.Tensor, ...]], None]:
        def hook(module: Any, inputs: tuple[torch.Tensor, ...]) -> None:
            self._of_layers[ordinal] = self._means(inputs[0], self._weights)

        return hook

    def run(self, batch: Sequence[Encoded], masked: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """(means, last hidden states [B, T, H]) of one batch, right-padded, with its mask or without."""
        device = self.body.device
        lengths = torch.tensor([len(sample.ids) for sample in batch])
        width = int(lengths.max())
        ids = np.zeros((len(batch), width), dtype=np.int64)
        for row, sample in zip(ids, batch, strict=True):
            row[: len(sample.ids)] = sample.ids
        mask = torch.arange(width) < lengths[:, None]
        counted = mask.float()
        counted[:, 0] = (lengths == 1).float()
        self._weights = (counted / counted.sum(dim=1, keepdim=True)).to(device)
        mask_of = {"attention_mask": mask.long().to(device)} if masked else {}
        inputs = torch.from_numpy(ids).to(device)
        states = self.body(input_ids=inputs, use_cache=False, **mask_of).last_hidden_state
        return torch.cat(self._of_layers, dim=1), states


@torch.inference_mode()
def naive_means(body: Any, specs: Sequence[Spec], samples: Sequence[Encoded]) -> np.ndarray:
    """Mean activations fp32 [n, N] of ``samples``; the embedding stands in for the head, whose shape it has: a body
    alone is in memory."""
    head = body.get_input_embeddings().weight
    out = []
    with ExitStack() as stack:
        hooked = _Hooked(body, specs, _einsum_means, stack)
        for begin in range(0, len(samples), BATCH):
            means, states = hooked.run(samples[begin : begin + BATCH], masked=True)
            F.linear(states, head)
            out.append(means.cpu().numpy())
    return np.concatenate(out)


def sorted_batches(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Places of samples of ``lengths``, the longest first, in batches of at most ``budget`` tokens with padding (or one
    sample)."""
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    batches: list[list[int]] = []
    while order:
        size = max(1, budget // lengths[order[0]])
        batches.append(order[:size])
        order = order[size:]
    return batches


@torch.inference_mode()
def strong_means(body: Any, specs: Sequence[Spec], samples: Sequence[Encoded], budget: int) -> torch.Tensor:
    """Mean activations fp32 [n, N] of ``samples``, on the body's device."""
    n_neurons = sum(input_width(spec.part(spec.family.down)) for spec in dense(specs))
    means = torch.empty(len(samples), n_neurons, device=body.device)  # once: it is most of what the device holds
    with ExitStack() as stack:
        hooked = _Hooked(body, specs, _summed_means, stack)
        for batch in sorted_batches([len(sample.ids) for sample in samples], budget):
            of_batch, _ = hooked.run([samples[i] for i in batch], masked=False)
            means.index_copy_(0, torch.tensor(batch, device=means.device), of_batch)
    return means


@torch.inference_mode()
def strong_bits(
    body: Any, specs: Sequence[Spec], samples: Sequence[Encoded], budget: int, threshold: torch.Tensor
) -> np.ndarray:
    """Bits uint8 [n, ⌈N / 8⌉] at home: means above ``threshold`` fp32 [N], eight a byte, packed on the device."""
    bits = strong_means(body, specs, samples, budget) > threshold.to(body.device)
    bits = F.pad(bits, (0, -bits.shape[1] % 8)).view(len(bits), -1, 8)
    shifts = torch.arange(8, device=bits.device, dtype=torch.uint8)
    return (bits.to(torch.uint8) << shifts).sum(dim=2, dtype=torch.uint8).cpu().numpy()
