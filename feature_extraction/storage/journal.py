"""Work in progress: append-only logs that survive ``kill -9`` and power loss, one per process.

Beside ``features.h5`` lies ``features.h5.work/`` until the file is whole:

    manifest.json              what is being made; a run that would make something else is refused
    part-00000-of-00002.log    records of process 0 of 2, in the order in which it finished images

A record is a fixed head, a JSON description and the raw arrays, with checksums over all of them. Appending is
the only write, so a process killed at any instant leaves at most a torn last record, which the next run
cuts off. The log file is also the lock: its owner holds an exclusive ``flock``, which the kernel
releases when the process dies. Standard library and numpy only.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from ..errors import StoreBusy, StoreError

MAGIC: Final = b"XFP1"
HEAD: Final = struct.Struct("<4sIQII")
"""Magic, bytes of the description, bytes of the arrays, CRC-32 of the description, CRC-32 of the arrays."""
HEAD_CRC: Final = struct.Struct("<I")
LARGEST_DESCRIPTION: Final = 1 << 28
"""Bytes; a longer one is no description of ours."""

Status = Literal["done", "end"]


@dataclass(frozen=True)
class Record:
    """What one log says of one image, without the arrays themselves."""

    status: Status
    id: str
    part: Path
    start: int
    """Byte at which the record begins."""
    offset: int
    """Byte at which the arrays begin."""
    size: int
    crc: int
    description: dict[str, Any] = field(hash=False)

    def read(self) -> dict[str, NDArray[Any]]:
        """The arrays by name. Raises StoreError if they are not what was written."""
        with self.part.open("rb") as file:
            file.seek(self.offset)
            payload = file.read(self.size)
        if len(payload) != self.size or zlib.crc32(payload) != self.crc:
            raise StoreError(
                f"{self.part}: the features of {self.id!r} at byte {self.offset} do not have the checksum they were "
                f"written with: the disk or file system lost them; delete {self.part} and run the command again"
            )
        arrays: dict[str, NDArray[Any]] = {}
        at = 0
        for name, dtype, shape in self.description["arrays"]:
            array = np.ndarray(shape, dtype, payload, at)
            arrays[name] = array
            at += array.nbytes
        return arrays


def scan(part: Path) -> Iterator[Record]:
    """The whole records of a log in order; a torn end is passed over. Arrays are not read."""
    with part.open("rb") as file:
        end = os.fstat(file.fileno()).st_size
        while True:
            start = file.tell()
            head = file.read(HEAD.size + HEAD_CRC.size)
            if len(head) < HEAD.size + HEAD_CRC.size:
                return
            magic, describes, size, description_crc, crc = HEAD.unpack_from(head)
            (head_crc,) = HEAD_CRC.unpack_from(head, HEAD.size)
            if magic != MAGIC or zlib.crc32(head[: HEAD.size]) != head_crc or describes > LARGEST_DESCRIPTION:
                return
            raw = file.read(describes)
            offset = start + len(head) + describes
            if zlib.crc32(raw) != description_crc or offset + size > end:
                return
            description = json.loads(raw)
            yield Record(description["status"], description["id"], part, start, offset, size, crc, description)
            file.seek(offset + size)


def _whole_length(part: Path) -> int:
    """Bytes of the log up to the end of its last sound record. The last megabytes' arrays are checked too:
    after a power loss they may hold zeros where the length was already written."""
    length, unchecked = 0, []
    for record in scan(part):
        length = record.offset + record.size
        unchecked.append(record)
        while unchecked[-1].offset - unchecked[0].offset > 64 << 20:
            unchecked.pop(0)
    for record in unchecked:
        try:
            record.read()
        except StoreError:
            return record.start
    return length


def sync_folder(folder: Path) -> None:
    """Make created and renamed names in ``folder`` durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_aside(path: Path, text: str) -> None:
    """Write a small file so that ``path`` holds the old or the new text, whole, whatever happens."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    with aside.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)
    sync_folder(path.parent)


class PartWriter:
    """The log of process ``index`` of ``count``: locked, cleaned of a torn end, appended to."""

    def __init__(self, folder: Path, index: int, count: int) -> None:
        self.folder, self.index, self.count = folder, index, count
        self.path = folder / part_name(index, count)
        self._file: IO[bytes] = open(self.path, "ab")  # noqa: SIM115 (held for the life of the run)
        try:
            if not _lock(self._file):
                raise StoreBusy(_busy(folder, self.path))
            for other in sorted(folder.glob("part-*.log")):
                if not other.name.endswith(f"-of-{count:05d}.log") and is_alive(other):
                    raise StoreBusy(_busy(folder, other))
            self._file.truncate(_whole_length(self.path))
            sync_folder(folder)
        except BaseException:
            self._file.close()
            raise

    def add(self, image_id: str, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Append the features of one image."""
        self._append("done", image_id, arrays, {})

    def end(self, plan: str, failures: Sequence[Mapping[str, str]]) -> None:
        """Append that this process has done all of its share, but for ``failures`` (id, path, reason);
        ``plan`` identifies the list of images."""
        self._append("end", "", {}, {"plan": plan, "failures": list(failures)})
        self.sync()

    def sync(self) -> None:
        """Return when everything appended is on the disk."""
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()

    def _append(
        self, status: Status, image_id: str, arrays: Mapping[str, NDArray[Any]], more: Mapping[str, Any]
    ) -> None:
        layout = [[name, a.dtype.str, list(a.shape)] for name, a in arrays.items()]
        raw = json.dumps({"status": status, "id": image_id, "arrays": layout, **more}).encode()
        payload = b"".join(np.ascontiguousarray(a).tobytes() for a in arrays.values())
        head = HEAD.pack(MAGIC, len(raw), len(payload), zlib.crc32(raw), zlib.crc32(payload))
        self._file.write(head + HEAD_CRC.pack(zlib.crc32(head)) + raw + payload)


def part_name(index: int, count: int) -> str:
    return f"part-{index:05d}-of-{count:05d}.log"


def is_alive(part: Path) -> bool:
    """Whether a process holds the log right now."""
    with part.open("rb") as file:
        return not _lock(file)


def _lock(file: IO[bytes]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        raise StoreError(
            f"{file.name}: this file system has no locks ({error}), without which two runs could spoil each other's "
            "work: put the output on another one (Lustre: mount with flock) and copy the finished file"
        ) from error
    return True


def _busy(folder: Path, part: Path) -> str:
    found = re.search(r"part-(\d+)-of-(\d+)", part.name)
    who = f"process {int(found[1]) + 1} of {int(found[2])}" if found else part.name
    output = folder.name.removesuffix(".work")
    return f"another run is making {output} right now ({who} holds {part}): wait for it, or stop it first"
