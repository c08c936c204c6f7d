"""How long a download is tried, and what the downloads of one run tell each other. Standard library only."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import urlsplit

from feature_extraction.errors import DownloadError
from feature_extraction.names import printable

SLOW: Final = 1024
"""Bytes per second below which a server counts as silent."""


class Stopped(DownloadError):
    """The user asked to stop; what has arrived is kept."""


@dataclass(frozen=True)
class RetryPolicy:
    """Times in seconds. New bytes, at more than 1 kB/s, begin every count anew."""

    tries: int = 8
    """Of a server that answers, but with an error of its own (5xx, 429) or broken lines."""
    first_wait: float = 1.0
    longest_wait: float = 60.0
    silence: float = 30.0
    """After which a server that says nothing is given up, all tries together."""
    unreachable: float = 10.0
    """After which a server that has never been reached is given up: there is no network."""
    restarts: int = 2
    """How often a file is begun anew because the server contradicts itself."""

    def wait(self, failures: int) -> float:
        """Before the next try, after so many in a row that brought nothing (0: the last one brought something)."""
        return min(self.first_wait * 2.0 ** min(max(failures - 1, 0), 30), self.longest_wait)

    @property
    def stall(self) -> float:
        """One try's share of the silence: two tries fit into it."""
        return max(0.5, (self.silence - self.first_wait) / 2)

    @property
    def connect(self) -> float:
        """One try's share of the time to reach a server: two tries fit into it."""
        return max(0.5, (self.unreachable - self.first_wait) / 2)


@dataclass
class Server:
    """What this run knows of one server. Its downloads share it, so that one that is dead is given up once."""

    name: str
    tried: float | None = None
    """When it was first asked for something."""
    reached: bool = False
    """Whether it has ever taken a connection."""
    heard: float | None = None
    """When it last said anything."""
    unanswered: bool = False
    """Whether the last question for a file's size got no answer: then it is not asked again before it has spoken."""
    given_up: str | None = None
    """Why nothing more is asked of it."""

    def deadline(self, since: float, policy: RetryPolicy) -> float:
        """When a download is to be given up that has heard nothing since ``since``."""
        if not self.reached:
            return (since if self.tried is None else self.tried) + policy.unreachable
        if self.heard is None:
            return (since if self.tried is None else self.tried) + policy.silence
        return since + policy.silence

    def spoke(self, when: float) -> None:
        self.reached, self.heard, self.unanswered = True, when, False


@dataclass
class Run:
    """One run of the command: how patient it is, how it is stopped, where it speaks, which servers it met."""

    policy: RetryPolicy = field(default_factory=RetryPolicy)
    stopping: threading.Event = field(default_factory=threading.Event)
    say: Callable[[str], None] = lambda text: None
    _servers: dict[str, Server] = field(default_factory=dict)
    _guard: threading.Lock = field(default_factory=threading.Lock)

    def server(self, url: str) -> Server:
        parts = urlsplit(url)
        name = printable(parts.hostname or "this machine") + (f":{parts.port}" if parts.port else "")
        with self._guard:
            return self._servers.setdefault(name, Server(name))

    def check(self, name: str = "") -> None:
        """Raise Stopped if the user has asked for it."""
        if self.stopping.is_set():
            raise Stopped(f"{name}: stopped; what has arrived is kept")

    def sleep(self, seconds: float, name: str) -> None:
        self.stopping.wait(seconds)
        self.check(name)
