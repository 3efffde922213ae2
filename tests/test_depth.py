"""--depth: the first layers by their share, in every byte the same as --layers with their numbers."""

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

import nait_fast
from nait_fast.config import depth_of
from nait_fast.errors import NaitError
from nait_fast.models import checkpoint
from nait_fast.models.spec import parse_layers
from tests.commands import run

TOLD = ("log.json", "config.yaml", "events.jsonl")  # of the run itself: times, and the options as they were written


@pytest.mark.parametrize(
    "text, layers, chosen",
    [
        ("1/3", 30, 10),
        ("1/3", 32, 11),
        ("0.5", 3, 2),
        (".001", 3, 1),
        ("2/3", 3, 2),
        ("1", 3, 3),
        ("1.0", 3, 3),
        ("7/7", 5, 5),
        ("0.1", 30, 3),  # which a float is more than
    ],
)
def test_a_share_of_layers(text, layers, chosen) -> None:
    share = depth_of(text)
    assert isinstance(share, Fraction) and parse_layers(share, layers) == list(range(chosen))


def test_all() -> None:
    assert depth_of("all") is None


@pytest.mark.parametrize(
    "text", ["0", "0/3", "4/3", "1/0", "-1/3", "1.5", "third", "1/3/2", "1e-1", "33%", "1 / 3", ".", "1.", "nan", "٣"]
)
def test_what_is_no_share(text) -> None:
    with pytest.raises(NaitError) as caught:
        depth_of(text)
    assert "is no share of a model's layers; write all, 1/3 or 0.5: above 0, at most 1" in str(caught.value)


def test_in_every_byte(tiny_model, pool_file, target_file, tmp_path, capsys, monkeypatch) -> None:
    """Nor are the other layers loaded."""
    loaded, read = [], checkpoint._read_leading
    monkeypatch.setattr(checkpoint, "_read_leading", lambda *a: loaded.append(read(*a)) or loaded[-1])
    for name, chosen in (("depth", ["--depth", "2/3"]), ("layers", ["--layers", "0-1"])):
        here, common = tmp_path / name, ["--model", tiny_model, *chosen, "--json"]
        index = run(capsys, "index", *common, "--dataset", pool_file, "--output", here / "index")
        assert index.summary["rows_indexed"] > 0
        signature = [*common, "--target", f"sums={target_file}", "--output", here / "signatures"]
        assert run(capsys, "signature", *signature, "--codebook", here / "index").status == 0
    files = [
        {
            str(file.relative_to(tmp_path / name)): file.read_bytes()
            for file in sorted((tmp_path / name).rglob("*"))
            if file.is_file() and not file.name.startswith(".") and file.name not in TOLD
        }
        for name in ("depth", "layers")
    ]
    assert {"index/codebook.safetensors", "index/manifest.json", "signatures/sums.safetensors"} <= files[0].keys()
    assert files[0] == files[1]
    assert len(loaded) == 4 and all(part is not None and not part[1].complete for part in loaded)
    manifest = nait_fast.Index(tmp_path / "depth" / "index").manifest
    assert manifest["layers"] == [0, 1]
    signature = tmp_path / "layers" / "signatures" / "sums.safetensors"
    rows = [{"text": "two and two are four"}, {"text": "the tide is in"}]
    scores = [nait_fast.Scorer(tiny_model, signature, **chosen).score(rows) for chosen in ({}, {"depth": "0.6"})]
    assert np.array_equal(*scores)


@pytest.mark.parametrize(
    "words, message",
    [
        (["--depth", "1/3", "--layers", "0"], "--layers 0: --depth 1/3 says which; leave it out"),
        (["--depth", "1/3", "--layers", "all"], "--layers all: --depth 1/3 says which; leave it out"),
        (["--depth", "3"], "--depth 3: is no share of a model's layers; write all, 1/3 or 0.5: above 0, at most 1"),
    ],
)
def test_refused_in_one_line(words, message, pool_file, tmp_path, capsys) -> None:
    place = ["--model", tmp_path / "none", "--dataset", pool_file, "--output", tmp_path / "out"]
    assert message in run(capsys, "index", *place, *words).error
    assert not (tmp_path / "out").exists()


def test_in_a_config_file(tiny_model, target_file, tmp_path, capsys) -> None:
    config = tmp_path / "depth.yaml"
    config.write_text(
        f"model: {tiny_model}\ntarget: [sums={target_file}]\noutput: {tmp_path / 'out'}\nmethod: nag\ndepth: 1/3\n"
    )
    assert run(capsys, "signature", "--config", config, "--json").status == 0
    assert nait_fast.load_signature(Path(tmp_path / "out" / "sums.safetensors")).meta["layers"] == [0]
    kept = (tmp_path / "out" / "config.yaml").read_text()
    assert "depth: 1/3" in kept and "layers" not in kept
    config.write_text(config.read_text().replace("1/3", "0.3"))
    assert (
        "--depth 0.3: must be text, not float; write it in quotes" in run(capsys, "signature", "--config", config).error
    )
