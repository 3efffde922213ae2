"""A pool, its index and a target's signature on this machine, and the commands that are run on them."""

import json
from dataclasses import dataclass
from pathlib import Path

from nait_fast.storage.names import MANIFEST, RUN, plan_name
from tests.commands import run

OPTIONS = ("--batch-tokens", "400", "--max-length", "64")
# What tells of the run, or where the pool is.
TELLING = {"config.yaml", "log.json", "events.jsonl", RUN, MANIFEST, plan_name(0), ".nait-fast.lock", ".nait-fast.json"}


@dataclass(frozen=True)
class Made:
    """A model, and a folder with a pool, more of it, a target, the pool's index and the target's signature."""

    model: str
    folder: Path

    def index(self, pool: str, output: object, *more: str) -> tuple[object, ...]:
        shape = ("--shard-rows", "10", "--quiet", *OPTIONS)
        return ("index", "--model", self.model, "--dataset", self.folder / pool, "--output", output, *shape, *more)

    def rank(self, output: object, *more: str) -> tuple[object, ...]:
        inputs = ("--index", self.folder / "index", "--signature", self.folder / "signatures/sums.safetensors")
        return ("rank", *inputs, "--top-k", "7", "--output", output, "--quiet", *more)


def select(capsys, model: str, pool: str, target: str, output: Path, *more: str) -> dict:
    arguments = ("--model", model, "--dataset", pool, "--target", target, "--output", output, "--fraction", "0.2")
    return json.loads(run(capsys, "select", *arguments, *OPTIONS, "--quiet", "--json", *more).out.splitlines()[-1])


def files_in(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}
