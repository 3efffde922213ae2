"""Greedy generation by a model that lies in two parts: below the adapted layers, and those."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from nait_fast.models.load import apart
from nait_fast.validation.frozen import FrozenHead

AT_ONCE = 16  # prompts a batch


def continuations(
    trunk: Any, upper: Any, head: FrozenHead, prompts: Sequence[np.ndarray], most: int, end: int, device: torch.device
) -> list[list[int]]:
    """Ids that follow each of ``prompts``, the likeliest each time; as ``Learner.generate``."""
    whole = apart(upper)
    whole.layers = nn.ModuleList([*trunk.layers, *upper.layers])
    out: list[list[int]] = [[] for _ in prompts]
    ordered = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    with torch.no_grad():
        for first in range(0, len(ordered), AT_ONCE):
            some = ordered[first : first + AT_ONCE]
            batch = _batch(whole, head, [prompts[i] for i in some], most, end, device)
            for i, ids in zip(some, batch, strict=True):
                out[i] = ids
    return out


def _batch(
    whole: Any, head: FrozenHead, prompts: Sequence[np.ndarray], most: int, end: int, device: torch.device
) -> list[list[int]]:
    from transformers import DynamicCache

    longest, n = max(map(len, prompts)), len(prompts)
    ids = torch.zeros(n, longest, dtype=torch.long)
    mask = torch.zeros(n, longest, dtype=torch.long)
    for i, prompt in enumerate(prompts):  # padding in front: the next token of all stands at one place
        ids[i, longest - len(prompt) :] = torch.from_numpy(prompt).long()
        mask[i, longest - len(prompt) :] = 1
    ids, mask = ids.to(device), mask.to(device)
    positions = (mask.cumsum(1) - 1).clamp_min(0)
    cache = DynamicCache(config=whole.config)
    said: list[list[int]] = [[] for _ in prompts]
    going = torch.ones(n, dtype=torch.bool, device=device)
    for _ in range(most):
        state = whole(
            input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True
        ).last_hidden_state[:, -1]
        ids = head.logits(state).argmax(dim=1, keepdim=True)
        going &= ids[:, 0] != end
        if not going.any():
            break
        for i in going.nonzero()[:, 0].tolist():
            said[i].append(int(ids[i]))
        mask = torch.cat([mask, torch.ones_like(ids)], dim=1)
        positions = positions[:, -1:] + 1
    return said
