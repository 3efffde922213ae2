"""A disk that fills up costs one line; with room again the same command ends as if nothing had happened."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.commands import run
from tests.conftest import make_rows, write_jsonl

resource = pytest.importorskip("resource")


@pytest.fixture
def commands(tmp_path: Path, tiny_model: str) -> dict[str, list[str]]:
    """The arguments of a select and an index, but for --output."""
    pool = write_jsonl(tmp_path / "pool.jsonl", make_rows(120))
    target = write_jsonl(tmp_path / "sums.jsonl", make_rows(12, seed=1))
    common = ["--model", tiny_model, "--dataset", str(pool)]
    return {
        "select": ["select", *common, "--target", str(target), "--fraction", "0.5"],
        "index": ["index", *common, "--shard-rows", "8"],
    }


def contents(folder: Path) -> dict[str, bytes]:
    """All files of a result whose bytes do not tell times and paths."""
    kept = (".safetensors", ".parquet", ".jsonl")
    files = [p for p in folder.rglob("*") if p.suffix in kept or p.name == "dataset_info.json"]
    files = [p for p in files if p.name != "events.jsonl"]
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(files)}


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Writing more than ``size`` bytes to a file fails, as on a full disk (Python ignores the signal)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("verb", ["select", "index"])
def test_files_that_cannot_be_written_whole(capsys, tmp_path: Path, commands, verb: str) -> None:
    command, out = commands[verb], tmp_path / "out"
    assert run(capsys, *command, "--output", tmp_path / "whole").status == 0
    failed = []
    for size in (0, 1, 100, 500, 1000, 2000, 3000, 4000, 5000, 6000, 8000):
        with largest_file(size):
            ran = run(capsys, *command, "--output", out)
        if ran.status == 0:
            break
        failed.append(ran.error)
        assert "cannot be written" in ran.error and str(out) in ran.error
        assert not list(out.rglob("*.tmp"))
    assert len(set(failed)) >= 4  # it failed in several places, and went on a little further each time
    assert run(capsys, *command, "--output", out).status == 0
    assert contents(out) == contents(tmp_path / "whole")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder on a disk of 16 KiB; ``resize`` gives it more room."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = sys.platform == "linux" and hasattr(os, "geteuid") and os.geteuid() == 0
    try:
        mounted = (
            mounted
            and not subprocess.run(
                ["mount", "-t", "tmpfs", "-o", "size=16k", "none", str(folder)], capture_output=True
            ).returncode
        )
    except OSError:
        mounted = False
    if not mounted:
        pytest.skip("a small disk cannot be mounted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def resize(folder: Path, kib: int) -> None:
    subprocess.run(["mount", "-o", f"remount,size={kib}k", str(folder)], check=True)


@pytest.mark.parametrize("verb", ["select", "index"])
def test_a_disk_that_is_full(capsys, tmp_path: Path, small_disk: Path, commands, verb: str) -> None:
    command, out = commands[verb], small_disk / "out"
    assert run(capsys, *command, "--output", tmp_path / "whole").status == 0
    failures = 0
    for kib in range(16, 400, 16):
        ran = run(capsys, *command, "--output", out)
        if ran.status == 0:
            break
        assert "No space left on device" in ran.error and str(out) in ran.error
        failures += 1
        resize(small_disk, kib + 16)
    assert ran.status == 0 and failures >= 2
    assert contents(out) == contents(tmp_path / "whole")
