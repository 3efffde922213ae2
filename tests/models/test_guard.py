"""What is read is the text decoder's MLPs, each once a token, and finite; a vision tower may be deeper."""

import numpy as np
import pytest
import torch
import transformers
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

import nait_fast
from nait_fast.errors import NaitError
from nait_fast.models.find import decoder_layers
from nait_fast.models.load import apart, load_model, prepare
from nait_fast.models.spec import text_decoder
from nait_fast.notices import NaitWarning
from tests.conftest import make_tokenizer
from tests.models.tiny import COMMON, GPT, build, config_of, llama, run, sequences, worst_error
from tests.test_live_capture import padded

TEXT = COMMON | {
    "hidden_size": 16,
    "intermediate_size": 40,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "max_position_embeddings": 128,
}
VISION = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_attention_heads": 2,
    "num_hidden_layers": 5,
    "image_size": 28,
    "patch_size": 14,
}
TOKENS = {"image_token_id": 59, "image_token_index": 59, "pad_token_id": 0}
CROSS = [1, 3]  # Mllama's layers that look at images


def randomised(model: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        parameter.data = 0.3 * noise if parameter.dim() > 1 else parameter.data + 0.1 * noise
    model.tie_weights()
    return model.eval()


def multimodal(kind: str) -> nn.Module:
    """A tiny model whose vision tower is deeper than its text decoder (but Mllama's)."""
    torch.manual_seed(0)
    if kind == "mllama":
        text = TEXT | {"num_hidden_layers": 4, "cross_attention_layers": CROSS}
        text["rope_parameters"] = {"rope_type": "default", "rope_theta": 1e4}
        vision = VISION | {
            "num_hidden_layers": 2,
            "num_global_layers": 1,
            "attention_heads": 2,
            "vision_output_dim": 32,
        }
        vision |= {"intermediate_layers_indices": [1], "max_num_tiles": 1, "supported_aspect_ratios": [[1, 1]]}
        config = config_of(kind, {}, text_config=text, vision_config=vision, **TOKENS)
        return randomised(transformers.MllamaForConditionalGeneration(config))
    classes = {
        "smolvlm": "SmolVLMForConditionalGeneration",
        "idefics3": "Idefics3ForConditionalGeneration",
        "llava": "LlavaForConditionalGeneration",
    }
    vision = VISION | {"model_type": "clip_vision_model"} if kind == "llava" else VISION
    text = TEXT | {"model_type": "llama"}
    config = config_of(kind, {}, text_config=text, vision_config=vision, **TOKENS)
    return randomised(getattr(transformers, classes[kind])(config))


def expected(body: nn.Module, ids, layers) -> list[torch.Tensor]:
    """Means of the layers by plain hooks, one sample at a time: a tensor [n, J] each."""
    kept: dict[int, list[torch.Tensor]] = {layer: [] for layer in layers}
    handles = [
        decoder_layers(body)[layer].mlp.down_proj.register_forward_pre_hook(
            lambda module, args, layer=layer: kept[layer].append(args[0][0])
        )
        for layer in layers
    ]
    with torch.no_grad():
        for x in ids:
            body(input_ids=torch.from_numpy(x).long()[None], use_cache=False)
    for handle in handles:
        handle.remove()
    return [torch.stack([(a[1:] if len(a) > 1 else a).double().mean(dim=0) for a in kept[layer]]) for layer in layers]


@pytest.mark.parametrize("kind", ["smolvlm", "idefics3", "llava", "mllama"])
def test_the_decoders_layers_are_read(kind, tmp_path):
    model = multimodal(kind)
    model.save_pretrained(tmp_path)
    make_tokenizer().save_pretrained(tmp_path)
    layers = [0, 2] if kind == "mllama" else [0, 1, 2]
    ids = sequences()
    means = expected(text_decoder(model), ids, layers)
    if kind == "mllama":
        with pytest.warns(NaitWarning, match="layers 1, 3 do not run on text.*left out"):
            loaded = load_model(str(tmp_path))
    else:
        loaded = load_model(str(tmp_path))
    assert [spec.layer for spec in loaded.specs] == layers and loaded.widths == [40] * len(layers)
    by_name = load_model(str(tmp_path), layers=",".join(map(str, layers)))  # without those that do not run
    assert by_name.fingerprint == loaded.fingerprint
    got = run(loaded, ids, readings=["mean"]).readings["mean"].view(len(ids), len(layers), 40)
    assert worst_error(got, torch.stack(means, dim=1)) <= 1e-5

    batch, mask = padded(ids, "right")
    with torch.no_grad(), nait_fast.capture(model) as captured:
        if kind == "mllama":
            with pytest.warns(NaitWarning, match="layers 1, 3 did not run"):
                model(input_ids=batch, attention_mask=mask)
        else:
            model(input_ids=batch, attention_mask=mask)
    assert captured.layers == layers
    assert worst_error(captured.stacked("mean"), torch.stack(means, dim=1)) <= 1e-5


def test_layers_that_never_run_on_text():
    model = multimodal("mllama")
    with pytest.raises(
        NaitError, match=r"none of the chosen layers \(1, 3\) runs on text; choose others with --layers"
    ):
        prepare(model, None, layers="1,3")
    ids = torch.full((1, 4), 5)
    with (
        torch.no_grad(),
        nait_fast.capture(model, layers="1,3"),
        pytest.raises(NaitError, match=r"none of the layers \[1, 3\] has run"),
    ):
        model(input_ids=ids)


class Twice(nn.Module):
    """A decoder layer that runs its own layer two times over."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, hidden, **named):
        return self.layer(self.layer(hidden, **named), **named)


class Stacked(nn.Module):
    """A decoder layer that runs over twice as many rows as there are tokens."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, hidden, **named):
        return self.layer(torch.cat([hidden, hidden], dim=0), **named)[:1]


@pytest.mark.parametrize(
    "wrapper, message",
    [(Twice, "the MLP of layer 1 runs (2 times|more than once) a forward"), (Stacked, "the MLP of layer 1 runs over")],
)
def test_an_mlp_that_does_not_run_once_a_token(wrapper, message):
    model = llama()
    model.model.layers[1] = wrapper(model.model.layers[1])
    with pytest.raises(NaitError, match=message):
        prepare(model, None)
    with torch.no_grad(), nait_fast.capture(model), pytest.raises(NaitError, match=message):
        model(torch.full((1, 6), 5))


def test_a_count_of_layers_that_is_not_there():
    model = llama()
    model.config.num_hidden_layers = 7
    with pytest.raises(NaitError, match="its configuration counts 7 layers, but its lists of layers with MLPs hold 3"):
        prepare(model, None)


def test_each_layer_is_probed_not_one_of_a_kind():
    """Layers may be of one class, and a number in the configuration makes some of them compute something else."""
    model = build(config_of("llama"))
    kind = type(model.model.layers[0].mlp)
    scaled = type("ScaledMLP", (kind,), {"forward": lambda self, x: kind.forward(self, x) * self.scale})
    for layer, scale in zip(model.model.layers, (1.0, 1.0, 2.0), strict=True):
        layer.mlp.__class__, layer.mlp.scale = scaled, scale
    message = "layer 2: ScaledMLP looks like the family of Llama.* but computes something else"
    for use in (lambda: prepare(model, None), nait_fast.capture(model).__enter__):
        with pytest.raises(NaitError, match=message):
            use()
    dense = prepare(model, None, layers="0-1")
    ids = sequences()
    got = run(dense, ids, readings=["mean"]).readings["mean"].view(len(ids), 2, 40)
    assert worst_error(got, torch.stack(expected(dense.body, ids, [0, 1]), dim=1)) <= 1e-5


# ------------------------------------------------------------------------------------------------- numbers


@pytest.mark.parametrize(
    "dtype, value, message",
    [
        (
            torch.float32,
            float("nan"),
            r"its weight layers.1.mlp.up_proj.weight is NaN .* \(float32\); fetch the checkpoint",
        ),
        (
            torch.float16,
            float("inf"),
            r"up_proj.weight is .*infinite in places \(float16\); use --dtype float32 or bfloat16;",
        ),
        (
            torch.float16,
            6e4,
            r"its activations are NaN or infinite from layer 1 on \(float16\); use --dtype float32 or bfl",
        ),
        (
            torch.bfloat16,
            1e38,
            r"its activations are NaN or infinite from layer 1 on \(bfloat16\); use --dtype float32$",
        ),
    ],
)
def test_numbers_that_are_not_finite(dtype, value, message):
    model = llama().to(dtype)
    model.model.layers[1].mlp.up_proj.weight.data[:] = value
    with pytest.raises(NaitError, match=message):
        prepare(model, None)


def test_a_forward_that_fails_is_one_line():
    model = llama()

    def forward(*arguments, **named):
        raise RuntimeError("mat1 and mat2 must have the same dtype,\nbut got Float and BFloat16")

    model.model.layers[1].self_attn.forward = forward
    with pytest.raises(NaitError, match=r"a forward of a few tokens fails \(RuntimeError: mat1 and mat2 .* dtype,\)$"):
        prepare(model, None)


@pytest.mark.parametrize("kind", ["gpt2", "openai-gpt"])
def test_a_sample_longer_than_the_models_positions(kind):
    loaded = prepare(build(config_of(kind, GPT)), None)
    assert loaded.positions == 128
    assert run(loaded, sequences((128,)), readings=["mean"]).finite.all()
    with pytest.raises(NaitError, match="it has 128 positions, and a sample 129 tokens; use --max-length 128"):
        run(loaded, sequences((3, 129)), readings=["mean"])


def test_a_later_forward_that_fails_is_one_line():
    loaded = prepare(llama(), None)
    assert loaded.positions is None
    with pytest.raises(
        NaitError, match=r"a forward of 1 samples, the longest of 4 tokens, fails \(IndexError: "
    ) as caught:
        run(loaded, [np.array([3, 4, 10_000, 5], dtype=np.int32)], readings=["mean"])
    assert isinstance(caught.value.__cause__, IndexError)


def test_an_mlp_that_fails_is_one_line():
    model = llama()
    model.model.layers[1].mlp.up_proj.to(torch.bfloat16)
    with pytest.raises(NaitError, match=r"layer 1: LlamaMLP fails \(RuntimeError: "):
        prepare(model, None)


def test_weights_that_are_not_in_memory():
    model = llama()
    model.model.layers[1].mlp.up_proj.to("meta")
    message = r"LlamaForCausalLM: 1 of its weights are not in memory \(on the meta device\), first layers.1.mlp.up_proj"
    for use in (lambda: prepare(model, None), nait_fast.capture(model).__enter__):
        with pytest.raises(NaitError, match=message.replace("first layers", "first (model.)?layers")):
            use()


def test_a_wrapper_in_memory():
    for use in (lambda m: prepare(m, None), lambda m: nait_fast.capture(m).__enter__()):
        with pytest.raises(NaitError, match=r"DataParallel is no transformers model .* without its wrapper"):
            use(nn.DataParallel(llama()).eval())


def uses(model: nn.Module) -> list:
    """Every way in of a model in memory."""
    return [lambda: apart(model), lambda: prepare(model, None), nait_fast.capture(model).__enter__]


def test_a_model_spread_over_devices_is_refused():
    """As device_map='auto' leaves it where there are several GPUs; a fake tensor is on a device that is not there."""
    model = llama()
    with FakeTensorMode():
        weight = torch.empty(40, 16, device="cuda:1")
    model.model.layers[1].mlp.up_proj.weight = nn.Parameter(weight, requires_grad=False)
    for use in uses(model):
        with pytest.raises(
            NaitError, match=r"LlamaForCausalLM: its weights lie on 2 devices \(cpu, cuda:1\), which .*; load it on one"
        ):
            use()


def test_a_head_elsewhere_is_of_no_matter():
    model, ids = llama(), sequences()
    with FakeTensorMode():
        weight = torch.empty(60, 16, device="cuda:1")
    model.lm_head.weight = nn.Parameter(weight, requires_grad=False)
    assert torch.equal(run(prepare(apart(model), None), ids).readings["mean"], run_plain(ids))


def run_plain(ids) -> torch.Tensor:
    return run(prepare(llama(), None), ids).readings["mean"]


def test_accelerates_hooks_on_one_device():
    accelerate = pytest.importorskip("accelerate")
    model, ids = accelerate.dispatch_model(llama(), {"": "cpu"}, force_hooks=True), sequences()
    assert "forward" in vars(model.model.layers[0].mlp)
    for mine in (model, apart(model)):
        assert torch.equal(run(prepare(mine, None), ids).readings["mean"], run_plain(ids))
    batch, mask = padded(ids, "right")
    found = []
    for each in (model, llama()):
        with torch.no_grad(), nait_fast.capture(each) as captured:
            each(input_ids=batch, attention_mask=mask)
        found.append(captured.stacked("mean"))
    assert torch.equal(*found)


@pytest.mark.parametrize("where", ["cpu", "disk"])
def test_offloaded_weights_are_refused_before_they_are_copied(where, tmp_path):
    accelerate = pytest.importorskip("accelerate")
    offload = accelerate.cpu_offload if where == "cpu" else accelerate.disk_offload
    model = offload(llama(), *(["cpu"] if where == "cpu" else [str(tmp_path), "cpu"]))
    for use in uses(model):
        with pytest.raises(NaitError, match=r"(29|30) of its weights are not in memory .*; load it whole"):
            use()
