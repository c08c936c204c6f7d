"""Which shares of a run have begun and ended, in an order that every machine agrees on.

Several processes, perhaps on several machines, make one file; the one that ends last writes it. Which one that is
cannot be read off the journals: each client of a shared folder has its own view of it, up to a minute old (NFS, sshfs),
so two that end together may each see the other at work, and nobody would write the file. Two things are never old: what
a process did itself, and whether a name could be created exclusively, which the server decides. So every share that
begins or ends takes the next free number by creating ``event-000001.json``, ``event-000002.json``, ... exclusively. A
share that took number n has thereby learnt that the events before n exist, and the one that ends with all others ended
before it is the last, whatever anyone's view of the folder. Contents that it does not see yet it waits for.

    {"event": "begun", "share": 0, "of": 2}   the share is at work
    {"event": "ended", "share": 0, "of": 2, "plan": ..., "length": ...}   all of it is in its journal of that many bytes
    {"event": "closed"}   the file is written; whoever comes now waits for a new folder

Events are never changed or removed in a folder that is in use: a closed folder is renamed, then removed. Standard
library only.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from . import files
from .bounded import read_json


class FolderClosed(Exception):
    """The work folder's file has been written, and the folder is being removed."""


class Register:
    """The events of one work folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._events: list[Mapping[str, Any]] = []

    def append(self, event: Mapping[str, Any]) -> int:
        """Take the next free number for ``event`` and return it; the events before it are known then.

        Raises FolderClosed where an event before it says so, FileNotFoundError where there is no folder (any more),
        OSError as the system gives it."""
        while True:
            number = len(self._events) + 1
            if self._take(number, event):
                return number
            self._events.append(self._read(number))
            if self._events[-1].get("event") == "closed":
                raise FolderClosed(self.folder)

    def close(self) -> bool:
        """Close the folder unless something happened behind the events known. Returns whether it is ours to remove."""
        deadline = files.Deadline(files.patience(self.folder) / 3)
        # one that hung in between may have been given up, and the folder taken over, by another process
        return self._take(len(self._events) + 1, {"event": "closed"}) and not deadline.passed()

    def take_over(self) -> bool:
        """Close a folder anew whose closer is gone. Returns whether it is ours to remove now, no other process's."""
        return self.close()

    def catch_up(self) -> None:
        """Learn the events that this process sees now; perhaps not the last ones. Creates nothing."""
        while self._path(len(self._events) + 1).exists():
            self._events.append(self._read(len(self._events) + 1))

    @property
    def closed(self) -> bool:
        return any(event.get("event") == "closed" for event in self._events)

    def state_of(self, index: int, count: int) -> Mapping[str, Any] | None:
        """The last event of share ``index`` of ``count``; None if it has neither begun nor ended."""
        mine = [e for e in self._events if (e.get("share"), e.get("of")) == (index, count)]
        return mine[-1] if mine else None

    def shares(self) -> set[tuple[int, int]]:
        """(index, count) of all that have begun."""
        return {(e["share"], e["of"]) for e in self._events if "share" in e}

    def notes(self) -> Mapping[str, Any]:
        """What the last share that began said of its machine and versions."""
        found = [e["notes"] for e in self._events if isinstance(e.get("notes"), dict)]
        return found[-1] if found else {}

    def _take(self, number: int, event: Mapping[str, Any]) -> bool:
        """Whether ``number`` was free. Its file stays, even where writing it fails: a number is never used twice."""
        deadline = files.Deadline(files.patience(self.folder) / 3)
        try:
            fd = os.open(self._path(number), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        except FileExistsError:
            return False
        except PermissionError:
            # sshfs: so the server refuses a name that is taken, where this client does not see it yet
            if not self._appears(number):
                raise
            return False
        try:
            files.write_fully(fd, json.dumps(event).encode())
            os.fsync(fd)
        finally:
            os.close(fd)
        files.sync_folder(self.folder)
        self._events.append(event)
        if deadline.passed():  # so slowly that others may have given up waiting for its contents: say it again
            self.append(event)
        return True

    def _read(self, number: int) -> Mapping[str, Any]:
        """What event ``number``, which exists, says; waited for as long as another client's view may be old.
        Empty where it stays unreadable: its writer was killed in between."""
        deadline = files.Deadline(files.patience(self.folder))
        while True:
            try:
                event = read_json(self._path(number), 1 << 20)
            except (FileNotFoundError, ValueError):
                if not deadline.wait():
                    return {}
            else:
                return event if isinstance(event, dict) else {}

    def _appears(self, number: int) -> bool:
        """Whether event ``number`` is seen, at the latest when every client sees what another did."""
        deadline = files.Deadline(files.patience(self.folder))
        while not self._path(number).exists():
            if not deadline.wait():
                return False
        return True

    def _path(self, number: int) -> Path:
        return self.folder / f"event-{number:06d}.json"


def remove(folder: Path) -> None:
    """Remove a closed work folder: renamed first, so that from one instant to the next it is gone for all.
    Raises OSError if it could not even be renamed; the rest is left to ``remove_leftovers``."""
    gone = folder.with_name(f"{folder.name}.done-{socket.gethostname()}-{os.getpid()}")
    shutil.rmtree(gone, ignore_errors=True)
    folder.rename(gone)
    shutil.rmtree(gone, ignore_errors=True)


def remove_leftovers(folder: Path) -> None:
    """Remove what a process left that was killed while it removed a closed ``folder``."""
    for gone in folder.parent.glob(f"{_escaped(folder.name)}.done-*"):
        shutil.rmtree(gone, ignore_errors=True)


def _escaped(name: str) -> str:
    return "".join(f"[{c}]" if c in "*?[" else c for c in name)
