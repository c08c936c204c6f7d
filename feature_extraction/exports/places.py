"""Where an export's bytes go: a folder of files, or one file of lines.

Nothing here is at its final name: the engine renames what is whole. What was put before a ``sync`` is on the disk.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from ..errors import StoreError
from ..storage import files
from .form import Piece


class Folder:
    """A file for every piece."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._unsynced: list[Path] = []

    def begin(self, pieces: Sequence[Piece]) -> None:
        self._path.mkdir(exist_ok=True)  # files behind these pieces will be written anew

    def put(self, name: str, data: bytes) -> None:
        path = self._path / name
        with path.open("wb", buffering=0) as file:
            files.write_fully(file.fileno(), data)
        self._unsynced.append(path)

    def sync(self) -> None:
        for path in self._unsynced:
            files.sync_file(path)
        files.sync_folder(self._path)
        self._unsynced.clear()

    def finish(self, pieces: Sequence[Piece]) -> None:
        with os.scandir(self._path) as entries:
            found = sum(1 for _ in entries)
        if found != len(pieces):
            raise StoreError(
                f"{self._path} holds {found:,} files after writing {len(pieces):,}: somebody else writes in it, or "
                "this file system takes two of the names for one, as a and A: write to another one"
            )

    def read(self, pieces: Sequence[Piece]) -> Iterator[bytes]:
        for name, size, _ in pieces:
            with (self._path / name).open("rb", buffering=0) as file:
                files.drop_cached(file.fileno())
                yield _exactly(file.fileno(), size + 1)


class Lines:
    """One file, a piece behind the other."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd = -1

    def begin(self, pieces: Sequence[Piece]) -> None:
        self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
        os.ftruncate(self._fd, sum(size for _, size, _ in pieces))

    def put(self, name: str, data: bytes) -> None:
        files.write_fully(self._fd, data)

    def sync(self) -> None:
        os.fsync(self._fd)

    def finish(self, pieces: Sequence[Piece]) -> None:
        os.close(self._fd)

    def read(self, pieces: Sequence[Piece]) -> Iterator[bytes]:
        with self._path.open("rb", buffering=0) as file:
            files.drop_cached(file.fileno())
            for _, size, _ in pieces:
                yield _exactly(file.fileno(), size)
            if file.read(1):
                raise StoreError(f"{self._path} is longer than what was written: somebody else writes in it")


def _exactly(fd: int, size: int) -> bytes:
    """So many bytes, or all up to the end."""
    parts: list[bytes] = []
    while size and (part := os.read(fd, size)):
        parts.append(part)
        size -= len(part)
    return b"".join(parts)
