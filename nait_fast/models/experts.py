"""Mixtures of experts: one layer's E experts of J neurons each are read as an MLP of E · J neurons.

An expert's neuron counts with the weight that the router gave the expert: what goes into the down projection of that
wide MLP is w_te · a_te[j], and 0 where token t was not sent to expert e. transformers' experts share one contract:
``experts(x [T, H], index int64 [T, k], weights [T, k])``, with the weights of all experts in one tensor
(transformers/integrations/moe.py); the forward here is that of its ``grouped_mm``, with rows sorted so that those of
one expert and sequence are adjacent.
"""

from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from torch import nn

from nait_fast.device_copies import to_device
from nait_fast.errors import BadInput
from nait_fast.kernels import expert_sums
from nait_fast.kernels.capture.types import BitSpec, Segments, Stats
from nait_fast.models.spec import Read, Spec

STATISTICS = frozenset({"first", "last", "sum"})
_FLOATS = (torch.float32, torch.bfloat16, torch.float16)


def is_experts(module: Any) -> bool:
    """Whether ``module`` keeps transformers' contract of experts."""
    return all(hasattr(module, name) for name in ("_apply_gate", "is_transposed", "has_gate", "has_bias", "down_proj"))


def is_scaled_experts(module: Any) -> bool:
    """Whether ``module`` looks like Llama 4's mixture: a router, experts that get scaled inputs, a shared expert."""
    experts = getattr(module, "experts", None)
    parts = (getattr(experts, name, None) for name in ("gate_up_proj", "down_proj"))
    return (
        not is_experts(experts)
        and all(isinstance(part, nn.Parameter) and part.dim() == 3 for part in parts)
        and all(isinstance(getattr(module, name, None), nn.Module) for name in ("router", "shared_expert"))
        and all(hasattr(owner, name) for owner, name in ((module, "top_k"), (experts, "act_fn")))
    )


@dataclass(frozen=True)
class RoutedSpec(Spec):
    """The experts of one layer: ``n_experts`` of ``width`` neurons, in the experts' order.

    ``reads``: their 'neurons', or the 'router'. ``kept``: how many of the neurons are read, None for all; ``chosen``
    int64 [kept]: which of the n_experts · width, ascending, once that is decided.
    """

    n_experts: int
    width: int
    kept: int | None = None
    chosen: torch.Tensor | None = field(default=None, compare=False, repr=False)
    reads: ClassVar[str] = "neurons"

    @property
    def called(self) -> str:
        return f"the {'router' if self.reads == 'router' else 'experts'} of layer {self.layer}"

    @property
    def n_neurons(self) -> int:
        return self.n_experts if self.reads == "router" else self.kept or self.n_experts * self.width

    def keeping(self, kept: int | None, chosen: torch.Tensor | None = None) -> "RoutedSpec":
        """The same experts, of which so many neurons are read, or these."""
        return replace(self, kept=kept, chosen=chosen)

    def _kept_of(self, stats: Stats) -> Stats:
        """``stats`` of all neurons, of those that are kept."""
        if self.kept is None:
            return stats
        assert self.chosen is not None, "neurons that are still to be chosen"
        every = {"first": stats.first, "last": stats.last, "sum": stats.sum}
        return Stats(**{k: v.index_select(1, self.chosen) for k, v in every.items() if v is not None})


def refuse_statistics(specs: Sequence[Spec], statistics: Set[str]) -> None:
    """Raise BadInput where ``specs`` do not give all of ``statistics``."""
    if statistics - STATISTICS - {"hidden_sum"} and any(isinstance(spec, RoutedSpec) for spec in specs):
        raise BadInput(
            "the reading up_abs, which method and codec nag take, is of dense MLPs, and this one has experts",
            where="model",
            remedy="choose another method or codec, or the readings drift and mean",
        )


@dataclass(frozen=True)
class ExpertsSpec(RoutedSpec):
    """Experts that keep transformers' contract. Read are their neurons."""

    @property
    def looks_like(self) -> str:
        return "transformers' experts"

    @property
    def hidden_width(self) -> int:
        up = self._weight("up")
        return int(up.shape[1 if self.module.is_transposed else 2])

    def _full(self, name: str) -> str:
        """What the module calls its projection ``name``, up or down."""
        return "down_proj" if name == "down" else "gate_up_proj" if self.module.has_gate else "up_proj"

    def _weight(self, name: str) -> torch.Tensor:
        return getattr(self.module, self._full(name))

    def _linear(self, name: str, x: torch.Tensor, ends: torch.Tensor, expert: torch.Tensor) -> torch.Tensor:
        """A projection of rows ``x`` [R, ·] sorted by ``expert`` int64 [R], those of each up to ``ends`` int32 [E]."""
        from transformers.integrations.moe import _grouped_linear

        module = self.module
        bias = getattr(module, f"{self._full(name)}_bias")[expert] if module.has_bias else None
        return _grouped_linear(x, self._weight(name), ends, bias=bias, is_transposed=module.is_transposed)

    def forward(
        self, read: Read, hidden_states: torch.Tensor, top_k_index: torch.Tensor, top_k_weights: torch.Tensor
    ) -> torch.Tensor:
        """As the module's own: ``hidden_states`` [T, H], ``top_k_index`` int64 [T, k], ``top_k_weights`` [T, k]."""
        rows = _Rows.of(top_k_index, top_k_weights, self.n_experts)
        activation = self._activation(hidden_states, rows)
        activation = read(
            hidden_states, lambda *asked: (activation, self._kept_of(rows.statistics(activation, *asked)))
        )
        out = self._linear("down", activation, rows.ends, rows.expert).masked_fill_(rows.nobody[:, None], 0)
        out = (out * rows.weight[:, None])[rows.inverse]
        return out.view(len(hidden_states), rows.k, -1).sum(dim=1).to(hidden_states.dtype)

    def _activation(self, hidden_states: torch.Tensor, rows: "_Rows") -> torch.Tensor:
        module, up = self.module, self._linear("up", hidden_states[rows.token], rows.ends, rows.expert)
        up = up.masked_fill_(rows.nobody[:, None], 0)
        return module._apply_gate(up) if module.has_gate else module.act_fn(up)


@dataclass(frozen=True)
class RouterSpec(ExpertsSpec):
    """The same experts, of which the weights are read that the router gives them: each is one neuron, whose activation
    at a token is that weight, or 0."""

    reads: ClassVar[str] = "router"

    def forward(
        self, read: Read, hidden_states: torch.Tensor, top_k_index: torch.Tensor, top_k_weights: torch.Tensor
    ) -> torch.Tensor:
        def op(*asked: Any) -> tuple[torch.Tensor, Stats]:
            rows = _Rows.of(top_k_index, top_k_weights, self.n_experts)
            ones = torch.ones(len(rows.token), 1, device=hidden_states.device)
            return hidden_states, rows.statistics(ones, *asked)

        read(hidden_states, op)
        return type(self.module).forward(self.module, hidden_states, top_k_index, top_k_weights)


@dataclass(frozen=True)
class ScaledExpertsSpec(RoutedSpec):
    """Llama 4's mixture: an expert's input, not its output, is multiplied by the router's weight, and ``module`` is the
    whole block. What goes into the down projection holds the weight already: it is read as it is."""

    @property
    def looks_like(self) -> str:
        return "Llama 4's mixture of experts"

    @property
    def hidden_width(self) -> int:
        return int(self.module.experts.gate_up_proj.shape[1])

    def forward(self, read: Read, hidden_states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """As the module's own: ``hidden_states`` [.., H] to (output [T, H], the router's logits [T, E])."""
        from transformers.integrations.moe import _grouped_linear

        x, rows, logits = _routed(self.module, hidden_states)
        activation, alike = self._activation(x, rows), replace(rows, weight=torch.ones_like(rows.weight))
        activation = read(x, lambda *asked: (activation, self._kept_of(alike.statistics(activation, *asked))))
        out = _grouped_linear(activation, self.module.experts.down_proj, rows.ends, is_transposed=True)[rows.inverse]
        return self.module.shared_expert(x) + out.view(len(x), rows.k, -1).sum(dim=1).to(x.dtype), logits

    def _activation(self, x: torch.Tensor, rows: "_Rows") -> torch.Tensor:
        from transformers.integrations.moe import _grouped_linear

        experts = self.module.experts
        scaled = x[rows.token] * rows.weight[:, None]
        gate, up = _grouped_linear(scaled, experts.gate_up_proj, rows.ends, is_transposed=True).chunk(2, dim=-1)
        return up * experts.act_fn(gate)


@dataclass(frozen=True)
class ScaledRouterSpec(ScaledExpertsSpec):
    """The same, of which the router's weights are read."""

    reads: ClassVar[str] = "router"

    def forward(self, read: Read, hidden_states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """As the module's own."""
        x, rows, _ = _routed(self.module, hidden_states)
        ones = torch.ones(len(rows.token), 1, device=x.device)
        read(x, lambda *asked: (x, rows.statistics(ones, *asked)))
        return type(self.module).forward(self.module, hidden_states)


def _routed(module: Any, hidden_states: torch.Tensor) -> tuple[torch.Tensor, "_Rows", torch.Tensor]:
    """(hidden states [T, H], where Llama 4's router sends them, its logits [T, E])."""
    x = hidden_states.reshape(-1, hidden_states.shape[-1])
    scores, logits = module.router(x)
    index = torch.topk(logits, module.top_k, dim=1).indices
    return x, _Rows.of(index, scores.gather(1, index), scores.shape[1]), logits


@dataclass(frozen=True)
class _Rows:
    """R = T · k rows, one a (token, expert), sorted by expert, then token: ``weight`` [R] that the router gave,
    ``expert`` and ``token`` int64 [R], ``nobody`` bool [R] where a token was sent to no expert, ``ends`` int32 [E] of
    each expert's rows; ``inverse`` int64 [R]: from t · k + slot to a row."""

    weight: torch.Tensor
    expert: torch.Tensor
    token: torch.Tensor
    nobody: torch.Tensor
    ends: torch.Tensor
    inverse: torch.Tensor
    k: int
    n_experts: int

    @classmethod
    def of(cls, index: torch.Tensor, weights: torch.Tensor, n_experts: int) -> "_Rows":
        k = index.shape[-1]
        expert, order = torch.sort(index.reshape(-1), stable=True)  # tokens of an expert stay in order
        inverse = torch.empty_like(order)
        inverse[order] = torch.arange(len(order), device=order.device)
        nobody = expert >= n_experts
        ends = torch.cumsum(torch.bincount(expert, minlength=n_experts)[:n_experts], 0).to(torch.int32)
        expert = expert.clamp(max=n_experts - 1)
        return cls(weights.reshape(-1)[order], expert, order // k, nobody, ends, inverse, k, n_experts)

    def statistics(
        self, activation: torch.Tensor, segments: Segments, statistics: frozenset[str], bits: BitSpec | None
    ) -> Stats:
        """Of each sequence, fp32 [B, E · J], of ``activation`` [R, J] times the weights."""
        stats, device = Stats(), activation.device
        starts, ends = segments.starts, segments.ends
        if "first" in statistics:
            stats.first = self._at(activation, segments.first_tokens)
        if "last" in statistics:
            stats.last = self._at(activation, segments.last_tokens)
        if "sum" in statistics:
            skip = segments.skip_first & (ends - starts > 1)
            sequence, counted = sequences_of(starts + skip, ends, len(self.token) // self.k, device)
            n = len(starts)
            key = self.expert * n + sequence[self.token]
            key = torch.where(self.nobody, n * self.n_experts, key)  # behind all others already
            counts = torch.bincount(key, minlength=n * self.n_experts)[: n * self.n_experts]
            offsets = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
            if (weights := segments.weights_on(device)) is not None:
                counted = counted * weights
            weight = self.weight.float() * counted[self.token]
            stats.sum = expert_sums(activation, weight, offsets, self.n_experts).flatten(1)
        return stats

    def _at(self, activation: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """w · a fp32 [B, E · J] at ``tokens`` int64 [B]: 0 for experts that they were not sent to, and at -1."""
        device, nowhere = activation.device, tokens < 0
        places = self.inverse.view(-1, self.k)[tokens.clamp(min=0).to(device)]  # [B, k], of sorted rows
        out = torch.zeros(len(tokens), self.n_experts, activation.shape[1], device=device)
        weight = torch.where(self.nobody, 0, self.weight.float())
        which = torch.arange(len(tokens), device=device)[:, None].expand_as(places)
        values = activation[places].float() * weight[places][..., None]
        out.index_put_((which, self.expert[places]), values, accumulate=True)
        if bool(nowhere.any()):
            out[to_device(nowhere, device)] = 0
        return out.flatten(1)


def sequences_of(
    starts: torch.Tensor, ends: torch.Tensor, n_tokens: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """(sequence int64 [T] of each token, whether it counts fp32 [T]); sequences lie in the order of their tokens.

    A token of none (padding, a skipped first one) is given to a neighbour, where it does not count.
    """
    tokens = torch.arange(n_tokens)
    sequence = (torch.searchsorted(starts.contiguous(), tokens, right=True) - 1).clamp(min=0)
    counted = (tokens >= starts[sequence]) & (tokens < ends[sequence])
    return sequence.to(device), counted.float().to(device)


def plain_forward(module: Any) -> Callable[..., torch.Tensor]:
    """The loop over experts that the class defines, whatever the configuration chooses."""
    forward: Any = type(module).forward
    return getattr(forward, "__wrapped__", forward).__get__(module)


def experts_of(layer: int, module: Any, read: str = "neurons") -> RoutedSpec:
    """The experts that ``module`` is; ``read``: their 'neurons', or the 'router'.

    Raises BadInput for weights that are not plain numbers.
    """
    scaled = is_scaled_experts(module)
    experts = module.experts if scaled else module
    down, transposed = experts.down_proj, scaled or module.is_transposed
    if not isinstance(down, torch.Tensor) or down.dim() != 3 or down.dtype not in _FLOATS:
        raise BadInput(
            f"its experts' weights are quantised ({type(experts).__name__})",
            where=f"layer {layer}",
            remedy="load the checkpoint dequantised",
        )
    kinds: tuple[type[RoutedSpec], ...] = (ScaledExpertsSpec, ScaledRouterSpec) if scaled else (ExpertsSpec, RouterSpec)
    kind = next(kind for kind in kinds if kind.reads == read)
    return kind(layer, module, down.shape[0], down.shape[1 if transposed else 2])
