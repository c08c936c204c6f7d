"""A reader of hostile files, tried in a process of its own: how it ends, how long it takes, what memory it asks for."""

from __future__ import annotations

import os
import re
import resource
import signal
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

SECONDS = 10
MEGABYTES = 500


def outcome(read: Callable[..., Any], *arguments: Any) -> str:
    """``Class: message`` of what was raised, or "accepted"; anything that breaks the bounds fails the test."""
    readable, writable = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forking with threads: the child only reads a file
        child = os.fork()
    if child == 0:
        try:
            os.write(writable, _tried(read, arguments).encode("utf-8", "backslashreplace")[:60_000])
        finally:
            os._exit(0)
    os.close(writable)
    with os.fdopen(readable, "rb") as pipe:
        said = pipe.read().decode()
    _, status = os.waitpid(child, 0)
    assert status == 0, f"ended by signal {os.WTERMSIG(status)}: it hung, or crashed"
    figures, _, said = said.partition("\n")
    seconds, megabytes = map(float, figures.split())
    assert seconds < SECONDS, figures
    assert megabytes < MEGABYTES, f"{megabytes:.0f} MB more"
    return said


def _tried(read: Callable[..., Any], arguments: tuple[Any, ...]) -> str:
    signal.alarm(2 * SECONDS)
    before, start = _peak(), time.monotonic()
    resource.setrlimit(resource.RLIMIT_AS, (before + (4 << 30), resource.RLIM_INFINITY))
    try:
        read(*arguments)
        said = "accepted"
    except BaseException as error:
        said = f"{type(error).__name__}: {error}"
    return f"{time.monotonic() - start} {(_peak() - before) / 1e6}\n{said}"


def _peak() -> int:
    """Most memory ever asked for, whether touched or not, in bytes."""
    found = re.search(r"VmPeak:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) * 1024
