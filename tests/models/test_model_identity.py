"""A model's identity: what changes it, what does not, and the hashes that are kept of checkpoints."""

import copy
import json
import os
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from nait_fast import env
from nait_fast.errors import NaitError
from nait_fast.models import weight_cache
from nait_fast.models.find import find_specs
from nait_fast.models.load import load_model, prepare
from nait_fast.models.model_identity import (
    BLOCK,
    block_digest,
    config_values,
    decisive,
    identity_of,
    read_tensors,
    weights_hash,
)
from tests.conftest import make_tokenizer
from tests.models.tiny import MODERN, build, config_of, llama


def identity(model, layers: str = "all") -> str:
    return prepare(model, None, layers=layers).fingerprint


def identity_as_it_is(body, specs) -> str:
    """The identity of a decoder that nothing has run."""
    return identity_of(decisive(body, specs), specs)


def weights_of(model) -> str:
    """The hash of the weights alone: quicker than a model made ready."""
    return weights_hash(dict(read_tensors(model.model, prepare(model, None).specs)))


@pytest.fixture(scope="module")
def model():
    return llama()


@pytest.fixture
def folder(tmp_path: Path, model) -> Path:
    """A checkpoint in bf16, written long enough ago for its hash to be kept."""
    path = tmp_path / "model"
    copy.deepcopy(model).bfloat16().save_pretrained(path)
    make_tokenizer().save_pretrained(path)
    settle(path)
    return path


def settle(folder: Path) -> None:
    for file in folder.iterdir():
        os.utime(file, ns=(10**18, 10**18))


def test_any_one_weight_changes_it(model):
    before = weights_of(model)
    for name in (
        "embed_tokens.weight",
        "layers.0.mlp.up_proj.weight",
        "layers.2.self_attn.q_proj.weight",
        "norm.weight",
    ):
        changed = copy.deepcopy(model)
        flat = changed.model.get_parameter(name).data.view(-1)
        flat[len(flat) // 2 + 1] += 0.001
        assert weights_of(changed) != before, name
    swapped = copy.deepcopy(model)
    up, gate = swapped.model.layers[0].mlp.up_proj, swapped.model.layers[0].mlp.gate_proj
    up.weight, gate.weight = gate.weight, up.weight
    assert weights_of(swapped) != before
    assert weights_of(copy.deepcopy(model)) == before


def test_a_block_has_one_form_whatever_type_holds_it():
    half = torch.randn(1000, generator=torch.Generator().manual_seed(0)).bfloat16()
    digest = block_digest(half)
    assert (
        digest
        == block_digest(half.float())
        == block_digest(half.double())
        == block_digest(half[:, None].expand(-1, 2)[:, 0])
    )
    fp16 = torch.randn(1000, generator=torch.Generator().manual_seed(1)).half()
    assert block_digest(fp16) == block_digest(fp16.float()) == block_digest(fp16.double())
    full = torch.randn(1000, generator=torch.Generator().manual_seed(2))
    assert block_digest(full) == block_digest(full.double()) != block_digest(full.double() + 1e-12)
    nearly = half.float()
    nearly.view(torch.int32)[-1] += 1  # the last bit of the last number
    forms = [half, nearly, fp16, full, half.view(torch.int16), half.view(torch.uint8), -half, half.flip(0)]
    forms += [torch.zeros(4), -torch.zeros(4), torch.zeros(5), torch.zeros(4, dtype=torch.int8)]
    assert len({block_digest(form) for form in forms}) == len(forms)


def test_blocks_lie_where_they_lie_whatever_the_shape():
    """More than one block a tensor, and one that is no slice of memory."""
    whole = torch.arange(BLOCK + 5, dtype=torch.float32)
    assert weights_hash({"w": whole}) == weights_hash({"w": torch.stack([whole, whole], dim=1)[:, 0]})
    late = whole.clone()
    late[-1] += 1
    hashes = [weights_hash(t) for t in ({"w": whole}, {"v": whole}, {"w": late}, {"w": whole[:, None]}, {})]
    assert len(set(hashes)) == len(hashes)


def test_layers_beyond_the_last_chosen_one_are_not_read(model):
    changed, cut = copy.deepcopy(model), copy.deepcopy(model)
    changed.model.layers[2].mlp.up_proj.weight.data[3, 3] += 1
    specs = find_specs(cut)[:2]
    del cut.model.layers[2]
    for chosen in ("0", "1", "0,1"):
        assert identity(model, chosen) == identity(changed, chosen)
    assert identity(model, "0,1") == identity_as_it_is(cut.model, specs)
    assert identity(model) != identity(changed)
    assert len({identity(model, text) for text in ("all", "0", "1", "0,1")}) == 4
    assert identity(model, "0-2") == identity(model)


CHANGES = [
    {"hidden_act": "gelu"},
    {"rms_norm_eps": 1e-5},
    {"rope_parameters": {"rope_type": "default", "rope_theta": 20000.0}},
    {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0}},
    {"num_attention_heads": 1, "head_dim": 16},
    {"max_position_embeddings": 256},
    {"a_key_of_tomorrow": 3},
]


@pytest.mark.parametrize("change", CHANGES, ids=str)
def test_a_value_that_the_forward_reads_changes_it(model, change):
    other = copy.deepcopy(model.config)
    for key, value in change.items():
        setattr(other, key, value)
    assert config_values(other) != config_values(model.config)
    if "num_attention_heads" not in change:
        rebuilt = build(other)
        rebuilt.load_state_dict(model.state_dict())
        assert identity(rebuilt) != identity(model) and weights_of(rebuilt) == weights_of(model)


def test_sliding_windows_and_layer_types_change_it():
    base = config_of("qwen3", **MODERN)
    slides = config_of("qwen3", **MODERN, use_sliding_window=True, sliding_window=8, max_window_layers=1)
    wider = config_of("qwen3", **MODERN, use_sliding_window=True, sliding_window=9, max_window_layers=1)
    assert len({json.dumps(config_values(c), sort_keys=True) for c in (base, slides, wider)}) == 3


def test_what_is_inert_does_not(model):
    other = copy.deepcopy(model.config)
    for key, value in (
        ("use_cache", False),
        ("eos_token_id", 7),
        ("pad_token_id", 5),
        ("attention_dropout", 0.3),
        ("_name_or_path", "x"),
        ("transformers_version", "4.0"),
        ("dtype", torch.bfloat16),
        ("unsloth_fixed", True),
        ("off_by_default", False),
        ("none_yet", None),
        ("architectures", ["Other"]),
        ("initializer_range", 1.0),
        ("id2label", {0: "a"}),
    ):
        setattr(other, key, value)
    assert config_values(other) == config_values(model.config)


def test_files_and_memory_types_and_containers_agree(folder, model):
    """A bf16 checkpoint: as bf16 and fp32, from one file and from shards, with and without its head."""
    half = copy.deepcopy(model).bfloat16()
    rounded = half.model.rotary_emb.inv_freq
    half.model.rotary_emb.inv_freq = model.model.rotary_emb.inv_freq  # which .bfloat16() has rounded, too
    expected = identity(half)
    assert expected == identity(copy.deepcopy(half.model))
    for dtype in ("float32", "bfloat16"):
        assert load_model(str(folder), dtype=dtype).fingerprint == expected
    float32 = copy.deepcopy(half).float()
    assert identity(float32) == expected
    half.save_pretrained(folder, max_shard_size="4KB")
    (folder / "model.safetensors").unlink(missing_ok=True)
    assert len(list(folder.glob("*.safetensors"))) > 1
    assert load_model(str(folder)).fingerprint == expected
    half.model.rotary_emb.inv_freq = rounded  # other numbers at far positions
    assert identity(half) != expected
    assert load_model(str(folder), dtype="bfloat16").dtype_class == "half"
    assert load_model(str(folder)).dtype_class == "float32"


def test_quantised_weights_count_as_they_are_kept(model):
    quantised = copy.deepcopy(model)
    layer = quantised.model.layers[1].self_attn.q_proj
    del layer.weight
    layer.register_buffer("weight", torch.arange(256, dtype=torch.int8).view(16, 16))
    specs = prepare(model, None).specs
    first = identity_as_it_is(quantised.model, specs)
    layer.weight[3, 3] += 1
    second = identity_as_it_is(quantised.model, specs)
    quantised.model.config.quantization_config = {"bits": 8, "group": 32}
    assert len({first, second, identity_as_it_is(quantised.model, specs)}) == 3
    plain = identity_as_it_is(model.model, specs)
    dequantised = copy.deepcopy(model)
    dequantised.model.config.quantization_config = {"bits": 8, "group": 32}  # as of a GGUF file: of its numbers' past
    assert identity_as_it_is(dequantised.model, specs) == plain


def test_weights_that_are_nowhere_are_refused(model):
    empty = copy.deepcopy(model)
    empty.model.layers[1].mlp.up_proj.to("meta")
    with pytest.raises(NaitError, match=r"layers\.1\.mlp\.up_proj\.weight has no values"):
        identity_as_it_is(empty.model, prepare(model, None).specs)


def test_offloaded_weights_are_those_of_the_hook(model):
    accelerate = pytest.importorskip("accelerate")
    specs = prepare(model, None).specs
    offloaded = accelerate.cpu_offload(copy.deepcopy(model), execution_device=torch.device("cpu"))
    assert any(p.device.type == "meta" for p in offloaded.parameters())
    assert identity_as_it_is(offloaded.model, specs) == identity_as_it_is(model.model, specs)


@pytest.fixture
def hashed(monkeypatch, tmp_path):
    """A cache of its own, and how often weights were hashed."""
    monkeypatch.setenv(env.CACHE, str(tmp_path / "cache"))
    calls: list[int] = []

    def counted(tensors):
        calls.append(len(tensors))
        return weights_hash(tensors)

    monkeypatch.setattr("nait_fast.models.model_identity.weights_hash", counted)
    return calls


def test_a_checkpoint_is_hashed_once(folder, hashed, tmp_path):
    first = load_model(str(folder)).fingerprint
    assert len(hashed) == 1
    assert load_model(str(folder)).fingerprint == first and len(hashed) == 1
    load_model(str(folder), layers="0")  # other weights: fewer
    load_model(str(folder), dtype="bfloat16")
    assert len(hashed) == 3
    entries = sorted((tmp_path / "cache" / "weights").iterdir())
    assert len(entries) == 3 and all(entry.suffix == ".json" for entry in entries)
    for damage in (
        b"",
        b"[]",
        b"{",
        b"null",
        b'{"weights": 3}',
        entries[0].read_bytes().replace(b'"weights": "', b'"weights": "f'),
    ):
        for entry in entries:
            entry.write_bytes(damage)
        assert load_model(str(folder)).fingerprint == first
    assert len(hashed) == 9


def test_a_checkpoint_that_changed_is_hashed_anew(folder, hashed):
    """Of the same size and time, in place: only the time that a user cannot set tells."""
    first = load_model(str(folder)).fingerprint
    file = folder / "model.safetensors"
    tensors = load_file(file)
    tensors["model.layers.1.mlp.up_proj.weight"].view(-1)[5] += 1  # none of the values that are sampled
    size = file.stat().st_size
    save_file(tensors, file, metadata={"format": "pt"})
    settle(folder)
    assert file.stat().st_size == size
    assert load_model(str(folder)).fingerprint != first and len(hashed) == 2


def test_a_checkpoint_whose_parts_lie_elsewhere_is_hashed_each_time(folder, hashed):
    tensors = load_file(folder / "model.safetensors")
    (folder / "parts").mkdir()
    (folder / "model.safetensors").rename(folder / "parts" / "one.safetensors")
    placed = {"metadata": {}, "weight_map": dict.fromkeys(tensors, "parts/one.safetensors")}
    (folder / "model.safetensors.index.json").write_text(json.dumps(placed))
    settle(folder)
    first = load_model(str(folder)).fingerprint
    tensors["model.layers.1.mlp.up_proj.weight"].view(-1)[5] += 1  # none of the values that are sampled
    save_file(tensors, folder / "parts" / "one.safetensors", metadata={"format": "pt"})
    assert load_model(str(folder)).fingerprint != first and len(hashed) == 2


def test_what_is_kept_is_a_help_only(folder, hashed, monkeypatch, tmp_path):
    os.utime(folder / "config.json")  # just now: it may change again within a clock's tick
    load_model(str(folder))
    load_model(str(folder))
    assert len(hashed) == 2 and not (tmp_path / "cache").exists()
    settle(folder)
    monkeypatch.setenv(env.CACHE, str(folder / "config.json" / "no-folder"))
    first = load_model(str(folder)).fingerprint
    assert load_model(str(folder)).fingerprint == first and len(hashed) == 4
    monkeypatch.setenv(env.CACHE, "off")
    assert load_model(str(folder)).fingerprint == first and len(hashed) == 5
    assert weight_cache.weights_folder() is None


def test_where_hashes_are_kept(monkeypatch, tmp_path):
    monkeypatch.delenv(env.CACHE)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("sys.platform", "linux")
    assert weight_cache.weights_folder() == tmp_path / "nait_fast" / "weights"
    monkeypatch.setattr("sys.platform", "darwin")
    assert weight_cache.weights_folder() == Path.home() / "Library" / "Caches" / "nait_fast" / "weights"


class PackedLinear(nn.Linear):
    """As bitsandbytes' 4-bit layer: a CPU's forward packs its weight, and asking for its state unpacks it, lossily."""

    def forward(self, x):
        if not self.weight.quant_state.packing_format_for_cpu:
            self.weight.data, self.weight.quant_state.packing_format_for_cpu = self.weight.data.flip(0), True
        return nn.functional.linear(x, self.weight.flip(0) * self.weight.quant_state.absmax)

    def _save_to_state_dict(self, destination, prefix, keep_vars):
        if self.weight.quant_state.packing_format_for_cpu:
            self.weight.data, self.weight.quant_state.packing_format_for_cpu = self.weight.data.flip(0), False
            self.weight.quant_state.absmax = 0.5
        super()._save_to_state_dict(destination, prefix, keep_vars)


def test_asking_for_the_identity_changes_no_weight():
    model = llama()
    for layer in model.model.layers:
        linear = layer.self_attn.q_proj
        linear.__class__ = PackedLinear
        linear.weight.quant_state = SimpleNamespace(packing_format_for_cpu=False, absmax=1.0)
    ids = torch.randint(3, 60, (1, 9), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        first = prepare(model, None)
        before = model(input_ids=ids).logits
        again = prepare(model, None)  # its weights are packed now
        assert torch.equal(model(input_ids=ids).logits, before)
        assert torch.equal(before, llama()(input_ids=ids).logits)
    assert again.fingerprint == first.fingerprint
