"""What is wrong with a command's files and numbers, found before torch is imported, which takes seconds."""

from pathlib import Path

from nait_fast.config import BudgetOptions, RowOptions
from nait_fast.data.pool import Pool
from nait_fast.data.pool_sources import is_here
from nait_fast.data.row_conventions import make_conventions
from nait_fast.errors import BadInput
from nait_fast.models.locate import locate
from nait_fast.options import Options
from nait_fast.outputs.fetched import local_copy
from nait_fast.outputs.inputs import inputs_of
from nait_fast.ranking.select import check_budget
from nait_fast.urls import is_url

_POOLS = ("--dataset", "--target", "--decontaminate")
_FILES = ("--codebook", "--exact")


def check(options: Options) -> None:
    """Look at the files that ``options`` name, at what they say of rows, and at their budget. Raises NaitError, as the
    verb itself would."""
    if isinstance(options, RowOptions):
        make_conventions(options.roles, options.ignore, options.columns)
    for flag, path in inputs_of(options):
        if flag in _POOLS and (is_url(path) or is_here(path)):
            _ = Pool(path).source
        elif flag in _FILES and not local_copy(path).exists():
            raise BadInput("no such file or folder", where=f"{flag} {path}", remedy="check the path")
        elif flag == "--model" and not (Path(path).expanduser() / "adapter_config.json").exists():
            locate(path)
    if isinstance(options, BudgetOptions):
        check_budget(options)
