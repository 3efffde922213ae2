"""The verb validate on a tiny random Llama: verdicts, resuming, what is refused, answers."""

import json
import math
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import nait_fast
from nait_fast import cli
from nait_fast.errors import NaitError
from nait_fast.validation import FILE, RUNS, gathering
from nait_fast.validation.arms import plan
from nait_fast.validation.runner import own_runs
from nait_fast.validation.summary import summary_of, text_of
from tests.conftest import make_rows, write_jsonl

QUICK = {"tokens": 240, "steps": 4, "samples": 8, "layers": 2, "rank": 2, "seeds": 2, "draws": 2, "lr": 1e-2}


def sums(n: int, seed: int) -> list[dict]:
    return [row for row in make_rows(2 * n, seed=seed) if row["source"] == "sums"]


def select(model: str, pool: Path, targets: list[str], output: Path, top_k: int = 20) -> None:
    """A selection from ``pool``, of samples read to 60 tokens."""
    options = {"top_k": top_k, "max_length": 60, "calibration_size": 20}
    nait_fast.select(model=model, dataset=str(pool), target=targets, output=str(output), **options)


@pytest.fixture(scope="module")
def place(tiny_model, tmp_path_factory) -> Path:
    """A folder with a selection of half the sums, ``chosen``, and ``held-out.jsonl``."""
    folder = tmp_path_factory.mktemp("validate")
    pool = write_jsonl(folder / "pool.jsonl", make_rows(80))
    target = write_jsonl(folder / "sums.jsonl", sums(12, 1))
    write_jsonl(folder / "held-out.jsonl", sums(12, 2))
    select(tiny_model, pool, [f"sums={target}"], folder / "chosen")
    return folder


def validate(place: Path, output: Path, **options):
    asked = {"selection": str(place / "chosen"), "held_out": [str(place / "held-out.jsonl")], "output": str(output)}
    return nait_fast.validate(**{**asked, **QUICK, **options})


@pytest.fixture(scope="module")
def made(place, tmp_path_factory):
    output = tmp_path_factory.mktemp("made") / "out"
    return output, validate(place, output, deciles=True, answer="exact", answer_tokens=4)


def test_a_validation_says_what_was_trained_and_found(made):
    output, result = made
    assert [arm["arm"] for arm in result["arms"]] == [
        "base",
        "random",
        "random_length",
        "top",
        "bottom",
        *(f"tenth {k}" for k in range(1, 11)),
    ]
    assert result["recipe"]["tokens"] == 240 and result["recipe"]["steps"] == 4
    assert [(one["name"], one["role"], one["samples"]) for one in result["sets"]] == [
        ("sums", "target", 8),
        ("general", "general", 8),
    ]
    (verdict,) = result["verdicts"]
    top = next(arm for arm in result["arms"] if arm["arm"] == "top")
    assert verdict["mean"] == top["against_random"]["sums"]["mean"]
    random = next(arm for arm in result["arms"] if arm["arm"] == "random")
    assert verdict["mean"] == pytest.approx(top["losses"]["sums"]["mean"] - random["losses"]["sums"]["mean"], abs=2e-6)
    assert verdict["text"].startswith(verdict["word"]) and verdict["text"].endswith(
        "nats a token" + ")" * ("not" in verdict["word"])
    )
    assert set(top["accuracy"]) == {"sums"} and 0 <= top["accuracy"]["sums"]["mean"] <= 1
    right = top["accuracy_against_random"]["sums"]
    assert right["mean"] == pytest.approx(
        top["accuracy"]["sums"]["mean"] - random["accuracy"]["sums"]["mean"], abs=2e-6
    )
    assert "accuracy_against_random" not in random and "points against random rows" in result["text"]
    assert json.loads((output / FILE).read_text())["verdicts"] == result["verdicts"]
    rows = [json.loads(line) for line in (output / RUNS).read_text().splitlines()]
    assert len(rows) == 1 + 1 + 2 * 4 + 2 * 10  # what they are of, then a line a run
    assert {row["response_tokens"] for row in rows[2:]} == {240} and {row["steps"] for row in rows[2:]} == {4}
    assert all(len(line) <= 80 for line in result["text"].splitlines() if "written to" not in line)


def test_training_helps_the_kind_that_was_selected(place, tmp_path):
    result = validate(place, tmp_path / "out", tokens=1200, steps=12, seeds=3, draws=3)
    of = {arm["arm"]: arm["losses"]["sums"]["mean"] for arm in result["arms"]}
    assert of["top"] < of["random"] < of["base"] and of["top"] < of["bottom"]


def test_a_killed_validation_ends_in_the_same_bytes(place, made, tmp_path):
    output, _ = made
    again = tmp_path / "out"
    again.mkdir()
    lines = (output / RUNS).read_bytes().splitlines(keepends=True)
    (again / RUNS).write_bytes(b"".join(lines[:9]) + lines[9][: len(lines[9]) // 2])  # as a kill leaves it
    validate(place, again, deciles=True, answer="exact", answer_tokens=4)
    ours, theirs = (json.loads((folder / FILE).read_text()) for folder in (again, output))
    for key in ours.keys() - {"options", "checksum"}:
        assert ours[key] == theirs[key], key
    kept = (again / RUNS).read_bytes()
    assert kept.startswith(b"".join(lines[:9]))  # nothing that was there was made again


def test_time_and_memory_are_said_before_and_what_is_left_on_the_way(place, tmp_path, capsys):
    seen = validate(place, tmp_path / "seen", quiet=False)
    said = capsys.readouterr().err.splitlines()
    lines = [line for line in said if line.startswith("nait-fast: ") and ("runs" in line or "/9 " in line)]
    assert re.fullmatch(r"nait-fast: 9 runs of 240 response tokens in 4 steps: about \d+ (s|min), \d+\.\d GB", lines[0])
    assert re.fullmatch(r"nait-fast: 1/9 base 0: sums \d\.\d{3}, general \d\.\d{3}; \d+ s left", lines[1])
    assert len(lines) == 10 and "left" not in lines[9]
    unseen = validate(place, tmp_path / "unseen")
    assert seen["arms"] == unseen["arms"]  # what was tried for that has changed nothing


def test_more_seeds_keep_the_runs_that_are_there(place, tmp_path):
    first = validate(place, tmp_path / "out")
    before = (tmp_path / "out" / RUNS).read_bytes()
    more = validate(place, tmp_path / "out", seeds=3)
    after = (tmp_path / "out" / RUNS).read_bytes()
    assert after.startswith(before) and len(after.splitlines()) == len(before.splitlines()) + 3
    assert [arm["seeds"] for arm in first["arms"]] == [1, 2, 2, 2, 2]
    assert [arm["seeds"] for arm in more["arms"]] == [1, 2, 3, 3, 3]


def test_answers_of_another_length_are_made_anew(place, tmp_path):
    lines = []
    for most in (1, 2, 2):
        validate(place, tmp_path / "out", answer="exact", answer_tokens=most)
        lines.append(len((tmp_path / "out" / RUNS).read_text().splitlines()) - 1)
    assert lines == [9, 18, 18]


def test_a_small_pool_keeps_rows_for_the_arms(place, tmp_path):
    result = validate(place, tmp_path / "out", samples=64)
    assert [one["samples"] for one in result["sets"]] == [12, 15]  # of 60 rows that are not selected


def test_a_training_that_diverges_is_told(place, tmp_path, monkeypatch):
    from nait_fast.validation.learner import Learner

    whole = Learner.evaluate

    def broken(self, rows):
        losses = whole(self, rows)
        return {**losses, "nll": [math.nan, *losses["nll"][1:]]} if self.trained else losses

    train = Learner.train
    monkeypatch.setattr(Learner, "trained", False, raising=False)
    monkeypatch.setattr(Learner, "evaluate", broken)
    monkeypatch.setattr(
        Learner, "train", lambda self, steps, seed: setattr(self, "trained", len(steps) > 1) or train(self, steps, seed)
    )
    with pytest.raises(NaitError, match="diverged: a loss is not finite; lower it"):
        validate(place, tmp_path / "out")
    assert len((tmp_path / "out" / RUNS).read_text().splitlines()) == 2  # what it is of, and the model as it is


def test_tenths_leave_the_other_arms_as_they_are(place, tmp_path):
    first = validate(place, tmp_path / "out")
    before = (tmp_path / "out" / RUNS).read_bytes()
    more = validate(place, tmp_path / "out", deciles=True)
    assert (tmp_path / "out" / RUNS).read_bytes().startswith(before)
    assert more["verdicts"] == first["verdicts"] and more["arms"][:5] == first["arms"]


def test_a_response_without_an_answer_is_refused(place, tmp_path):
    with pytest.raises(NaitError, match=r"held-out.jsonl row 0: its response holds no answer \(choice\)"):
        validate(place, tmp_path / "out", answer="choice")


@pytest.mark.parametrize("answer", ["exact", "likelihood"])
def test_an_answer_that_is_cut_is_refused(place, tmp_path, answer):
    long = " ".join(["four"] * 80)
    rows = [{**row, "choices": [row["output"], long]} for row in sums(6, 2)]
    rows[3] = {**rows[3], **({"output": long} if answer == "exact" else {})}
    held = write_jsonl(tmp_path / "held.jsonl", rows)
    with pytest.raises(
        NaitError, match=r"held\.jsonl row 3: .*does not end within 60 tokens" if answer == "exact" else "row 0: "
    ):
        validate(place, tmp_path / "out", held_out=[str(held)], answer=answer)


def test_a_target_may_be_called_general(place, tmp_path, tiny_model):
    index = place / "chosen" / "index"
    nait_fast.build_signature(
        model=tiny_model,
        target=[f"general={place / 'sums.jsonl'}"],
        codebook=str(index),
        output=str(tmp_path / "s"),
        max_length=60,
    )
    chosen = tmp_path / "chosen"
    nait_fast.rank(index=str(index), signature=[str(tmp_path / "s")], top_k=20, output=str(chosen))
    result = validate(place, tmp_path / "out", selection=str(chosen))
    assert [(one["name"], one["role"]) for one in result["sets"]] == [("general", "target"), ("elsewhere", "general")]
    assert [one["target"] for one in result["verdicts"]] == ["general"]


def test_held_out_samples_of_the_signature_are_left_out(place, tmp_path):
    mixed = write_jsonl(tmp_path / "mixed.jsonl", [*sums(12, 1)[:6], *sums(12, 2)])
    with pytest.warns(nait_fast.notices.NaitWarning, match="6 of its samples are among those"):
        result = validate(place, tmp_path / "out", held_out=[f"sums={mixed}"])
    assert any("6 of its samples" in text for text in result["warnings"])
    with pytest.raises(NaitError, match="0 samples of it can be measured on"):
        validate(place, tmp_path / "none", held_out=[str(place / "sums.jsonl")])


@pytest.mark.parametrize(("max_length", "usable"), [(40, 4), (120, 5)])
def test_they_are_known_at_another_length_too(tiny_model, tmp_path, max_length, usable):
    long = [{**row, "output": " ".join([row["output"]] * 40)} for row in sums(12, 1)]  # cut by the signature at 60
    target, mixed = (
        write_jsonl(tmp_path / name, rows) for name, rows in (("t.jsonl", long), ("m.jsonl", [*long[:5], *sums(12, 2)]))
    )
    select(tiny_model, write_jsonl(tmp_path / "pool.jsonl", make_rows(80)), [f"sums={target}"], tmp_path / "chosen")
    asked = {"selection": str(tmp_path / "chosen"), "held_out": [str(mixed)], "max_length": max_length}
    with pytest.warns(nait_fast.notices.NaitWarning, match=f"{usable} of its samples are among those"):
        validate(tmp_path, tmp_path / "out", **asked)


def test_targets_that_change_places_are_measured_anew(place, tmp_path, tiny_model):
    poems = [row for row in make_rows(48, seed=1) if row["source"] != "sums"]
    targets = {"a": write_jsonl(tmp_path / "a.jsonl", sums(12, 1)), "b": write_jsonl(tmp_path / "b.jsonl", poems[:12])}
    select(tiny_model, place / "pool.jsonl", [f"{name}={path}" for name, path in targets.items()], tmp_path / "two")
    one, other = write_jsonl(tmp_path / "one.jsonl", sums(8, 2)), write_jsonl(tmp_path / "other.jsonl", poems[12:20])
    losses = []
    for first, second in ((one, other), (other, one)):
        asked = {"selection": str(tmp_path / "two"), "held_out": [f"a={first}", f"b={second}"], "overwrite": True}
        losses.append(validate(place, tmp_path / "out", **asked)["arms"][0]["losses"])
    assert losses[0]["a"] == losses[1]["b"] != losses[1]["a"] == losses[0]["b"]


def test_rows_that_are_too_few_to_hold_against_are_told(tiny_model, tmp_path):
    target = write_jsonl(tmp_path / "sums.jsonl", sums(12, 1))
    select(
        tiny_model,
        write_jsonl(tmp_path / "pool.jsonl", make_rows(80)),
        [f"sums={target}"],
        tmp_path / "chosen",
        top_k=66,
    )
    write_jsonl(tmp_path / "held-out.jsonl", sums(12, 2))
    with pytest.warns(
        nait_fast.notices.NaitWarning, match=r"response tokens are all that 'the worst rows' hold, of the"
    ):
        result = validate(tmp_path, tmp_path / "out", samples=8)
    distinct = result["recipe"]["distinct_tokens"]
    assert distinct < 240 and f"({distinct:,} different)" in " ".join(result["text"].split())


def test_seeds_draw_other_rows_of_a_large_pool_of_short_responses(place, tmp_path, monkeypatch):
    monkeypatch.setattr(gathering, "LEAST_ROWS", 8)
    monkeypatch.setattr(gathering, "ROW_TOKENS", 10_000)
    read: list[int] = []
    real = gathering.trained_rows

    def counting(encoder, index, pool, rows):
        read.append(len(rows))
        return real(encoder, index, pool, rows)

    monkeypatch.setattr(gathering, "trained_rows", counting)
    validate(place, tmp_path / "out", tokens=60, steps=1)
    assert len(read) > 2 and read[-1] > read[1]  # more rows were taken until they held the tokens of five runs
    rows = [json.loads(line) for line in (tmp_path / "out" / RUNS).read_text().splitlines()[1:]]
    drawn = {row["seed"]: row["evaluated"] for row in rows if row["arm"] == "random"}
    assert drawn[0] != drawn[1]


def test_answers_that_are_all_alike_are_no_certainty():
    evaluated = {"sums": {"nll": [1.0, 2.0], "tokens": [1, 2], "correct": [0.0, 0.0]}}
    right = {"sums": {**evaluated["sums"], "correct": [1.0, 1.0]}}
    runs = plan(2, 2, False)
    trained = {"rows": 1, "response_tokens": 2, "samples": 1}
    done = {run: {**trained, "evaluated": right if run.arm == "top" else evaluated} for run in runs}
    made = summary_of(runs, done, [{"name": "sums", "role": "target"}])
    top = next(arm for arm in made["arms"] if arm["arm"] == "top")
    assert top["accuracy"]["sums"] == {"mean": 1.0, "half": None}
    assert top["accuracy_against_random"]["sums"] == {"mean": 1.0, "half": None}


def test_the_next_command_can_be_pasted(made, tmp_path):
    output, result = made
    for folder, inside in ((output, False), (tmp_path / "a b" / "v2", False), (Path("chosen", "validation"), True)):
        shown = {**result, "selection": {**result["selection"], "folder": "chosen"}}
        words = shlex.split(text_of(shown, folder).rpartition("next: ")[2])
        assert words == ["nait-fast", "report", "chosen", *([] if inside else ["--validation", str(folder)])]


def test_why_samples_cannot_be_measured_on_is_told(place, tmp_path):
    held = write_jsonl(tmp_path / "held.jsonl", [*sums(8, 2), {**sums(1, 3)[0], "instruction": "add " * 80}])
    with pytest.warns(nait_fast.notices.NaitWarning, match=r"1 of its samples cannot be measured on \(most: .+\)"):
        validate(place, tmp_path / "out", held_out=[str(held)], samples=9)


def test_the_likeliest_choice_is_counted(place, tmp_path):
    rows = [{**row, "choices": ["zero", row["output"], "write a poem about rain"]} for row in sums(8, 2)]
    held = write_jsonl(tmp_path / "choices.jsonl", rows)
    result = validate(place, tmp_path / "out", held_out=[str(held)], answer="likelihood")
    runs = [json.loads(line) for line in (tmp_path / "out" / RUNS).read_text().splitlines()[1:]]
    assert all(set(run["evaluated"]["sums"]["correct"]) <= {0.0, 1.0} for run in runs)
    of_base = np.mean(runs[0]["evaluated"]["sums"]["correct"])
    assert result["arms"][0]["accuracy"]["sums"]["mean"] == pytest.approx(of_base, abs=1e-6)
    model = AutoModelForCausalLM.from_pretrained(result["model"]).eval()  # by hand: a choice's loss, all of its tokens
    tokenizer = AutoTokenizer.from_pretrained(result["model"])
    right = []
    for row in rows:
        prompt = tokenizer.apply_chat_template(
            [{"role": "user", "content": row["instruction"]}], tokenize=False, add_generation_prompt=True
        )
        losses = {}
        for choice in row["choices"]:
            ids = tokenizer(prompt + choice, add_special_tokens=False, return_tensors="pt")["input_ids"]
            start = len(tokenizer(prompt, add_special_tokens=False)["input_ids"])
            with torch.no_grad():
                logp = model(ids).logits[0].log_softmax(-1)
            losses[choice] = -float(logp[range(start - 1, ids.shape[1] - 1), ids[0, start:]].sum())
        right.append(float(min(losses, key=losses.get) == row["output"]))
    assert right == runs[0]["evaluated"]["sums"]["correct"]
    for wrong, message in (({}, "no list of texts"), ({"choices": ["a", "b"]}, "is not one of its")):
        bad = write_jsonl(tmp_path / "bad.jsonl", [{**row, **wrong} for row in sums(8, 2)])
        with pytest.raises(NaitError, match=message):
            validate(place, tmp_path / "no", held_out=[str(bad)], answer="likelihood")


def test_rows_of_the_pool_that_are_held_out_are_not_trained_on(place, tmp_path):
    own = [row for row in make_rows(80) if row["source"] == "sums"][:6]
    held = write_jsonl(tmp_path / "held.jsonl", own)
    with pytest.warns(nait_fast.notices.NaitWarning, match="rows of the pool are held-out samples"):
        result = validate(place, tmp_path / "out", held_out=[str(held)])
    mean = {arm["arm"]: arm["mean_response"] for arm in result["arms"]}
    off = mean["random_length"] / mean["top"] - 1
    told = [text for text in result["warnings"] if "'random, same lengths' are" in text]
    assert bool(told) == (abs(off) > 0.1) and all("shorter than" in text for text in told)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"held_out": ["other=x.jsonl"]}, "the selection has no target 'other'"),
        ({"held_out": ["sums=nowhere.jsonl"]}, "nowhere.jsonl"),
        ({"layers": 99}, "the model has"),
        ({"lr": 0.0}, "must be above 0"),
        ({"lr": math.inf}, "must be above 0|not finite|finite"),
        ({"dtype": "float8"}, "no gradient"),
        ({"steps": 100}, "shorter than the longest response"),
        ({"selection": "nowhere"}, "no such folder"),
        ({"answer_tokens": 4}, "nothing is generated but by --answer"),
    ],
)
def test_what_cannot_be_is_refused(place, tmp_path, options, message):
    with pytest.raises(NaitError, match=message):
        validate(place, tmp_path / "out", **options)
    assert not (tmp_path / "out" / FILE).exists()


def test_other_scores_than_all_and_other_files_are_refused(place, tmp_path, tiny_model):
    index, signature = place / "chosen" / "index", place / "chosen" / "signatures" / "sums.safetensors"
    nait_fast.rank(
        index=str(index), signature=[str(signature)], top_k=5, scores="selected", output=str(tmp_path / "few")
    )
    with pytest.raises(NaitError, match="--scores all"):
        validate(place, tmp_path / "out", selection=str(tmp_path / "few"))
    (tmp_path / "mine").mkdir()
    for text in ("mine\n", "[1]\n", '"mine"\n'):
        (tmp_path / "mine" / RUNS).write_text(text)
        with pytest.raises(NaitError, match="is in the way"):
            validate(place, tmp_path / "mine")
        assert (tmp_path / "mine" / RUNS).read_text() == text


def test_a_head_that_a_kill_has_cut_is_begun_anew(tmp_path):
    path = tmp_path / RUNS
    assert own_runs(path) == []
    head = path.read_bytes()
    for end in range(len(head)):
        path.write_bytes(head[:end])
        assert own_runs(path) == [] and path.read_bytes() == head
    assert own_runs(path) == [json.loads(head)] and path.read_bytes() == head


def test_the_command_line_and_another_selection(place, tmp_path, capsys):
    command = ["validate", str(place / "chosen"), "--held-out", str(place / "held-out.jsonl")]
    command += ["--output", str(tmp_path / "out")]
    command += [text for name, value in QUICK.items() for text in (f"--{name.replace('_', '-')}", str(value))]
    assert cli.main(command) == 0
    out = capsys.readouterr().out
    assert "random rows" in out.splitlines()[0] and "the selection" in out
    index, signature = place / "chosen" / "index", place / "chosen" / "signatures" / "sums.safetensors"
    nait_fast.rank(index=str(index), signature=[str(signature)], top_k=5, output=str(tmp_path / "five"))
    command[1] = str(tmp_path / "five")
    assert cli.main(command) == 2
    assert "of another selection" in capsys.readouterr().err
