"""What is loaded is the checkpoint, whole: weights that are missing, left over or of another shape are refused."""

import importlib.util
import json
import logging
import re
import shutil
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from nait_fast.errors import NaitError
from nait_fast.extract.session import Session
from nait_fast.models import checkpoint
from nait_fast.models.load import load_model
from nait_fast.notices import NaitWarning
from tests.commands import run
from tests.conftest import make_tokenizer, rewrite_weights
from tests.models.tiny import config_of, llama

EVERY = {"vocab_size": 600}


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    """A tiny Llama's folder."""
    folder = tmp_path_factory.mktemp("saved")
    llama(**EVERY).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def weights(saved) -> dict[str, torch.Tensor]:
    return load_file(saved / "model.safetensors")


@pytest.fixture(scope="module")
def print_of(saved) -> str:
    return load_model(str(saved)).fingerprint


@pytest.fixture
def variant(saved, tmp_path):
    """A copy of the folder with other weights or configuration."""

    def make(weights: dict[str, torch.Tensor] | None = None, **config) -> str:
        folder = tmp_path / "variant"
        shutil.copytree(saved, folder)
        if weights is not None:
            save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        file = folder / "config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | config))
        return str(folder)

    return make


def refusal(model: str, **options) -> str:
    with pytest.raises(NaitError) as caught:
        load_model(model, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# ------------------------------------------------------------------------------------------------ names


WRAPPED = {
    "compiled": lambda name: "_orig_mod." + name,
    "data parallel": lambda name: "module." + name,
    "peft": lambda name: "base_model.model." + name,
    "three of them": lambda name: "_forward_module.module._orig_mod." + name,
    "compiled body": lambda name: name.replace("model.", "model._orig_mod."),
    "compiled layers": lambda name: re.sub(r"(layers\.\d+\.)", r"\1_orig_mod.", name),
    "checkpointed, sharded layers": lambda name: re.sub(
        r"(layers\.\d+\.)", r"\1_fsdp_wrapped_module._checkpoint_wrapped_module.", name
    ),
}


@pytest.mark.parametrize("kind", WRAPPED)
def test_a_wrappers_prefix_is_taken_off_and_said(variant, weights, print_of, kind):
    folder = variant({WRAPPED[kind](name): weight for name, weight in weights.items()})
    with pytest.warns(NaitWarning, match=r"names hold _?\w+\..*taken off"):
        assert load_model(folder).fingerprint == print_of


def test_a_prefix_that_nobody_knows_is_named(variant, weights):
    message = refusal(variant({"llm." + name: weight for name, weight in weights.items()}))
    assert "lacks 29 weights" in message and "first embed_tokens.weight" in message
    assert "its names begin with 'llm.model.'" in message


def test_weights_that_are_there_twice(variant, weights):
    twice = weights | {"_orig_mod." + name: 2 * weight for name, weight in weights.items()}
    assert "holds 29 weights that this model has no place for, first _orig_mod.model.embed" in refusal(variant(twice))


def test_the_command_line_says_it(tiny_model, tmp_path, pool_file, capsys):
    folder = tmp_path / "wrapped"
    shutil.copytree(tiny_model, folder)
    rewrite_weights(folder, lambda name: "module." + name)
    command = ("index", "--model", folder, "--dataset", pool_file, "--calibration-size", 20, "--json")
    done = run(capsys, *command, "--output", tmp_path / "index")
    assert done.status == 0 and done.err.startswith(
        f"nait-fast: warning: --model {folder}: the checkpoint's names hold"
    )
    assert [text for text in json.loads(done.out.splitlines()[-1])["warnings"] if "taken off" in text]


def test_names_in_a_bin_file(variant, weights, print_of):
    folder = Path(variant())
    (folder / "model.safetensors").unlink()
    torch.save({"_orig_mod." + name: weight for name, weight in weights.items()}, folder / "pytorch_model.bin")
    with pytest.warns(NaitWarning, match="taken off"):
        assert load_model(str(folder)).fingerprint == print_of


# ------------------------------------------------------------------------------------- missing, left over, other shapes


@pytest.mark.parametrize(
    "left_out, first, n",
    [
        ("layers.1.mlp", "layers.1.mlp.down_proj.weight", 3),
        ("layers.2.input_layernorm", "layers.2.input_layernorm.weight", 1),
        ("embed_tokens", "embed_tokens.weight", 1),
        ("model.norm", "norm.weight", 1),
    ],
)
def test_what_is_missing_is_refused(variant, weights, left_out, first, n):
    message = refusal(variant({name: weight for name, weight in weights.items() if left_out not in name}))
    assert f"the checkpoint lacks {n} weights" in message and f"first {first}; fetch or save" in message


def test_what_is_missing_behind_the_chosen_layers_is_said(variant, weights):
    folder = variant({name: weight for name, weight in weights.items() if "layers.2.mlp" not in name})
    assert "lacks 3 weights" in refusal(folder)
    prints = set()
    for _ in range(2):
        with pytest.warns(NaitWarning, match=r"lacks 3 weights behind the chosen layers, first layers\.2\.mlp"):
            prints.add(load_model(folder, layers="0-1").fingerprint)
    assert len(prints) == 1  # nothing random is left


@pytest.mark.filterwarnings("ignore:--model:nait_fast.notices.NaitWarning")
def test_what_is_missing_behind_the_chosen_layers_is_not_missed_by_rds(variant, weights):
    folder = variant({name: weight for name, weight in weights.items() if "layers.2.mlp" not in name})
    session = Session(load_model(folder, layers="0-1"), None)
    session.refuse_readings(("mean",))
    with pytest.raises(NaitError, match="lacks 3 weights behind the chosen layers, and rds is what comes out of all"):
        session.refuse_readings(("mean", "rds"))


def test_more_layers_than_the_checkpoint_holds(variant):
    assert "lacks 9 weights" in refusal(variant(num_hidden_layers=4))


def test_fewer_layers_than_the_checkpoint_holds(variant):
    message = refusal(variant(num_hidden_layers=2))
    assert "holds 9 weights that this model has no place for, first layers.2.input_layernorm.weight" in message


def test_biases_that_the_configuration_does_not_know(variant, weights):
    message = refusal(variant(weights | {"model.layers.0.self_attn.q_proj.bias": torch.ones(16)}))
    assert "holds 1 weights that this model has no place for, first layers.0.self_attn.q_proj.bias" in message


def test_what_is_not_of_the_body_is_nobodys_business(variant, weights, print_of, recwarn):
    heads = {"score.weight": torch.ones(1, 16), "v_head.summary.weight": torch.ones(1, 16), "mtp.0.w": torch.ones(3)}
    angles = {f"model.layers.{i}.self_attn.rotary_emb.inv_freq": torch.ones(4) for i in range(3)}
    scales = {"model.layers.0.self_attn.k_scale": torch.ones(1)}
    assert load_model(variant(weights | heads | angles | scales)).fingerprint == print_of
    assert not [w for w in recwarn if issubclass(w.category, NaitWarning)]


@pytest.mark.parametrize(
    "config, message",
    [
        ({"intermediate_size": 48}, r"layers.0.mlp.down_proj.weight as \[16, 40\].*asks for \[16, 48\].*kind: 9"),
        ({"vocab_size": 700}, r"embed_tokens.weight as \[600, 16\].*asks for \[700, 16\]"),
    ],
)
def test_other_shapes(variant, config, message):
    assert re.search(message, refusal(variant(**config)))


def test_tied_embeddings_that_were_saved_as_the_head(variant, weights, print_of):
    renamed = {name: weight for name, weight in weights.items() if name != "lm_head.weight"}
    renamed["lm_head.weight"] = renamed.pop("model.embed_tokens.weight")
    loaded = load_model(variant(renamed, tie_word_embeddings=True))
    assert torch.equal(loaded.body.get_input_embeddings().weight, weights["model.embed_tokens.weight"])


def test_a_model_in_several_files(saved, tmp_path, print_of):
    folder = tmp_path / "shards"
    shutil.copytree(saved, folder)
    (folder / "model.safetensors").unlink()
    AutoModelForCausalLM.from_pretrained(saved).save_pretrained(folder, max_shard_size="20KB")
    files = sorted(folder.glob("*.safetensors"))
    assert len(files) > 3 and load_model(str(folder)).fingerprint == print_of
    lost = files[-1]
    lost.unlink()
    assert lost.name in refusal(str(folder))
    index = folder / "model.safetensors.index.json"
    held = json.loads(index.read_text())
    held["weight_map"] = {name: file for name, file in held["weight_map"].items() if file != lost.name}
    index.write_text(json.dumps(held))
    assert "the checkpoint lacks" in refusal(str(folder))


def test_one_model_beside_another(saved, tmp_path, print_of):
    folder = tmp_path / "both"
    shutil.copytree(saved, folder)
    (folder / "model.safetensors.index.json").write_text('{"metadata": {}, "weight_map": {}}')
    with pytest.warns(NaitWarning, match="holds model.safetensors and, by model.safetensors.index.json, a model in"):
        assert load_model(str(folder)).fingerprint == print_of


def stored(folder: str, kind: str) -> str:
    """``folder`` with its weights in files of another kind, beside one of an earlier save that nobody reads."""
    place = Path(folder)
    weights = load_file(place / "model.safetensors")
    (place / "model.safetensors").unlink()
    save_file({"model.norm.weight": torch.ones(16, dtype=torch.int8)}, place / "model-old.safetensors")
    if kind == "bin":
        torch.save(weights, place / "pytorch_model.bin", _use_new_zipfile_serialization=len(weights) % 2 == 0)
        return folder
    name, end = {"safetensors": ("model", "safetensors"), "bins": ("pytorch_model", "bin")}[kind]
    parts = {f"part-{i}.{end}": {k: weights[k] for k in sorted(weights)[i::2]} for i in range(2)}
    for file, tensors in parts.items():
        if end == "bin":
            torch.save(tensors, place / file)
        else:
            save_file(tensors, place / file, metadata={"format": "pt"})
    index = {"metadata": {}, "weight_map": {k: file for file, tensors in parts.items() for k in tensors}}
    (place / f"{name}.{end}.index.json").write_text(json.dumps(index))
    return folder


KINDS = [None, "bin", "bins", "safetensors"]


@pytest.mark.parametrize("kind", KINDS)
def test_weights_that_are_kept_as_integers(variant, weights, kind):
    """Quantised ones whose configuration was lost: numbers of another scale."""
    kept = {name: (10 * w).to(torch.int8) if ".mlp." in name else w for name, w in weights.items()}
    folder = variant(kept)
    message = refusal(stored(folder, kind) if kind else folder)
    assert "weights as integers, first model.layers.0.mlp.down_proj.weight, but its config.json tells of no" in message


@pytest.mark.parametrize("kind", KINDS)
def test_weights_that_are_kept_as_float8(variant, weights, kind):
    kept = {name: w.to(torch.float8_e4m3fn) if ".mlp." in name else w for name, w in weights.items()}
    folder = variant(kept)
    with pytest.warns(NaitWarning, match="weights are stored as float8, first model.layers.0.mlp.down_proj.weight"):
        load_model(stored(folder, kind) if kind else folder)


@pytest.mark.parametrize("kind", KINDS[1:])
def test_files_that_are_not_read_are_not_checked(variant, print_of, kind, recwarn):
    assert load_model(stored(variant(), kind)).fingerprint == print_of
    assert not [w for w in recwarn if issubclass(w.category, NaitWarning)]


def test_a_transformers_that_cannot_tell_what_it_leaves_out(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers.integrations.gguf.reader", None)
    with pytest.warns(NaitWarning, match="a.gguf: not checked for tensors that transformers leaves out"):
        assert checkpoint._left_in_gguf(Path("a.gguf"), None) == []


# ----------------------------------------------------------------------------------------------- other kinds of folder


def test_lora_weights_beside_the_base(variant, weights):
    named = {name.replace("q_proj.weight", "q_proj.base_layer.weight"): weight for name, weight in weights.items()}
    named["model.layers.0.self_attn.q_proj.lora_A.default.weight"] = torch.ones(2, 16)
    assert "it holds LoRA weights" in refusal(variant(named))


def test_a_class_that_automodel_does_not_find_the_weights_of(tmp_path):
    """Its checkpoints are written by a class that names the weights in another way than AutoModel's."""
    tiny = {"hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 2, "num_hidden_layers": 2}
    text = tiny | {"num_key_value_heads": 1, "head_dim": 8, "vocab_size": 600, "model_type": "qwen3"}
    vision = tiny | {"num_hidden_layers": 5, "head_dim": 8, "image_size": 28, "patch_size": 14, "model_type": "pixtral"}
    config = config_of("lighton_ocr", {}, text_config=text, vision_config=vision)
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    model = transformers.LightOnOcrForConditionalGeneration(config).eval()
    model.save_pretrained(tmp_path)
    make_tokenizer().save_pretrained(tmp_path)
    loaded = load_model(str(tmp_path))
    assert loaded.widths == [24, 24]
    theirs = model.get_decoder().state_dict()
    assert all(torch.equal(value, theirs[name]) for name, value in loaded.body.state_dict().items())


def test_weights_that_automodels_class_cannot_unpack(variant, print_of, monkeypatch) -> None:
    """As torchao's, which go by the names that the class gave them which wrote the checkpoint."""
    from transformers import LlamaModel

    def fails(cls, *arguments, **named):
        raise RuntimeError("no such weight")

    folder = variant()
    monkeypatch.setattr(LlamaModel, "from_pretrained", classmethod(fails))
    assert load_model(folder).fingerprint == print_of
    (Path(folder) / "model.safetensors").write_bytes(b"cut")
    assert "cannot be loaded (RuntimeError: no such weight); check the name" in refusal(folder)


@pytest.mark.parametrize(
    "method, package", [("awq", "gptqmodel"), ("gptq", "optimum"), ("bitsandbytes", "bitsandbytes")]
)
def test_a_quantisers_package_that_is_missing(variant, method, package) -> None:
    if importlib.util.find_spec(package) is not None:
        pytest.skip(f"{package} is installed")
    bits = {"load_in_4bit": True} if method == "bitsandbytes" else {"bits": 4, "group_size": 32}
    folder = variant(quantization_config={"quant_method": method, **bits})
    assert re.search(rf"cannot be loaded \(ImportError: .*{package}.*\); install that package", refusal(folder))


def test_warnings_of_transformers_are_shown(variant, monkeypatch):
    from transformers import LlamaModel

    own = LlamaModel.from_pretrained.__func__

    def warning(cls, *arguments, **named):
        logging.getLogger("transformers.modeling_utils").warning("Some weights were quantised anew.\nLook out.")
        logging.getLogger("transformers.modeling_utils").warning("Have a nice day.")
        return own(cls, *arguments, **named)

    monkeypatch.setattr(LlamaModel, "from_pretrained", classmethod(warning))
    logger = logging.getLogger("transformers")
    before = logger.level, list(logger.handlers), logger.propagate
    logger.setLevel(logging.ERROR)
    try:
        with pytest.warns(
            NaitWarning, match=r"transformers says: Some weights were quantised anew\. Look out\.$"
        ) as told:
            load_model(variant())
        assert len([w for w in told if issubclass(w.category, NaitWarning)]) == 1
        assert logger.level == logging.ERROR and logger.handlers == before[1] and logger.propagate == before[2]
    finally:
        logger.setLevel(before[0])


def test_encoder_decoders_are_refused():
    from nait_fast import capture
    from nait_fast.models.load import prepare

    tiny = {"d_model": 16, "vocab_size": 60, "encoder_attention_heads": 2, "decoder_attention_heads": 2}
    sizes = {"encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 24, "decoder_ffn_dim": 24}
    config = config_of("bart", {}, **tiny, **sizes)
    transformers = pytest.importorskip("transformers")
    model = transformers.BartForConditionalGeneration(config).eval()
    for use in (lambda: prepare(model, None), capture(model).__enter__):
        with pytest.raises(NaitError, match="an encoder-decoder; nait_fast reads decoders"):
            use()


# ------------------------------------------------------------------------------------------------------------- GGUF

GGUF_NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}


@pytest.fixture
def gguf_file(saved, weights, tmp_path):
    """Writes the tiny Llama as a GGUF file, with other tensors and keys."""
    gguf = pytest.importorskip("gguf")

    def name_of(name: str) -> str:
        whole = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
        root = name.removesuffix(".weight")
        if root in whole:
            return whole[root] + ".weight"
        _, _, layer, part = root.split(".", 3)
        return f"blk.{layer}.{GGUF_NAMES[part]}.weight"

    def write(without: str = "", extra: dict | None = None, scaling: str | None = None) -> str:
        path = tmp_path / "tiny.gguf"
        file = gguf.GGUFWriter(str(path), "llama")
        file.add_block_count(3)
        file.add_context_length(128)
        file.add_embedding_length(16)
        file.add_feed_forward_length(40)
        file.add_head_count(2)
        file.add_head_count_kv(1)
        file.add_key_length(8)
        file.add_layer_norm_rms_eps(1e-6)
        file.add_vocab_size(600)
        file.add_tokenizer_model("gpt2")
        file.add_token_list([f"t{i}" for i in range(600)])
        file.add_token_merges(["t 1"])
        if scaling:
            file.add_string("llama.rope.scaling.type", scaling)
        for name, weight in {**{name_of(n): w for n, w in weights.items()}, **(extra or {})}.items():
            if not without or without not in name:
                file.add_tensor(name, weight.contiguous().numpy())
        file.write_header_to_file()
        file.write_kv_data_to_file()
        file.write_tensors_to_file()
        file.close()
        return str(path)

    return write


def test_a_whole_gguf_file(saved, gguf_file):
    loaded = load_model(gguf_file(), tokenizer=str(saved))
    assert loaded.widths == [40] * 3


def test_the_first_layers_of_a_gguf_file(saved, gguf_file, monkeypatch):
    import gguf

    unpacked, dequantize = [], gguf.dequantize
    monkeypatch.setattr(gguf, "dequantize", lambda *arguments: unpacked.append(1) or dequantize(*arguments))
    prints, counts = [], []
    for complete in (False, True):
        loaded = load_model(gguf_file(), tokenizer=str(saved), layers="0-1", complete=complete)
        assert loaded.complete is complete
        prints.append(loaded.fingerprint)
        counts.append(len(unpacked) - sum(counts))
    assert prints[0] == prints[1] and counts[1] - counts[0] == 9
    for change in ({"without": "blk.1.ffn_down"}, {"extra": {"blk.0.attn_q.bias": torch.ones(16)}}):
        refused = [
            refusal(gguf_file(**change), tokenizer=str(saved), layers="0-1", complete=complete)
            for complete in (False, True)
        ]
        assert refused[0] == refused[1]


@pytest.mark.parametrize(
    "change, message",
    [
        ({"without": "blk.1.ffn_down"}, "lacks 1 weights .* first layers.1.mlp.down_proj.weight"),
        ({"without": "token_embd"}, "cannot be loaded|lacks 1 weights"),
        (
            {"extra": {"rope_freqs.weight": torch.ones(4)}},
            "no place for, first rope_freqs.weight; transformers does not read",
        ),
        (
            {"extra": {"blk.0.attn_q.bias": torch.ones(16)}},
            r"no place for, first blk.\* \(28 tensors for 27 places\); transformers",
        ),
        ({"scaling": "yarn"}, "no place for, first llama.rope.scaling.type; transformers does not read"),
    ],
)
def test_what_transformers_does_not_read_of_a_gguf_file(saved, gguf_file, change, message):
    assert re.search(message, refusal(gguf_file(**change), tokenizer=str(saved)))


def test_a_tokenizer_that_transformers_calls_wrong(saved, monkeypatch):
    from transformers import AutoTokenizer

    own = AutoTokenizer.from_pretrained

    def warning(*arguments, **named):
        logging.getLogger("transformers.tokenization_utils").warning("This regex will lead to incorrect tokenization.")
        return own(*arguments, **named)

    monkeypatch.setattr(AutoTokenizer, "from_pretrained", warning)
    with pytest.warns(NaitWarning, match=r"--tokenizer .*: transformers says: This regex will lead to incorrect token"):
        load_model(str(saved))
