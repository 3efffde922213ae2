"""What one writes without an engine: padded batches of 8 in file order, logits, hooks, a copy to the host a batch."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from nait_fast.data.tokenize import Encoded
from nait_fast.models.spec import MlpSpec

BATCH = 8


@torch.inference_mode()
def hooked_means(body: Any, specs: Sequence[MlpSpec], samples: Sequence[Encoded]) -> np.ndarray:
    """Mean activations fp32 [n, N] of ``samples``, first token left out: the engine's reading, by other means.

    Right-padded batches with their mask and transformers' own attention; a forward hook on every down projection takes
    the masked mean of its input; logits come at every position, as AutoModelForCausalLM computes them. The embedding
    stands in for the head, whose shape it has: a body alone is in memory.
    """
    device = body.device
    head = body.get_input_embeddings().weight
    means: list[torch.Tensor] = [torch.empty(0)] * len(specs)
    weights = torch.empty(0)

    def hook_of(position: int):
        def hook(module: Any, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
            means[position] = torch.einsum("btj,bt->bj", inputs[0].float(), weights)

        return hook

    handles = [spec.part(spec.family.down).register_forward_hook(hook_of(i)) for i, spec in enumerate(specs)]
    out = []
    try:
        for begin in range(0, len(samples), BATCH):
            batch = samples[begin : begin + BATCH]
            lengths = torch.tensor([len(sample.ids) for sample in batch])
            width = int(lengths.max())
            ids = np.zeros((len(batch), width), dtype=np.int64)
            for row, sample in zip(ids, batch, strict=True):
                row[: len(sample.ids)] = sample.ids
            mask = torch.arange(width) < lengths[:, None]
            counted = mask.float()
            counted[:, 0] = (lengths == 1).float()
            weights = (counted / counted.sum(dim=1, keepdim=True)).to(device)
            inputs = torch.from_numpy(ids).to(device)
            hidden = body(input_ids=inputs, attention_mask=mask.long().to(device), use_cache=False).last_hidden_state
            F.linear(hidden, head)
            out.append(torch.cat(means, dim=1).cpu().numpy())
    finally:
        for handle in handles:
            handle.remove()
    return np.concatenate(out)
