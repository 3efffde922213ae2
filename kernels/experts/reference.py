"""Pure-torch reference of the experts' segmented weighted sum."""

import torch


def expert_sums(hidden: torch.Tensor, weight: torch.Tensor, offsets: torch.Tensor, n_experts: int) -> torch.Tensor:
    """Same contract as ``launch.expert_sums``."""
    taken = int(offsets[-1])
    rows = hidden[:taken].float() * weight[:taken, None].float()
    counts = offsets.diff()
    segment = torch.repeat_interleave(torch.arange(len(counts), device=hidden.device), counts, output_size=taken)
    n = len(counts) // n_experts
    row = segment % n * n_experts + segment // n  # (expert, sequence) -> (sequence, expert)
    sums = torch.zeros(len(counts), hidden.shape[1], device=hidden.device).index_add_(0, row, rows)
    return sums.view(n, n_experts, -1)
