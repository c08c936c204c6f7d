"""What a run says while it works: one line per iteration, per target and now and then in between."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, Protocol

from .lloyd import State

SPEAK_EVERY: Final = 10.0
"""Seconds between lines of progress while a target is assigned or a sample is read."""


class Reporter(Protocol):
    """Who is told how the run goes; a library's caller may want to hear nothing."""

    def say(self, text: str) -> None:
        """A line of progress."""
        ...

    def warn(self, text: str) -> None:
        """Something a user should know whatever else is said."""
        ...


class Silent:
    """Tells nobody."""

    def say(self, text: str) -> None:
        pass

    def warn(self, text: str) -> None:
        pass


class Ticker:
    """Says how much of something long is done, every few seconds."""

    def __init__(self, say: Callable[[str], None], what: str, total: int) -> None:
        self._say, self._what, self._total = say, what, max(1, total)
        self._began = self._spoke = time.perf_counter()
        self._done = 0

    def advance(self, amount: int) -> None:
        """``amount`` more is done; called from one thread at a time, or losing a little of the count."""
        self._done += amount
        now = time.perf_counter()
        if now - self._spoke > SPEAK_EVERY:
            self._spoke = now
            part = self._done / self._total
            self._say(f"{self._what}: {part:.0%}, {duration((now - self._began) * (1 / part - 1))} left")

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self._began


def iteration_line(state: State, iterations: int) -> str:
    """One line on the last iteration: objective, change, empty clusters split, seconds, time left."""
    now = state.history[-1]
    before = state.history[-2].objective if len(state.history) > 1 else 0.0
    change = f" ({100 * (now.objective - before) / before:+.3f} %)" if before else ""
    left = (iterations - len(state.history)) * now.seconds
    end = "objective stands still: done" if state.converged else f"{duration(left)} left"
    return (
        f"iteration {len(state.history)}/{iterations}: objective {now.objective:.6g}{change},"
        f" {now.empty_split} empty clusters split, {duration(now.seconds)}, {end}"
    )


def duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} min"
