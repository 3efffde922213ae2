"""What all workers have done so far, read from their log of events."""

import json
import os
from pathlib import Path
from typing import Any

from nait_fast.data.plan import Plan
from nait_fast.progress import Progress
from nait_fast.storage.names import WORK
from nait_fast.workers.events import EVENTS


class Watch:
    """One bar for the units that ``plan`` is cut into, whichever worker does them; ``look`` moves it on."""

    def __init__(self, folder: Path, plan: Plan, quiet: bool):
        self._path = folder / EVENTS
        self._at = os.path.getsize(self._path) if self._path.exists() else 0
        self._progress = Progress(plan.rows, "index", quiet)
        self._progress.add(min(plan.rows, plan.unit_rows * len(list((folder / WORK).glob("shard-*.json")))), 0)
        self._rest = b""

    def look(self) -> None:
        """Read what has been written since."""
        if not self._path.exists():
            return
        with open(self._path, "rb") as file:
            file.seek(self._at)
            data = file.read()
        self._at += len(data)
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            try:
                event = json.loads(line)
                if event["event"] == "unit":
                    self._progress.add(event["rows"] + event["skipped"], event["tokens"], event["skipped"])
            except (ValueError, KeyError, TypeError):  # cut by a full disk: only the bar misses it
                continue

    def summary(self) -> dict[str, Any]:
        """Tokens, seconds and rate of the run, all workers together (each one's start included)."""
        tokens, seconds = self._progress.tokens, self._progress.seconds
        return {"tokens_served": tokens, "seconds": round(seconds, 3), "tokens_per_s": round(tokens / seconds, 1)}

    def __enter__(self) -> "Watch":
        return self

    def __exit__(self, *_: object) -> None:
        self.look()
        self._progress.close()
