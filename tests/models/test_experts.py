"""Mixtures of experts against a loop over tokens and experts, one sample at a time."""

import numpy as np
import pytest
import torch

import nait_fast
from nait_fast.errors import NaitError
from nait_fast.kernels.capture.types import Segments, Stats
from nait_fast.models.experts import RoutedSpec, ScaledExpertsSpec, is_experts, is_scaled_experts, sequences_of
from nait_fast.models.find import find_specs
from nait_fast.models.load import prepare
from nait_fast.models.patch import Capture, CapturedForward, patched
from nait_fast.models.probe import probe
from tests.models.tiny import build, config_of, run, sequences, worst_error

E, J, TOP = 5, 12, 2
GQA = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "moe_intermediate_size": J}
MLA = {
    "n_routed_experts": 6,
    "num_experts_per_tok": TOP,
    "moe_intermediate_size": J,
    "n_group": 2,
    "topk_group": 1,
    "first_k_dense_replace": 1,
    "num_key_value_heads": 2,
    "q_lora_rank": 8,
    "kv_lora_rank": 8,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 8,
    "head_dim": 8,
}
GEMMA4 = {
    "enable_moe_block": True,
    "num_experts": E,
    "top_k_experts": TOP,
    "moe_intermediate_size": J,
    "hidden_size_per_layer_input": 0,
    "num_kv_shared_layers": 0,
    "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
    "sliding_window": 8,
    "global_head_dim": 8,
    "num_key_value_heads": 2,
}
QWEN3_5 = {
    "num_experts": E,
    "num_experts_per_tok": TOP,
    "shared_expert_intermediate_size": 40,
    "layer_types": ["linear_attention", "linear_attention", "full_attention"],
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
}
NEMOTRON = {
    "num_hidden_layers": None,
    "layers_block_type": ["linear_attention", "moe", "full_attention", "mlp", "moe"],
    "mamba_num_heads": 4,
    "mamba_head_dim": 8,
    "ssm_state_size": 8,
    "n_groups": 1,
    "chunk_size": 8,
    "n_routed_experts": E,
    "n_shared_experts": 1,
    "num_experts_per_tok": TOP,
    "moe_intermediate_size": J,
    "moe_shared_expert_intermediate_size": 20,
    "moe_latent_size": 8,
    "n_group": 1,
    "topk_group": 1,
}
GRANITE = {
    "num_local_experts": E,
    "num_experts_per_tok": TOP,
    "intermediate_size": J,
    "shared_intermediate_size": 20,
    "mamba_n_heads": 4,
    "mamba_d_head": 8,
    "mamba_d_state": 8,
    "mamba_chunk_size": 8,
}
LFM2 = {"num_dense_layers": 1, "layer_types": ["conv", "full_attention", "conv"], "head_dim": None}
MINIMAX = {
    "num_local_experts": E,
    "num_experts_per_tok": TOP,
    "intermediate_size": J,
    "dense_intermediate_size": 40,
    "shared_intermediate_size": 20,
    "mlp_layer_types": ["dense", "sparse", "sparse"],
    "layer_types": ["full_attention"] * 3,
    "swiglu_limit": 0.5,  # small enough that it is met
    "index_n_heads": 2,
    "index_head_dim": 8,
}
AXK2 = {k: v for k, v in MLA.items() if k not in ("n_group", "topk_group", "first_k_dense_replace")} | {
    "mlp_layer_types": ["dense", "sparse", "sparse"],
    "layer_types": ["deepseek_sparse_attention"] * 3,
    "gated_norm_rank": 4,
    "index_topk": 64,
    "index_head_dim": 8,
    "index_n_heads": 2,
}
LLAMA4 = {
    "num_local_experts": E,
    "num_experts_per_tok": TOP,
    "intermediate_size": J,
    "intermediate_size_mlp": 40,
    "moe_layers": [1, 2],
    "no_rope_layers": [1, 1, 0],
    "layer_types": ["chunked_attention", "chunked_attention", "full_attention"],
    "attention_chunk_size": 16,
}
# name: (model type, what differs from the tiny configuration, widths in the order in which they run)
KINDS = {
    "mixtral": ("mixtral", {"num_local_experts": E, "num_experts_per_tok": TOP}, [E * 40] * 3),
    "qwen3_moe": ("qwen3_moe", GQA | {"num_experts": E, "num_experts_per_tok": TOP}, [E * J] * 3),
    "qwen3_moe dense": (
        "qwen3_moe",
        GQA | {"num_experts": E, "num_experts_per_tok": 1, "mlp_only_layers": [1]},
        [E * J, 40, E * J],
    ),
    "qwen3.5_moe": ("qwen3_5_moe_text", GQA | QWEN3_5, [40, E * J] * 3),
    "gpt_oss": ("gpt_oss", GQA | {"num_local_experts": E, "num_experts_per_tok": TOP}, [E * 40] * 3),
    "deepseek_v3": ("deepseek_v3", MLA, [40, 6 * J, J, 6 * J, J]),
    "glm4_moe": ("glm4_moe", GQA | {k: v for k, v in MLA.items() if "head_dim" not in k and "lora" not in k}, None),
    "olmoe": ("olmoe", {"num_experts": E, "num_experts_per_tok": TOP}, [E * 40] * 3),
    "granite_moe": ("granitemoe", {"num_local_experts": E, "num_experts_per_tok": TOP}, [E * 40] * 3),
    "gemma4_moe": ("gemma4_text", GEMMA4, [40, E * J] * 3),
    "granite 4": ("granitemoehybrid", GRANITE | {"layer_types": ["mamba", "attention", "mamba"]}, [E * J, 20] * 3),
    "granite_moe shared": ("granitemoeshared", GRANITE, [E * J, 20] * 3),
    "lfm2_moe": ("lfm2_moe", GQA | LFM2 | {"num_experts": E, "num_experts_per_tok": TOP}, [40, E * J, E * J]),
    "nemotron_h": ("nemotron_h", NEMOTRON, [E * J, 20, 40, E * J, 20]),
    "minimax_m3": ("minimax_m3_vl_text", MINIMAX, [40, 20, E * J, 20, E * J]),
    "axk2": ("axk2", AXK2, None),
    "llama4": ("llama4_text", LLAMA4, [40, E * J, J, E * J, J]),
}
DOWN = ("down_proj", "output_linear", "w2")
WEIGHTS = {"qwen3.5_moe": 0.1}  # with larger ones the plain run itself is 6e-5 from fp64
PREFIX = np.random.default_rng(1).integers(3, 60, 12).astype(np.int32)
SAMPLES = [*sequences((1, 2, 9, 33)), *sequences((1, 2, 9), seed=2, prefix=PREFIX), PREFIX]


def config_for(name: str):
    model_type, extra, _ = KINDS[name]
    return config_of(model_type, **extra)


def by_hand(module, x, index, weights) -> np.ndarray:
    """w · a fp64 [T, E, J], token by token and expert by expert, out of the module's parameters."""
    gated = module.has_gate
    up = (module.gate_up_proj if gated else module.up_proj).detach().double()
    bias = (module.gate_up_proj_bias if gated else module.up_proj_bias).detach().double() if module.has_bias else None
    width = module.down_proj.shape[1 if module.is_transposed else 2]
    out = torch.zeros(len(x), module.num_experts, width, dtype=torch.float64)
    for t in range(len(x)):
        for slot in range(index.shape[1]):
            expert = int(index[t, slot])
            h = x[t].double() @ (up[expert] if module.is_transposed else up[expert].T)
            h = h if bias is None else h + bias[expert]
            a = module._apply_gate(h[None])[0] if gated else module.act_fn(h)
            out[t, expert] += float(weights[t, slot]) * a
    return out.numpy()


def scaled_by_hand(block, x) -> np.ndarray:
    """What goes into the down projections of Llama 4's experts, fp64 [T, E, J]: all of them, a token at a time."""
    experts, x = block.experts, x.reshape(-1, x.shape[-1])
    scores, _ = block.router(x)
    out = torch.zeros(len(x), *experts.down_proj.shape[:2], dtype=torch.float64)
    for t in range(len(x)):
        for expert in range(len(experts.down_proj)):
            scaled = (x[t] * scores[t, expert]).double()
            gate, up = (scaled @ experts.gate_up_proj[expert].double()).chunk(2)
            out[t, expert] = up * experts.act_fn(gate)
    return out.numpy()


@torch.no_grad()
def activations(model, ids: np.ndarray) -> list[np.ndarray]:
    """What goes into each down projection, fp64 [K, J] or [K, E · J], in the order in which they run."""
    seen: list[np.ndarray] = []

    def experts(module, args, kwargs):
        flat = by_hand(module, *args, *kwargs.values())
        seen.append(flat.reshape(len(flat), -1))

    def scaled(module, args):
        flat = scaled_by_hand(module, *args)
        seen.append(flat.reshape(len(flat), -1))

    def dense(module, args):
        seen.append(args[0].double().reshape(-1, args[0].shape[-1]).numpy())

    handles = []
    for name, module in model.named_modules():
        if is_experts(module):
            handles.append(module.register_forward_pre_hook(experts, with_kwargs=True))
        elif is_scaled_experts(module):
            handles.append(module.register_forward_pre_hook(scaled))
        elif name.endswith(DOWN):
            handles.append(module.register_forward_pre_hook(dense))
    model(input_ids=torch.from_numpy(ids).long()[None], use_cache=False)
    for handle in handles:
        handle.remove()
    return seen


def expected_of(model, samples) -> dict[str, list[list[np.ndarray]]]:
    every = [activations(model, ids) for ids in samples]
    mean = [[(a[1:] if len(a) > 1 else a).mean(axis=0) for a in sample] for sample in every]
    return {"mean": mean, "drift": [[a[-1] - a[0] for a in sample] for sample in every]}


@pytest.mark.parametrize("name", KINDS)
def test_readings(name: str) -> None:
    config = config_for(name)
    weight = WEIGHTS.get(name, 0.3)
    loaded, reference = prepare(build(config, weight=weight), None), build(config, "eager", weight)
    expected = expected_of(reference, SAMPLES)
    assert loaded.widths == [len(a) for a in expected["mean"][0]]
    assert KINDS[name][2] in (None, loaded.widths)
    for prefix in (None, PREFIX):
        for batch_tokens in (40, 10_000):
            sink = run(loaded, SAMPLES, prefix=prefix, batch_tokens=batch_tokens, readings=("mean", "drift"))
            assert sink.finite.all()
            for reading, samples in expected.items():
                for i, sample in enumerate(samples):
                    for ordinal, values in enumerate(sample):
                        got = sink.readings[reading][i, sink.layout.neurons(ordinal)]
                        assert worst_error(got, values) <= 1e-5, (reading, i, ordinal, prefix is not None)


@pytest.mark.parametrize("name", ["mixtral", "qwen3.5_moe", "gpt_oss", "nemotron_h", "llama4"])
def test_capture(name: str) -> None:
    """Padded on the right by somebody else, and the outputs stay as they were."""
    model = build(config_for(name))
    ids, mask = torch.randint(3, 60, (3, 9)), torch.ones(3, 9, dtype=torch.long)
    mask[1, 5:] = mask[2, 1:] = 0
    with torch.no_grad():
        before = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
        with nait_fast.capture(model, ("mean", "drift")) as captured:
            after = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
    assert (after - before)[mask.bool()].norm() <= 1e-5 * before[mask.bool()].norm()
    assert torch.equal(model(input_ids=ids, attention_mask=mask, use_cache=False).logits, before)
    lengths = mask.sum(dim=1).tolist()
    expected = expected_of(model, [row[:n].numpy() for row, n in zip(ids, lengths, strict=True)])
    for reading, samples in expected.items():
        for i, sample in enumerate(samples):
            for got, values in zip(captured[reading], sample, strict=True):
                assert worst_error(got[i], values) <= 1e-5


def test_nag_is_refused() -> None:
    model = build(config_for("mixtral"))
    with (
        pytest.raises(NaitError, match=r"^model: the reading up_abs, .* is of dense MLPs"),
        nait_fast.capture(model, ("up_abs",)),  # before any forward
    ):
        raise AssertionError("the block is entered")


def test_chosen_layers() -> None:
    config = config_for("deepseek_v3")
    every, last = prepare(build(config), None), prepare(build(config), None, layers="1")
    assert [spec.layer for spec in every.specs] == [0, 1, 1, 2, 2] and [spec.layer for spec in last.specs] == [1, 1]
    sink, part = (run(model, SAMPLES, readings=("mean",)) for model in (every, last))
    of_layer = slice(sink.layout.neurons(1).start, sink.layout.neurons(2).stop)
    assert torch.equal(sink.readings["mean"][:, of_layer], part.readings["mean"])


def test_what_the_probe_finds() -> None:
    specs = find_specs(build(config_for("mixtral")))
    probe(specs)
    kind = type(specs[0].module)
    specs[0].module.__class__ = type(
        "Doubled", (kind,), {"forward": lambda self, x, i, w: 2 * kind.forward(self, x, i, w)}
    )
    with pytest.raises(
        NaitError, match="layer 0: Doubled looks like transformers' experts but computes something else"
    ):
        probe(specs)


def test_what_the_probe_finds_of_scaled_experts() -> None:
    """Weights that multiply what comes out, as elsewhere, are none that multiply what goes in."""
    specs = find_specs(build(config_for("llama4")))
    probe(specs)
    block = next(spec.module for spec in specs if isinstance(spec, ScaledExpertsSpec))

    def forward(self, x):
        x = x.reshape(-1, x.shape[-1])
        scores, logits = self.router(x)
        routed = self.experts(x.repeat(scores.shape[1], 1)).reshape(scores.shape[1], *x.shape)
        return self.shared_expert(x) + (routed * scores.T[..., None]).sum(dim=0), logits

    block.__class__ = type("Weighed", (type(block),), {"forward": forward})
    with pytest.raises(
        NaitError, match="layer 1: Weighed looks like Llama 4's mixture of experts but computes something else"
    ):
        probe(specs)


def test_tokens_of_nobody() -> None:
    """Padding on either side, and a first token that does not count, stay beside their sequence."""
    starts, ends = torch.tensor([2, 6, 8]), torch.tensor([5, 8, 9])
    sequence, counted = sequences_of(starts, ends, 11, torch.device("cpu"))
    assert sequence.tolist() == [0, 0, 0, 0, 0, 0, 1, 1, 2, 2, 2]
    assert counted.tolist() == [0, 0, 1, 1, 1, 0, 1, 1, 1, 0, 0]


class Kept(CapturedForward):
    """The statistics of each layer, as they come."""

    def __init__(self, segments: Segments):
        super().__init__(segments)
        self.stats: list[Stats] = []

    def take(self, ordinal: int, stats: Stats) -> None:
        self.stats.append(stats)


@pytest.mark.parametrize("name", ["gpt_oss", "deepseek_v3", "llama4"])
def test_weighted_tokens(name: str) -> None:
    """Experts heed a token's weight, and where first and last are read, as dense MLPs do."""
    model = build(config_for(name))
    ids = sequences((11,))[0]
    segments = Segments(torch.tensor([0, 5]), torch.tensor([5, 11]), torch.tensor([True, False]))
    segments.weights = torch.tensor([3.0, 0, 1, 2, 0, 0, 0, 1, 2.5, 3, 0])
    segments.first_at, segments.last_at = torch.tensor([2, -1]), torch.tensor([-1, 9])
    specs = find_specs(model)
    capture = Capture(specs, frozenset({"first", "last", "sum"}), stop=False)
    with torch.no_grad(), patched(capture):
        capture.forward = forward = Kept(segments)
        model(input_ids=torch.from_numpy(ids).long()[None], use_cache=False)
    expected = activations(model, ids)
    assert len(forward.stats) == len(expected)
    weights = segments.weights.double().numpy()[:, None]
    for stats, a in zip(forward.stats, expected, strict=True):
        sums = [(weights * a)[1:5].sum(axis=0), (weights * a)[5:].sum(axis=0)]
        nothing = np.zeros_like(a[0])
        pairs = [(stats.sum, sums), (stats.first, [a[2], nothing]), (stats.last, [nothing, a[9]])]
        for got, values in pairs:
            assert worst_error(got, np.stack(values)) <= 1e-5


@pytest.mark.parametrize("name", ["qwen3_moe dense", "qwen3.5_moe", "gpt_oss", "deepseek_v3", "llama4"])
def test_router(name: str) -> None:
    """The weights that experts are given, of the layers that have experts."""
    config, weight, seen = config_for(name), WEIGHTS.get(name, 0.3), dict[int, np.ndarray]()
    loaded, reference = prepare(build(config, weight=weight), None, experts="router"), build(config, "eager", weight)
    layers = [spec.layer for spec in find_specs(reference) if isinstance(spec, RoutedSpec)]
    modules = [module for module in reference.modules() if is_experts(module) or is_scaled_experts(module)]
    assert [spec.layer for spec in loaded.specs] == layers and loaded.experts == "router"
    assert loaded.widths == [module.num_experts for module in modules]

    def keep(module, args, kwargs):
        if is_scaled_experts(module):
            scores, _ = module.router(args[0].reshape(-1, args[0].shape[-1]))
            seen[modules.index(module)] = scores.double().numpy()
            return
        _, index, weights = (*args, *kwargs.values())
        mass = torch.zeros(len(index), module.num_experts, dtype=torch.float64)
        seen[modules.index(module)] = mass.scatter_add_(1, index, weights.double()).numpy()

    for module in modules:
        module.register_forward_pre_hook(keep, with_kwargs=True)
    for prefix in (None, PREFIX):
        sink = run(loaded, SAMPLES, prefix=prefix, readings=("mean", "drift"))
        for i, ids in enumerate(SAMPLES):
            with torch.no_grad():
                reference(input_ids=torch.from_numpy(ids).long()[None], use_cache=False)
            for ordinal, mass in seen.items():
                neurons = sink.layout.neurons(ordinal)
                mean = (mass[1:] if len(mass) > 1 else mass).mean(axis=0)
                assert worst_error(sink.readings["mean"][i, neurons], mean) <= 1e-5
                assert np.abs(sink.readings["drift"][i, neurons].numpy() - (mass[-1] - mass[0])).max() <= 1e-5


def test_no_router_to_read() -> None:
    with pytest.raises(NaitError, match=r"^--experts router: no experts in layers 1 of Qwen3MoeModel; leave it out"):
        prepare(build(config_for("qwen3_moe dense")), None, layers="1", experts="router")
