"""``merge``: several indexes made apart under one codebook become one."""

import os
from typing import Any

from nait_fast.config import MergeOptions
from nait_fast.errors import BadInput
from nait_fast.index.merge import check_joinable, merge
from nait_fast.index.reader import Index
from nait_fast.outputs.fetched import local_copy
from nait_fast.outputs.inputs import check_inputs, inputs_of
from nait_fast.outputs.output_folder import sweep
from nait_fast.progress import Progress
from nait_fast.remote.copies import local_folder
from nait_fast.reporting import inspected
from nait_fast.storage.files import make_folder
from nait_fast.storage.lock import FOLDER_LOCK, OutputLock
from nait_fast.storage.owned import check_folder, is_name
from nait_fast.verbs.index import summary_of
from nait_fast.verbs.inspection import index_summary


def run(options: MergeOptions, quiet: bool = False) -> dict[str, Any]:
    """Join indexes; returns a summary."""
    if len(options.index) < 2:
        raise BadInput("give at least two indexes to join", where=f"--index {options.index[0]}")
    folders, output = [local_copy(path) for path in options.index], local_folder(options.output)
    indexes = [Index(folder) for folder in folders]
    for number, path in enumerate(options.index):
        others = zip(options.index[:number], folders, strict=False)
        if twice := next((other for other, folder in others if os.path.samefile(folder, folders[number])), None):
            same = path if path == twice else f"{path}, which is {twice},"
            raise BadInput("is given twice", where=f"--index {same}", remedy="name each index once")
        if output.exists() and os.path.samefile(folders[number], output):
            raise BadInput("is one of the indexes", where=f"--output {options.output}", remedy="choose another folder")
    check_joinable(indexes)
    folder = make_folder(output)
    with OutputLock(folder / FOLDER_LOCK, f"--output {options.output}", alone=lambda: sweep(folder, is_name)):
        check_inputs(folder, is_name, inputs_of(options))
        check_folder(folder)
        progress = Progress(sum(index.pool_rows for index in indexes), "merge", quiet)
        try:
            manifest = merge(indexes, folder, progress.add)
        finally:
            progress.close()
    text = inspected.of_index(index_summary(Index(folder), options.output), f"{len(indexes)} indexes joined")
    return {**summary_of(manifest, folder), "merged": len(indexes), "text": text}
