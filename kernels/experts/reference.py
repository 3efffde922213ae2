"""Pure-torch reference of the experts' segmented weighted sum."""

import torch
import torch.nn.functional as F


def expert_sums(hidden: torch.Tensor, weight: torch.Tensor, offsets: torch.Tensor, n_experts: int) -> torch.Tensor:
    """Same contract as ``launch.expert_sums``."""
    taken, n = int(offsets[-1]), (len(offsets) - 1) // n_experts
    if not taken:
        return torch.zeros(n, n_experts, hidden.shape[1], device=hidden.device)
    rows, order = hidden[:taken].float(), torch.arange(taken, device=hidden.device)
    weight = weight[:taken].float()
    nothing = weight == 0
    rows = rows.masked_fill(nothing[:, None], 0) if bool(nothing.any()) else rows
    sums = F.embedding_bag(order, rows, offsets[:-1], mode="sum", per_sample_weights=weight)  # nothing between is kept
    return sums.view(n_experts, n, -1).transpose(0, 1).contiguous()
