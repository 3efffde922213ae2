"""The process of one worker that ``local`` starts: what to do comes as JSON on stdin, a failure leaves on stdout."""

import json
import os
import sys

from nait_fast.env import strict_mkl
from nait_fast.errors import NaitError, one_line
from nait_fast.notices import hushed
from nait_fast.terminal import warnings_on_stderr
from nait_fast.workers.function_names import named
from nait_fast.workers.stop_switch import Stopped
from nait_fast.workers.worker import Worker, silence_libraries


def run_from_stdin() -> int:
    given = json.load(sys.stdin)
    # What libraries print goes to stderr: nobody reads this pipe before the end, and a full one would stop the worker.
    report = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    worker = Worker(**given["worker"])
    strict_mkl()
    if "OMP_NUM_THREADS" not in os.environ:  # the workers share the cores
        import torch

        torch.set_num_threads(max(1, torch.get_num_threads() // worker.world))
    silence_libraries()
    try:
        with warnings_on_stderr() if worker.rank == 0 else hushed():  # all would say the same
            named(given["call"])(given["options"], worker, True)
    except Stopped:
        return 130
    except (NaitError, OSError) as error:
        print(one_line(error), file=report, flush=True)
        return 2
    except Exception as error:
        print(f"{type(error).__name__}: {one_line(error)}", file=report, flush=True)
        raise
    return 0
