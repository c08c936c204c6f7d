"""Work in progress: append-only logs that survive ``kill -9`` and power loss, one per process.

Beside ``features.h5`` lies ``features.h5.work/`` until the file is whole:

    manifest.json              what is being made; a run that would make something else is refused
    part-00000-of-00002.log    the journal of share 0 of 2: records in the order in which it finished images
    event-000001.json          which shares have begun and ended, see ``shares``

A record is a fixed head, a JSON description and the raw arrays, with checksums over all of them. Appending is
the only write, so a process killed at any instant leaves at most a torn last record, which the next run
cuts off. A damaged byte costs the record it is in: reading goes on at the next head whose checksum is right.
The journal is also the lock: its owner holds an exclusive ``flock``. Standard library and numpy only.

    status   of an image                                            arrays
    done     its features, the file they were made from, the recipe   yes
    same     another file (moved, touched) has the same bytes         no
    void     a record, or the finished file's features, are damaged    no
    end      the share is done; the list of images, what failed       no
"""

from __future__ import annotations

import functools
import json
import os
import re
import struct
import zlib
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from ..errors import StoreError
from . import files
from .source import Source

MAGIC: Final = b"XFP1"
HEAD: Final = struct.Struct("<4sIQII")
"""Magic, bytes of the description, bytes of the arrays, CRC-32 of the description, CRC-32 of the arrays."""
HEAD_CRC: Final = struct.Struct("<I")
WHOLE_HEAD: Final = HEAD.size + HEAD_CRC.size
LARGEST_DESCRIPTION: Final = 1 << 28
"""Bytes; a longer one is no description of ours."""

Status = Literal["done", "same", "void", "end"]
Layout = tuple[tuple[str, str, tuple[int, ...]], ...]
"""Name, dtype and shape of each array."""
Arrays = dict[str, NDArray[Any]]


class Damaged(StoreError):
    """What was stored of an image is not what was written."""


@dataclass(frozen=True, slots=True)
class Record:
    """What one journal says of one image, without the arrays themselves."""

    status: Status
    id: str
    journal: Path
    start: int
    """Byte at which the record begins."""
    offset: int
    """Byte at which the arrays begin."""
    size: int
    crc: int
    layout: Layout
    checksums: tuple[int, ...] | None
    """CRC-32 of each array; None in journals of an earlier version."""
    source: Source | None
    recipe: str | None
    """Digest of what decides the values; None in journals of an earlier version."""
    time: float
    """Seconds since 1970 when it was written; 0 in journals of an earlier version."""
    more: Mapping[str, Any]
    """What only ``end`` and ``void`` hold."""

    @property
    def stop(self) -> int:
        """Byte behind the record."""
        return self.offset + self.size

    @property
    def failures(self) -> list[dict[str, str]]:
        """What gave no features, of an ``end``: id, path and reason of each."""
        return list(self.more.get("failures", ()))

    @property
    def place(self) -> str:
        """Names the record among all of the work folder."""
        return f"{self.journal.name}:{self.start}:{self.crc:08x}"

    def read(self) -> Arrays:
        """The arrays by name. Raises Damaged if they are not what was written, OSError if they cannot be read."""
        with self.journal.open("rb", buffering=0) as file:
            for fresh in (False, True):
                if fresh:  # what this machine remembers of a shared file may be old
                    files.drop_cached(file.fileno())
                payload = _read_at(file.fileno(), self.offset, self.size)
                if len(payload) == self.size and self._is_sound(payload):
                    return self._cut(payload)
        raise Damaged(
            f"{self.journal}: the features of {self.id!r} at byte {self.offset} do not have the checksum they were "
            "written with: the disk or file system lost them"
        )

    def _is_sound(self, payload: bytes) -> bool:
        if self.checksums is None:
            return zlib.crc32(payload) == self.crc
        try:
            arrays = self._cut(payload)
        except (TypeError, ValueError):
            return False
        return len(arrays) == len(self.checksums) and all(map(checksum_is, arrays.values(), self.checksums))

    def _cut(self, payload: bytes) -> Arrays:
        arrays: Arrays = {}
        at = 0
        for name, dtype, shape in self.layout:
            arrays[name] = array = np.ndarray(shape, dtype, payload, at)
            at += array.nbytes
        return arrays


def checksum(array: NDArray[Any]) -> int:
    """CRC-32 of an array's bytes, row after row."""
    return zlib.crc32(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)


def checksum_is(array: NDArray[Any], expected: int) -> bool:
    return checksum(array) == expected


def _read_at(fd: int, offset: int, size: int) -> bytes:
    """``size`` bytes from ``offset`` on; fewer where the file ends."""
    blocks = []
    while size > 0:
        block = os.pread(fd, min(size, 1 << 30), offset)
        if not block:
            break
        blocks.append(block)
        offset, size = offset + len(block), size - len(block)
    return blocks[0] if len(blocks) == 1 else b"".join(blocks)


# --- reading a journal ------------------------------------------------------------------------------------


def scan(journal: Path) -> Iterator[Record]:
    """The records of a journal in order; damaged ones and a torn end are passed over. Arrays are not read."""
    with journal.open("rb", buffering=0) as file:
        fd = file.fileno()
        end = os.fstat(fd).st_size
        at = again = 0
        while at + WHOLE_HEAD <= end:
            head = _head(_read_at(fd, at, WHOLE_HEAD))
            if head is None:
                # bytes may be missing from the record before: its arrays are searched too
                at = _next_head(fd, again, end)
                continue
            describes, size, description_crc, crc = head
            offset = at + WHOLE_HEAD + describes
            raw = _read_at(fd, at + WHOLE_HEAD, describes)
            described = _description(raw, description_crc) if offset + size <= end else None
            if described is None:
                at = again = _next_head(fd, at + 1, end)
                continue
            yield record_of(journal, described, at, offset, size, crc)
            at, again = offset + size, offset


def _head(data: bytes) -> tuple[int, int, int, int] | None:
    """Bytes of the description and of the arrays, and the CRC-32 of each; None if this is no head."""
    if len(data) < WHOLE_HEAD:
        return None
    magic, describes, size, description_crc, crc = HEAD.unpack_from(data)
    (head_crc,) = HEAD_CRC.unpack_from(data, HEAD.size)
    if magic != MAGIC or zlib.crc32(data[: HEAD.size]) != head_crc or describes > LARGEST_DESCRIPTION:
        return None
    return describes, size, description_crc, crc


def _next_head(fd: int, at: int, end: int) -> int:
    """Byte of the first head from ``at`` on, or ``end``."""
    while at + WHOLE_HEAD <= end:
        block = _read_at(fd, at, files.BLOCK)
        found = block.find(MAGIC)
        while found >= 0:
            if _head(_read_at(fd, at + found, WHOLE_HEAD)):
                return at + found
            found = block.find(MAGIC, found + 1)
        at += max(1, len(block) - len(MAGIC) + 1)
    return end


def _description(raw: bytes, crc: int) -> dict[str, Any] | None:
    if zlib.crc32(raw) != crc:
        return None
    try:
        described = json.loads(raw)
    except (ValueError, RecursionError):
        return None
    return described if isinstance(described, dict) and "status" in described else None


def record_of(journal: Path, described: dict[str, Any], start: int, offset: int, size: int, crc: int) -> Record:
    layout = tuple((name, dtype, tuple(shape)) for name, dtype, shape in described.pop("arrays", ()))
    checksums = described.pop("crc32", None)
    return Record(
        described.pop("status"),
        described.pop("id", ""),
        journal,
        start,
        offset,
        size,
        crc,
        _one_of_equal(layout),
        tuple(checksums) if checksums is not None else None,
        Source.of(described.pop("source", None)),
        described.pop("recipe", None),
        float(described.pop("time", 0.0)),
        described,
    )


@functools.lru_cache(maxsize=64)
def _one_of_equal(layout: Layout) -> Layout:
    """One tuple for the millions of records that agree."""
    return layout


def last_end(journal: Path) -> Record | None:
    """The record by which the share of ``journal`` ended; None if it goes on behind it, or there is no journal."""
    try:
        last = deque(scan(journal), maxlen=1)
    except FileNotFoundError:
        return None
    return last[0] if last and last[0].status == "end" else None


# --- names ------------------------------------------------------------------------------------------------


def journal_name(index: int, count: int) -> str:
    return f"part-{index:05d}-of-{count:05d}.log"


def journals(folder: Path) -> list[Path]:
    """All journals of a work folder that this process sees, by name."""
    return sorted(folder.glob("part-*-of-*.log"))


def share_of(journal: Path) -> tuple[int, int] | None:
    """(index, count) of the share that a journal belongs to."""
    found = re.fullmatch(r"part-(\d+)-of-(\d+)\.log", journal.name)
    return (int(found[1]), int(found[2])) if found else None
