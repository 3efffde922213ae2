"""What a model cannot do is refused before its weights are read: here they cannot be."""

from pathlib import Path

import numpy as np
import pytest

from nait_fast.codecs.codebook import Codebook
from nait_fast.data.template import Template
from nait_fast.errors import NaitError
from nait_fast.extract import representation
from nait_fast.methods.nait import nait_signature
from nait_fast.scorer import Scorer
from tests.commands import run
from tests.conftest import make_rows, make_tokenizer, write_jsonl
from tests.models import test_experts
from tests.models.tiny import NEURONS, config_of

NO_NAG = (
    "model: the reading up_abs, which method and codec nag take, is of dense MLPs, and this one has experts; choose"
)


def without_weights(config, folder: Path) -> Path:
    """A folder with all but weights that can be read."""
    config.save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    (folder / "model.safetensors").write_bytes(b"no weights")
    return folder


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("files")
    config_of("llama").save_pretrained(folder / "bare")
    return {
        "bare": folder / "bare",
        "dense": without_weights(config_of("llama"), folder / "dense"),
        "experts": without_weights(test_experts.config_for("mixtral"), folder / "experts"),
        "pool": write_jsonl(folder / "pool.jsonl", make_rows(20)),
        "target": write_jsonl(folder / "sums.jsonl", make_rows(8, seed=1)),
    }


def identity(**other) -> dict:
    """Of what was made with the dense model, as far as it is known without weights."""
    tokenizer = make_tokenizer()
    made = {"model": "0" * 32, "dtype": "float32", "template": Template("auto", tokenizer).hash, "max_length": 512}
    return {**made, "first_token": "exclude", "layers": [0, 1, 2], "widths": [NEURONS] * 3, **other}


def codebook(folder: Path, reading: str = "mean", **other) -> Path:
    meta = {"codec": "neuron", "reading": reading, "samples": 9, **identity(**other)}
    zeros = np.zeros(sum(meta["widths"]), np.float32)
    folder.mkdir(exist_ok=True)
    Codebook(zeros, meta, zeros, zeros).save(folder)
    return folder


@pytest.mark.parametrize(
    ("verb", "model", "given", "message"),
    [
        ("index", "experts", "--codec nag", NO_NAG),
        ("index", "experts", "--codec nag --experts router", NO_NAG),
        ("select", "experts", "--method nag", NO_NAG),
        ("signature", "experts", "--method nag", NO_NAG),
        ("index", "dense", "--codec nag:top_k=41", "--codec nag:top_k=41: the model's layers have only 40 neurons"),
        ("select", "dense", "--method nag:top_k=41", "--method nag:top_k=41: the model's layers have only 40 neurons"),
        ("signature", "dense", "--method nag:top_k=41", "--method nag:top_k=41: the model's layers have only 40"),
        ("index", "dense", "--codec rotated:outliers=121", "the chosen layers have only 120 neurons"),
        ("index", "dense", "--codec components:bytes=999", "but 120 is all that these layers"),
        ("index", "dense", "--embed 3", "--embed 3: write none, last or one of the captured layers (0 to 2)"),
        ("index", "dense", "--embed 2 --layers 0,1", "--embed 2: write none, last or one of the captured layers"),
        (
            "index",
            "dense",
            "--experts router",
            "--experts router: no experts in all layers of LlamaModel; leave it out",
        ),
        ("index", "dense", "--experts neurons:9", "no neurons of experts are read of this model; leave it out"),
        ("index", "dense", "--layers 3", "--layers 3: '3' does not lie in this model's 3 layers"),
        (
            "index",
            "dense",
            "--dtype bfloat16 --codebook {FLOAT}",
            "made with another dtype ('float32', here 'bfloat16 or float16')",
        ),
        ("index", "dense", "--max-length 9 --codebook {FLOAT}", "made with another max_length (512, here 9)"),
        ("index", "dense", "--template none --codebook {FLOAT}", "made with another template or tokenizer"),
        ("index", "dense", "--layers 0 --codebook {FLOAT}", "made with another layers ([0, 1, 2], here [0])"),
        ("index", "experts", "--codebook {FLOAT}", "made with another widths"),
        (
            "signature",
            "dense",
            "--codebook {FLOAT} --reading drift",
            "made with another reading ('mean', here 'drift')",
        ),
        ("signature", "dense", "--method nait:sign=contrast --codebook {FLOAT}", "that holds the pool's mean drift"),
        ("index", "dense", "--template-date 2024-01-01", "--template-date 2024-01-01: the template asks for no date"),
        ("index", "dense", "--tokenizer {NOWHERE}", "cannot load a tokenizer from"),
        ("index", "dense", "", "cannot be loaded (SafetensorError"),  # where nothing is wrong it comes to the weights
        ("index", "dense", "--codebook {FLOAT}", "cannot be loaded (SafetensorError"),
        ("signature", "dense", "--codebook {FLOAT}", "cannot be loaded (SafetensorError"),
    ],
)
def test_by_the_command_line(verb: str, model: str, given: str, message: str, files, tmp_path, capsys) -> None:
    words = given.format(FLOAT=codebook(tmp_path / "codebook"), NOWHERE=files["bare"]).split()
    rows = ["--dataset", files["pool"]] if verb != "signature" else []
    rows += ["--target", files["target"]] if verb != "index" else []
    error = run(capsys, verb, "--model", files[model], *rows, "--output", tmp_path / "out", *words).error
    assert message in error


def test_more_neurons_than_are_kept(files, tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.setattr(representation, "MOST_EXPERT_BYTES", 16)
    words = ("--model", files["experts"], "--dataset", files["pool"], "--output", tmp_path / "out")
    error = run(capsys, "index", *words, "--experts", "neurons:all").error
    assert "neurons, 0 KiB a sample even at one bit each; use --experts neurons, which keeps some, or" in error


def test_by_a_scorer(files) -> None:
    def signature(**other):
        meta = identity(reading="drift", target={}, **other)
        drifts = np.random.default_rng(0).normal(size=(4, sum(meta["widths"])))
        return nait_signature("sums", drifts, meta)

    with pytest.raises(NaitError, match="made with another widths"):
        Scorer(files["dense"], signature(widths=[48] * 3))
    with pytest.raises(NaitError, match="cannot be loaded"):
        Scorer(files["dense"], signature())


def test_layers_that_a_trial_may_leave_out_are_not_refused(files, tmp_path, capsys) -> None:
    """Those of a codebook may be fewer than the configuration tells: what runs on text shows later."""
    fewer = codebook(tmp_path / "codebook", layers=[0, 2], widths=[NEURONS] * 2)
    words = ("--model", files["dense"], "--dataset", files["pool"], "--output", tmp_path / "out", "--codebook", fewer)
    assert "cannot be loaded (SafetensorError" in run(capsys, "index", *words).error
