"""Data sets of the Hugging Face Hub by name: OWNER/NAME, with a configuration and a split behind it where there are
several."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from typing import Any

from nait_fast.data.streams import import_optional
from nait_fast.errors import BadInput, NaitError, first_line
from nait_fast.progress import say

_NAME = re.compile(r"([A-Za-z0-9][\w.-]*/[\w.-]+)(?::([^/]+))?")
_MOST_NAMED = 20


def parts_of(name: str) -> tuple[str, list[str]] | None:
    """(id, what is named behind it: a split, or a configuration, or both), where ``name`` may be a data set's. A split
    may be a slice, "train[:10%]", or several, "train+test"."""
    if (match := _NAME.fullmatch(name)) is None:
        return None
    named = re.split(r":(?![^\[]*\])", match[2]) if match[2] else []
    return (match[1], named) if len(named) < 3 and all(named) else None


def load(name: str, hub_id: str, named: Sequence[str]) -> tuple[Any, str, str | None]:
    """(what `datasets` loads for ``name``, the id with the configuration that was chosen, the split that was). Raises
    NaitError, with the configurations or splits that there are where what is named is none, or does not tell."""
    datasets = import_optional("datasets", "no such path, and a Hub dataset", name, "datasets")
    hushed = "TQDM_DISABLE" in os.environ or datasets.are_progress_bars_disabled()
    say(f"loading {name} from the Hugging Face Hub, for it is not here", hushed)
    try:
        config, split = _chosen(datasets, name, hub_id, named)
        loaded = datasets.load_dataset(hub_id, config, split=split)
    except NaitError:
        raise
    except Exception as error:
        raise BadInput(
            f"the path does not exist and is no reachable Hub dataset ({first_line(error, kind=False)})",
            where=name,
            remedy="check the name",
        ) from None
    return loaded, hub_id if config is None else f"{hub_id}:{config}", split


def _chosen(datasets: Any, name: str, hub_id: str, named: Sequence[str]) -> tuple[str | None, str | None]:
    """(configuration, None for the one there is by default, split). Nothing but descriptions is fetched for that, and
    what they do not tell, as those of a copy kept for working offline, is left to ``load_dataset``."""
    if len(named) == 2:
        config, split = named
        try:
            splits = datasets.get_dataset_split_names(hub_id, config)
        except ValueError:
            configs = datasets.get_dataset_config_names(hub_id)
            if config not in configs and len(configs) > 1:
                raise _no_config(datasets, hub_id, f"{name}: has no configuration {config}", configs) from None
            splits = []
        _check_split(name, hub_id, config, split, splits)
        return config, split
    configs = datasets.get_dataset_config_names(hub_id)
    default: str | None = datasets.get_dataset_default_config_name(hub_id)
    one = named[0] if named else None
    if default is None and one not in configs:
        what = f"{name}: has several configurations" + (f", of which {one} is none" if one else "")
        raise _no_config(datasets, hub_id, what, configs)
    if default is None or one is None:
        return one, None
    splits = _splits(datasets, hub_id, default)
    if one not in configs:
        if not splits and _splits(datasets, hub_id, one):  # a kept copy knows the configurations that were fetched
            return one, None
        _check_split(name, hub_id, default, one, splits)
        return None, one
    if one in splits:
        raise BadInput(
            f"{one} is a configuration, and a split of the configuration {default}",
            where=name,
            remedy=f"write {hub_id}:{default}:{one}, or {hub_id}:{one}:SPLIT",
        )
    return one, None


def _no_config(datasets: Any, hub_id: str, what: str, configs: Sequence[str]) -> BadInput:
    splits = _splits(datasets, hub_id, configs[0])
    split = "train" if "train" in splits else splits[0] if splits else "SPLIT"
    remedy = f"write {hub_id}:{configs[0]}:{split}" + (f" ({configs[0]} has {_listed(splits)})" if splits else "")
    return BadInput(f"{what} ({_listed(configs)})", remedy=remedy)


def _check_split(name: str, hub_id: str, config: str, split: str, splits: Sequence[str]) -> None:
    """Raises NaitError where a part of ``split`` is none of a configuration's ``splits``, if these are known: before
    everything is fetched to find that."""
    for part in split.split("+"):
        if splits and part.partition("[")[0] not in (*splits, "all"):
            raise BadInput(
                f"configuration {config} has no split {part}",
                where=name,
                remedy=f"name one of {_listed(splits)} as {hub_id}:{config}:SPLIT",
            )


def _splits(datasets: Any, hub_id: str, config: str) -> list[str]:
    """Those of a configuration; none where its description does not tell."""
    try:
        return datasets.get_dataset_split_names(hub_id, config)
    except ValueError:
        return []


def _listed(names: Sequence[str]) -> str:
    return ", ".join([*names[:_MOST_NAMED], "…"] if len(names) > _MOST_NAMED else names)
