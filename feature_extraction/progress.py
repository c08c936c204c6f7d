"""How far a run is, how long it will take, and where the time goes."""

from __future__ import annotations

import sys
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

from tqdm import tqdm

from .names import counted

SECONDS_BETWEEN_LINES = 60.0
"""Where there is no terminal: one line a minute."""


class Clock:
    """Seconds spent per stage, summed over threads (decoding runs in several at once)."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self._lock = threading.Lock()

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            spent = time.perf_counter() - start
            with self._lock:
                self.seconds[stage] += spent


class Progress:
    """A bar on a terminal, a line a minute elsewhere: images done, images per second, time left, failures.

    ``total``: None where it is not known. ``bar``: True: a bar wherever it goes (a notebook, say); False: nothing."""

    def __init__(self, total: int | None, label: str, *, bar: bool | None = None) -> None:
        self.clock = Clock()
        self.total, self.label = total, label
        self.before = self.now = self.failed = 0
        self._start = self._last_line = time.monotonic()
        shown = sys.stderr.isatty() if bar is None else bar
        self._bar = tqdm(total=total, desc=label, unit="img", dynamic_ncols=True) if shown else None
        self._lines = bar is None

    def skip(self, images: int) -> None:
        """Images that an earlier run had done."""
        self.before += images
        if self._bar is not None and images:
            self._bar.initial += images
            self._bar.update(images)

    def advance(self, images: int, failed: int) -> None:
        """``images`` more are through; ``failed`` of all so far gave no features."""
        self.now += images
        self.failed = failed
        if self._bar is not None:
            self._bar.set_postfix(failed=failed)
            self._bar.update(images)
        elif self._lines and time.monotonic() - self._last_line >= SECONDS_BETWEEN_LINES:
            self._last_line = time.monotonic()
            print(self.line(), file=sys.stderr, flush=True)

    @property
    def rate(self) -> float:
        """Images per second of this run."""
        return self.now / max(time.monotonic() - self._start, 1e-9)

    def line(self) -> str:
        through = self.before + self.now
        total = through if self.total is None else self.total
        left = (total - through) / self.rate if self.now else float("inf")
        return (
            f"{self.label}: {through:,} of {total:,} images, {self.rate:.2f} images/s, "
            f"{_duration(left)} left, {self.failed} failed"
        )

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()

    def stages(self) -> str:
        """Seconds per stage, for the end of a run."""
        wall = time.monotonic() - self._start
        spent = ", ".join(f"{stage} {seconds:.1f} s" for stage, seconds in self.clock.seconds.items())
        return f"{counted(self.now)} in {_duration(wall)} ({self.rate:.2f} images/s): {spent}"


def _duration(seconds: float) -> str:
    if seconds == float("inf"):
        return "unknown time"
    minutes, whole = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return (
        f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {whole:02d} s" if minutes else f"{seconds:.1f} s"
    )
