"""An unfinished download: what has arrived, and of which version of the file. Standard library only.

NAME.part        what has arrived
NAME.part.json   of which version it is, and how much of it is safe on the disk
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, BinaryIO, Final

from feature_extraction.storage.bounded import read_json
from feature_extraction.storage.files import atomic_write

from .files import sync
from .version import Version, boot

SYNC_EVERY: Final = 256 << 20
"""After a power cut at most so much is fetched again: what was not synced may be zeros by then."""
MOST_RECORD: Final = 1 << 16


def remove_leftovers(path: Path) -> None:
    """What a process that was killed in its last step left beside the whole file."""
    if not path.parent.is_dir():  # what it was unpacked to is there, and has come another way
        return
    about = path.with_name(path.name + ".part.json")
    about.unlink(missing_ok=True)
    for half in path.parent.iterdir():  # as atomic_write names what it has not finished
        if half.name.startswith(f".{about.name[:40]}."):
            half.unlink(missing_ok=True)


class Part:
    """``path`` in the making. One holder at a time; its owner holds the lock."""

    def __init__(self, path: Path, url: str) -> None:
        self.final = path
        self.path = path.with_name(path.name + ".part")
        self.about = path.with_name(path.name + ".part.json")
        self.url = url
        self.version = Version()
        self.synced = 0
        self.continued = False
        """Whether what is here came in more than one answer."""
        self._file: BinaryIO | None = None
        self._restore()

    @property
    def size(self) -> int:
        return self.path.stat().st_size if self.path.is_file() else 0

    def _restore(self) -> None:
        record = self._record()
        if record.get("url") != self.url or not self.path.is_file():
            self.drop()
            return
        self.version = Version.read(record)
        self.continued = True  # by another process, as far as this one knows
        synced = record.get("synced", self.size)
        self.synced = min(max(synced, 0), self.size) if isinstance(synced, int) else 0
        if record.get("boot", boot()) != boot() and self.synced < self.size:
            os.truncate(self.path, self.synced)

    def _record(self) -> dict[str, Any]:
        try:
            record = read_json(self.about, MOST_RECORD)
        except (OSError, ValueError):
            return {}
        return record if isinstance(record, dict) else {}

    def drop(self) -> None:
        """Nothing has arrived."""
        self.close()
        self.path.unlink(missing_ok=True)
        self.version, self.synced, self.continued = Version(), 0, False

    def begin(self, version: Version) -> None:
        """What comes now is the file from its first byte. What was here is given up."""
        self.close()
        self.path.unlink(missing_ok=True)
        self.version, self.synced, self.continued = version, 0, False
        self._write_record()
        self._file = self.path.open("xb", buffering=0)

    def resume(self) -> None:
        """What comes now follows on what is here."""
        self.close()
        self.continued = True
        self._file = self.path.open("ab", buffering=0)

    def append(self, piece: bytes) -> None:
        assert self._file is not None
        left = memoryview(piece)
        while left:
            left = left[self._file.write(left) :]
        if self._file.tell() - self.synced >= SYNC_EVERY:
            self._sync()

    def close(self) -> None:
        """What has arrived is safe."""
        if self._file is not None:
            try:
                self._sync()
            finally:
                file, self._file = self._file, None  # closed once, even where that fails
                file.close()

    def publish(self) -> None:
        """The file appears under its name, whole."""
        self.close()
        sync(self.path)
        os.replace(self.path, self.final)
        sync(self.final.parent)
        remove_leftovers(self.final)

    def _sync(self) -> None:
        assert self._file is not None
        os.fsync(self._file.fileno())
        self.synced = self._file.tell()
        self._write_record()

    def _write_record(self) -> None:
        record = {"url": self.url, **self.version.written(), "synced": self.synced, "boot": boot()}
        atomic_write(self.about, json.dumps(record).encode())
