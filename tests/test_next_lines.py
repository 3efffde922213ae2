"""The commands that results end with: pasted as they stand, they run."""

import json
import shlex
import shutil
from pathlib import Path

import pytest

from nait_fast.methods.signature import load_signature
from tests.commands import Ran, run
from tests.conftest import make_rows, write_jsonl

pytestmark = pytest.mark.filterwarnings("ignore::nait_fast.notices.NaitWarning")


def following(ran: Ran, **words: object) -> list[str]:
    """The command at the end of what ``ran`` has said, with these words in place of those to be filled in."""
    assert ran.status == 0, ran.err
    last = ran.out.splitlines()[-1]
    assert last.startswith("next: nait-fast ")
    return [str(words.get(word.replace("=", "_"), word)) for word in shlex.split(last.removeprefix("next: nait-fast "))]


@pytest.mark.parametrize(
    ("options", "method"),
    [
        ([], "contrast"),
        (["--max-length", 9, "--dtype", "bfloat16", "--depth", "1/3", "--first-token", "include"], "contrast"),
        (["--codec", "nag:top_k=5", "--max-length", 9, "--dtype", "bfloat16"], "nag"),
        (["--codec", "rotated"], "nait"),
    ],
)
def test_from_a_pool_to_a_report(
    capsys, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny_model: str, options: list[object], method: str
) -> None:
    pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)
    pool, target = (
        write_jsonl(tmp_path / "pool.jsonl", make_rows(40)),
        write_jsonl(tmp_path / "t.jsonl", make_rows(9, 5)),
    )
    few = [] if method == "nag" else ["--calibration-size", 20]
    ran = run(capsys, "index", "--model", tiny_model, "--dataset", pool, "--output", "idx", *few, *options)
    assert following(run(capsys, "inspect", "idx")) == following(ran)
    ran = run(capsys, *following(ran, NAME_FILE=f"sums={target}"))
    assert load_signature("signatures/sums.safetensors").method == method
    ran = run(capsys, *following(ran, INDEX="idx"))
    ran = run(capsys, *following(ran))
    assert Path("ranked/report.html").is_file() and "next: train on ranked/selected.jsonl" in ran.out


def test_two_signatures_lead_to_one_ranking(
    capsys, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny_model: str
) -> None:
    monkeypatch.chdir(tmp_path)
    pool = write_jsonl(tmp_path / "pool.jsonl", make_rows(40))
    files = {name: write_jsonl(tmp_path / f"{name}.jsonl", make_rows(9, seed)) for name, seed in (("a", 5), ("b", 6))}
    targets = [f"{name}={file}" for name, file in files.items()]
    run(capsys, "index", "--model", tiny_model, "--dataset", pool, "--calibration-size", 20, "--output", "idx")
    made = run(
        capsys, "signature", "--model", tiny_model, "--codebook", "idx", "--target", *targets, "--output", "sigs"
    )
    assert made.out.count("next: ") == 1
    assert following(made) == following(run(capsys, "inspect", "sigs"), INDEX="idx")
    assert "for a and b by contrast, in turns, best first:" in run(capsys, *following(made)).out.splitlines()
    ran = run(capsys, *following(made), "--combine", "union", "--token-budget", 200, "--overwrite")
    assert "for a and b by contrast, in turns, within one budget of tokens, best" in ran.out


def test_an_index_without_a_codebook_says_so(capsys, tmp_path: Path, tiny_model: str) -> None:
    pool = write_jsonl(tmp_path / "pool.jsonl", make_rows(40))
    index = tmp_path / "idx"
    run(capsys, "index", "--model", tiny_model, "--dataset", pool, "--codec", "nag:5", "--output", index)
    target = ["--target", f"t={pool}", "--output", tmp_path / "s"]
    error = run(capsys, "signature", "--model", tiny_model, "--codebook", index, *target).error
    assert error.startswith(f"{index}: holds no codebook: the codec of this index calibrates nothing; leave --codebook")
    (index / "manifest.json").unlink()  # as if it had been stopped
    for verb, words in (("inspect", "is not finished"), ("report", "is no finished selection")):
        assert words in run(capsys, verb, index).error


def test_a_signature_is_read_as_its_codebook_was(capsys, tmp_path: Path, tiny_model: str) -> None:
    """Unless another is asked for, which is refused before the model is loaded, as ever."""
    pool, target = (
        write_jsonl(tmp_path / "pool.jsonl", make_rows(40)),
        write_jsonl(tmp_path / "t.jsonl", make_rows(9, 5)),
    )
    given = ["--max-length", 9, "--layers", "1"]
    of_pool = ["--model", tiny_model, "--dataset", pool, "--calibration-size", 20, "--output", tmp_path / "idx"]
    assert run(capsys, "index", *of_pool, *given).status == 0
    of_target = ["signature", "--model", tiny_model, "--target", f"t={target}", "--codebook", tmp_path / "idx"]
    adopted, asked = tmp_path / "adopted", tmp_path / "asked"
    for folder, more in ((adopted, []), (asked, given)):
        assert run(capsys, *of_target, "--output", folder, *more).status == 0
    assert (adopted / "t.safetensors").read_bytes() == (asked / "t.safetensors").read_bytes()
    config, again = adopted / "config.yaml", tmp_path / "again"  # which replays the run
    assert run(capsys, "signature", "--config", config, "--output", again).status == 0
    assert (again / "t.safetensors").read_bytes() == (asked / "t.safetensors").read_bytes()
    error = run(capsys, *of_target, "--output", tmp_path / "other", "--max-length", 10).error
    assert "made with another max_length (9, here 10)" in error
    error = run(capsys, *of_target, "--output", tmp_path / "other", "--depth", "all", "--layers", "0").error
    assert "made with another layers" in error


def test_a_codebook_of_a_model_with_more_layers(capsys, tmp_path: Path, tiny_model: str) -> None:
    """No word of --layers, which nobody has given."""
    pool, target = (
        write_jsonl(tmp_path / "pool.jsonl", make_rows(40)),
        write_jsonl(tmp_path / "t.jsonl", make_rows(9, 5)),
    )
    of_pool = ["--model", tiny_model, "--dataset", pool, "--calibration-size", 20, "--output", tmp_path / "idx"]
    assert run(capsys, "index", *of_pool).status == 0
    other = Path(shutil.copytree(tiny_model, tmp_path / "other"))
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 1}))
    asked = ["--model", other, "--target", f"t={target}", "--codebook", tmp_path / "idx", "--output", tmp_path / "s"]
    samples = run(capsys, "rank", "--index", tmp_path / "idx", "--signature", target, "--output", tmp_path / "r").error
    assert samples.startswith(f"{target}: is no signature; make one: nait-fast signature --target NAME={target}")
    error = run(capsys, "signature", *asked).error
    assert error.startswith(f"--codebook {tmp_path / 'idx'}: '1' does not lie in this model's 1 layers; give the model")


def test_a_pool_with_bad_rows(capsys, tmp_path: Path) -> None:
    pool = write_jsonl(tmp_path / "pool.jsonl", [*make_rows(4), {"instruction": 3, "output": None}])
    assert "--skip-bad-rows" in following(run(capsys, "inspect", pool))
    assert "--skip-bad-rows" not in following(
        run(capsys, "inspect", write_jsonl(tmp_path / "good.jsonl", make_rows(4)))
    )
