"""A program that does everything wrong, to show that the campaign would see it; no part of the campaign itself."""

from __future__ import annotations

import contextlib
import ctypes
from pathlib import Path
from typing import Final

from .scenarios import Contents, Scenario

RESULT: Final = b"result" * 1000


def careless(folder: Path, _: str) -> int:
    """Write at the final path, in place, whatever the system says; take what is there for whole, and a lock that a
    killed one left for one that is held."""
    path, lock = folder / "result", folder / "lock"
    if path.exists():
        return 0
    if lock.exists():
        print("another one is at work")
        return 1
    lock.touch()
    with path.open("xb", buffering=0) as file, contextlib.suppress(OSError):
        file.write(RESULT)  # a part of it, perhaps
    try:
        (folder / "about").mkdir()
    except OSError:
        ctypes.string_at(0)  # as a library that was left in the dark
    lock.unlink()
    return 0


def contents(folder: Path) -> Contents:
    path = folder / "result"
    return {path.name: path.read_bytes().hex()} if path.exists() else {}


CARELESS: Final = {"careless": Scenario(careless, contents)}
