"""A tar open for reading, and an image that lies in it: read where it lies, by any number of threads."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO

from ..errors import ImageError
from ..storage.source import FileStamp, Source
from . import files


class Archive:
    """A tar open for reading, by any number of threads. Closed by ``close``, or with its last reader."""

    def __init__(self, file: BinaryIO, name: str, version: int | None = None) -> None:
        """``name``: where it lies, printable. ``version``: a number that is another one when the archive is; by size
        and time where there is none."""
        self.name, self._file, self._fd = name, file, file.fileno()
        self._before = self._now()
        self.size = self._before[0]
        self.version = version_of(*self._before) if version is None else version

    def read(self, offset: int, size: int) -> bytes:
        """``size`` bytes from ``offset`` on; fewer where the archive ends. Raises OSError."""
        blocks = []
        while size > 0 and (block := os.pread(self._fd, min(size, 1 << 24), offset)):
            blocks.append(block)
            offset, size = offset + len(block), size - len(block)
        return blocks[0] if len(blocks) == 1 else b"".join(blocks)

    def check_unchanged(self) -> None:
        """Raise ImageError where something has written to the archive since it was opened."""
        if self._now() != self._before:
            raise ImageError("the archive changed while it was read: run again when nothing writes it any more")

    def close(self) -> None:
        self._file.close()

    def _now(self) -> tuple[int, int]:
        info = os.fstat(self._fd)
        return info.st_size, info.st_mtime_ns


def version_of(*facts: object) -> int:
    """A number that is another one where the facts (size, modification time, ETag) are."""
    return int.from_bytes(hashlib.sha256(repr(facts).encode()).digest()[:7])


@dataclass(frozen=True, slots=True)
class TarMember:
    """An image that lies in an archive."""

    id: str
    archive: Archive
    member: str
    """Its whole name there, printable."""
    offset: int
    size: int
    """Bytes."""

    @property
    def name(self) -> str:
        return f"{self.archive.name}!/{self.member}"

    def stamp(self) -> FileStamp:
        return FileStamp(self.name, self.size, self.archive.version)

    def sha256(self) -> str:
        return files.sha256_of_opened(self.opened)

    def at_hand(self) -> TarMember:
        return self

    @contextmanager
    def opened(self) -> Iterator[BinaryIO]:
        files.check_size(self.size)
        if self.size > files.IN_MEMORY:
            yield io.BufferedReader(_Window(self.archive, self.offset, self.size))
            return
        content = self.archive.read(self.offset, self.size)
        if len(content) != self.size:
            raise ImageError(f"truncated: {len(content):,} of {self.size:,} bytes are in the archive")
        yield io.BytesIO(content)

    @contextmanager
    def opened_for_good(self) -> Iterator[tuple[BinaryIO, Source]]:
        with self.opened() as file:
            digest = files.digest_of(file)
            file.seek(0)
            yield file, Source(*self.stamp(), digest)
            self.archive.check_unchanged()


class _Window(io.RawIOBase):
    """The bytes of a large member as a file; they stay on the disk."""

    def __init__(self, archive: Archive, offset: int, size: int) -> None:
        self._archive, self._offset, self._size, self._at = archive, offset, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = max(0, offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence])
        return self._at

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        found = self._archive.read(self._offset + self._at, min(len(view), max(0, self._size - self._at)))
        view[: len(found)] = found
        self._at += len(found)
        return len(found)
