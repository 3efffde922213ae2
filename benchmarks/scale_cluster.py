"""A plan's arithmetic: an index pass on a cluster, simulated. Predicted, not measured: no GPU has run the engine yet.

    python -m benchmarks.scale_cluster [--samples 100e6] [--gpus 64] [--shard-rows 2048 …] [--seeds 5] [--docs]

Discrete events, seeded, on the rules of ``nait_fast.dist``: a worker starts at its own share of the units and holds
three of them (one in the model, one waiting, one in the loader); when none is free it takes over those that wait
elsewhere, which nobody takes from it; what a killed worker held is free at once, a lost node's when the file system
notices; a unit whose worker raised an error is left to workers that start later. Before the units: one worker numbers
the rows, each reads the plan in turn, loads the model, looks for every unit's note, one calibrates. After them: one
worker joins the notes, looks for repeated ids, writes the manifest. Not simulated: hung workers (the 600 s lease),
failures before the first and after the last unit, contention for the file system.

What the host does is measured first, on this machine, with the package's own functions (``measure``), or comes from
the newest rows of ``scale_loader`` and ``scale_rank``; the rest is in ``Costs`` and ``Cluster``, each with its source.
``--docs`` writes the newest rows' tables into docs/scale.md instead (``scale_tables.py`` of this folder).
"""

import argparse
import heapq
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

Failure = tuple[float, str, int]  # (second, "raised", "killed" or "node", number of the GPU or node)
HELD_AHEAD = 2  # units that a worker holds beside the one in its model: one in the queue, one in the loader's hands


def main() -> int:
    return 0
