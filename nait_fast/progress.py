"""Progress on stderr: a bar with rate and time left on a terminal, silence elsewhere."""

import sys
import threading
import time

from nait_fast.terminal import printable


def say(text: str, quiet: bool = False) -> None:
    """One line for the person watching; nothing when quiet or when stderr is no terminal."""
    if not quiet and sys.stderr.isatty():
        print(printable(f"nait-fast: {text}"), file=sys.stderr)


class Progress:
    """Counts samples and tokens of one stage, for several threads. ``close`` returns nothing; ``tokens`` and
    ``seconds`` stay readable.

    ``total`` samples, of about ``expected`` tokens in all where that is known: then the time left is that of the tokens
    left, as of samples the longest come first.
    """

    def __init__(self, total: int, label: str, quiet: bool = False, expected: float = 0.0):
        self.total, self._expected, self._mean = total, expected, expected / max(1, total)
        self.tokens, self.samples, self.skipped, self._start = 0, 0, 0, time.perf_counter()
        self._seconds: float | None = None
        self.padding: float | None = None  # share of what went through the model, to be shown
        self._bar, self._lock = None, threading.Lock()
        if not quiet and sys.stderr.isatty():
            from tqdm import tqdm

            count, unit = (round(expected), " tokens") if expected else (total, " samples")
            self._bar = tqdm(
                total=count, desc=label, unit=unit, unit_scale=bool(expected), file=sys.stderr, dynamic_ncols=True
            )

    def add(self, samples: int, tokens: int, skipped: int = 0) -> None:
        with self._lock:
            self.samples += samples
            self.tokens += tokens
            self.skipped += skipped
            if self._bar is not None:
                if self._mean:  # what was expected gives way to what has come
                    left = self._mean * max(0, self.total - self.samples)
                    self._expected -= self._mean * skipped
                    self._bar.total = round(max(self._expected, self.tokens + left / 2) if left else self.tokens)
                self._bar.set_postfix_str(self._counts(), refresh=False)
                self._bar.update(tokens if self._mean else samples)

    def _counts(self) -> str:
        samples = f"{self.samples:,}/{self.total:,} samples"
        rate = [f"{self.tokens / self.seconds:,.0f} tokens/s"] if self.tokens else []
        parts = [samples] if self._mean else rate
        if self.padding:
            parts.append(f"{self.padding:.1%} padding")
        if self.skipped:
            parts.append(f"{self.skipped:,} skipped")
        return ", ".join(parts)

    @property
    def seconds(self) -> float:
        return self._seconds or time.perf_counter() - self._start

    def close(self) -> None:
        self._seconds = time.perf_counter() - self._start
        if self._bar is not None:
            self._bar.close()
