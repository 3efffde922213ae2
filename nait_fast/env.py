"""What a result was made with: versions, hardware, commit."""

import ctypes
import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from nait_fast._version import __version__
from nait_fast.errors import BadInput
from nait_fast.notices import warn
from nait_fast.processors import processor, processor_features

if TYPE_CHECKING:
    import torch

# (rank, number of workers, place on this machine) as torchrun and Slurm tell them, the first that is set
WORKERS = (
    ("RANK", "WORLD_SIZE", "LOCAL_RANK"),
    ("SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_COUNT", ""),
    ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID"),  # of srun; a batch script has SLURM_NTASKS as well
)
CACHE = "NAIT_FAST_CACHE"
_OFF = ("off", "0", "no", "false", "none")
# What the package reads of the environment itself, and the values that mean something; none named: any does.
VARIABLES: dict[str, tuple[str, ...]] = {
    "NAIT_FAST_BACKEND": ("triton", "cpu", "reference"),
    "NAIT_FAST_LINEAR": ("torch", "blocked"),
    CACHE: (),
    "NAIT_FAST_MAX_ROW_MIB": (),
}
# MKL's mode: in its strict one a product's bits depend on neither the number of threads nor the other rows.
MKL, STRICT, STRICT_MKL = "MKL_CBWR", "STRICT", "AUTO,STRICT"
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
_KEPT_BYTES, _LEAST_KEPT_BYTES = 1 << 30, 1 << 25
_THREADS = ("NUMBA_NUM_THREADS",)  # which Numba reads as it is imported
PACKAGES = ("torch", "transformers", "triton", "numpy", "numba", "safetensors", "tokenizers")


def installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def commit() -> str | None:
    """The commit of the source tree this package runs from; None when it is installed from elsewhere."""
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return None
    try:
        command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12"]
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def cache_folder() -> Path | None:
    """Where what may be of use another time is kept for the user; None: nowhere."""
    setting = os.environ.get(CACHE, "")
    if setting.lower() in _OFF:
        return None
    if setting:
        return Path(setting).expanduser()
    try:
        if sys.platform == "darwin":
            base = Path.home() / "Library" / "Caches"
        elif sys.platform == "win32":
            base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
        else:
            base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:  # a user without a home
        return None
    return base / "nait_fast"


def check_variables(environment: Mapping[str, str] | None = None) -> None:
    """Raises NaitError for a variable of the environment that is read here and means nothing; warns of one that looks
    like one and is not read."""
    for name, value in (os.environ if environment is None else environment).items():
        if name in VARIABLES:
            if value and VARIABLES[name] and value not in VARIABLES[name]:
                raise BadInput(f"choose {', '.join(VARIABLES[name])}, or unset it", where=f"{name}={value[:80]}")
        elif name.startswith("NAIT_FAST_"):
            warn(f"{name}: no variable that is read; known are {', '.join(VARIABLES)}")
        elif name in _THREADS and not (value.isdecimal() and len(value) < 6 and int(value)):
            raise BadInput("must be a whole number of threads, at least 1", where=f"{name}={value[:80]}")


def strict_mkl() -> None:
    """MKL's products are made in its strict mode, unless the user has named one; of use before its first product."""
    os.environ.setdefault(MKL, STRICT_MKL)


def keep_freed_memory(device: "torch.device") -> None:
    """Where a model runs on a CPU (``device``), glibc keeps what this process frees from now on, for its next batch: to
    give megabytes back to the system and fault them in again at every layer takes time of each forward."""
    if device.type != "cpu" or platform.libc_ver()[0] != "glibc":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return
    # Older ones take no more than 32 MiB; with neither, the other option would leave all from 128 KiB on to mmap.
    if mallopt(_MMAP_THRESHOLD, _KEPT_BYTES) or mallopt(_MMAP_THRESHOLD, _LEAST_KEPT_BYTES):
        mallopt(_TRIM_THRESHOLD, _KEPT_BYTES)


def memory_in_use(device: "torch.device") -> int:
    """The most bytes that this process has held by now, on ``device``."""
    if device.type == "cuda":
        import torch

        return int(torch.cuda.max_memory_allocated(device))
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def pick_device(device: str) -> "torch.device":
    """``auto``: a GPU if there is one. Raises NaitError for a device that cannot be used here."""
    import torch

    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
        torch.zeros(1, device=chosen).item()  # meta, for one, holds tensors, but no numbers
    except Exception as error:  # torch raises anything from ImportError to OverflowError for a device that it lacks
        why = (str(error).splitlines() or [type(error).__name__])[0][:160]
        raise BadInput(f"not usable here ({why})", where=f"--device {device[:80]}", remedy="try --device cpu") from None
    return chosen


def _of_torch() -> dict[str, object]:
    """Torch's threads and GPUs; None where torch was not used: importing it only to ask would cost seconds."""
    torch = sys.modules.get("torch")
    if torch is None:
        return {"threads": None, "gpus": None}
    indices = range(torch.cuda.device_count() if torch.cuda.is_available() else 0)
    return {"threads": torch.get_num_threads(), "gpus": [torch.cuda.get_device_name(i) for i in indices]}


def environment() -> dict[str, object]:
    """Versions, hardware and commit, for manifests and benchmark rows."""
    return {
        "nait_fast": __version__,
        "commit": commit(),
        "python": platform.python_version(),
        **{package: installed(package) for package in PACKAGES},
        "cpu": processor(),
        "cpu_features": processor_features(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        **_of_torch(),
    }


def processor_of(environment: Mapping[str, object]) -> str:
    """The processor and its number of cores, as a row of a benchmark names them."""
    return f"{environment['cpu']}, {environment['cores']} cores"
