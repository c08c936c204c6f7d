"""What a run says while it works: one line per iteration, per target and now and then in between."""

from __future__ import annotations

import sys

from kmeans.cluster import State
from kmeans.ranks import Solo


class Reporter:
    """Prints on rank 0 only."""

    def __init__(self, verbose: bool, ranks: Solo) -> None:
        self._first, self._verbose = ranks.rank == 0, verbose

    def say(self, text: str) -> None:
        """A line of progress, unless ``--verbose false``."""
        if self._first and self._verbose:
            print(text, flush=True)

    def warn(self, text: str) -> None:
        if self._first:
            print(f"warning: {text}", file=sys.stderr, flush=True)


def progress_line(state: State, iterations: int) -> str:
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
