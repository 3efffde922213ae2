"""LoRA folders: base and adapter, read as plain hooks on peft's own model read them."""

import importlib.util
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoModelForCausalLM

from nait_fast import env
from nait_fast.errors import MissingExtra, NaitError
from nait_fast.models.load import load_model, prepare
from nait_fast.models.model_identity import weights_hash
from tests import naive
from tests.conftest import make_tokenizer
from tests.models.test_experts import activations
from tests.models.tiny import READINGS, build, config_of, llama, run, sequences, worst_error

peft = pytest.importorskip("peft")

EVERY = {"vocab_size": 600}
TARGETS = ["q_proj", "v_proj", "gate_proj", "up_proj", "down_proj"]
PREFIX = np.random.default_rng(1).integers(3, 60, 12).astype(np.int32)
SAMPLES = [*sequences((1, 2, 9, 33)), *sequences((1, 9), seed=2, prefix=PREFIX), PREFIX]


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    llama(**EVERY).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


def adapt(base: Path, folder: Path, seed: int = 1, **settings) -> str:
    """Writes a random adapter of ``base`` into ``folder``."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    config = peft.LoraConfig(**{"r": 4, "target_modules": TARGETS, "task_type": "CAUSAL_LM"} | settings)
    adapted = peft.get_peft_model(model, config)
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in adapted.named_parameters():
        if "lora_" in name or "modules_to_save" in name or "trainable_tokens" in name:
            parameter.data = 0.3 * torch.randn(parameter.shape, generator=generator)
    adapted.save_pretrained(folder)
    return str(folder)


@pytest.fixture
def adapter(base, tmp_path):
    def make(name: str = "adapter", **settings) -> str:
        return adapt(base, tmp_path / name, **settings)

    return make


def reference(folder: str, base: Path, **named):
    """peft's own model, with eager attention."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32, attn_implementation="eager", **named)
    return peft.PeftModel.from_pretrained(model, folder).eval()


def refusal(folder: str) -> str:
    with pytest.raises(NaitError) as caught:
        load_model(folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def edit(folder: str, **values) -> str:
    file = Path(folder) / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))
    return folder


KINDS = {
    "lora": {},
    "attention alone": {"target_modules": ["q_proj", "v_proj"]},
    "all": {"target_modules": "all-linear", "use_rslora": True},
    "dora": {"use_dora": True},
    "embeddings": {"target_modules": [*TARGETS, "embed_tokens"]},
    "saved whole": {"modules_to_save": ["embed_tokens", "lm_head"]},
    "new tokens": {"trainable_token_indices": [3, 5, 8]},
    "some layers": {"layers_to_transform": [1]},
    "pattern": {"target_modules": r".*model\.layers\.\d\.mlp\.(up|down)_proj"},
}


@pytest.mark.parametrize("kind", KINDS)
def test_readings(adapter, base, kind: str) -> None:
    folder = adapter(**KINDS[kind])
    loaded = load_model(folder)
    assert loaded.packs and loaded.widths == [40] * 3 and len(loaded.tokenizer) == len(make_tokenizer())
    expected = naive.pooled_all(reference(folder, base).double(), SAMPLES)
    plain = naive.pooled_all(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), SAMPLES)
    assert worst_error(plain["mean"], expected["mean"]) > 1e-3
    means = np.linalg.norm(expected["mean"], axis=-1, keepdims=True)
    for prefix in (None, PREFIX):
        for batch_tokens in (40, 10_000):
            sink = run(loaded, SAMPLES, prefix=prefix, batch_tokens=batch_tokens)
            for reading in READINGS:
                off = np.abs(sink.readings[reading].reshape(expected[reading].shape).numpy() - expected[reading])
                size = np.linalg.norm(expected[reading], axis=-1, keepdims=True)
                if reading == "drift":  # of two tokens alike: a difference is as exact as what it is of
                    size = np.maximum(size, means)
                assert (np.linalg.norm(off, axis=-1, keepdims=True) <= 1e-5 * size).all()


@pytest.mark.parametrize("targets", [{"target_modules": ["q_proj", "v_proj"]}, {"target_parameters": ["down_proj"]}])
def test_experts(tmp_path, targets) -> None:
    """Adapters beside experts, and of the experts themselves, whose weights are parameters of one module."""
    config = config_of("mixtral", num_local_experts=4, num_experts_per_tok=2, **EVERY)
    base = tmp_path / "moe"
    build(config).save_pretrained(base)
    make_tokenizer().save_pretrained(base)
    folder = adapt(base, tmp_path / "adapter", **{"target_modules": [], **targets})
    loaded = load_model(folder)
    merged = reference(folder, base).merge_and_unload()
    sink = run(loaded, SAMPLES, readings=("mean",))
    for i, ids in enumerate(SAMPLES):
        for ordinal, a in enumerate(activations(merged, ids)):
            mean = (a[1:] if len(a) > 1 else a).mean(axis=0)
            assert worst_error(sink.readings["mean"][i, sink.layout.neurons(ordinal)], mean) <= 1e-5


def test_half_precision(adapter, base) -> None:
    folder = adapter()
    loaded = load_model(folder, dtype="bfloat16")
    assert loaded.precision == "bfloat16" and loaded.packs
    expected = naive.pooled_all(reference(folder, base), SAMPLES)["mean"]
    sink = run(loaded, SAMPLES, readings=("mean",))
    assert worst_error(sink.readings["mean"].reshape(expected.shape), expected) <= 0.1


def test_fused_forwards_hold_around_it(tmp_path, monkeypatch) -> None:
    pytest.importorskip("triton")
    monkeypatch.setenv("NAIT_FAST_BACKEND", "triton")
    wide = tmp_path / "wide"
    build(config_of("llama", **EVERY, hidden_size=128, head_dim=128), weight=0.1).save_pretrained(wide)
    make_tokenizer().save_pretrained(wide)
    loaded = load_model(adapt(wide, tmp_path / "adapter"), dtype="bfloat16")
    assert len(loaded.fused) == 3 * 3 + 1 and loaded.packs
    fused, plain = (run(model, SAMPLES, readings=("mean",)) for model in (loaded, replace(loaded, fused={})))
    got, expected = (sink.readings["mean"].reshape(len(SAMPLES), 3, -1) for sink in (fused, plain))
    assert worst_error(got, expected) < 0.05


def test_the_fingerprint_covers_both(adapter, base, tmp_path) -> None:
    other_base = tmp_path / "other base"
    shutil.copytree(base, other_base)
    weights = load_file(base / "model.safetensors")
    weights["model.layers.1.self_attn.o_proj.weight"] += 1
    save_file(weights, other_base / "model.safetensors", metadata={"format": "pt"})
    folder = adapter()
    first = load_model(folder).fingerprint
    assert load_model(folder).fingerprint == first
    others = {
        "the base": load_model(str(base)).fingerprint,
        "other weights": load_model(adapter("other", seed=2)).fingerprint,
        "another strength": load_model(edit(adapter("strong"), lora_alpha=16)).fingerprint,
        "another base": load_model(edit(adapter("moved"), base_model_name_or_path=str(other_base))).fingerprint,
    }
    assert len({first, *others.values()}) == 5
    assert prepare(reference(folder, base), None).fingerprint == first
    off = reference(folder, base)
    off.base_model.disable_adapter_layers()
    assert prepare(off, None).fingerprint not in (first, *others.values())


def test_both_are_hashed_once(adapter, base, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv(env.CACHE, str(tmp_path / "cache"))
    calls: list[int] = []

    def counted(tensors):
        calls.append(len(tensors))
        return weights_hash(tensors)

    monkeypatch.setattr("nait_fast.models.model_identity.weights_hash", counted)
    own_base = Path(shutil.copytree(base, tmp_path / "own base"))
    folder = Path(edit(adapter(), base_model_name_or_path=str(own_base)))
    for file in (*own_base.iterdir(), *folder.iterdir()):
        os.utime(file, ns=(10**18, 10**18))
    first = load_model(str(folder)).fingerprint
    assert load_model(str(folder)).fingerprint == first and len(calls) == 1
    for changed in (folder / "adapter_model.safetensors", own_base / "model.safetensors"):
        os.utime(changed, ns=(10**18 + 1, 10**18 + 1))
        assert load_model(str(folder)).fingerprint == first
    assert len(calls) == 3


def test_what_lies_behind_the_chosen_layers_does_not_count(adapter) -> None:
    one, other = adapter("one"), adapter("other")
    file = Path(other) / "adapter_model.safetensors"
    weights = {name: weight * 2 if ".layers.2." in name else weight for name, weight in load_file(file).items()}
    save_file(weights, file, metadata={"format": "pt"})
    assert load_model(one, layers="0,1").fingerprint == load_model(other, layers="0,1").fingerprint
    assert load_model(one).fingerprint != load_model(other).fingerprint


def test_its_own_tokenizer_comes_first(adapter, base) -> None:
    folder = adapter()
    make_tokenizer(chat_template="{{ messages }}").save_pretrained(folder)
    assert load_model(folder).tokenizer.chat_template == "{{ messages }}"
    assert load_model(folder, tokenizer=str(base)).tokenizer.chat_template != "{{ messages }}"


def test_a_configuration_beside_it_is_not_the_base(adapter, base) -> None:
    folder = adapter()
    shutil.copy(base / "config.json", folder)
    assert load_model(folder).widths == [40] * 3
    shutil.copy(base / "model.safetensors", folder)
    assert "beside a whole model: which of them is meant" in refusal(folder)


@pytest.mark.parametrize("named", [None, ["LlamaModel"], ["OfTomorrowForCausalLM"]])
def test_a_base_that_does_not_name_the_class_it_was_trained_in(adapter, base, tmp_path, named) -> None:
    folder, bare = adapter(), Path(shutil.copytree(base, tmp_path / "bare"))
    config = json.loads((bare / "config.json").read_text())
    (bare / "config.json").write_text(json.dumps(config | {"architectures": named}))
    expected = load_model(folder).fingerprint
    assert load_model(edit(folder, base_model_name_or_path=str(bare))).fingerprint == expected


def test_an_adapter_of_a_body(base, tmp_path) -> None:
    """Of a task without a head, and of one that names its class: weights are named without the causal LM's 'model.'."""
    prints = set()
    for name, task in (("features", "FEATURE_EXTRACTION"), ("none", None)):
        torch.manual_seed(0)
        body = AutoModel.from_pretrained(base, dtype=torch.float32)
        config = peft.LoraConfig(r=2, target_modules=["up_proj"], task_type=task, init_lora_weights=False)
        peft.get_peft_model(body, config).save_pretrained(tmp_path / name)
        prints.add(load_model(str(tmp_path / name)).fingerprint)
    assert len(prints) == 1


def test_peft_is_missing(adapter, monkeypatch) -> None:
    folder, own = adapter(), importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "peft" else own(name, *rest))
    with pytest.raises(MissingExtra, match=r'an adapter of .*, which needs peft: pip install "nait-fast\[lora\]"$'):
        load_model(folder)


@pytest.mark.parametrize(
    "values, message",
    [
        ({"peft_type": "IA3"}, "of the kind IA3; LoRA's alone are read; merge the two first"),
        ({"base_model_name_or_path": None}, "adapter_config.json does not name its base model; write the folder"),
        ({"base_model_name_or_path": "/no/where"}, "an adapter of /no/where, which is not there; write the folder"),
        ({"base_model_name_or_path": "a/b", "revision": "v2"}, "an adapter of a/b at revision v2, where main alone"),
        ({"alora_invocation_tokens": [1, 2]}, "acts on some tokens only"),
        ({"peft_type": None, "target_modules": 3}, "of the kind NONE"),
    ],
)
def test_refused_by_its_settings(adapter, values, message) -> None:
    assert message in refusal(edit(adapter(), **values))


def test_other_folders_as_base(adapter, tmp_path) -> None:
    assert "which is no model's folder" in refusal(edit(adapter(), base_model_name_or_path=str(tmp_path)))
    first, second = adapter("first"), adapter("second")
    shutil.copy(tmp_path / "adapter" / "adapter_config.json", Path(first) / "config.json")
    assert "which is an adapter, too" in refusal(edit(second, base_model_name_or_path=first))
    (Path(second) / "adapter_config.json").write_text("{")
    assert "its adapter_config.json cannot be read" in refusal(second)


def change(folder: str, rename) -> str:
    file = Path(folder) / "adapter_model.safetensors"
    named = {rename(name): weight for name, weight in load_file(file).items()}
    save_file({name: weight for name, weight in named.items() if name}, file, metadata={"format": "pt"})
    return folder


def test_weights_that_do_not_fit(adapter, base, tmp_path) -> None:
    without = change(adapter("without"), lambda name: None if "layers.1.mlp.up" in name else name)
    assert "the adapter lacks 2 weights, first layers.1.mlp.up_proj.lora_A.default.weight" in refusal(without)
    more = edit(adapter("more"), target_modules=["q_proj", "v_proj"])
    assert "the adapter has more than its base takes: 18 weights, first layers.0.mlp.down_proj.lora_A" in refusal(more)
    renamed = change(adapter("renamed"), lambda name: name.replace("model.layers", "model.blocks"))
    assert "the adapter lacks 30 weights" in refusal(renamed)
    wide = tmp_path / "wide"
    build(config_of("llama", **EVERY, intermediate_size=48)).save_pretrained(wide)
    make_tokenizer().save_pretrained(wide)
    other = edit(adapter("other"), base_model_name_or_path=str(wide))
    assert "the adapter does not fit its base model" in refusal(other) and "merge the two first" in refusal(other)
