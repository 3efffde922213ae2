"""docs/scale.md's ranking on a cluster, simulated: ``rank --engine ray`` over the plan's index, by the engine's rules.

    python -m benchmarks.scale_cluster_rank [--samples 100e6] [--output FOLDER]

Computed, nothing is timed: an actor for each node reads units of ``UNIT_PARTS`` parts, ``_CALLS`` at once are its own,
and none is given out more than ``_AHEAD`` for each actor before the first whose turn has not come. Rates of nodes and
file system are assumed; what comes behind the scan, on one machine, is what ``scale_rank`` measured of a row there.
"""

import argparse
import heapq
import sys
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.record import RESULTS, newest, record
from benchmarks.scale_cluster import LAYOUT
from nait_fast.index.stream import BUFFER_BYTES
from nait_fast.workers.ray_scan import _AHEAD, _CALLS, UNIT_PARTS

NODES = ((1, 20e9), (2, 20e9), (4, 20e9), (8, 20e9), (8, 100e9))  # and bytes/s of the shared file system: assumed


@dataclass(frozen=True)
class Reading:
    """The plan's index, and what is assumed (seconds and bytes/s)."""

    samples: int = 100_000_000
    nodes: int = 8
    shared_rate: float = 20e9
    node_rate: float = 7e9  # that one node reads and scans at most
    spread: float = 0.05  # sigma of the nodes' lognormal speed
    call: float = 0.01  # Ray's part of a unit, as if nothing were read meanwhile
    start: float = 20.0  # Ray, and an actor's own
    down: float = 600.0  # until an actor comes back on a spare node

    @property
    def unit_rows(self) -> int:
        return BUFFER_BYTES // LAYOUT.row_bytes * UNIT_PARTS

    @property
    def units(self) -> int:
        return -(-self.samples // self.unit_rows)

    @property
    def unit_seconds(self) -> float:
        """At speed 1."""
        rate = min(self.node_rate, self.shared_rate / self.nodes)
        return self.unit_rows * LAYOUT.row_bytes / rate + self.call


@dataclass
class Scanned:
    """``done`` [units]: how often; ``end``: seconds; ``ahead``: units given out before the first that is waited for."""

    done: np.ndarray
    end: float = 0.0
    ahead: int = 0
    lost: int = 0


def simulate(
    units: int, seconds: float, speeds: np.ndarray, lost_at: float | None = None, down: float = 0.0
) -> Scanned:
    """The scan. ``speeds`` [actors]; ``lost_at``: when the first actor is lost, for ``down`` seconds: the others do its
    units."""
    run, back = Scanned(np.zeros(units, np.int64)), np.zeros(len(speeds))
    free, again, held = deque(list(range(len(speeds))) * _CALLS), deque[int](), dict[int, set[int]]()
    given, first, ends = 0, 0, list[tuple[float, int, int]]()  # (second, actor, unit; −1: its loss, −2: its return)
    if lost_at is not None:
        heapq.heappush(ends, (lost_at, 0, -1))
    now = 0.0
    while first < units:
        while free and (again or (given < units and given < first + _AHEAD * len(speeds))):
            actor = free.popleft()
            if again:
                unit = again.popleft()
            else:
                unit, given = given, given + 1
            back[actor] = max(now, back[actor]) + seconds / speeds[actor]
            held.setdefault(actor, set()).add(unit)
            heapq.heappush(ends, (float(back[actor]), actor, unit))
            run.ahead = max(run.ahead, given - first)
        now, actor, unit = heapq.heappop(ends)
        if unit == -1:
            again.extend(sorted(held.pop(actor, set())))
            run.lost = len(again)
            free = deque(other for other in free if other != actor)
            back[actor] = now + down
            heapq.heappush(ends, (now + down, actor, -2))
        elif unit == -2:
            free.extend([actor] * _CALLS)
        elif unit in held.get(actor, ()):  # else it was lost
            held[actor].remove(unit)
            free.append(actor)
            run.done[unit] += 1
            while first < units and run.done[first]:
                first += 1
            run.end = now
    return run


def predict(at: Reading, behind_us: float, seed: int = 0) -> dict[str, Any]:
    """A row's figures; ``behind_us``: microseconds a row of all but the scan."""
    speeds = np.exp(at.spread * np.random.default_rng(seed).standard_normal(at.nodes))
    calm = simulate(at.units, at.unit_seconds, speeds)
    behind = at.samples * behind_us / 1e6
    whole = at.start + calm.end + behind
    row = {
        "units": at.units,
        "unit_mb": at.unit_rows * LAYOUT.row_bytes / 1e6,
        "unit_s": at.unit_seconds,
        "read_s": calm.end,
        "read_gb_per_s": at.samples * LAYOUT.row_bytes / calm.end / 1e9,
        "behind_s": behind,
        "whole_s": whole,
        "whole_min": whole / 60,
        "shared_gb_per_s": at.shared_rate / 1e9,
    }
    if at.nodes > 1:
        lost = simulate(at.units, at.unit_seconds, speeds, calm.end / 2, at.down)
        row |= {"lost_units": lost.lost, "later_s": lost.end - calm.end}
    later = f"{row['later_s']:,.0f} s later" if "later_s" in row else "the command"
    return {name: float(f"{value:.6g}") for name, value in row.items()} | {"later": later}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=float, default=100e6)
    parser.add_argument("--output", type=Path, help="folder for the rows (default: results of this hardware)")
    arguments = parser.parse_args()
    (growth,) = newest(RESULTS / "cpu-amd-epyc-2c" / "scale_rank.jsonl", part="growth")
    rows = []
    for nodes, shared in NODES:
        at = Reading(int(arguments.samples), nodes, shared)
        rows.append({"part": "rank", "computed": True, **vars(at), **predict(at, growth["us_per_row"])})
    print(record("scale_cluster_rank", rows, arguments.output))
    return 0


if __name__ == "__main__":
    sys.exit(main())
