"""axolotl: a plugin that selects the rows of a dataset before axolotl loads it, as the training's own YAML asks.

``plugins: [nait_fast.integrations.axolotl.NaitPlugin]``, and under ``nait_fast:`` the options of ``nait-fast select``.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

from axolotl.integrations.base import BasePlugin
from axolotl.utils.dict import DictDefault
from axolotl.utils.distributed import is_distributed, is_local_main_process
from filelock import FileLock
from pydantic import BaseModel

from nait_fast.config import SelectOptions
from nait_fast.errors import BadInput, NaitError
from nait_fast.ranking.selection_files import SELECTED
from nait_fast.storage.files import make_folder, sha256_file

KEY = "nait_fast"
PREPARED = "last_run_prepared"  # where axolotl keeps what it prepares, unless told
ENTRY = "entry"  # the one key under ``nait_fast`` that is no option of select
OF_SOURCE = ("data_files", "name", "split", "revision", "trust_remote_code")  # how an entry finds its rows
PARTIAL = ("shards", "shards_idx", "preprocess_shards")
OF_TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "MASTER_ADDR", "MASTER_PORT")


class NaitFastArgs(BaseModel):
    """What the plugin adds to axolotl's configuration."""

    nait_fast: dict[str, Any]


class NaitPlugin(BasePlugin):
    """Replaces one entry of ``datasets`` by the rows of it that ``nait-fast select`` chooses; its ``type`` and whatever
    else says how rows are read stay.

    ``nait_fast`` holds the options of ``select`` with underscores, first of all ``target``. ``model``, ``tokenizer``
    and ``trust_remote_code`` are the training's unless told, ``output`` is ``nait_fast`` in the folder of prepared
    datasets; ``entry`` says which of several ``datasets`` is selected from, counted from 0. A selection that is there
    already is taken as it is. Raises NaitError.
    """

    def register(self, cfg: Mapping[str, Any]) -> None:
        """What cannot be is said before anything is loaded."""
        asked(cfg)

    def get_input_args(self) -> str:
        return f"{__name__}.{NaitFastArgs.__name__}"

    def load_datasets(self, cfg: Any, preprocess: bool = False) -> Any:
        """axolotl's own datasets, of the selected rows."""
        place, options = asked(cfg)
        if is_local_main_process():
            _select(options)
        _wait_for_main()
        file = Path(options.output) / SELECTED
        entry = {key: value for key, value in cfg["datasets"][place].items() if key not in OF_SOURCE}
        # What axolotl prepares is kept by a hash of the entry, not of its rows: the revision is theirs.
        found = {"path": str(file), "ds_type": "json", "revision": sha256_file(file)[:16]}
        cfg["datasets"][place] = DictDefault({**entry, **found})
        from axolotl.common.datasets import load_datasets

        return load_datasets(cfg=cfg)


def asked(cfg: Mapping[str, Any]) -> tuple[int, SelectOptions]:
    """(which of the ``datasets`` of axolotl's ``cfg``, what ``select`` is asked). Raises NaitError."""
    given = cfg.get(KEY)
    if not isinstance(given, Mapping):
        raise BadInput("its options are missing", where=KEY, remedy="give target, and fraction or top_k, under it")
    options = {key: value for key, value in given.items() if key != ENTRY}
    if cfg.get("rl"):
        raise BadInput("rows are selected for supervised training", where=f"{KEY}: rl", remedy="leave it out")
    if "dataset" in options:
        raise BadInput(f"it selects from datasets, by {ENTRY}", where=f"{KEY}: dataset", remedy="leave it out")
    entries, place = cfg.get("datasets") or [], given.get(ENTRY, 0)
    if ENTRY not in given and len(entries) != 1:
        raise BadInput(
            f"{len(entries)} entries of datasets", where=KEY, remedy=f"say which one is selected from: {ENTRY}: 0"
        )
    if type(place) is not int or not 0 <= place < len(entries):
        raise BadInput(f"there is no such entry of datasets, of {len(entries)}", where=f"{KEY}: {ENTRY}: {place}")
    prepared = cfg.get("dataset_prepared_path") or PREPARED
    of_training = {
        "model": cfg.get("base_model"),
        "tokenizer": cfg.get("tokenizer_config"),
        "trust_remote_code": cfg.get("trust_remote_code"),
        "output": str(Path(prepared) / KEY),
    }
    whole = {key: value for key, value in of_training.items() if value} | options
    return place, SelectOptions.from_mapping({**whole, "dataset": source_of(entries[place], place)}, KEY)


def source_of(entry: Mapping[str, Any], place: int) -> str:
    """The pool that an entry of axolotl's ``datasets`` is, as ``--dataset`` names it. Raises NaitError."""
    where = f"datasets: entry {place}"
    if partial := next((key for key in PARTIAL if entry.get(key)), None):
        raise BadInput("only whole datasets are selected from", where=f"{where}: {partial}", remedy="leave it out")
    files = entry.get("data_files")
    if isinstance(files, list) and len(files) == 1:
        files = files[0]
    if files is not None and not isinstance(files, str):
        raise BadInput("several data_files", where=where, remedy="name their folder as its path")
    path = files or entry.get("path")
    if not isinstance(path, str):
        raise BadInput("it has no path", where=where)
    if os.path.exists(path):
        return path
    config, split = entry.get("name"), entry.get("split")
    if config:  # of which axolotl takes the split train unless told
        return f"{path}:{config}:{split or 'train'}"
    return f"{path}:{split}" if split else path


def _select(options: SelectOptions) -> None:
    """In a process of its own, which leaves no memory taken, and may start one for each GPU. Nodes that share the
    folder do so one after another, and all but the first find it done. Raises NaitError."""
    environment = {key: value for key, value in os.environ.items() if key not in OF_TORCHRUN}
    folder = make_folder(Path(options.output).parent, f"{KEY}: output")
    with (
        FileLock(folder / f"{Path(options.output).name}.lock"),
        tempfile.NamedTemporaryFile("w", suffix=".yaml") as file,
    ):
        json.dump(options.beside_defaults(options.to_mapping()), file)
        file.flush()
        done = subprocess.run([sys.executable, "-m", "nait_fast", "select", "--config", file.name], env=environment)
    if done.returncode:
        raise NaitError(f"select ended with exit status {done.returncode}; its message is above", where=KEY)


def _wait_for_main() -> None:
    """Until each node's first process is done, which may take hours: longer than NCCL waits."""
    if is_distributed():
        import torch.distributed

        torch.distributed.barrier(torch.distributed.new_group(backend="gloo", timeout=timedelta(days=7)))
