"""Several workers on one machine: one process each, started and watched by one that does no work itself."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from nait_fast.errors import NaitError
from nait_fast.terminal import printable
from nait_fast.workers.function_names import name_of
from nait_fast.workers.stop_switch import Stopped, StopSwitch
from nait_fast.workers.worker import Worker

# Isolated, with this process's path: neither the current folder nor PYTHONPATH's order may change what it runs.
_CHILD = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from nait_fast.workers.local_process import run_from_stdin; sys.exit(run_from_stdin())"
)
_POLL_SECONDS = 0.1
_WATCH_SECONDS = 1.0


@dataclass
class _Child:
    worker: Worker
    process: subprocess.Popen[bytes]


def default_workers(device: str) -> int:
    """One for each GPU that `auto` may use; else one."""
    if device not in ("auto", "cuda"):
        return 1
    import torch

    return max(1, torch.cuda.device_count())


def run_workers(
    work: Callable[[Any, Worker, bool], Any], options: Any, number: int, watch: Callable[[], None] = lambda: None
) -> None:
    """Run ``work(options, worker, quiet)``, a function of a module, in ``number`` processes; ``options``: plain values.

    The first failure is told on stderr at once, while the others go on; a worker that was killed is told too, and is no
    failure as long as another one ends well. Raises NaitError if none does; Stopped after a SIGINT or SIGTERM, which
    the workers get as well. ``watch`` is called every second.
    """
    failures: list[str] = []
    ended_well, signalled, watched = 0, False, time.monotonic()
    children: list[_Child] = []
    started = time.time()
    with StopSwitch() as stop:
        try:
            for rank in range(number):
                children.append(_start(name_of(work), options, Worker(rank, number, rank, os.getpid(), started)))
            while children:
                time.sleep(_POLL_SECONDS)
                if time.monotonic() - watched > _WATCH_SECONDS:
                    watched = time.monotonic()
                    watch()
                if stop.asked and not signalled:
                    signalled = True
                    for child in children:
                        # A terminal's SIGINT has reached it already, and a second one would end it at once.
                        child.process.send_signal(signal.SIGTERM)
                for child in [c for c in children if c.process.poll() is not None]:
                    children.remove(child)
                    why = _farewell(child)
                    ended_well += why is None
                    if why and not stop.asked:
                        failures.append(why)
                        print(
                            printable(f"nait-fast: {why}") + ("; the others go on" if children else ""), file=sys.stderr
                        )
        finally:
            for child in children:  # something went wrong here: nobody would watch them
                child.process.terminate()
            for child in children:
                child.process.wait()
    if ended_well:  # then the index is complete
        return
    if stop.asked:
        raise Stopped("stopped, every worker after its batch; the same command goes on from there")
    raise NaitError(failures[0], remedy="the same command goes on where it stopped")


def _start(call: str, options: Any, worker: Worker) -> _Child:
    process = subprocess.Popen(
        [sys.executable, "-I", "-c", _CHILD, json.dumps(sys.path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdin is not None
    process.stdin.write(json.dumps({"call": call, "options": options, "worker": asdict(worker)}).encode())
    process.stdin.close()
    return _Child(worker, process)


def _farewell(child: _Child) -> str | None:
    """What went wrong with a worker that has ended; None if nothing did."""
    assert child.process.stdout is not None
    message, code = child.process.stdout.read().decode(errors="replace").strip(), child.process.returncode
    child.process.stdout.close()
    if code == 0:
        return None
    if code < 0:
        return f"{child.worker.name} was killed by {signal.Signals(-code).name}"
    return f"{child.worker.name} failed: {message}" if message else f"{child.worker.name} ended with status {code}"
