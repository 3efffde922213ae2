"""Decoder layers without an MLP: which layers provably have none.

Some hybrids alternate layers of one thing each: attention, a state space, an MLP or experts. A layer is said to have no
MLP only where each of its matrices is accounted for as a part of a mixer of tokens out of the table; whatever else a
layer holds may be an MLP of a kind that is not known, and must not be left out in silence.
"""

from dataclasses import dataclass

from torch import nn

from nait_fast.models.spec import IN_FEATURES


@dataclass(frozen=True)
class Mixer:
    """Names of a module's parts (modules or parameters): ``parts`` are all there, ``others`` may be."""

    parts: frozenset[str]
    others: frozenset[str] = frozenset()

    def fits(self, module: nn.Module) -> bool:
        """Whether ``module`` has the parts, and no matrix in anything else."""
        return all(hasattr(module, name) for name in self.parts) and _roots(module) <= self.parts | self.others


MIXERS = (
    Mixer(frozenset({"q_proj", "k_proj", "v_proj", "o_proj"})),
    Mixer(frozenset({"in_proj", "conv1d", "A_log", "out_proj"}), frozenset({"x_proj", "dt_proj"})),  # Mamba 1 and 2
)


def matrices(module: nn.Module) -> set[str]:
    """Full names of what may multiply in ``module``: weights of two and more axes, and linear layers, whose weights may
    be bytes or in a form of their own where they are quantised."""
    weights = {name for name, p in (*module.named_parameters(), *module.named_buffers()) if p.dim() > 1}
    linears = {f"{name}.weight" for name, part in module.named_modules() if any(hasattr(part, n) for n in IN_FEATURES)}
    return weights | linears


def _roots(module: nn.Module) -> set[str]:
    return {name.partition(".")[0] for name in matrices(module)}


def only_mixes(layer: nn.Module) -> bool:
    """Whether all matrices of ``layer`` belong to a mixer of tokens: it has no MLP."""
    mixers = [name for name, part in layer.named_modules() if name and any(mixer.fits(part) for mixer in MIXERS)]
    return bool(mixers) and all(any(name.startswith(f"{mixer}.") for mixer in mixers) for name in matrices(layer))
