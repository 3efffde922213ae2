"""Losses of tokens on a CPU: products in the weight's dtype, tile by tile, each small enough to stay in cache."""

import torch

ROWS, TILE = 1024, 1 << 19  # rows and numbers of a tile: 2 MiB of fp32 logits


def token_losses(
    x: torch.Tensor,
    weight: torch.Tensor,
    labels: torch.Tensor,
    bias: torch.Tensor | None,
    scale: float,
    softcap: float | None,
) -> torch.Tensor:
    """Same contract as ``launch.token_losses``; logits are rounded to the weight's dtype, as torch's product is."""
    losses = torch.empty(len(x), dtype=torch.float32)
    for first in range(0, len(x), ROWS):
        some = slice(first, first + ROWS)
        losses[some] = _of_rows(x[some], weight, labels[some], bias, scale, softcap)
    return losses


def _of_rows(x, weight, labels, bias, scale: float, softcap: float | None) -> torch.Tensor:
    block = TILE // min(ROWS, len(x))
    highest = torch.full((len(x), 1), torch.finfo(torch.float32).min)  # no infinity: of two the difference is none
    total, at_label = torch.zeros(len(x), 1), torch.full((len(x), 1), torch.nan)
    for start in range(0, len(weight), block):
        part = weight[start : start + block]
        product = x @ part.T if bias is None else torch.addmm(bias[start : start + block], x, part.T)
        logits = product.float()
        if scale != 1:
            logits *= scale
        if softcap is not None:
            logits.div_(softcap).tanh_().mul_(softcap)
        place = labels - start
        here = ((place >= 0) & (place < len(part))).nonzero()[:, 0]
        at_label[here, 0] = logits[here, place[here]]
        before, highest = highest, torch.maximum(highest, logits.amax(dim=1, keepdim=True))
        total.mul_((before - highest).exp_()).add_(logits.sub_(highest).exp_().sum(dim=1, keepdim=True))
    return (total.log_().add_(highest) - at_label)[:, 0]
