"""Pure-torch reference of RMSNorm (Zhang and Sennrich, arXiv 1910.07467), in the three forms that transformers has."""

import torch

# What happens to x / RMS(x): 'rounded' to the input's dtype, then scaled (Llama, Mistral, Qwen …); 'plain', scaled in
# fp32 (OLMo 2); 'offset', scaled by 1 + weight in fp32 (Gemma).
FORMS = ("rounded", "plain", "offset")


def rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float, form: str) -> torch.Tensor:
    """``x`` [..., H] over the root of its mean square, times ``weight`` [H]; computed in fp32, in ``x``'s dtype."""
    h = x.to(torch.float32)
    h = h * torch.rsqrt(h.pow(2).mean(-1, keepdim=True) + eps)
    if form == "rounded":
        return weight * h.to(x.dtype)
    scale = weight.to(torch.float32)
    return (h * (1.0 + scale if form == "offset" else scale)).to(x.dtype)
