"""``inspect`` of a model tells what would be read of it, without its weights."""

import importlib.util
import json
from pathlib import Path

import pytest
from transformers import PreTrainedModel

import nait_fast
from benchmarks.tiny_configs import tiny_config
from tests.commands import run
from tests.models import test_experts
from tests.models.tiny import NEURONS, config_of


@pytest.fixture(autouse=True)
def _no_weights(monkeypatch, request):
    def no_weights(*arguments, **named):
        raise AssertionError("weights are read")

    if "tiny_loaded" not in request.fixturenames:
        monkeypatch.setattr(PreTrainedModel, "from_pretrained", no_weights)


def saved(folder: Path, model_type: str, **extra) -> Path:
    config_of(model_type, **extra).save_pretrained(folder)
    return folder


def test_it_agrees_with_the_loaded_model(tiny_model, tiny_loaded) -> None:
    told = nait_fast.inspect(tiny_model)
    assert told["supported"] is True and told["class"] == "LlamaForCausalLM" and told["decoder"] == "LlamaModel"
    assert told["widths"] == tiny_loaded.widths and told["layers"] == 3 and told["hidden_size"] == 48
    parameters = sum(p.numel() for p in tiny_loaded.body.parameters())
    assert told["parameters"] == parameters
    memory = told["memory"]
    assert memory.items() >= {"float32": 4 * parameters, "bfloat16": 2 * parameters}.items()
    assert memory["float8"] < memory["bfloat16"]
    assert told["positions"] == tiny_loaded.trained_positions and told["experts"] == []


def test_bytes_a_sample_are_those_of_an_index(tiny_model, tiny_loaded, pool_file, tmp_path) -> None:
    from nait_fast.index.format import bytes_per_row
    from nait_fast.index.reader import Index

    told = nait_fast.inspect(tiny_model)["bytes_per_sample"]
    for codec in ("neuron", "nag", "rotated"):
        calibration = {} if codec == "nag" else {"calibration_size": 20}
        output = str(tmp_path / codec)
        nait_fast.build_index(model=tiny_model, dataset=str(pool_file), output=output, codec=codec, **calibration)
        assert told[codec] == bytes_per_row(Index(Path(output)).manifest)


def test_on_a_terminal(tiny_model, capsys) -> None:
    shown = run(capsys, "inspect", tiny_model)
    assert shown.status == 0 and all(len(line) <= 80 for line in shown.out.splitlines() if "tiny-llama" not in line)
    assert "neurons:        216 (3 × 72)" in shown.out and "supported:      yes" in shown.out
    assert "bytes a sample: neuron 48, components" in shown.out
    as_json = run(capsys, "inspect", tiny_model, "--json").summary
    assert as_json["widths"] == [72] * 3


@pytest.mark.parametrize(
    "model_type, extra, message",
    [("mamba", {}, "no MLP"), ("jetmoe", {"kv_channels": 8}, "a mixture of experts of its own kind")],
)
def test_what_is_not_supported(tmp_path, capsys, model_type, extra, message) -> None:
    folder = saved(tmp_path / "m", model_type, **extra)
    told = run(capsys, "inspect", folder, "--json").summary
    assert told["supported"] is False and message in told["not_supported"] and told["model_type"] == model_type
    shown = run(capsys, "inspect", folder).out
    assert "supported:      no" in shown and "why not:        " in shown


@pytest.mark.parametrize("name", ["qwen3_moe", "deepseek_v3", "qwen3.5_moe"])
def test_a_mixture_of_experts(tmp_path, name) -> None:
    test_experts.config_for(name).save_pretrained(tmp_path / "m")
    told = nait_fast.inspect(str(tmp_path / "m"))
    count = 6 if name == "deepseek_v3" else test_experts.E
    assert told["experts"] == [[count, test_experts.J]] and sorted(told["widths"]) == sorted(
        test_experts.KINDS[name][2]
    )
    rows = ", mixers in rows (state space or gated delta rule)" if "3.5" in name else ""
    assert told["forward"] == f"packed{rows}, if a trial when it is loaded agrees"


@pytest.mark.parametrize(
    "name, method, shown",
    [
        ("llama", "fp8", "quantised:      fp8\n"),
        ("llama", "compressed-tensors", "quantised:      compressed-tensors, loaded dequantised\n"),
        ("qwen3_moe", "fp8", "quantised:      fp8, loaded dequantised\n"),
        ("gpt_oss", "mxfp4", "quantised:      mxfp4, loaded dequantised\n"),
    ],
)
def test_a_quantised_one(tmp_path, name, method, shown) -> None:
    (config_of("llama") if name == "llama" else test_experts.config_for(name)).save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"quantization_config": {"quant_method": method}}))
    told = nait_fast.inspect(str(tmp_path))
    there = method != "compressed-tensors" or importlib.util.find_spec("compressed_tensors") is not None
    assert told["quantised"] == method and told["supported"] is there and shown in told["text"]
    assert told["loaded_dequantised"] is ("dequantised" in shown)
    assert ("(less where it stays quantised)" in " ".join(told["text"].split())) is not told["loaded_dequantised"]


@pytest.mark.parametrize(
    "settings, package, message",
    [
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "bitsandbytes", "requires bitsandbytes"),
        ({"quant_method": "awq", "bits": 4, "group_size": 128}, "gptqmodel", "requires gptqmodel"),
        ({"quant_method": "tomorrow"}, None, "weights quantised by tomorrow, which transformers"),
    ],
)
def test_what_its_weights_need_is_not_there(tmp_path, settings, package, message) -> None:
    if package is not None and importlib.util.find_spec(package) is not None:
        pytest.skip(f"{package} is installed")
    saved(tmp_path, "llama", quantization_config=settings)
    told = nait_fast.inspect(str(tmp_path))
    assert told["supported"] is False and message in told["not_supported"] and told["widths"] == [NEURONS] * 3


def test_what_is_left_out_is_told(tmp_path) -> None:
    kinds = ["mamba", "mlp", "attention", "moe"]
    config = tiny_config("nemotron_h", layers_block_type=kinds)
    config.save_pretrained(tmp_path)
    told = nait_fast.inspect(str(tmp_path))
    assert "layers:         2 of 4 are read, the others have no MLP" in told["text"]
    assert told["bytes_per_sample"]["nag"] == "its reading is of dense MLPs"
    tiny_config("mllama").save_pretrained(tmp_path)
    told = nait_fast.inspect(str(tmp_path))
    assert told["layers_that_may_not_run"] == [3] and "not on text:    layer 3 with cross-attention" in told["text"]
    assert all(len(line) <= 80 for line in told["text"].splitlines() if str(tmp_path) not in line)


def test_an_adapter(tmp_path, capsys) -> None:
    pytest.importorskip("peft")
    base = saved(tmp_path / "base", "llama")
    folder = tmp_path / "adapter"
    folder.mkdir()
    settings = {"peft_type": "LORA", "base_model_name_or_path": str(base), "task_type": "CAUSAL_LM"}
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    told = nait_fast.inspect(str(folder))
    assert (told["kind"], told["base"], told["widths"]) == ("LoRA adapter", str(base), [NEURONS] * 3)
    (folder / "adapter_config.json").write_text(json.dumps(settings | {"peft_type": "IA3"}))
    told = nait_fast.inspect(str(folder))
    assert told["supported"] is False and "of the kind IA3" in told["not_supported"]


def test_a_configuration_that_nobody_knows(tmp_path, capsys) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "of tomorrow"}')
    assert "its configuration cannot be read" in run(capsys, "inspect", tmp_path).error


def test_a_pool_is_no_model(tmp_path, pool_file) -> None:
    (tmp_path / "config.json").write_text('{"rows": 60}')
    assert nait_fast.inspect(str(pool_file))["rows"] == 60


@pytest.mark.model
def test_a_gguf_file(smollm2, capsys) -> None:
    told = nait_fast.inspect(smollm2)
    assert told["widths"] == [1536] * 30 and told["quantised"] == "gguf" and told["supported"] is True
