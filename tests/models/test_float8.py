"""Products in FP8: the layer against its definition, the model against bfloat16, what is refused and what is left."""

import copy
import weakref
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from nait_fast.codecs.layout import CodeLayout
from nait_fast.errors import NaitError
from nait_fast.kernels.float8 import reference
from nait_fast.models import float8
from nait_fast.models.find import decoder_layers, find_specs
from nait_fast.models.float8 import BOUND, Float8Linear, to_float8
from nait_fast.models.load import load_model, pick_dtype, prepare
from nait_fast.notices import NaitWarning
from tests.conftest import make_tokenizer
from tests.models.tiny import GPT, MODERN, build, config_of, llama, run, sequences

WIDE = {"hidden_size": 64, "intermediate_size": 96, "head_dim": 32}
wide = partial(llama, **WIDE)


def linear(inputs=64, outputs=48, bias=True, seed=0) -> nn.Linear:
    torch.manual_seed(seed)
    return nn.Linear(inputs, outputs, bias=bias).bfloat16()


def saved(tmp_path, model):
    model.save_pretrained(tmp_path)
    make_tokenizer().save_pretrained(tmp_path)
    return str(tmp_path)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("rows", [1, 31, 33])
def test_the_layers_product_is_its_definitions(rows, bias):
    plain = linear(bias=bias)
    x = torch.randn(rows, 64).bfloat16()
    (a, a_scale), (b, b_scale) = reference.quantise_rows(x), reference.quantise_rows(plain.weight.detach())
    expected = reference.product(a, a_scale, b, b_scale)
    expected = expected if plain.bias is None else expected + plain.bias.float()
    got = Float8Linear(plain)(x)
    assert got.dtype == torch.bfloat16 and got.shape == (rows, 48)
    assert torch.allclose(got.float(), expected, rtol=2**-7, atol=2**-7 * float(expected.abs().mean()))
    error = (got.float() - plain(x).float()).norm() / plain(x).float().norm()
    assert 0.005 < error < 0.05  # 3 bits of mantissa, and no fewer


def test_a_tokens_numbers_depend_on_no_other():
    layer, x = Float8Linear(linear()), torch.randn(33, 64).bfloat16()
    x[5] *= 1000
    assert torch.equal(layer(x)[7:9], layer(x[7:9]))
    shaped = layer(x.view(3, 11, 64))
    assert shaped.shape == (3, 11, 48) and torch.equal(shaped.view(33, 48), layer(x))
    assert layer(x[:0]).shape == (0, 48)


def counted(monkeypatch) -> list[torch.Tensor]:
    """What is quantised from now on, in order."""
    seen: list[torch.Tensor] = []
    plain = float8.quantise_rows
    monkeypatch.setattr(float8, "quantise_rows", lambda x: (seen.append(x.clone()), plain(x))[1])
    return seen


def test_what_several_layers_take_is_quantised_once(tmp_path, monkeypatch):
    loaded = load_model(saved(tmp_path, wide()), dtype="float8")
    expected = run(loaded, sequences([5, 9]))
    seen = counted(monkeypatch)
    with torch.inference_mode():
        loaded.body(input_ids=torch.arange(6)[None], use_cache=False)
    # Of a layer: query, key and value; what attention gives; gate and up; neurons.
    assert len(seen) == 4 * len(decoder_layers(loaded.body))
    monkeypatch.setattr(float8, "_rows_of", reference.quantise_rows)
    again = run(loaded, sequences([5, 9]))
    assert all(torch.equal(again.readings[name], values) for name, values in expected.readings.items())


def test_only_the_same_numbers_of_a_tensor_that_lives_are_kept(monkeypatch):
    layer, seen = Float8Linear(linear()), counted(monkeypatch)
    x = torch.randn(3, 64).bfloat16()
    first = layer(x)
    assert torch.equal(layer(x), first) and len(seen) == 1
    x[0] += 1
    changed = layer(x)
    assert len(seen) == 2 and not torch.equal(changed[0], first[0]) and torch.equal(changed[1:], first[1:])
    layer(x.clone())
    assert len(seen) == 3
    layer(x)
    assert len(seen) == 4 and float8._last.known is not None
    del x
    assert float8._last.known is None


def test_zeros_and_what_is_not_finite():
    layer = Float8Linear(linear(bias=False))
    x = torch.randn(4, 64).bfloat16()
    x[0], x[1, 3], x[2, 5] = 0, torch.inf, torch.nan
    out = layer(x)
    assert not out[0].any() and torch.isfinite(out[3]).all()
    assert not torch.isfinite(out[1:3]).any()
    with pytest.raises(TypeError, match=r"bfloat16, not torch\.float32"):
        layer(x.float())


def test_a_model_loads_runs_and_says_what_it_is(tmp_path):
    folder = saved(tmp_path, wide())
    half, loaded = (load_model(folder, dtype=dtype) for dtype in ("bfloat16", "float8"))
    assert (loaded.precision, loaded.dtype_class) == ("float8", "float8") and half.dtype_class == "half"
    assert loaded.fingerprint == half.fingerprint and loaded.whole_fingerprint == half.whole_fingerprint
    assert loaded.finite_remedy == "try --dtype float32" and "float8" in loaded.overflow
    layers = decoder_layers(loaded.body)
    assert all(type(m) is Float8Linear for m in layers.modules() if hasattr(m, "in_features"))
    assert all(m.weight.dtype == torch.float8_e4m3fn for m in layers.modules() if type(m) is Float8Linear)
    assert loaded.body.get_input_embeddings().weight.dtype == torch.bfloat16
    ids = sequences()
    packed, of_half = (run(each, ids, readings=["mean"]).readings["mean"] for each in (loaded, half))
    assert 0.005 < (packed - of_half).norm() / of_half.norm() < 0.15
    alone = torch.cat([run(loaded, [x], readings=["mean"]).readings["mean"] for x in ids])
    assert torch.allclose(packed, alone, rtol=0, atol=0.02 * float(packed.abs().max()))


def test_a_subset_of_layers_and_the_head(tmp_path):
    folder = saved(tmp_path, wide())
    loaded = load_model(folder, dtype="float8", layers="0,1", head=True)
    kinds = [type(layer.mlp.up_proj) for layer in decoder_layers(loaded.body)]
    assert kinds == [Float8Linear, Float8Linear, nn.Linear]  # what lies behind the last one hardly runs
    half = load_model(folder, dtype="bfloat16", layers="0,1", head=True)
    assert loaded.whole_fingerprint == half.whole_fingerprint and loaded.head_fingerprint == half.head_fingerprint
    assert loaded.head is not None and loaded.head.weight.dtype == torch.bfloat16


def test_a_weight_is_let_go_where_its_layer_has_run(monkeypatch):
    body = wide().model.bfloat16()
    specs = find_specs(body)
    taken = [linear for _, linear in float8.layers_to_quantise(body, specs)[0]]
    weights, left = [weakref.ref(linear.weight) for linear in taken], []
    del taken

    class Counting(Float8Linear):
        def __init__(self, plain):
            left.append(sum(weight() is not None for weight in weights))
            super().__init__(plain)

    monkeypatch.setattr(float8, "Float8Linear", Counting)
    to_float8(body, specs, "x")
    assert left[0] == len(left) == len(weights) and left[-1] <= 2


def amplified(model, factor: float):
    """The same function, but for rounding: a channel of what goes into each MLP is ``factor`` times as large, and the
    weights that it meets so much smaller."""
    for layer in decoder_layers(model):
        layer.post_attention_layernorm.weight.data[3] *= factor
        for part in (layer.mlp.gate_proj, layer.mlp.up_proj):
            part.weight.data[:, 3] /= factor
    return model


def errors_at(factor: float) -> float:
    body = amplified(wide(), factor).model.bfloat16()
    try:
        return max(v for k, v in to_float8(body, find_specs(body), "x").items() if "neurons" in k)
    except NaitError:
        return float("inf")


def test_outlier_channels_hold_or_are_refused():
    plain = errors_at(1)
    assert plain < BOUND and errors_at(100) < min(BOUND, 1.5 * plain)
    body = amplified(wide(), 1e5).model.bfloat16()
    with pytest.raises(NaitError, match=r"model x: layers\.0\.mlp.*% off in float8, where at most .*--dtype bfloat16"):
        to_float8(body, find_specs(body), "x")


def test_widths_that_are_no_multiples_stay_in_bfloat16(tmp_path):
    folder = saved(tmp_path, llama(hidden_size=64, head_dim=32, intermediate_size=40))
    with pytest.warns(NaitWarning, match=r"9 linear layers stay in bfloat16.*first layers\.0\.mlp\.gate_proj"):
        loaded = load_model(folder, dtype="float8")
    layer = decoder_layers(loaded.body)[0]
    assert type(layer.mlp.up_proj) is nn.Linear and type(layer.self_attn.q_proj) is Float8Linear
    assert loaded.dtype_class == "float8"


def test_layers_that_no_text_runs_are_said(tmp_path):
    model = wide().bfloat16().eval()
    model.model.layers[0].spare = nn.Linear(64, 64, bias=False).bfloat16()
    with pytest.warns(
        NaitWarning, match=r"1 linear layers stay in bfloat16, as no text runs them, first layers\.0\.spare"
    ):
        prepare(model, make_tokenizer(), float8=True)


def test_experts_stay_in_bfloat16(tmp_path):
    config = config_of(
        "qwen2_moe",
        MODERN | WIDE,
        num_experts=16,
        num_experts_per_tok=2,
        moe_intermediate_size=32,
        shared_expert_intermediate_size=48,
        decoder_sparse_step=1,
    )
    folder = saved(tmp_path, build(config))
    with pytest.warns(NaitWarning, match="the products of its experts stay in bfloat16"):
        loaded = load_model(folder, dtype="float8")
    for layer in decoder_layers(loaded.body):
        assert layer.mlp.experts.down_proj.dtype == torch.bfloat16
        assert not any(type(m) is Float8Linear and m.out_features in (1, 16) for m in layer.modules())
        assert type(layer.mlp.shared_expert.up_proj) is Float8Linear
    assert torch.isfinite(run(loaded, sequences(), readings=["mean"]).readings["mean"]).all()


def test_a_model_without_plain_linear_layers_is_refused():
    body = build(config_of("gpt2", GPT)).transformer.bfloat16()  # transformers' Conv1D
    with pytest.raises(NaitError, match=r"none of its layers is a plain linear one.*--dtype bfloat16"):
        prepare(body, None, name="x", float8=True)


def test_quantised_checkpoints_adapters_and_devices_are_refused(tmp_path):
    model = wide().bfloat16()
    model.config.quantization_config = {"quant_method": "fp8"}
    with pytest.raises(NaitError, match=r"quantised already \(fp8\)"):
        float8.refuse_config(model.config, "x")
    with pytest.raises(NaitError, match="--dtype float8: needs an NVIDIA GPU or a CPU, not mps"):
        pick_dtype("float8", torch.device("mps"))
    (tmp_path / "adapter_config.json").write_text(
        f'{{"peft_type": "LORA", "base_model_name_or_path": "{saved(tmp_path / "base", wide())}"}}'
    )
    with pytest.raises(NaitError, match=r"adapter of .* beside its weights, which float8 does not take.*merge"):
        load_model(str(tmp_path), dtype="float8")


def test_weights_that_are_not_finite_are_refused():
    body = copy.deepcopy(wide()).model.bfloat16()
    decoder_layers(body)[1].mlp.up_proj.weight.data[3, 3] = torch.nan
    with pytest.raises(NaitError, match=r"layers\.1\.mlp\.up_proj is nan% off"):
        to_float8(body, find_specs(body), "x")


def test_an_mlp_in_no_module_of_its_own():
    """OPT's lies in the layer: the whole of it runs once more."""
    config = config_of("opt", MODERN | WIDE, ffn_dim=96, word_embed_proj_dim=64, intermediate_size=None, head_dim=None)
    loaded = prepare(build(config).bfloat16(), None, name="x", float8=True)
    got = run(loaded, sequences(), readings=["mean"])
    assert np.isfinite(got.readings["mean"]).all() and CodeLayout.of(loaded.widths).n_neurons == 3 * 96
