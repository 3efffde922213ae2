"""Which form fp32 products take: what decides, what is kept, and what an index that was begun otherwise says."""

import json
import os
import subprocess
import sys

import pytest
import torch
from torch import nn

from nait_fast.errors import Mismatch
from nait_fast.models import product_trial
from nait_fast.models.linear import BLOCKED, TORCH, usable
from nait_fast.models.product_trial import HALF, Products, products_of
from nait_fast.notices import NaitWarning, recorded

pytestmark = pytest.mark.skipif(not usable(nn.Linear(2, 2)), reason="no oneDNN linear on this machine")


@pytest.fixture
def model(monkeypatch, tmp_path) -> nn.Module:
    monkeypatch.setenv("NAIT_FAST_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("NAIT_FAST_LINEAR", raising=False)
    monkeypatch.setattr(product_trial, "rows_alone", lambda: True)
    return nn.Sequential(nn.Linear(256, 512), nn.Linear(512, 256), nn.Linear(8, 8))


def timed(monkeypatch, **seconds: float) -> list[list[tuple[int, int]]]:
    trials: list[list[tuple[int, int]]] = []

    def trial(shapes):
        trials.append(shapes)
        return seconds

    monkeypatch.setattr(product_trial, "_trial", trial)
    return trials


@pytest.mark.parametrize(
    ("torch_is", "blocked_is", "form"),
    [(1.0, 2.0, TORCH), (1.0, 1.04, BLOCKED), (1.0, 1.0, BLOCKED), (2.0, 1.0, BLOCKED)],
)
def test_the_faster_form_is_taken_and_kept(monkeypatch, model, torch_is, blocked_is, form):
    trials = timed(monkeypatch, torch=torch_is, blocked=blocked_is, bfloat16=0.25)
    first = products_of(model)
    assert (first.form, first.choice, first.forced) == (form, True, False)
    assert trials == [[(256, 512), (512, 256)]]
    timed(monkeypatch, torch=2.0, blocked=1.0)  # another day's weather
    assert products_of(model) == first


def test_what_is_no_trial_is_made_anew(monkeypatch, model, tmp_path):
    timed(monkeypatch, torch=1.0, blocked=2.0)
    products_of(model)
    file = tmp_path / "cache" / "products.json"
    (key,) = json.loads(file.read_text())
    for broken in ("{", "[]", json.dumps({key: {"torch": "1"}}), json.dumps({key: {"blocked": 1.0}})):
        file.write_text(broken)
        trials = timed(monkeypatch, torch=1.0, blocked=2.0)
        assert products_of(model).form == TORCH and len(trials) == 1


def test_without_strict_products_torch_is_no_choice(monkeypatch, model):
    monkeypatch.setattr(product_trial, "rows_alone", lambda: False)
    timed(monkeypatch, torch=1.0, blocked=2.0)
    assert products_of(model).form == BLOCKED


def test_small_models_and_those_of_other_types_are_not_tried(monkeypatch, model):
    trials = timed(monkeypatch, torch=1.0, blocked=2.0)
    assert products_of(model[2]).form == BLOCKED
    assert products_of(nn.Linear(512, 512, dtype=torch.float16)) == Products()
    assert not trials


def test_the_user_decides(monkeypatch, model):
    trials = timed(monkeypatch, torch=1.0, blocked=2.0)
    monkeypatch.setenv("NAIT_FAST_LINEAR", BLOCKED)
    products = products_of(model)
    assert (products.form, products.forced, trials) == (BLOCKED, True, [])


def test_a_form_that_the_model_does_not_take_is_said(monkeypatch, model):
    monkeypatch.setenv("NAIT_FAST_LINEAR", "blocked")
    with pytest.warns(NaitWarning, match="NAIT_FAST_LINEAR=blocked: not used"):
        assert products_of(model.bfloat16()).form == TORCH


def test_a_trial_ends_and_tells_of_every_form():
    assert product_trial._trial([(64, 256), (256, 64)]).keys() >= {TORCH, BLOCKED}


def test_an_index_keeps_its_form(tmp_path):
    mine = Products(BLOCKED, choice=True)
    assert mine.as_begun(BLOCKED, tmp_path).form == BLOCKED
    assert mine.as_begun(TORCH, tmp_path).form == TORCH
    forced = Products(BLOCKED, choice=True, forced=True)
    with pytest.raises(Mismatch, match=r"made otherwise \(torch\); unset NAIT_FAST_LINEAR or choose another folder"):
        forced.as_begun(TORCH, tmp_path)
    with pytest.raises(Mismatch, match=r"made otherwise \(newer\)"):
        mine.as_begun("newer", tmp_path)


def test_what_is_said(monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    seconds = {TORCH: 1.0, BLOCKED: 2.0, HALF: 0.4}
    Products(TORCH, True, False, seconds, "2.00× as fast as blocked in a trial").tell("float32", quiet=False)
    line = "fp32 products: torch (2.00× as fast as blocked in a trial); those of bfloat16 are 2.5× as fast here"
    assert capsys.readouterr().err == f"nait-fast: {line}: --dtype bfloat16\n"
    Products(TORCH, True, False, {**seconds, HALF: 0.9}, "forced").tell("float32", quiet=False)
    Products(TORCH, True, False, seconds, "forced").tell("float32", quiet=True)
    assert capsys.readouterr().err == "nait-fast: fp32 products: torch (forced)\n"
    with recorded() as warnings:
        Products(seconds={TORCH: 1.0, BLOCKED: 0.5, HALF: 2.5}).tell(HALF, quiet=True)
        Products(seconds=seconds).tell(HALF, quiet=True)
    assert warnings == ["--dtype bfloat16: on this processor its products take 5.0 times as long as fp32's"]


STRICT = """
import torch
from nait_fast.models.product_trial import rows_alone
x, weight = torch.randn(400, 1536), torch.randn(576, 1536)
one = {}
for threads in (1, 2, 3):
    torch.set_num_threads(threads)
    for rows in (1, 5, 64, 100, 333, 400):
        same = torch.equal(one.setdefault(rows, x[:rows] @ weight.T), x[:rows] @ weight.T)
        assert same or not rows_alone(), (threads, rows)
print(rows_alone())
"""


def test_strict_products_depend_on_no_thread():
    """What is taken to be strict is; without the variable nothing is."""
    for setting, answers in (("AUTO,STRICT", {"True\n", "False\n"}), ("", {"False\n"})):
        environment = {**os.environ, "MKL_CBWR": setting}
        ran = subprocess.run(
            [sys.executable, "-c", STRICT], capture_output=True, text=True, check=True, env=environment
        )
        assert ran.stdout in answers
