"""Pure-torch reference of the losses of tokens: online log-sum-exp (Milakov and Gimelshein, arXiv 1805.02867)."""

import torch

BLOCK = 4096  # entries of the vocabulary whose logits are there at once


def token_losses(
    x: torch.Tensor,
    weight: torch.Tensor,
    labels: torch.Tensor,
    bias: torch.Tensor | None,
    scale: float,
    softcap: float | None,
) -> torch.Tensor:
    """Same contract as ``launch.token_losses``; products are of fp32 numbers (fp64 where ``x`` is)."""
    kind = torch.promote_types(x.dtype, torch.float32)
    rows, label = x.to(kind), labels.clamp(0, max(len(weight) - 1, 0))
    total = torch.full((len(x),), -torch.inf, dtype=kind, device=x.device)
    at_label = torch.full_like(total, torch.nan)  # a label outside the vocabulary has no logit
    for start in range(0, len(weight), BLOCK):
        logits = rows @ weight[start : start + BLOCK].to(kind).T
        if bias is not None:
            logits += bias[start : start + BLOCK].to(kind)
        logits *= scale
        if softcap is not None:
            logits = softcap * torch.tanh(logits / softcap)
        total = torch.logaddexp(total, logits.logsumexp(dim=1))
        here = (labels == label) & (label >= start) & (label < start + logits.shape[1])
        own = logits.gather(1, (label - start).clamp(0, logits.shape[1] - 1)[:, None])[:, 0]
        at_label = torch.where(here, own, at_label)
    return (total - at_label).float()
