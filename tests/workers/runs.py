"""Index runs in processes that can be killed: forked from a server that has imported everything."""

import json
import multiprocessing
import os
import signal
import sys
import time
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from nait_fast.extract.indexing import IndexBuild
from nait_fast.index import writer
from nait_fast.index.writer import IndexWriter
from nait_fast.storage import files
from nait_fast.verbs.index import work
from nait_fast.workers.worker import Worker
from tests.conftest import make_rows

ROOT = Path(__file__).parent.parent.parent
OPERATIONS = ("write", "sync", "before rename", "after rename")


def make_pool(path: Path, rows: int = 60) -> Path:
    """Rows of all kinds: good, bad, too long, with the id of another one."""
    made = make_rows(rows)
    lines = [json.dumps(row) for row in made]
    for row in range(5, rows, 17):
        lines[row] = '{"instruction": "cut'
    for row in range(8, rows, 19):
        lines[row] = json.dumps({**made[row], "id": f"r{row - 3}"})
    for row in range(3, rows, 11):
        lines[row] = json.dumps({**made[row], "output": " ".join(["the cat has ten apples"] * 12)})
    path.write_text("\n".join(lines) + "\n")
    return path


def index(options: dict[str, Any], rank: int = 0, world: int = 1) -> None:
    """One worker's whole run."""
    work(options, Worker(rank, world, rank), quiet=True)


def dying(options: dict[str, Any], operation: str, when: int | str) -> None:
    """As ``index``, but killed in an ``operation`` of the ``when``-th writing of a file, or of the file ``when``'s."""
    count, reached = 0, False
    real_open, real_sync, real_replace = open, os.fsync, os.replace

    def die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    class Half:
        """A file of which the write that it dies in reaches the disk by half."""

        def __init__(self, file: Any):
            self.file = file

        def write(self, data: bytes) -> None:
            self.file.write(data[: len(data) // 2])
            self.file.flush()
            die()

        def __getattr__(self, name: str) -> Any:
            return getattr(self.file, name)

        def __enter__(self) -> "Half":
            return self

        def __exit__(self, *error: object) -> None:
            self.file.close()

    def opened(path: Any, mode: str = "r", *arguments: Any, **named: Any) -> Any:
        nonlocal count, reached
        file = real_open(path, mode, *arguments, **named)
        if "w" in mode:
            count += 1
            reached = count == when or (isinstance(when, str) and Path(path).name.startswith(when))
            if reached and operation == "write":
                return Half(file)
        return file

    def sync(descriptor: int) -> None:
        if reached and operation == "sync":
            die()
        real_sync(descriptor)

    def replace(source: Any, target: Any) -> None:
        if reached and operation == "before rename":
            die()
        real_replace(source, target)
        if reached and operation == "after rename":
            die()

    files.open = opened
    os.fsync, os.replace = sync, replace
    index(options)


PAUSES = ("before the shard", "in the shard", "behind the shard", "behind the note")


def paused(options: dict[str, Any], where: str, folder: str, seconds: float) -> None:
    """As ``index``, but for a pause within the writing of unit 2: ``folder`` then has a file ``paused``, and ``ran``
    once the next unit has gone through the model meanwhile; ``stopped`` says what a signal has ended it with."""
    run, write, note, real_sync = IndexBuild.run_unit, IndexWriter.write_shard, writer.write_sealed, os.fsync
    number = -1  # of the unit that is being written

    def pause() -> None:
        Path(folder, "paused").touch()
        time.sleep(seconds)

    def running(self: IndexBuild, window: Any, on_batch: Any = None) -> Any:
        unit = run(self, window, on_batch)
        if window.unit.number == 3:
            Path(folder, "ran").touch()
        return unit

    def writing(self: IndexWriter, *arguments: Any) -> None:
        nonlocal number
        number = arguments[0]
        if number == 2 and where == "before the shard":
            pause()
        write(self, *arguments)
        if number == 2 and where == "behind the note":
            pause()

    def noting(*arguments: Any) -> Any:
        if number == 2 and where == "behind the shard":
            pause()
        return note(*arguments)

    def sync(descriptor: int) -> None:
        if number == 2 and where == "in the shard" and not Path(folder, "paused").exists():
            pause()
        real_sync(descriptor)

    IndexBuild.run_unit, IndexWriter.write_shard, writer.write_sealed = running, writing, noting
    os.fsync = sync
    try:
        index(options)
    except KeyboardInterrupt as stopped:
        Path(folder, "stopped").write_text(str(stopped))


def command(arguments: list[str], output: str) -> None:
    """``nait-fast ARGUMENTS``, with what it writes in a file."""
    from nait_fast.cli import main

    descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    sys.exit(main(arguments))


def printing(arguments: list[str], output: str) -> None:
    """As ``command``, in its output's folder, with workers whose libraries print a lot to stdout."""
    os.environ["ONEDNN_VERBOSE"] = "1"
    os.chdir(Path(output).parent)
    command(arguments, output)


def server() -> Any:
    """The context whose processes are forked; call it before anything is started."""
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.workers.runs", "transformers.models.llama.modeling_llama", "tokenizers"])
    return context


def start(context: Any, function: Any, *arguments: Any) -> BaseProcess:
    process = context.Process(target=function, args=arguments)
    process.start()
    return process
