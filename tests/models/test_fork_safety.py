"""Processes that fork while another thread scores, or after this one has: they score, and get the same."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from nait_fast import NaitError, Scorer
from nait_fast.models import fork_safety
from tests.conftest import make_rows, make_tokenizer
from tests.models.tiny import build, config_of

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
ROOT = Path(__file__).resolve().parents[2]

FORKS = """
import os, signal, sys, threading, time, warnings
import torch
import nait_fast
from nait_fast import Scorer
from tests.conftest import make_rows, make_tokenizer
from tests.models.tiny import build, config_of

warnings.simplefilter("ignore")
torch.set_num_threads(2)
tokenizer = make_tokenizer()
model = build(config_of("llama", vocab_size=len(tokenizer), hidden_size=128, intermediate_size=512, head_dim=64,
                        max_position_embeddings=512))
rows = make_rows(60)
signature = nait_fast.signature_of(model, rows[:8], tokenizer=tokenizer, method="nag")
scorer = Scorer(model, [signature], tokenizer=tokenizer)
expected = scorer.score(rows[:9])
done = threading.Event()

def work():
    while not done.is_set():
        scorer.score(rows)

def fork():
    process = os.fork()
    if not process:
        signal.alarm(60)
        os._exit(0 if (scorer.score(rows[:9]) == expected).all() else 3)
    return os.waitpid(process, 0)[1]

found = [fork()]
thread = threading.Thread(target=work)
thread.start()
for wait in (0.01, 0.05, 0.02):
    time.sleep(wait)
    found.append(fork())
done.set()
thread.join()
assert (scorer.score(rows[:9]) == expected).all()
print(found)
"""


def test_forks_score_whatever_other_threads_do():
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "2"}
    ran = subprocess.run([sys.executable, "-c", FORKS], capture_output=True, text=True, timeout=300, env=environment)
    assert ran.stdout.strip() == "[0, 0, 0, 0]", ran.stderr[-2000:]


AT_ONCE = """
import os, signal, threading
from nait_fast.models.fork_safety import at_work

signal.alarm(60)
found, meet = [], threading.Barrier(2)

def work():
    with at_work(), at_work():
        meet.wait()
        process = os.fork()
        if not process:
            with at_work():
                os._exit(0)
        found.append(os.waitpid(process, 0)[1])

threads = [threading.Thread(target=work) for _ in range(2)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(found)
"""


def test_two_batches_that_fork_do_not_wait_for_each_other():
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    ran = subprocess.run([sys.executable, "-c", AT_ONCE], capture_output=True, text=True, timeout=90, env=environment)
    assert ran.stdout.strip() == "[0, 0]", ran.stderr[-2000:]


def test_a_lock_is_another_one_in_a_fork():
    lock = fork_safety.ForkSafeLock()
    with lock():
        process = os.fork()
        if not process:
            os._exit(0 if lock().acquire(blocking=False) else 3)
        assert os.waitpid(process, 0)[1] == 0
        assert lock().locked()


def test_a_model_on_a_gpu_cannot_be_used_in_a_fork(monkeypatch):
    tokenizer = make_tokenizer()
    model = build(config_of("llama", vocab_size=len(tokenizer)))
    import nait_fast

    signature = nait_fast.signature_of(model, make_rows(4), tokenizer=tokenizer, method="nag")
    scorer = Scorer(model, [signature], tokenizer=tokenizer)
    scorer.score(make_rows(2))
    monkeypatch.setattr(scorer, "_process", -1)
    scorer.score(make_rows(2))
    monkeypatch.setattr(type(scorer._session.model), "device", torch.device("cuda"))
    with pytest.raises(NaitError, match="was forked from the one that made it"):
        scorer.score(make_rows(2))
