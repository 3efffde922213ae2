"""From a layer's statistics to the readings of the method: drift, mean, NAG's mean of |up_proj|, and the mean hidden
state that goes into one layer's MLP."""

from collections.abc import Iterable

import torch

from nait_fast.kernels.capture.types import Stats

NEEDS: dict[str, tuple[str, ...]] = {
    "drift": ("first", "last"),
    "mean": ("sum",),
    "up_abs": ("up_abs_sum",),
    "hidden": ("hidden_sum",),
    "rds": (),  # of the body's end (body_end.py), and so are these
    "nll": (),
    "ifd": (),
}
READINGS = ("drift", "mean", "up_abs")  # of a layer's neurons
FIRST_TOKEN = ("exclude", "include")


def statistics_for(readings: Iterable[str]) -> frozenset[str]:
    """The statistics that the capture op must yield for ``readings``."""
    return frozenset(name for reading in readings for name in NEEDS[reading])


def dtype_of(reading: str) -> torch.dtype:
    """The dtype that ``combine`` gives ``reading``."""
    return torch.float64 if reading == "drift" else torch.float32


def mean_counts(lengths: torch.Tensor, first_token: str, with_first: torch.Tensor | None = None) -> torch.Tensor:
    """Tokens that a sample's mean runs over, int64 [B], of ``lengths`` int64 [B] that readings run over.

    ``with_first`` bool [B]: whether its first token is one of them; None: it always is.
    """
    if first_token != "exclude":
        return lengths
    without = (lengths - 1).clamp(min=1)
    return without if with_first is None else torch.where(with_first, without, lengths)


def combine(
    stats: Stats,
    lengths: torch.Tensor,
    prefix: Stats | None,
    first_token: str,
    readings: Iterable[str],
    with_first: torch.Tensor | None = None,
) -> dict[str, torch.Tensor]:
    """The readings [B, J] of one layer: fp32, drift fp64; ``hidden`` [B, H] only of the layer that has it.

    ``lengths`` int64 [B], best on the statistics' device: the K tokens of each sample that readings run over, those in
    its prefix included; ``with_first``: as of ``mean_counts``; ``prefix``: statistics [1, J] of the shared prefix,
    which begins the sample, ``first`` None where readings run over none of its tokens. With
    ``first_token="exclude"`` the mean runs over K − 1 tokens (over the one token where K = 1): that token is an
    attention sink. It is also why the drift is fp64: a neuron of a[t_1] may be thousands of times larger than its
    neighbours, and a difference rounded to fp32 turns the first principal component of a layer by 4e-6, enough to move
    NAIT scores by 3e-4 of themselves.
    """
    out = {}
    for reading in readings:
        if reading == "drift":
            assert stats.last is not None
            first = stats.first if prefix is None or prefix.first is None else prefix.first
            assert first is not None
            out[reading] = stats.last.double() - first.double()
        elif reading == "mean":
            assert stats.sum is not None
            total = stats.sum if prefix is None else stats.sum + prefix.sum
            out[reading] = total / mean_counts(lengths, first_token, with_first)[:, None].to(total.device)
        elif reading == "hidden":
            if stats.hidden_sum is not None:
                total = stats.hidden_sum if prefix is None else stats.hidden_sum + prefix.hidden_sum
                out[reading] = total / mean_counts(lengths, first_token, with_first)[:, None].to(total.device)
        else:
            assert stats.up_abs_sum is not None
            total = stats.up_abs_sum if prefix is None else stats.up_abs_sum + prefix.up_abs_sum
            out[reading] = total / lengths[:, None].to(total.device)
    return out
