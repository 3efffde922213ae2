"""Bad input to ``evaluate``: one line that says what is wrong and what to do, and nothing written."""

import shutil
from pathlib import Path

import pytest

from tests.commands import run, shell
from tests.evaluation.conftest import World

EVALUATE = "evaluate --index {INDEX} --signature {SUMS} --output {OUT}"
STABILITY = " --model {MODEL} --target sums={TARGET}"
CASES = [
    (EVALUATE.replace("--signature {SUMS}", ""), "--signature is missing"),
    (EVALUATE.replace("{INDEX}", "nowhere"), "nowhere: no such index folder"),
    (EVALUATE.replace("{SUMS}", "nowhere"), "nowhere: no such file"),
    (EVALUATE.replace("{SUMS}", "{SUMS} {SUMS}"), "--signature: 'sums' is there twice; leave one out"),
    (EVALUATE.replace("{SUMS}", "{NAG}"), "does not fit codec neuron"),
    (EVALUATE.replace("{OUT}", "{INDEX}"), "--output {INDEX}: holds an index or a selection; choose another folder"),
    (EVALUATE + " --fraction 0", "--fraction 0.0: must be above 0 and at most 1"),
    (EVALUATE + " --fraction 1.5", "--fraction 1.5: must be above 0 and at most 1"),
    (EVALUATE + STABILITY + " --sizes few", "--sizes few: must be a whole number of samples, at least 4"),
    (EVALUATE + STABILITY + " --sizes 16 2", "--sizes 2: must be a whole number of samples, at least 4"),
    (EVALUATE + " --core-targets 1", "--core-targets 1: must be at least 2"),
    (EVALUATE + " --core-targets 2", "--core-targets 2: there are at most 1 signatures of one kind"),
    (EVALUATE + " --relevant sums=a", "--relevant: needs --label COLUMN"),
    (EVALUATE + " --label source --relevant sums", "--relevant sums: write NAME=VALUE"),
    (EVALUATE + " --label source --relevant maths=a", "the name of a signature (sums)"),
    (EVALUATE + " --label origin", "--label origin: no row of {POOL} has this key"),
    (EVALUATE + " --dataset {TARGET}", "{TARGET}: is not the data that index {INDEX} was made from"),
    (EVALUATE + " --target sums={TARGET}", "--target: its samples must be run again; pass --model, too"),
    (EVALUATE + " --model {MODEL}", "--model {MODEL}: there is nothing to run it for"),
    (EVALUATE + " --model {MODEL} --target maths={TARGET}", "--target maths: no signature has this name"),
    (EVALUATE + " --model {MODEL} --target sums=nowhere.jsonl", "nowhere.jsonl: no such file"),
    (EVALUATE + " --model {MODEL} --target sums={POOL}", "is not the data that signature 'sums' was made from"),
    (EVALUATE + " --model ./nowhere --target sums={TARGET}", "--model ./nowhere: no model folder"),
    (EVALUATE + " --model {OTHER} --target sums={TARGET}", "was made with another model"),
]


@pytest.fixture(scope="module")
def paths(world: World, tmp_path_factory) -> dict[str, str]:
    from transformers import AutoModelForCausalLM

    folder = tmp_path_factory.mktemp("wrong")
    other = Path(shutil.copytree(world.model, folder / "other"))
    model = AutoModelForCausalLM.from_pretrained(other)
    model.get_input_embeddings().weight.data += 0.1
    model.save_pretrained(other)
    sums, nag = world.files("contrast")[0], world.files("nag")[0]
    found = {
        "INDEX": world.index,
        "SUMS": sums,
        "NAG": nag,
        "OTHER": other,
        "MODEL": world.model,
        "OUT": folder / "out",
        "POOL": world.pool,
        "TARGET": world.targets["sums"],
    }
    return {name: str(path) for name, path in found.items()}


@pytest.mark.parametrize(("command", "words"), CASES, ids=[words for _, words in CASES])
def test_one_line_and_status_2(capsys, paths: dict[str, str], command: str, words: str) -> None:
    error = run(capsys, *command.format(**paths).split()).error
    assert words.format(**paths) in error
    assert not (Path(paths["OUT"]) / "evaluation.json").exists()


def test_as_a_user_runs_it(paths: dict[str, str]) -> None:
    assert "--label COLUMN" in shell(*(EVALUATE + " --relevant sums=a").format(**paths).split()).error
