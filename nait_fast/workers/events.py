"""A log of what a run did, for people and programs: one JSON object a line, appended by all workers."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

EVENTS = "events.jsonl"


class Events:
    """Appends to `events.jsonl` of `folder`. A line is written at once, so that several processes do not mix."""

    def __init__(self, folder: Path, worker: str):
        self.path, self.worker = folder / EVENTS, worker

    def add(self, event: str, **values: Any) -> None:
        """`time`: seconds since 1970 (UTC)."""
        entry = {"time": round(time.time(), 3), "worker": self.worker, "pid": os.getpid(), "event": event, **values}
        line = json.dumps(entry, ensure_ascii=False) + "\n"
        try:
            descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
            try:
                os.write(descriptor, line.encode(errors="backslashreplace"))
            finally:
                os.close(descriptor)
        except OSError:  # a full disk stops the run elsewhere, with a better message
            pass
